import io
import json
import math
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import privae.files as files
from privae import VAE, Ledger, Plan, PrivaeError, Training
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.models.networks import Network, NetworkConfig
from privae.privacy.noise import NoiseSource
from privae.recipes.modality import image_schema
from privae.vae import FIXED_NOISE

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(latent=2, hidden=(4,), steps=3, batch=30)


def key(number=0):
    return NoiseSource(bytes([number] * 32))


@pytest.fixture(scope="module")
def fitted(tiny, people, facts):
    return VAE(3.0).fit(people(3000), schema=facts)


# --- the promise ------------------------------------------------------------------------------------------


def test_epsilon_has_no_default_and_delta_is_said_aloud(fitted):
    with pytest.raises(TypeError, match="epsilon"):
        VAE()
    assert VAE(1.0).delta == 1e-6
    assert "1e-06" in str(fitted.guarantee)


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan])
def test_an_epsilon_that_cannot_be_meant_is_refused(people, facts, epsilon):
    with pytest.raises(UsageError, match="epsilon must be"):
        VAE(epsilon).fit(people(10), schema=facts)


def test_the_guarantee_is_that_of_the_plan_and_the_ledger(fitted):
    assert fitted.guarantee == fitted.plan_.guarantee()
    assert fitted.guarantee.epsilon <= 3.0
    assert fitted.ledger.epsilon == pytest.approx(fitted.guarantee.epsilon, rel=1e-12)
    assert fitted.ledger.delta == fitted.guarantee.delta == 1e-6


@pytest.mark.parametrize("recipe", ["auto", "gradients"])
def test_without_privacy_it_says_so_wherever_it_is_printed(people, facts, tmp_path, recipe):
    vae = VAE(math.inf, rows=30, recipe=recipe, training=SMALL).fit(people(300), schema=facts)
    vae.save(tmp_path / "a.privae")
    loaded = VAE.load(tmp_path / "a.privae")
    for one in (vae, loaded):
        assert str(one.guarantee).startswith("NOT PRIVATE")
        assert one.guarantee.sentence().startswith("NOT PRIVATE")
        assert not one.guarantee.holds
        assert math.isinf(one.ledger.epsilon)
        assert "inf" in repr(one)
    assert "epsilon = inf" in vae.plan_.dumps()


def test_without_privacy_it_is_the_same_recipe_without_noise(people, facts):
    """Phases, sizes and model are those of a private fit; releases are the sums themselves, whatever the key."""
    private, plain = VAE(3.0).plan(facts), VAE(math.inf).plan(facts)
    assert [p.model_copy(update={"noise_multiplier": 0.0}) for p in private.phases] == list(plain.phases)
    assert private.settings == plain.settings
    one = VAE(math.inf).fit(people(500), schema=facts, noise=key(1))
    other = VAE(math.inf).fit(people(500), schema=facts, noise=key(2))
    for a, b in zip(one.fitted_.model.state().values(), other.fitted_.model.state().values(), strict=True):
        assert torch.equal(a, b)


def test_fits_repeat_only_when_the_noise_is_passed(people, facts):
    def weights(**options):
        return VAE(3.0).fit(people(3000), schema=facts, **options).fitted_.model.state()["log_cells"]

    assert torch.equal(weights(noise=key()), weights(noise=key()))
    assert not torch.equal(weights(noise=key()), weights(noise=key(1)))
    assert not torch.equal(weights(), weights())


def test_a_fixed_key_is_named_as_not_covered(people, facts, fitted, tmp_path):
    vae = VAE(3.0).fit(people(3000), schema=facts, noise=key())
    vae.save(tmp_path / "a.privae")
    assert FIXED_NOISE in str(vae.guarantee)
    assert VAE.load(tmp_path / "a.privae").guarantee == vae.guarantee
    assert FIXED_NOISE not in str(fitted.guarantee)


# --- scikit-learn -----------------------------------------------------------------------------------------


def test_parameters_are_read_cloned_and_set(facts):
    vae = VAE(2.0, 1e-5, 100, "gradients", facts, training=SMALL, strict=True)
    parameters = vae.get_params()
    assert parameters["epsilon"] == 2.0
    assert set(parameters) == {
        "epsilon", "delta", "rows", "recipe", "schema", "classes", "fidelity", "strict", "training", "network",
    }  # fmt: skip
    copied = clone(vae)
    assert copied is not vae
    assert copied.get_params() == parameters
    assert vae.set_params(epsilon=1.0).epsilon == 1.0
    assert vae.plan(facts).epsilon == 1.0


def test_a_clone_is_not_fitted(fitted, people):
    with pytest.raises(NotFittedError):
        clone(fitted).score_samples(people(2))


def test_it_works_in_a_pipeline(people, facts):
    pipeline = Pipeline([("vae", VAE(3.0, schema=facts)), ("scale", StandardScaler())])
    codes = pipeline.fit_transform(people(3000))
    assert codes.shape == (3000, 16)
    assert pipeline.transform(people(4)).shape == (4, 16)
    assert clone(pipeline).get_params()["vae__epsilon"] == 3.0


def test_labels_may_come_as_y_and_arrays_as_x(people, facts):
    frame = people(3000)
    vae = VAE(3.0, schema=facts).fit(frame.drop(columns="ill"), frame["ill"], noise=key())
    assert vae.sample(5).columns.tolist() == ["age", "job", "height", "ill"]
    array = VAE(3.0, schema=facts).fit(frame.to_numpy(dtype=object), noise=key())
    assert array.sample(5).columns.tolist() == ["age", "job", "height", "ill"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda v, x: v.sample(3),
        lambda v, x: v.sample(),
        lambda v, x: v.score_samples(x),
        lambda v, x: v.decision_function(x),
        lambda v, x: v.predict(x),
        lambda v, x: v.transform(x),
        lambda v, x: v.guarantee,
        lambda v, x: v.ledger,
        lambda v, x: v.save("unfitted.privae"),
    ],
)
def test_before_the_fit_everything_says_that_it_is_not_fitted(people, ask):
    with pytest.raises(NotFittedError, match="not fitted"):
        ask(VAE(1.0), people(2))


# --- in and out -------------------------------------------------------------------------------------------

MIXED = Schema(
    columns=(
        Column(name="b", kind="numeric", bounds=(0, 9), integer=True, dtype="int16"),
        Column(name="a", kind="category", categories=(1, 2)),
        Column(name="gone", kind="category", action="drop"),
        Column(name="c", kind="numeric", bounds=(0.0, 1.0), bins=3, dtype="float32"),
        Column(name="d", kind="ordinal", categories=("low", "high"), dtype="category"),
        Column(name="e", kind="boolean", missing=True),
    )
)


def test_a_frame_comes_out_as_it_went_in():
    rng = np.random.default_rng(0)
    count = 4000
    frame = pd.DataFrame(
        {
            "e": pd.array(rng.choice([True, False, None], count), dtype="boolean"),
            "b": rng.integers(0, 10, count).astype(np.int16),
            "d": pd.Categorical(rng.choice(["low", "high"], count), categories=["low", "high"], ordered=True),
            "gone": "x",
            "a": rng.integers(1, 3, count),
            "c": rng.random(count).astype(np.float32),
        }
    )
    vae = VAE(5.0).fit(frame, schema=MIXED)
    made = vae.sample(500, seed=1)
    kept = frame.drop(columns="gone")
    assert made.columns.tolist() == kept.columns.tolist()
    assert made.dtypes.astype(str).to_dict() == kept.dtypes.astype(str).to_dict()
    assert made["b"].between(0, 9).all()
    assert made["e"].isna().any()
    assert made.index.equals(pd.RangeIndex(500))
    pd.testing.assert_frame_equal(made, vae.sample(500, seed=1))
    assert not made.equals(vae.sample(500))
    assert np.isfinite(vae.score_samples(made)).all()


def test_images_come_out_as_they_went_in(pictures):
    x, y = pictures(3000)
    made, labels = VAE(3.0, classes=2, fidelity=False).fit(x, y).sample(50)
    assert (made.dtype, made.shape) == (np.uint8, (50, 4, 4))
    assert set(labels) <= {"0", "1"}
    alone = VAE(3.0, fidelity=False).fit(x).sample(50)
    assert (alone.dtype, alone.shape) == (np.uint8, (50, 4, 4))


def test_how_many_are_sampled(fitted):
    assert len(fitted.sample()) == 1000
    assert len(fitted.sample(0)) == 0
    with pytest.raises(UsageError, match="must not be negative"):
        fitted.sample(-1)


def test_signs_are_those_of_scikit_learn_and_pyod(fitted, people, facts):
    usual = people(200, 5)
    strange = usual.assign(age=5, ill=True, job="pilot")
    assert fitted.score_samples(usual).mean() > fitted.score_samples(strange).mean()
    assert (fitted.decision_function(usual) == -fitted.score_samples(usual)).all()
    flags = fitted.predict(strange)
    assert flags.dtype == np.int64
    assert set(flags) <= {0, 1}
    assert flags.mean() > fitted.predict(usual).mean()
    assert fitted.predict(usual, contamination=0.5).mean() > fitted.predict(usual, contamination=0.01).mean()
    for wrong in (0.0, 1.0, -1, 2):
        with pytest.raises(UsageError, match="contamination"):
            fitted.predict(usual, contamination=wrong)


def test_the_threshold_is_a_function_of_the_model_and_not_of_what_is_asked(fitted, people):
    rows = people(50, 3)
    together = fitted.predict(rows)
    alone = np.concatenate([fitted.predict(rows.iloc[i : i + 1]) for i in range(50)])
    assert (together == alone).all()


def test_scores_need_no_label_and_codes_do_not_use_it(fitted, people):
    rows = people(20)
    without = rows.drop(columns="ill")
    assert np.isfinite(fitted.score_samples(without)).all()
    assert (fitted.score_samples(without) >= fitted.score_samples(rows) - 1e-9).all()
    assert (fitted.transform(without) == fitted.transform(rows)).all()
    assert (fitted.transform(rows.assign(ill=~rows["ill"])) == fitted.transform(rows)).all()


# --- plans ------------------------------------------------------------------------------------------------


def test_a_plan_is_followed_exactly(people, facts):
    plan = Plan.loads(VAE(3.0, rows=3000).plan(facts).dumps())
    vae = VAE(9.0).fit(people(3000), schema=facts, plan=plan)
    assert vae.plan_ == plan
    assert vae.guarantee.epsilon <= 3.0
    assert {entry.plan_hash for entry in vae.ledger.entries} == {plan.hash}


def test_a_plan_for_another_schema_is_refused(people, facts):
    other = facts.model_copy(update={"label": None})
    with pytest.raises(UsageError, match="another schema"):
        VAE(3.0).fit(people(10), schema=facts, plan=VAE(3.0).plan(other))


def test_a_plan_of_another_recipe_is_refused(people, facts):
    images = VAE(3.0, classes=2, fidelity=False)
    plan = images.plan(image_schema((4, 4), 2, labelled=True)).model_copy(update={"schema_hash": facts.hash})
    with pytest.raises((UsageError, PrivacyRefused)):
        VAE(3.0).fit(people(10), schema=facts, plan=plan)


def test_planning_reads_no_data_and_needs_a_schema(facts):
    assert VAE(3.0).plan(facts) == VAE(3.0, schema=facts).plan()
    with pytest.raises(UsageError, match="needs a schema"):
        VAE(3.0).plan()
    with pytest.raises(UsageError, match="recipe is"):
        VAE(3.0, recipe="magic").plan(facts)
    assert VAE(3.0).plan(facts.model_copy(update={"rows": 77})).rows == 77


def test_a_ledger_at_its_cap_refuses_a_second_fit(people, facts, tmp_path):
    ledger = Ledger.open(tmp_path / "a.ledger", 3.0, 1e-6)
    VAE(3.0).fit(people(3000), schema=facts, ledger=ledger)
    with pytest.raises(PrivacyRefused, match="is left"):
        VAE(1.0).fit(people(3000), schema=facts, ledger=tmp_path / "a.ledger")


# --- model files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "a.privae"
    fitted.save(path)
    return path


def test_a_model_comes_back_whole(fitted, saved, people):
    again = VAE.load(saved)
    pd.testing.assert_frame_equal(again.sample(50, seed=1), fitted.sample(50, seed=1))
    assert (again.score_samples(people(9)) == fitted.score_samples(people(9))).all()
    assert (again.transform(people(9)) == fitted.transform(people(9))).all()
    assert (again.predict(people(9)) == fitted.predict(people(9))).all()
    assert again.guarantee == fitted.guarantee
    assert again.plan_ == fitted.plan_
    assert again.ledger.dumps() == fitted.ledger.dumps()
    assert (again.epsilon, again.delta, again.rows, again.recipe) == (3.0, 1e-6, None, "auto")


def test_saving_twice_gives_the_same_bytes(fitted, saved, tmp_path):
    fitted.save(tmp_path / "b.privae")
    assert (tmp_path / "b.privae").read_bytes() == saved.read_bytes()
    VAE.load(saved).save(tmp_path / "c.privae")
    assert (tmp_path / "c.privae").read_bytes() == saved.read_bytes()


def test_any_single_flipped_byte_is_refused(saved, tmp_path):
    """Every place of the first header and the seal, every fifth of the directory, and 100 places between."""
    content = saved.read_bytes()
    places = {
        *range(60),
        *range(len(content) - 1000, len(content), 5),
        *range(len(content) - 90, len(content)),
    }
    places |= set(np.random.default_rng(0).integers(0, len(content), 100).tolist())
    path = tmp_path / "a.privae"
    for place in sorted(places):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.raises(ArtifactError):
            VAE.load(path)


def members_of(path):
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


def forged(saved, tmp_path, change):
    """The model file with changed members and hashes that fit them again."""
    members = members_of(saved)
    change(members)
    files.write_archive(tmp_path / "forged.privae", members)
    return tmp_path / "forged.privae"


def replaced(member, old, new):
    def change(members):
        assert old in members[member]
        members[member] = members[member].replace(old, new, 1)

    return change


def smaller_epsilon(members):
    stored = json.loads(members["guarantee.json"])
    members["guarantee.json"] = json.dumps(stored | {"epsilon": 0.1}).encode()


def fewer_caveats(members):
    stored = json.loads(members["guarantee.json"])
    members["guarantee.json"] = json.dumps(stored | {"not_covered": []}).encode()


def quieter_plan(members):
    plan = Plan.loads(members["plan.toml"].decode())
    phase = plan.phases[0]
    louder = plan.model_copy(
        update={"phases": (phase.model_copy(update={"noise_multiplier": phase.noise_multiplier * 10}),)}
    )
    members["plan.toml"] = louder.dumps().encode()
    members["guarantee.json"] = json.dumps(louder.guarantee().to_dict()).encode()


def no_entries(members):
    members["ledger.jsonl"] = b""


def without(member):
    return lambda members: members.pop(member)


def holding(member, content):
    return lambda members: members.__setitem__(member, content)


@pytest.mark.parametrize(
    "change",
    [
        smaller_epsilon,
        fewer_caveats,
        quieter_plan,
        no_entries,
        replaced("ledger.jsonl", b'"steps":1', b'"steps":2'),
        replaced("ledger.jsonl", b'"phase":"pair tables"', b'"phase":"pair table"'),
        replaced("guarantee.json", b'"record"', b'"person"'),
        replaced("plan.toml", b"delta = 1e-06", b"delta = 1e-05"),
        *(
            without(name)
            for name in ("plan.toml", "guarantee.json", "ledger.jsonl", "weights.safetensors", "schema")
        ),
        *(holding("model.json", content) for content in (b"[]", b"null", b"{}", b"\xff", b'{"model": 1}')),
        *(holding("guarantee.json", content) for content in (b"[]", b"null", b"{}", b"3")),
        holding("weights.safetensors", b""),
        holding("schema", b"\xff"),
    ],
)
def test_a_forged_part_is_refused(saved, tmp_path, change):
    path = forged(saved, tmp_path, change)
    with pytest.raises(ArtifactError) as caught:
        VAE.load(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.zeros(1)}, tmp_path / "torch")
    for name in ("pickle", "torch"):
        with pytest.raises(ArtifactError):
            VAE.load(tmp_path / name)
    with pytest.raises(PrivaeError, match="cannot be read"):
        VAE.load(tmp_path / "absent")


class Own(nn.Module):
    """A network of one's own: one linear layer each way."""

    def __init__(self):
        super().__init__()
        self.inner = Network(NetworkConfig(inputs=16, latent=2, hidden=()))

    def encode(self, x, condition=None):
        return self.inner.encode(x, condition)

    def decode(self, z, condition=None):
        return self.inner.decode(z, condition)


def test_a_network_of_ones_own_is_given_again_on_load(pictures, tmp_path):
    torch.manual_seed(0)
    own = Own()
    vae = VAE(5.0, rows=30, recipe="gradients", training=SMALL, network=own).fit(pictures(300)[0])
    path = tmp_path / "a.privae"
    vae.save(path)
    with pytest.raises(UsageError, match="network of your own") as caught:
        VAE.load(path)
    assert not isinstance(caught.value, ArtifactError)
    again = VAE.load(path, network=Own())
    x = pictures(4)[0]
    assert (again.score_samples(x) == vae.score_samples(x)).all()
    assert again.recipe == "gradients"
    with pytest.raises(ArtifactError):
        VAE.load(path, network=nn.Linear(2, 2))


# --- odd data ---------------------------------------------------------------------------------------------


def test_data_of_another_form_are_refused_in_one_line(people, facts, pictures, tmp_path):
    x, y = pictures(20)
    frame = people(20)
    ledger = Ledger.open(tmp_path / "a.ledger", 9.0, 1e-5)
    for vae, data, options in (
        (VAE(3.0), (frame,), {}),
        (VAE(3.0), (frame.to_numpy(dtype=object)[:, :0],), {"schema": facts}),
        (VAE(3.0), (np.zeros((5, 9)),), {"schema": facts}),
        (VAE(3.0), ("patients.csv",), {"schema": facts}),
        (VAE(3.0), (x.astype(float), y), {}),
        (VAE(3.0), (x,), {"schema": facts}),
        (VAE(3.0, classes=2), (x,), {}),
        (VAE(3.0, classes=0), (x, y), {}),
        (VAE(3.0, classes=2), (x, y[:5]), {}),
        (VAE(3.0), (frame.drop(columns="ill"), [1, 2]), {"schema": facts}),
        (VAE(3.0), (pd.concat([frame, frame], axis=1),), {"schema": facts}),
        (VAE(3.0), (frame,), {"schema": facts.model_copy(update={"person": "who"})}),
    ):
        with pytest.raises(PrivaeError) as caught:
            vae.fit(*data, ledger=ledger, **options)
        assert "\n" not in str(caught.value)
        assert ledger.events == ()
        assert not hasattr(vae, "fitted_")
