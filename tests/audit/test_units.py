"""Units of series as records: canaries among them, who is kept out, and audits of both kinds of model."""

import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE, Training
from privae.attacks.finding import Finding
from privae.audit import units
from privae.audit.canaries import LOSS, READING, trial
from privae.audit.coins import Coins
from privae.data.column import Column
from privae.errors import DataError, UsageError
from privae.privacy.mechanism import Mechanism
from privae.series.windows import windows

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(network="convolution", latent=2, hidden=(4,), steps=3, batch=60)
MODE = Column(name="mode", kind="category", categories=("a", "b", "c"))


def schema_of(homes, unit, *, long=False, **changes):
    made = homes.schema.model_copy(update={"unit": unit, **changes})
    if long:
        channels = (*made.channels, MODE)
        made = made.model_copy(update={"channels": channels, "channel": "what", "value": "value"})
    return made


def frame_of(homes, count, *, long=False, seed=0):
    frame = homes(count, seed=seed)
    if not long:
        return frame
    frame = frame.assign(mode=np.where(frame["power"] > 2, "a", "b"))
    return frame.melt(["home", "time"], var_name="what", value_name="value")


def fitted(epsilon, frame, schema, seed=0, count=60, kept_out=0.0):
    return VAE(epsilon, rows=200, schema=schema).fit(frame, coins=Coins(count, kept_out, bytes([seed]) * 32))


def findings(vae):
    return {found.attack: found for found in vae.canary_findings_}


@pytest.mark.parametrize("unit", ["household", "day", "window"])
@pytest.mark.parametrize("long", [False, True])
def test_without_noise_canaries_are_read_off_the_sums_and_with_noise_they_are_not(homes, unit, long):
    frame, schema = frame_of(homes, 100, long=long), schema_of(homes, unit, long=long)
    found = findings(fitted(math.inf, frame, schema))
    assert list(found) == [READING.name, LOSS.name]
    assert found[READING.name].details["guesses"] == found[READING.name].details["right"] >= 20
    for one in findings(fitted(0.5, frame, schema)).values():
        assert not one.failed


@pytest.mark.parametrize(
    "change",
    [
        {"stride": "5h", "window": "5h"},
        {"id": None, "unit": "window", "window": "5h"},
        {"id": None, "unit": "day"},
        {"kind": "type", "kinds": ("x", "y"), "conditions": ("kind",)},
        {"window": "6h", "conditions": ("hour", "weekday"), "timezone": "Europe/Rome"},
    ],
)
def test_canaries_lie_on_any_clock(homes, change):
    schema = schema_of(homes, change.get("unit", "household")).model_copy(update=change)
    frame = homes(60).assign(type="x")
    made, owner = units._canaries(30, schema, np.random.default_rng(0))
    found = windows(made, schema)[0]
    assert len(found) == len(np.unique(found.unit)) == len(np.unique(owner)) == 30
    assert not np.isnan(found.values).any()
    assert np.abs(found.values - 0.5).min() >= 0.4 - 1e-6
    assert len(np.unique(found.values.reshape(30, -1), axis=0)) == 30
    reading = findings(fitted(math.inf, frame, schema))[READING.name]
    assert reading.details["right"] == reading.details["guesses"]


def test_where_windows_overlap_a_canary_is_told_by_its_score_alone(homes):
    found = findings(fitted(math.inf, homes(60), schema_of(homes, "household", stride="6h")))
    assert list(found) == [LOSS.name]


def test_few_units_are_read_too(homes):
    vae = VAE(1.0, rows=40, schema=homes.schema).fit(homes(40), coins=Coins(40, 0.0, bytes(32)))
    assert vae.plan_.settings["one_phase"]
    assert not findings(vae)[READING.name].failed


def test_a_promise_of_sums_without_noise_fails(homes, monkeypatch):
    monkeypatch.setattr(Mechanism, "release", lambda self, total, noise, **more: total.astype(np.float64))
    vae = VAE(1.0, rows=1000, schema=homes.schema).fit(homes(1000, days=1), coins=Coins(100, 0.0, bytes(32)))
    assert findings(vae)[READING.name].failed


@pytest.mark.parametrize("unit", ["household", "day", "window"])
def test_units_are_kept_out_whole_and_by_their_name_alone(homes, unit):
    schema, frame, coins = schema_of(homes, unit), homes(100), Coins(0, 0.3, bytes(32))
    real, made, _ = units.fed(coins, frame, schema, np.random.default_rng(0))
    assert not len(made)
    assert real.columns.tolist() == list(schema.columns)
    which, names = units.units_in(frame, schema)
    assert len(names) == {"household": 100, "day": 300, "window": 300}[unit]
    kept = np.isin(np.arange(len(frame)), real.index)
    for name in range(len(names)):
        assert len(set(kept[which == name])) == 1
    gone = np.unique(which[~kept])
    assert 0.2 < len(gone) / len(names) < 0.4
    half = frame.loc[frame["home"] < 50].sample(frac=1, random_state=0)
    again, _, _ = units.fed(coins, half, schema, np.random.default_rng(0))
    assert set(again.index) == set(real.index[real["home"] < 50])


def test_names_of_units_are_functions_of_their_row(homes):
    rows = [("a 1", 0), ("a", 86_400 * 11), ("a", None), (None, 5), ("a 1", "soon"), ("a 1", 86_399)]
    frame = pd.DataFrame(rows, columns=["home", "time"], dtype=object)
    schema = schema_of(homes, "day")
    which, names = units.units_in(frame, schema)
    for place in range(len(rows)):
        alone = units.units_in(frame.iloc[[place]], schema)[1]
        assert alone == [names[which[place]]]
    assert which[0] == which[5]
    assert len(set(which.tolist())) == 5
    assert units.units_in(frame, schema_of(homes, "household"))[0].tolist() == [0, 1, 1, -1, 0, 0]


def test_a_canary_changes_no_real_value(homes):
    for unit in ("household", "day"):
        schema = schema_of(homes, unit)
        for frame in (
            homes(20),
            homes(20).astype({"power": "float32"}),
            homes(20).assign(time=lambda f: f["time"].dt.tz_localize("UTC")),
        ):
            fit = trial(Coins(20, 0.0, bytes(32)), frame, None, schema)
            alone, together = windows(frame, schema)[0], windows(fit.fed[0], schema)[0]
            assert len(together) == len(alone) + fit.canaries.planted.sum()
            for values in alone.values[:5]:
                assert (together.values == values).all((1, 2)).any()


@pytest.fixture(scope="module")
def leaky(tiny, homes):
    few = homes(30)
    return VAE(math.inf, rows=30, schema=homes.schema).fit(few), few


class TestAudit:
    def test_units_are_rows(self, leaky, homes):
        model, few = leaky
        attacked = units.Attacked(model.fitted_)
        rows = attacked.rows(few)
        assert rows.shape == (30, len(model.fitted_.model.mean))
        numbers, _, unit = model.fitted_.grouped(few)
        assert rows[3] == pytest.approx(numbers[unit == 3].mean(0))
        assert attacked.score(rows).shape == (30,)
        assert attacked.embed(rows).shape == rows.shape
        records = attacked.records(rows)
        assert records.values.shape == rows.shape
        assert {"distance", "mahalanobis"} <= set(attacked.parts(rows))

    def test_statistics_are_audited(self, leaky, homes):
        model, few = leaky
        unseen = homes(30, seed=9)
        done = model.audit(few, holdout=unseen.assign(home=unseen["home"] + 1000))
        assert done.holdout == "given"
        assert all(isinstance(one, Finding) for one in done.findings)
        areas = {f.attack: f.value for f in done.findings if f.measure == "AUC"}
        assert max(areas.values()) > 0.7

    def test_coins_give_the_holdout(self, homes):
        frame, coins = homes(400), Coins(60, 0.3, bytes(32))
        vae = VAE(1.0, rows=300, schema=schema_of(homes, "household")).fit(frame, coins=coins)
        done = vae.audit(frame, coins=coins)
        loss = next(f for f in done.findings if f.attack == "membership-loss")
        assert done.holdout == "split"
        assert 80 < loss.details["others"] < 160
        assert loss.details["members"] + loss.details["others"] == 400
        assert {READING.name, LOSS.name} <= {f.attack for f in done.findings}
        assert done.passed

    def test_networks_are_audited(self, homes):
        frame, coins = homes(80), Coins(20, 0.2, bytes(32))
        vae = VAE(3.0, rows=60, schema=homes.schema, recipe="gradients", training=SMALL).fit(
            frame, coins=coins
        )
        assert list(findings(vae)) == [LOSS.name]
        rows = units.Attacked(vae.fitted_).rows(frame)
        assert rows.shape == (80, 2 * 3 * 24 * 2)
        done = vae.audit(frame, coins=coins)
        assert "membership-loss" in {f.attack for f in done.findings}

    def test_data_without_units_or_a_holdout_that_is_no_table_is_refused(self, leaky):
        model, few = leaky
        with pytest.raises(DataError, match="hold no units"):
            model.audit(few.iloc[:0])
        with pytest.raises(UsageError, match="a table of readings"):
            model.audit(few, holdout=np.zeros((5, 5)))
        with pytest.raises(UsageError, match="holds the households of the data again"):
            model.audit(few, holdout=few)
