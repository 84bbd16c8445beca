"""Persons as records: canaries among ratings, who is kept out, and membership told by a model of preferences."""

import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.attacks.finding import Finding, Skipped
from privae.audit import persons
from privae.audit.canaries import LOSS, READING, trial
from privae.audit.coins import Coins
from privae.data.ratings import RatingSchema, profiles
from privae.errors import UsageError
from privae.privacy.mechanism import Mechanism
from privae.recipes.gradients import Training

ITEMS = tuple(f"item {i}" for i in range(40))
SCHEMA = RatingSchema(person="who", item="what", value="stars", like=4, items=ITEMS)


def ratings(count, seed=0, first=0):
    """Persons who like about eight of forty items, of two tastes."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, 2, count)
    chance = np.where((np.arange(40) < 20) == (taste[:, None] == 0), 0.35, 0.05)
    who, what = np.nonzero(rng.random((count, 40)) < chance)
    frame = pd.DataFrame(
        {"who": who + first, "what": np.array(ITEMS)[what], "stars": rng.choice([2, 4, 5], len(who))}
    )
    return frame.sample(frac=1, random_state=seed).reset_index(drop=True)


def fitted(epsilon, frame, seed=0, **options):
    vae = VAE(epsilon, rows=1000, schema=options.pop("schema", SCHEMA))
    return vae.fit(frame, coins=Coins(100, options.pop("kept_out", 0.0), bytes([seed]) * 32))


def findings(vae):
    return {found.attack: found for found in vae.canary_findings_}


def test_without_noise_canary_persons_are_read_off_the_gram_matrix():
    found = findings(fitted(math.inf, ratings(1000)))
    assert list(found) == [READING.name, LOSS.name]
    assert found[READING.name].details["right"] >= 0.95 * found[READING.name].details["guesses"]


@pytest.mark.parametrize("seed", range(3))
def test_at_epsilon_one_no_reader_contradicts_the_promise(seed):
    for found in findings(fitted(1.0, ratings(1000, seed), seed)).values():
        assert not found.failed
        assert found.value <= 1.0


def test_a_promise_of_sums_without_noise_fails(monkeypatch):
    monkeypatch.setattr(Mechanism, "release", lambda self, total, noise, **more: total.astype(np.float64))
    assert findings(fitted(1.0, ratings(1000)))[READING.name].failed


def test_a_plan_of_popularity_alone_is_read_too():
    vae = fitted(0.3, ratings(400))
    assert vae.plan_.phases[0].name == "popularity"
    assert READING.name in findings(vae)


def test_what_canaries_read_is_what_they_added():
    """All noise off: each canary's reading is the overlap with those that were planted, itself included."""
    vae = VAE(math.inf, rows=1000, schema=SCHEMA)
    frame, coins = ratings(1000), Coins(30, 0.0, bytes(32))
    rng = np.random.default_rng(1)
    real, made, rows = persons.fed(coins, frame, SCHEMA, rng)
    assert real.equals(frame[["who", "what", "stars"]])
    transcript = {}
    from privae.privacy.noise import NoiseSource
    from privae.recipes.phases import Run
    from privae.recipes.ratings import GRAM
    from privae.training.watch import Silent

    plan = vae.plan()
    run = Run(plan, lambda *_: None, NoiseSource(), Silent(), transcript=transcript)
    model = vae._recipe(SCHEMA, plan).fit(run, pd.concat([real, made.loc[rows]], ignore_index=True))
    known = model.profiles(real).likes
    mine = model.profiles(made).likes
    reads, overlaps, _ = persons._of_gram(transcript[GRAM], (known, mine), model, 0.0)
    planted = coins.planted()
    assert reads == pytest.approx(overlaps[:, planted].sum(1), abs=1e-3)
    assert np.diag(overlaps) == pytest.approx(np.ones(30))


def test_persons_are_kept_out_whole_and_by_their_name_alone():
    frame, coins = ratings(500), Coins(0, 0.3, bytes(32))
    real, made, _ = persons.fed(coins, frame, SCHEMA, np.random.default_rng(0))
    assert not len(made)
    gone = set(frame["who"]) - set(real["who"])
    assert 0.2 < len(gone) / frame["who"].nunique() < 0.4
    assert not set(real["who"]) & gone
    half = frame.loc[frame["who"] < 250]
    again, _, _ = persons.fed(coins, half, SCHEMA, np.random.default_rng(0))
    assert set(half["who"]) - set(again["who"]) == {who for who in gone if who < 250}
    assert len(real) == frame["who"].isin(real["who"]).sum()


def test_canaries_of_a_catalogue_that_is_bought_are_refused():
    bought = SCHEMA.model_copy(update={"items": "bought"})
    with pytest.raises(UsageError, match="declared catalogue"):
        fitted(3.0, ratings(300), schema=bought)
    VAE(10.0, rows=3000, schema=bought).fit(ratings(3000), coins=Coins(0, 0.1, bytes(32)))


def test_ratings_with_times_take_canaries_without_any():
    schema = SCHEMA.model_copy(update={"time": "when"})
    frame = ratings(600)
    frame["when"] = pd.to_datetime("2026-01-01") + pd.to_timedelta(np.arange(len(frame)), unit="h")
    vae = fitted(math.inf, frame, schema=schema)
    assert findings(vae)[READING.name].details["right"] >= 45


@pytest.fixture(scope="module")
def leaky():
    few = ratings(60)
    return VAE(math.inf, rows=60, schema=SCHEMA).fit(few), few


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float16", "float64", "object"])
def test_canaries_change_no_real_value(dtype):
    """float32 0.7 reads as 0.7, which counts, with canaries beside it and without."""
    schema = SCHEMA.model_copy(update={"value": "liking", "like": 0.7})
    rng = np.random.default_rng(0)
    frame = ratings(300).drop(columns="stars").assign(liking=rng.choice([0.1, 0.3, 0.7], len(ratings(300))))
    frame["liking"] = frame["liking"].astype(dtype)
    fit = trial(Coins(40, 0.0, bytes(32)), frame, None, schema)
    alone, together = (profiles(part, schema, ITEMS) for part in (frame, fit.fed[0]))
    real = np.isin(np.array(together.persons), np.array(alone.persons))
    assert together.likes[np.flatnonzero(real)].sum() == alone.likes.sum() > 500
    assert len(together) == len(alone) + fit.canaries.planted.sum()


def test_who_has_no_row_is_nobody():
    """Halves of a frame with a categorical person column share all categories, and no person."""
    frame = ratings(200).astype({"who": "category"})
    first = frame["who"].astype(int) < 100
    read = profiles(frame.loc[first], SCHEMA, ITEMS)
    assert len(read) == frame.loc[first, "who"].nunique()
    model = VAE(math.inf, rows=100, schema=SCHEMA).fit(frame.loc[first])
    assert model.audit(frame.loc[first], holdout=frame.loc[~first]).holdout == "given"


class TestAudit:
    def test_members_of_an_overfitted_model_are_told_and_those_of_a_private_one_are_not(self, leaky):
        model, few = leaky
        unseen = ratings(60, 9, first=10_000)
        seen = {f.attack: f for f in model.audit(few, holdout=unseen).findings}
        assert max(seen[name].value for name in ("membership-loss", "membership-parts")) > 0.6
        frame = ratings(3000)
        private = VAE(1.0, rows=3000, schema=SCHEMA).fit(frame)
        done = private.audit(frame, holdout=ratings(2000, 9, first=10_000))
        areas = [f.value for f in done.findings if f.measure == "AUC"]
        assert len(areas) == 5
        assert np.abs(np.array(areas) - 0.5).max() < 0.06
        assert done.passed

    def test_attacks_that_need_rows_are_left_out_with_a_reason(self, leaky):
        model, few = leaky
        done = model.audit(few, level="standard")
        skipped = {
            one.attack: one.to_dict()["reason"]["en"] for one in done.skipped if isinstance(one, Skipped)
        }
        assert "row a record" in skipped["rare-values"]
        assert "kept out of the fit" in skipped["membership-loss"]
        assert all(isinstance(one, Finding) for one in done.findings)

    def test_coins_give_the_holdout(self):
        frame, coins = ratings(2000), Coins(60, 0.3, bytes(32))
        vae = VAE(1.0, rows=2000, schema=SCHEMA).fit(frame, coins=coins)
        done = vae.audit(frame, coins=coins)
        loss = next(f for f in done.findings if f.attack == "membership-loss")
        assert done.holdout == "split"
        assert 500 < loss.details["others"] < 700
        assert loss.details["members"] + loss.details["others"] == frame["who"].nunique()
        assert "bound" in loss.details
        assert {READING.name, LOSS.name} <= {f.attack for f in done.findings}

    def test_of_very_many_persons_the_same_share_of_both_is_looked_at(self, monkeypatch):
        monkeypatch.setattr(persons, "_MOST", 400)
        frame, coins = ratings(2000), Coins(0, 0.2, bytes(32))
        vae = VAE(1.0, rows=2000, schema=SCHEMA).fit(frame, coins=coins)
        loss = next(f for f in vae.audit(frame, coins=coins).findings if f.attack == "membership-loss")
        assert loss.details["members"] == pytest.approx(320, abs=80)
        assert loss.details["others"] == pytest.approx(80, abs=40)

    def test_a_holdout_of_the_same_persons_or_no_table_is_refused(self, leaky):
        model, few = leaky
        with pytest.raises(UsageError, match="persons of the data again"):
            model.audit(few, holdout=few.iloc[: len(few) // 2])
        with pytest.raises(UsageError, match="a table of ratings"):
            model.audit(few, holdout=np.zeros((5, 5)))

    def test_networks_are_audited_too(self):
        frame = ratings(400)
        training = Training(latent=2, hidden=(8,), steps=5, batch=40)
        vae = VAE(3.0, rows=400, schema=SCHEMA, recipe="gradients", training=training)
        vae.fit(frame, coins=Coins(40, 0.2, bytes(32)))
        assert list(findings(vae)) == [LOSS.name]
        done = vae.audit(frame, coins=Coins(40, 0.2, bytes(32)), level="standard")
        names = {f.attack for f in done.findings}
        assert {"membership-loss", "gradient canaries"} <= names
        assert not any(name.startswith("inver") for name in names)


def test_rows_show_at_most_so_many_items_the_most_popular_first(monkeypatch):
    vae = VAE(math.inf, rows=500, schema=SCHEMA).fit(ratings(500))
    monkeypatch.setattr(persons, "_MOST_ITEMS", 5)
    attacked = persons.Attacked(vae.fitted_)
    assert len(attacked.kept) == 5
    popular = vae.fitted_.model.popularity.numpy()
    assert set(attacked.kept) == set(np.argsort(-popular, kind="stable")[:5])
    rows = attacked.rows(vae.fitted_.profiles(ratings(20)).likes)
    assert rows.shape == (20, 5)
    assert attacked.score(rows).shape == (20,)
