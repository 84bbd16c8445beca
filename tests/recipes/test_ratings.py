"""Ratings at the front door: persons are protected, tastes are found where there is signal, and popularity else."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from privae import VAE, Training
from privae.data.ratings import RatingSchema
from privae.errors import ArtifactError, DataError, PrivacyRefused, UsageError
from privae.files import members_of
from privae.plan import Plan
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.recipes import ratings
from privae.recipes.phases import Budget
from privae.training.watch import Silent

ITEMS = tuple(f"{taste}{i}" for taste in "xy" for i in range(6))
SCHEMA = RatingSchema(person="who", item="what", value="stars", like=4, items=ITEMS)


def plays(persons, seed=0, more=()):
    """Two tastes; half of the likes of a person are of their own one, and each item has a few that are not liked."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, 2, persons)
    chance = np.where((np.arange(12) < 6) == (taste[:, None] == 0), 0.6, 0.05)
    who, what = np.nonzero(rng.random((persons, 12)) < chance)
    stars = rng.choice([4, 5], len(who))
    frame = pd.DataFrame({"who": who, "what": np.array(ITEMS)[what], "stars": stars})
    return pd.concat([frame, pd.DataFrame(more, columns=frame.columns)]) if more else frame


@pytest.fixture(scope="module")
def fitted():
    return VAE(3.0, 1e-6, rows=3000, schema=SCHEMA).fit(plays(3000), noise=NoiseSource(bytes(32)))


def test_a_fit_protects_persons_and_spends_what_was_planned(fitted):
    assert (fitted.guarantee.unit, fitted.plan_.unit) == ("person", "person")
    assert fitted.guarantee.epsilon == pytest.approx(3.0, abs=1e-3)
    assert fitted.guarantee.epsilon <= 3.0
    assert [entry.phase for entry in fitted.ledger.entries] == ["gram matrix", "lengths"]
    assert "one person" in fitted.guarantee.sentence()


def test_it_recommends_what_goes_together_to_persons_who_were_never_there(fitted):
    found = fitted.recommend(["x0", "x1"], n=4)
    assert found.columns.tolist() == ["rank", "what", "score"]
    assert found["rank"].tolist() == [1, 2, 3, 4]
    assert {name[0] for name in found["what"]} == {"x"}
    assert not {"x0", "x1"} & set(found["what"])
    assert set(fitted.recommend(["x0"], n=12, exclude_seen=False)["what"]) == set(ITEMS)
    assert len(fitted.recommend(["x0"], n=99)) == 11
    strangers = pd.DataFrame({"who": ["b", "a", "b"], "what": ["y0", "x0", "nothing"], "stars": [5, 5, 5]})
    table = fitted.recommend(strangers, n=1)
    assert table.columns.tolist() == ["who", "rank", "what", "score"]
    assert table["who"].tolist() == ["b", "a"]
    assert [name[0] for name in table["what"]] == ["y", "x"]
    order = [ITEMS[i] for i in np.argsort(-fitted.fitted_.model.popularity.numpy())]
    for nothing in (["nothing", "else"], []):
        assert fitted.recommend(nothing, n=12)["what"].tolist() == order
    assert fitted.recommend(["x0", "x1"], n=4).equals(fitted.recommend(["x0", "x1"], n=12).head(4))
    assert set(fitted.nearest("y3", 5)["what"]) == {f"y{i}" for i in (0, 1, 2, 4, 5)}


def test_synthetic_persons_have_tastes_and_as_many_likes(fitted):
    made = fitted.sample(2000, seed=1)
    real = plays(3000)
    assert made.columns.tolist() == real.columns.tolist()
    assert made["who"].nunique() == 2000
    assert set(made["what"]) == set(ITEMS)
    assert (made["stars"] == 4).all()
    sizes = [frame.groupby("who").size().mean() for frame in (made, real)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.08)
    assert not made.duplicated().any()
    mixed = [
        frame.groupby("who")["what"].agg(lambda items: len({i[0] for i in items})).mean()
        for frame in (made, real)
    ]
    alone = 1.9  # what persons without a taste would have, nearly
    assert mixed[0] < alone
    assert fitted.sample(0).empty
    assert fitted.sample(5, seed=2).equals(fitted.sample(5, seed=2))


def test_scores_and_codes_are_a_persons(fitted):
    frame = pd.DataFrame({"who": list("aabbb"), "what": ["x0", "x1", "x0", "y1", "zz"], "stars": 5})
    codes, scores = fitted.transform(frame), fitted.score_samples(frame)
    assert codes.shape[0] == len(scores) == len(fitted.predict(frame)) == 2
    assert scores[0] > scores[1]
    assert (fitted.decision_function(frame) == -scores).all()
    names = fitted.fitted_.item_codes()
    assert names.columns[0] == "what"
    assert len(names) == 12


def test_a_schema_with_times_reads_what_the_model_makes():
    timed = SCHEMA.model_copy(update={"time": "when"})
    frame = plays(1500).assign(when=range(len(plays(1500))))
    model = VAE(3.0, 1e-6, rows=1500, schema=timed).fit(frame, noise=NoiseSource(bytes(32)))
    made = model.sample(200, seed=0)
    assert len(model.transform(made)) == len(model.score_samples(made)) == len(model.predict(made)) == 200


def test_a_model_file_gives_the_same_model_and_cannot_be_another_catalogues(fitted, tmp_path):
    path = tmp_path / "m.privae"
    fitted.save(path)
    again = VAE.load(path)
    frame = plays(50, 9)
    assert (again.transform(frame) == fitted.transform(frame)).all()
    assert again.recommend(["x0"]).equals(fitted.recommend(["x0"]))
    assert again.sample(9, seed=0).equals(fitted.sample(9, seed=0))
    assert again._twin()[0].plan(again._twin()[1]) == fitted.plan_
    from privae import files

    members = {n: c for n, c in members_of(path.read_bytes(), "m").items() if n != "manifest.json"}
    fewer = SCHEMA.model_copy(update={"items": ITEMS[:-1]})
    files.write_archive(path, {**members, "schema": fewer.dumps().encode()})
    with pytest.raises(ArtifactError, match="lacks a part"):
        VAE.load(path)


def test_the_plan_says_how_many_persons_it_takes():
    weak, strong = (
        VAE(epsilon, 1e-6, rows=rows, schema=SCHEMA).plan() for epsilon, rows in ((0.3, 60), (3.0, 3000))
    )
    assert any(note.startswith("weak") for note in weak.notes)
    assert not any(note.startswith("weak") for note in strong.notes)
    assert weak.rows_needed > 5 * strong.rows_needed


def test_as_noise_grows_popularity_recommends_and_then_nothing_is_fitted():
    """The law of degradation: never noise as if it were taste."""
    frame = plays(2000)

    def made(epsilon):
        return VAE(epsilon, 1e-6, rows=2000, schema=SCHEMA).fit(frame, noise=NoiseSource(bytes(32)))

    assert made(math.inf).fitted_.model.personal
    assert made(3.0).fitted_.model.personal
    popular = made(0.05)
    assert not popular.fitted_.model.personal
    order = popular.recommend(["nothing"], n=12)["what"].tolist()
    assert [name for name in order if name != "x0"] == popular.recommend(["x0"], n=12)["what"].tolist()
    with pytest.raises(DataError, match="cannot be told from none"):
        made(0.004)


class Killed(Silent):
    """Ends a fit where a phase begins."""

    def phase(self, name: str, total: int) -> None:
        if name == "gram matrix":
            raise KeyboardInterrupt


def test_a_checkpoint_tells_nothing_of_how_many_items_were_not_bought(tmp_path):
    bought, told = SCHEMA.model_copy(update={"items": "bought"}), []
    for more in (0, 37):
        kept = tmp_path / f"{more}.checkpoint"
        frame = plays(3000, more=[("me", f"only mine {i}", 5) for i in range(more)])
        with pytest.raises(KeyboardInterrupt):
            VAE(3.0, 1e-6, rows=3000, schema=bought).fit(frame, checkpoint=kept, watch=Killed())
        members = members_of(kept.read_bytes(), "kept")
        assert b"only mine" not in kept.read_bytes()
        told.append(json.loads(members["checkpoint.json"])["numbers"])
        again = VAE(3.0, 1e-6, rows=3000, schema=bought).fit(frame, checkpoint=kept, resume=True)
        assert again.fitted_.items == ITEMS
    assert told[0] == told[1] >= 49


@pytest.mark.parametrize("items", [ITEMS, "bought"])
def test_for_few_persons_the_plan_buys_popularity_alone_and_says_so(items):
    schema = SCHEMA.model_copy(update={"items": items})
    model = VAE(1.0, 1e-6, rows=60, schema=schema)
    plan = model.plan()
    assert "gram matrix" not in [phase.name for phase in plan.phases]
    assert any("popularity alone is bought" in note for note in plan.notes)
    assert plan.guarantee().epsilon <= 1.0
    frame = plays(6000)
    frame = frame[(frame["what"] != "x0") | (frame["who"] % 4 == 0)]
    model.fit(frame, noise=NoiseSource(bytes(32)))
    assert not model.fitted_.model.personal
    assert model.recommend(["nothing"], n=12)["what"].iloc[-1] == "x0"
    assert model.sample(50, seed=0)["who"].nunique() == 50
    assert model.transform(frame.head(9)).shape[1] == 0
    with pytest.raises(UsageError, match="noise hides which items"):
        model.nearest("x1")


def test_a_catalogue_is_bought_at_a_threshold_that_one_person_cannot_pass(tmp_path):
    bought = SCHEMA.model_copy(update={"items": "bought"})
    alone = [("me", f"only mine {i}", 5) for i in range(300)]
    alone += [(f"gap {i}", "", 5) for i in range(3000)]
    model = VAE(3.0, 1e-6, rows=3000, schema=bought).fit(
        plays(3000, more=alone), noise=NoiseSource(bytes(32))
    )
    assert model.fitted_.items == ITEMS
    assert [entry.phase for entry in model.ledger.entries] == ["categories", "gram matrix", "lengths"]
    assert model.guarantee.delta_threshold == pytest.approx(1e-7)
    assert {name[0] for name in model.recommend(["x0", "x1"], n=3)["what"]} == {"x"}
    model.save(tmp_path / "m.privae")
    again = VAE.load(tmp_path / "m.privae")
    assert again._twin()[1] == bought
    assert "only mine" not in json.dumps(again.fitted_.schema.model_dump())
    with pytest.raises(DataError, match="fewer than two items"):
        VAE(1.0, 1e-6, rows=30, schema=bought).fit(plays(30), noise=NoiseSource(bytes(32)))


def test_of_a_large_catalogue_the_popular_items_are_modeled(monkeypatch):
    monkeypatch.setattr(ratings, "_FEWEST_MODELED", 8)
    items = (*ITEMS, *(f"rare {i}" for i in range(30)))
    wide = SCHEMA.model_copy(update={"items": items})
    model = VAE(2.0, 1e-6, rows=60, schema=wide)
    assert [phase.name for phase in model.plan().phases] == ["popularity", "gram matrix", "lengths"]
    assert model.plan().settings["modeled"] == 8
    model.fit(plays(3000), noise=NoiseSource(bytes(32)))
    kept = {items[i] for i in model.fitted_.model.kept.tolist()}
    assert kept <= set(ITEMS)
    assert len(model.recommend(["x0"], n=50)) == 41
    assert {name[:4] for name in model.recommend(["x0"], n=50)["what"][-20:]} <= {"rare", *ITEMS}


def test_a_multinomial_network_by_gradients_of_persons_finds_tastes_too(tmp_path):
    training = Training(latent=2, hidden=(16,), steps=40, batch=300, learning_rate=3e-2)
    model = VAE(8.0, 1e-6, rows=3000, recipe="gradients", schema=SCHEMA, training=training)
    model.fit(plays(3000), noise=NoiseSource(bytes(32)))
    assert (model.guarantee.unit, model.guarantee.epsilon) == ("person", pytest.approx(8.0, abs=0.1))
    assert [phase.name for phase in model.plan_.phases] == ["lengths", "gradients"]
    tastes = [{name[0] for name in model.recommend([f"{t}0", f"{t}1"], n=4)["what"]} for t in "xy"]
    assert tastes == [{"x"}, {"y"}]
    model.save(tmp_path / "m.privae")
    again, frame = VAE.load(tmp_path / "m.privae"), plays(40, 3)
    for made in (
        lambda m: m.transform(frame),
        lambda m: m.score_samples(frame),
        lambda m: m.sample(9, seed=0),
    ):
        assert np.array_equal(made(model), made(again))
    assert model.transform(frame.iloc[:0]).shape == (0, 2)
    assert again._twin()[0].plan(SCHEMA) == model.plan_
    assert len(model.nearest("x0", 3)) == 3
    bought = SCHEMA.model_copy(update={"items": "bought"})
    with pytest.raises(UsageError, match="declared catalogue"):
        model.plan(bought)


def test_sizes_follow_from_the_declared_catalogue_and_persons_alone():
    wide = SCHEMA.model_copy(update={"items": tuple(f"i{i}" for i in range(5000))})

    def modeled(epsilon, rows, schema=wide):
        return ratings.sizes_for(schema, Budget(epsilon, 1e-6, rows)).modeled

    assert modeled(1.0, 100) == 100
    assert 100 < modeled(1.0, 5000) < modeled(3.0, 5000) < modeled(3.0, 20_000) <= 4096
    assert modeled(math.inf, None) == 4096
    assert modeled(1.0, None) == 400
    assert modeled(1.0, 10**6, SCHEMA) == 12
    assert ratings.sizes_for(SCHEMA, Budget(1.0, 1e-6)).whole


def test_a_ledger_of_records_counts_a_person_as_replaced_and_one_of_persons_as_is(tmp_path):
    plan = VAE(2.0, 1e-6, rows=3000, schema=SCHEMA).plan()
    spent = {}
    for unit in ("record", "person"):
        path = tmp_path / f"{unit}.ledger"
        Ledger.open(path, 9.0, 1e-5, unit=unit)
        VAE(2.0, 1e-6, rows=3000, schema=SCHEMA).fit(plays(500), plan=plan, ledger=path)
        spent[unit] = Ledger.load(path)
    noise = {
        unit: [e.event["noise_multiplier"] for e in ledger.entries[1:]] for unit, ledger in spent.items()
    }
    assert noise["person"] == [phase.noise_multiplier for phase in plan.phases]
    assert noise["record"] == pytest.approx([phase.noise_multiplier / math.sqrt(2) for phase in plan.phases])
    assert spent["record"].epsilon > spent["person"].epsilon
    with pytest.raises(PrivacyRefused, match="protects each person"):
        VAE(2.0, 1e-6, rows=100, classes=2).fit(
            np.zeros((90, 4, 4), np.uint8), np.zeros(90), ledger=tmp_path / "person.ledger"
        )


@pytest.mark.parametrize(
    ("options", "data", "says"),
    [
        ({"strict": True}, None, "strict is for tables"),
        ({"fidelity": True}, None, "fidelity is for tables"),
        ({"recipe": "gradients"}, None, "public divisor"),
        (
            {"recipe": "gradients", "rows": 9, "training": Training(share="decoder")},
            None,
            "the whole network",
        ),
        ({"recipe": "gradients", "rows": 9, "network": torch.nn.Identity()}, None, "no network of your own"),
        ({}, np.zeros((3, 2)), "must be a pandas DataFrame"),
        ({}, pd.DataFrame({"who": [1], "what": ["x0"]}), "no column 'stars'"),
        ({}, np.zeros((3, 2, 2), np.uint8), "the data are images"),
    ],
)
def test_what_ratings_cannot_be_is_refused_in_one_line(options, data, says):
    with pytest.raises((UsageError, DataError), match=says):
        VAE(1.0, 1e-6, schema=SCHEMA, **options).fit(plays(50) if data is None else data)


def test_labels_and_questions_without_an_answer_are_refused_in_one_line(fitted, people, facts, tiny):
    with pytest.raises(UsageError, match="no labels"):
        VAE(1.0, 1e-6, schema=SCHEMA).fit(plays(50), np.zeros(50))
    with pytest.raises(UsageError, match="at least 1"):
        fitted.recommend(["x0"], n=0)
    with pytest.raises(UsageError, match="not among the items"):
        fitted.nearest("nothing")
    with pytest.raises(UsageError, match="at least 1"):
        fitted.nearest("x0", 0)
    with pytest.raises(NotFittedError):
        VAE(1.0, schema=SCHEMA).recommend(["x0"])
    with pytest.raises(UsageError, match="only models of ratings"):
        VAE(3.0, 1e-6, schema=facts).fit(people(900)).recommend(["x0"])


def test_no_persons_are_refused_by_released_numbers_alone():
    with pytest.raises(DataError, match="cannot be told from none"):
        VAE(1.0, 1e-6, schema=SCHEMA).fit(plays(3000).iloc[:0], noise=NoiseSource(bytes(32)))
    other = plays(3000).assign(what="not in the catalogue")
    with pytest.raises(DataError, match="cannot be told from none"):
        VAE(1.0, 1e-6, schema=SCHEMA).fit(other, noise=NoiseSource(bytes(32)))


def test_a_plan_of_ratings_survives_its_file_and_is_held(tmp_path):
    plan = VAE(1.0, 1e-6, rows=500, schema=SCHEMA).plan()
    assert Plan.loads(plan.dumps()) == plan
    grown = plan.model_copy(update={"settings": {**plan.settings, "ridge": 0.1}})
    with pytest.raises(UsageError, match="other phases or settings"):
        VAE(1.0, 1e-6, rows=500, schema=SCHEMA).fit(plays(50), plan=grown)
