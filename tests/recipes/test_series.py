"""Time series: a unit adds the mean of its windows, whoever they are; scores, samples and files of all units."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from privae import VAE, Ledger, Training, files
from privae.data.column import Column
from privae.encrypted.compile import compiled
from privae.errors import ArtifactError, DataError, PrivacyRefused, UsageError
from privae.fitted.series import FittedSeries, FittedSeriesNetwork, means, records_of
from privae.models.windows import WindowNetwork
from privae.privacy.noise import NoiseSource
from privae.recipes import series
from privae.recipes.phases import Budget
from privae.series.schema import SeriesSchema
from privae.series.windows import windows
from privae.sums.standard import clipped_codes

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(network="convolution", latent=2, hidden=(4,), steps=3, batch=60)


def key():
    return NoiseSource(bytes(32))


@pytest.fixture(scope="module")
def data(homes):
    return homes(300)


@pytest.fixture(scope="module")
def fitted(tiny, homes, data):
    return VAE(3.0, rows=300, schema=homes.schema).fit(data, noise=key())


def of(homes, unit):
    return homes.schema.model_copy(update={"unit": unit})


@pytest.mark.parametrize("unit", ["household", "device", "day", "window"])
def test_every_unit_is_fitted_scored_sampled_and_kept(homes, data, unit, tmp_path):
    schema = of(homes, unit)
    vae = VAE(3.0, rows=300, schema=schema).fit(data, noise=key())
    assert vae.plan_.recipe == "series"
    assert vae.guarantee.unit == unit
    assert f"one {unit}" in vae.guarantee.sentence()
    assert vae.ledger.unit == unit
    scores = vae.score_samples(data)
    assert scores.shape == (len(vae.fitted_.names(data)),) == (900,)
    assert np.isfinite(scores).all()
    assert vae.transform(data).shape == (900, len(vae.fitted_.model.mean))
    assert 0 <= vae.predict(data).mean() < 0.2
    vae.save(tmp_path / "m.privae")
    again = VAE.load(tmp_path / "m.privae")
    assert isinstance(again.fitted_, FittedSeries)
    assert (again.score_samples(data) == scores).all()
    made = vae.sample(20, seed=1)
    assert made.columns.tolist() == ["home", "time", "power", "heat"]
    assert made.equals(again.sample(20, seed=1))
    found = windows(made, schema)[0]
    each = {"household": 3, "device": 3, "day": 1, "window": 1}[unit]
    assert (len(found), len(np.unique(found.unit))) == (20 * each, 20)
    assert made["power"].between(0, 5).all()
    assert made["power"].mean() == pytest.approx(data["power"].mean(), abs=0.25)
    assert vae.plan_.rows == 300


def test_strange_windows_are_told(homes, fitted):
    new = homes(60, seed=5)
    odd = new.assign(power=np.where(new["home"] < 30, 5 - new["power"], new["power"]))
    names = fitted.fitted_.names(odd)
    strange = names["home"].astype(int) < 30
    assert roc_auc_score(strange, fitted.decision_function(odd)) > 0.9
    for name in ("mahalanobis", "combined", "diagonal", "tail"):
        assert fitted.decision_function(odd, name).shape == (180,)
    heat = fitted.heat_map(odd)
    assert heat.shape == (180, 24, 2)
    assert heat[strange.to_numpy()].sum() > heat[~strange.to_numpy()].sum()
    waves = fitted.fitted_.waves
    inner = fitted.fitted_.model
    difference, weight = inner.leaning(fitted.fitted_.records(odd)[0])
    places = np.arange(2) * waves.each + waves.frequencies
    rest = (difference * weight)[:, places].sum(1)
    assert heat.sum((1, 2)) + rest == pytest.approx(fitted.decision_function(odd, "mahalanobis"), rel=1e-6)


def by_hand(vae, frame):
    """Mean and second moment of standardized codes, every household's windows weighed alike."""
    values, unit = FittedSeries.read(vae.fitted_.waves, frame)
    codes = clipped_codes(values, vae.fitted_.model.standard) * (1.2 * math.sqrt(values.shape[1]) / 2**20)
    return means(codes, unit).mean(0), np.mean(
        [codes[unit == u].T @ codes[unit == u] / (unit == u).sum() for u in np.unique(unit)], 0
    )


@pytest.mark.parametrize("unit", ["household", "day", "window"])
def test_without_noise_moments_are_those_of_the_mean_windows(homes, unit):
    frame = homes(60)
    frame = frame.loc[(frame["home"] % 3 != 0) | (frame["time"] < "2026-01-03")]  # some have fewer windows
    vae = VAE(math.inf, rows=60, schema=of(homes, unit)).fit(frame)
    mean, second = by_hand(vae, frame)
    model = vae.fitted_.model
    assert model.mean == pytest.approx(mean, abs=1e-4)
    raw = second - np.outer(mean, mean)
    assert np.diag(model.covariance) == pytest.approx(np.diag(raw), abs=1e-4)
    assert model.covariance == pytest.approx(raw, abs=1e-4)
    assert model.basis == "covariance"


def test_a_household_with_a_hundred_times_the_windows_counts_no_more_than_one(homes):
    """Its mean window counts: once a hundred days, the others one each, or all of them a day, the model is the same."""
    few = homes(41, days=1)  # an odd number: medians are no gap between two
    long = few.loc[few["home"] == 0]
    copies = [long.assign(time=long["time"] + pd.Timedelta(days=d)) for d in range(1, 100)]
    models = [
        VAE(math.inf, rows=41, schema=homes.schema).fit(frame).fitted_.model
        for frame in (few, pd.concat([few, *copies], ignore_index=True))
    ]
    assert models[1].mean == pytest.approx(models[0].mean, abs=1e-3)
    assert models[1].covariance == pytest.approx(models[0].covariance, abs=2e-3)
    assert models[1].quantiles.share == pytest.approx(models[0].quantiles.share, abs=1e-3)
    other = VAE(math.inf, rows=40, schema=of(homes, "window")).fit(pd.concat([few, *copies])).fitted_.model
    assert np.abs(other.mean - models[0].mean).max() > 0.1


def test_few_units_release_a_count_and_moments_alone(homes, tmp_path):
    schema = homes.schema.model_copy(update={"conditions": ("weekday",)})
    vae = VAE(2.0, rows=40, schema=schema)
    plan = vae.plan()
    assert [phase.name for phase in plan.phases] == ["count", "moments"]
    assert plan.settings[series.ONE_PHASE]
    vae.fit(homes(40), noise=key())
    model = vae.fitted_.model
    assert (model.standard.center == vae.fitted_.waves.usual[0]).all()
    assert np.isfinite(vae.score_samples(homes(5))).all()
    assert len(vae.sample(3, seed=0)) == 3 * 3 * 24
    vae.save(tmp_path / "m.privae")
    assert VAE.load(tmp_path / "m.privae").fitted_.notes == vae.fitted_.notes
    with pytest.raises(DataError, match="too few"):
        VAE(0.01, rows=40, schema=homes.schema).fit(homes(3), noise=key())
    exact = VAE(math.inf, rows=40, schema=homes.schema).plan()
    assert [phase.name for phase in exact.phases] == ["bounds", "moments"]


def test_the_number_of_frequencies_follows_the_declared_units_and_epsilon_alone(homes):
    def size(epsilon, rows):
        return series.frequencies_for(homes.schema, Budget(epsilon, 1e-6, rows))

    assert size(1.0, None) == 6
    assert size(1.0, 10) == 2
    assert size(1.0, 10**6) == size(math.inf, None) == size(math.inf, 10) == 12
    assert 2 < size(1.0, 200) < size(1.0, 400) < 12
    short = homes.schema.model_copy(update={"window": "2h"})
    assert series.frequencies_for(short, Budget(1.0, 1e-6, 10**6)) == 1
    assert VAE(1.0, rows=300, schema=homes.schema).plan().settings["frequencies"] == size(1.0, 300)


def test_synthetic_weekends_differ_as_the_datas_do(homes):
    schema = homes.schema.model_copy(update={"conditions": ("weekday",), "windows": 7})
    frame = homes(300, days=7)
    made = VAE(math.inf, rows=300, schema=schema).fit(frame, noise=key()).sample(150, seed=0)
    apart = []
    for one in (frame, made):
        weekend = one["time"].dt.day_of_week >= 5
        apart.append(one.loc[weekend, "power"].mean() - one.loc[~weekend, "power"].mean())
    assert apart[1] == pytest.approx(apart[0], abs=0.08)


def test_hours_and_kinds_are_conditions(homes):
    rng = np.random.default_rng(0)
    frame = homes(200, days=2)
    kinds = np.where(rng.random(200) < 0.15, "oven", "fridge")[frame["home"]]
    night = frame["time"].dt.hour < 6
    power = frame["power"] + 1.5 * (kinds == "oven") - 0.8 * night
    frame = frame.assign(type=kinds, power=np.clip(power, 0, 5))
    schema = homes.schema.model_copy(
        update={
            "window": "6h",
            "kind": "type",
            "kinds": ("fridge", "oven"),
            "conditions": ("hour", "kind"),
            "windows": 4,
        }
    )
    vae = VAE(math.inf, rows=200, schema=schema).fit(frame)
    shares = vae.fitted_.kind_shares
    true = (kinds == "oven").mean()
    assert shares == pytest.approx([1 - true, true], abs=0.03)
    made = vae.sample(400, seed=0)
    assert (made["type"] == "oven").mean() == pytest.approx(true, abs=0.06)
    assert (made.groupby("home")["type"].nunique() == 1).all()
    for left, right in (
        ("type == 'oven'", "type == 'fridge'"),
        ("time.dt.hour < 6", "12 <= time.dt.hour < 18"),
    ):
        apart = [f.query(left)["power"].mean() - f.query(right)["power"].mean() for f in (frame, made)]
        assert apart[1] == pytest.approx(apart[0], abs=0.2)
    ovens = frame.loc[frame["type"] == "oven"]
    mistaken = vae.decision_function(ovens.assign(type="fridge")).mean()
    assert mistaken > vae.decision_function(ovens).mean() + 5
    assert np.isfinite(vae.decision_function(ovens.assign(type="unknown"))).all()


def test_gaps_come_back_together_and_states_as_they_were(homes):
    """In a tenth of the windows no heat is known: so it is in the samples, not each of its numbers apart."""
    frame = homes(200, days=3)
    rng = np.random.default_rng(0)
    day = frame["home"] * 3 + (frame["time"].dt.day - 2)
    gone = rng.random(600) < 0.1
    frame = frame.assign(
        heat=frame["heat"].where(~gone[day]), mode=rng.choice(["a", "b"], len(frame), p=[0.7, 0.3])
    )
    states = Column(name="mode", kind="category", categories=("a", "b"), missing=True)
    schema = homes.schema.model_copy(update={"channels": (*homes.schema.channels, states)})
    made = VAE(math.inf, rows=200, schema=schema).fit(frame).sample(200, seed=0)
    whole = windows(made, schema)[0].values
    assert np.isnan(whole[:, :, 1]).all(1).mean() == pytest.approx(gone.mean(), abs=0.04)
    assert set(made["mode"].dropna()) <= {"a", "b"}
    assert (made["mode"] == "b").mean() == pytest.approx(0.3, abs=0.12)


@pytest.mark.parametrize("stride", ["5h", "2h", None])
def test_made_up_windows_lie_on_the_clock_that_windows_are_cut_by(homes, stride):
    for unit, window in (("household", "5h"), ("window", "5h"), ("day", "6h")):
        if (unit, stride) in {("window", "2h"), ("day", "5h")}:
            continue
        schema = homes.schema.model_copy(
            update={"unit": unit, "window": window, "stride": stride, "filled": 1.0}
        )
        vae = VAE(math.inf, rows=100, schema=schema).fit(homes(100))
        drawn = vae.fitted_.drawn(7, np.random.default_rng(0))
        again = windows(vae.sample(7, seed=0), schema)[0]
        assert set(drawn.start.tolist()) <= set(again.start.tolist())
        assert len(np.unique(again.unit)) == 7


@pytest.mark.parametrize(("kind", "unit"), [("convolution", "household"), ("recurrent", "window")])
def test_networks_are_trained_by_gradients_of_units(homes, kind, unit, tmp_path):
    training = replace(SMALL, network=kind)
    schema = of(homes, unit)
    frame = homes(60)
    vae = VAE(3.0, rows=60, schema=schema, recipe="gradients", training=training).fit(frame, noise=key())
    assert isinstance(vae.fitted_, FittedSeriesNetwork)
    assert isinstance(vae.fitted_.network, WindowNetwork)
    assert vae.fitted_.network.config.windows == (3 if (unit, kind) == ("household", "convolution") else 1)
    assert vae.guarantee.unit == vae.ledger.unit == unit
    scores = vae.score_samples(frame)
    assert (scores.shape, np.isfinite(scores).all()) == ((180,), True)
    assert vae.transform(frame).shape == (180, 2)
    assert vae.predict(frame).shape == (180,)
    vae.save(tmp_path / "m.privae")
    again = VAE.load(tmp_path / "m.privae")
    assert again.score_samples(frame) == pytest.approx(scores)
    made = again.sample(4, seed=0)
    assert made.columns.tolist() == frame.columns.tolist()
    assert made["power"].dropna().between(0, 5).all()
    with pytest.raises(UsageError, match="heat maps are"):
        vae.heat_map(frame)


def test_records_of_a_network_are_the_first_window_at_each_place(homes):
    frame, schema = homes(3, days=15), homes.schema
    found = records_of(frame, schema, 7)
    assert found.shape == (3, 2 * 7 * 24 * 2)
    cut = windows(frame, schema)[0]
    mine = cut.at(cut.unit == 1)
    values = found[1, : 7 * 24 * 2].reshape(7, 24, 2).numpy()
    for place in range(7):  # of a week from Monday on; the first reading is of a Friday
        first = mine.values[(place - 4) % 7]
        assert values[place] == pytest.approx(2 * first - 1, abs=1e-6)
    alone = records_of(frame.loc[frame["home"] == 1], schema, 7)
    np.testing.assert_array_equal(alone[0].numpy(), found[1].numpy())
    few = records_of(frame.iloc[:30], schema, 7)
    assert few[0, 7 * 24 * 2 :].sum() == 48


def test_a_network_draws_windows_at_the_places_that_they_are_scored_at(homes):
    schema = homes.schema.model_copy(update={"window": "5h", "windows": 9})
    vae = VAE(math.inf, rows=20, schema=schema, recipe="gradients", training=SMALL).fit(homes(20))
    places, network = vae.fitted_.network.config.windows, vae.fitted_.network
    drawn = vae.fitted_.drawn(2, 0)
    at = vae.fitted_._at(drawn)
    assert places == 9
    assert sorted(at[:9].tolist()) == list(range(9))
    import torch

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, network.config.codes, generator=generator)
    with torch.no_grad():
        made = vae.fitted_.model.likelihood.sample(network.decode(z, None), generator)
    own = made[0, : 9 * 5 * 2].reshape(9, 5, 2)[at[:9]].double().numpy() / 2 + 0.5
    known = ~np.isnan(drawn.values[:9])
    assert drawn.values[:9][known] == pytest.approx(np.clip(own, 0, 1)[known])


def test_a_ledger_of_other_units_refuses_and_is_not_charged(homes, data, tmp_path):
    for unit, own in (("device", "household"), ("household", "day"), ("person", "window")):
        path = tmp_path / f"{unit}.ledger"
        ledger = Ledger.open(path, 9.0, 1e-5, unit=unit)
        with pytest.raises(PrivacyRefused, match=f"protects each {unit}"):
            VAE(1.0, rows=300, schema=of(homes, own)).fit(data, ledger=ledger)
        assert Ledger.load(path).events == ()
    ledger = Ledger.open(tmp_path / "own.ledger", 9.0, 1e-5, unit="household")
    VAE(1.0, rows=300, schema=of(homes, "household")).fit(data, ledger=ledger)
    assert len(Ledger.load(tmp_path / "own.ledger").events) == 2
    rows = Ledger.open(tmp_path / "rows.ledger", 9.0, 1e-5)
    vae = VAE(1.0, rows=300, schema=of(homes, "day")).fit(data, ledger=rows)
    assert 1.2 < rows.epsilon / vae.ledger.epsilon < 1.6  # a row that comes or goes replaces its day


@pytest.mark.parametrize("unit", ["window", "day"])
def test_a_ledger_of_parts_is_refused_as_those_of_two_plans_may_differ(homes, data, tmp_path, unit):
    Ledger.open(tmp_path / "parts.ledger", 9.0, 1e-5, unit=unit)
    with pytest.raises(PrivacyRefused, match="open the ledger for records"):
        VAE(1.0, rows=300, schema=of(homes, unit)).fit(data, ledger=tmp_path / "parts.ledger")
    assert Ledger.load(tmp_path / "parts.ledger").events == ()


def test_a_file_whose_schema_protects_others_than_its_plan_is_refused(homes, data, tmp_path):
    VAE(5.0, rows=300, schema=of(homes, "household")).fit(data).save(tmp_path / "homes.privae")
    members = files.read_archive(tmp_path / "homes.privae")
    schema = SeriesSchema.loads(members["schema"].decode()).model_copy(update={"unit": "day"})
    files.write_archive(tmp_path / "forged.privae", members | {"schema": schema.dumps().encode()})
    with pytest.raises(ArtifactError, match="protects others than its plan"):
        VAE.load(tmp_path / "forged.privae")


def test_what_series_are_not_fitted_with_is_refused(homes, data):
    schema = homes.schema

    def refused(says, frame=data, labels=None, **options):
        options = {"schema": schema, "rows": 300} | options
        with pytest.raises(UsageError, match=says) as caught:
            VAE(2.0, **options).fit(frame, labels)
        assert "\n" not in str(caught.value)

    refused("strict is for tables", strict=True)
    refused("no labels y", labels=["a"] * len(data))
    refused("leave out fidelity", fidelity=True)
    refused("no network of your own", network=WindowNetwork.from_config({"windows": 1, "steps": 4}))
    refused('"auto" scores all others', recipe="detection")
    refused(
        "take no conditions",
        recipe="gradients",
        schema=schema.model_copy(update={"conditions": ("weekday",)}),
    )
    refused('"convolution" or "recurrent"', recipe="gradients", training=replace(SMALL, network="perceptron"))
    refused("needs id", schema=schema.model_copy(update={"id": None}))
    with pytest.raises((UsageError, DataError), match="must be a pandas DataFrame"):
        VAE(2.0, rows=300, schema=schema).fit(data.to_numpy())
    with pytest.raises(UsageError, match="not computed on ciphertexts"):
        compiled(VAE(math.inf, rows=40, schema=schema).fit(homes(40)).fitted_)


def test_windows_and_their_scores_have_names(fitted, homes):
    new = homes(2, seed=3).sample(frac=1, random_state=0)
    names = fitted.fitted_.names(new)
    assert names.columns.tolist() == ["home", "time"]
    assert len(names) == 6
    assert set(names["home"]) == {"0", "1"}
    assert len(fitted.score_samples(new.iloc[:0])) == 0
    with pytest.raises(UsageError, match="DataFrame"):
        fitted.score_samples(new.to_numpy())
    with pytest.raises(DataError, match="reads as a time"):
        fitted.score_samples(new.assign(time="soon"))


def test_models_whose_numbers_are_not_those_of_their_schema_do_not_belong(fitted):
    whole = fitted.fitted_
    assert whole.belongs()
    for change in (
        {"window": "12h"},
        {"window": "3h"},
        {"unit": "household", "id": None},
        {"conditions": ("weekday",)},
        {"channels": whole.schema.channels[:1]},
    ):
        other = FittedSeries(whole.schema.model_copy(update=change), whole.model)
        assert not other.belongs()


def test_networks_of_windows_have_sizes_of_their_own_unless_chosen(homes):
    def settings(**chosen):
        training = Training(**chosen)
        plan = VAE(3.0, rows=300, schema=homes.schema, recipe="gradients", training=training).plan()
        return plan, {name: plan.settings[name] for name in ("hidden", "latent", "learning_rate")}

    plan, found = settings(network="recurrent")
    assert found == {"hidden": "48", "latent": 4, "learning_rate": 0.02}
    assert Training.of(plan).hidden == (48,)
    assert settings(network="convolution", hidden=(8,), latent=3, learning_rate=0.5)[1] == {
        "hidden": "8",
        "latent": 3,
        "learning_rate": 0.5,
    }


def test_gradients_release_no_scores_and_say_so(homes):
    schema = homes.schema.model_copy(update={"threshold": "released"})
    with pytest.raises(UsageError, match="leave threshold out"):
        VAE(3.0, rows=300, schema=schema, recipe="gradients").plan()
