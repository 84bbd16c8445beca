"""An evaluation that is released: what it says is right, and what it rests on is checked."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from privae import VAE, files
from privae.data.images import ImageSchema
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.evaluate import released
from privae.evaluate.released import OTHER, Evaluated, Evaluation
from privae.plan import Plan
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.recipes.phases import Run
from privae.training.books import Books, Places
from privae.training.watch import Silent

INF = float("inf")


@pytest.fixture(scope="module")
def model(tiny, facts, people, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.privae"
    VAE(8.0, 1e-5, 600, schema=facts).fit(people(900)).save(path)
    return path


def evaluated(model: Path, epsilon: float, x, y=None, ledger=None) -> Evaluated:
    plan = released.planned(model, epsilon, 1e-5, 600)
    fitted = released.load_members(model.read_bytes(), "m")
    recipe = Evaluation.of(fitted.schema, plan, model.read_bytes())
    noise = NoiseSource()
    books = Books(plan, noise, Places(ledger))
    recipe.check(x, y, strict=False)
    with books.open():
        return recipe.fit(Run(plan, books.charge, noise, Silent()), x, y)


def test_without_noise_the_figures_are_those_of_the_scores(model, people) -> None:
    frame = people(800, seed=5)
    found = evaluated(model, INF, frame)
    scores = VAE.load(model).score_samples(frame.drop(columns="ill"))
    figures = found.figures()
    assert {n: v["value"] for n, v in figures["records"].items()} == {
        "False": (~frame["ill"]).sum(),
        "True": frame["ill"].sum(),
        OTHER: 0,
    }
    assert figures["auc"]["True"]["value"] == pytest.approx(roc_auc_score(frame["ill"], -scores), abs=0.02)
    assert figures["auc"]["False"]["value"] == pytest.approx(1 - figures["auc"]["True"]["value"], abs=1e-3)
    own = VAE.load(model).fitted_.sampled_scores(10_000, frame.drop(columns="ill"))
    for share in released.SHARES:
        shown = figures["stranger_than_own"][str(share)]
        assert shown["value"] == pytest.approx((scores < np.quantile(own, share)).mean(), abs=1e-3)
        assert shown["low"] <= shown["value"] <= shown["high"]
        told = figures["thresholds"][str(share)]
        if told is not None:
            assert (scores < told["low"]).mean() - 0.02 <= share <= (scores < told["high"]).mean() + 0.02


def test_anomaly_scores_are_evaluated_as_they_are_given(facts, people, tmp_path) -> None:
    schema = facts.model_copy(update={"label": None})
    fitted = VAE(INF, 1e-5, 600, recipe="detection", schema=schema).fit(people(900))
    fitted.save(tmp_path / "m.privae")
    frame = people(400, seed=5)
    figures = evaluated(tmp_path / "m.privae", INF, frame).figures()
    scores, own = fitted.score_samples(frame), fitted.fitted_.sampled_scores(10_000, frame)
    for share in released.SHARES:
        shown = figures["stranger_than_own"][str(share)]["value"]
        assert shown == pytest.approx((scores < np.quantile(own, share)).mean(), abs=1e-3)


def test_images_are_told_apart_by_their_class(pictures, tmp_path, tiny) -> None:
    x, y = pictures(400)
    kept = y == 0
    model = VAE(INF, 1e-5, 400, classes=2, fidelity=False).fit(x[kept], y[kept])
    model.save(tmp_path / "m.privae")
    figures = evaluated(tmp_path / "m.privae", INF, x, y).figures()
    assert figures["auc"]["1"]["value"] == pytest.approx(roc_auc_score(y, -model.score_samples(x)), abs=0.02)
    assert figures["auc"]["1"]["value"] > 0.9


def test_intervals_cover_the_truth_about_as_often_as_they_say(model, people) -> None:
    frame = people(4000, seed=7)
    whole = evaluated(model, INF, frame)
    truth = whole.figures()["auc"]["True"]["value"]
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        chance = rng.poisson(whole.counts / 5)  # a fifth as many records of the same population
        noisy = chance + rng.normal(0, 3.0, chance.shape)
        shown = Evaluated(whole.schema, "", whole.edges, noisy, 3.0).figures()["auc"]["True"]
        inside += shown["low"] <= truth <= shown["high"]
    assert 50 <= inside <= 60  # of 57 expected


def test_few_records_are_lost_in_the_noise(model, people) -> None:
    figures = evaluated(model, 0.1, people(20)).figures()
    assert figures["auc"] == {"False": None, "True": None}
    assert set(figures["thresholds"].values()) == {None}


def test_the_document_holds_all_and_is_json_without_noise_too(model, people, tmp_path) -> None:
    plan = released.planned(model, INF, 1e-5, 600)
    found = evaluated(model, INF, people(50))
    made = json.loads(found.document(plan, plan.guarantee(), Ledger.fresh(1e-5), {"sites": ["a"]}))
    assert made["model"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert np.sum(made["counts"]) == 50
    assert Plan.loads(made["plan"]) == plan
    assert made["federation"] == {"sites": ["a"]}


def test_an_evaluation_is_charged_to_the_ledger_of_its_records(model, people, tmp_path) -> None:
    ledger = Ledger.open(tmp_path / "ledger", 1.0, 1e-5)
    evaluated(model, 0.7, people(50), ledger=ledger)
    with pytest.raises(PrivacyRefused, match="left"):
        evaluated(model, 0.7, people(50), ledger=ledger)


def test_another_model_than_planned_is_refused(model, people, facts, tmp_path, tiny) -> None:
    VAE(8.0, 1e-5, 600, schema=facts).fit(people(300)).save(tmp_path / "other")
    plan = released.planned(model, 1.0, 1e-5, 600)
    recipe = Evaluation.of(facts, plan, (tmp_path / "other").read_bytes())
    with pytest.raises(ArtifactError, match="by its hash"):
        recipe.fit(run_of(plan), people(10))


def run_of(plan: Plan, told=None) -> Run:
    class Told(Run):
        def agreed(self, name, make):
            return told(name, make()) if told else make()

    return Told(plan, lambda phase, event: 0.0, NoiseSource(), Silent())


@pytest.mark.parametrize(
    "bad",
    [
        lambda edges: edges.flip(0),
        lambda edges: edges[:-1],
        lambda edges: torch.full_like(edges, float("nan")),
        lambda edges: edges[None],
    ],
)
def test_edges_that_are_none_are_refused(model, people, bad) -> None:
    plan = released.planned(model, 1.0, 1e-5, 600)
    fitted = released.load_members(model.read_bytes(), "m")
    recipe = Evaluation.of(fitted.schema, plan, model.read_bytes())

    def told(name, made):
        return {"edges": bad(made["edges"])} if name == "edges" else made

    with pytest.raises(ArtifactError, match="edges"):
        recipe.fit(run_of(plan, told), people(10))
    for name in ("model", "edges"):
        with pytest.raises(ArtifactError):
            recipe.fit(run_of(plan, lambda asked, made, name=name: {} if asked == name else made), people(10))


def test_a_model_that_fails_on_a_record_tells_nobody_so(model, people, monkeypatch) -> None:
    frame = people(50)
    fitted = released.load_members(model.read_bytes(), "m")
    true = type(fitted).score_codes

    def failing(self, codes):
        if len(codes) == 1 and codes[0, 1] == 1:
            raise IndexError("a cook is here")
        return true(self, codes)

    monkeypatch.setattr(type(fitted), "score_codes", failing)
    found = evaluated(model, INF, frame)
    assert found.counts.sum() == 50
    assert found.counts[:, 0].sum() >= (frame["job"] == "cook").sum()


def test_a_file_that_says_it_is_larger_than_it_can_be_is_not_opened(model, tmp_path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("weights.safetensors", bytes(2**28))
    with pytest.raises(ArtifactError, match="far more than it can"):
        released.load_members(bomb.getvalue(), "m")
    members = files.read_archive(model)
    sizes = json.loads(members["model.json"])
    sizes["config"]["network"]["hidden"] = [10**7, 10**7]
    members["model.json"] = json.dumps(sizes).encode()
    with pytest.raises(ArtifactError, match="does not read"):
        released.load_members(files.archive(members), "m")


def test_what_is_no_model_or_cannot_be_evaluated_is_said_in_one_line(tmp_path, model, facts) -> None:
    (tmp_path / "x.privae").write_bytes(b"nothing")
    (tmp_path / "nan.privae").write_bytes(tampered(model, {}, {"log_cells": no_numbers(model)}))
    with pytest.raises(ArtifactError, match="ascend"):
        released.planned(tmp_path / "nan.privae", 1.0, 1e-5, None)
    with pytest.raises(ArtifactError, match=r"x\.privae"):
        released.planned(tmp_path / "x.privae", 1.0, 1e-5, None)
    with pytest.raises(UsageError, match="cannot be read"):
        released.planned(tmp_path / "none.privae", 1.0, 1e-5, None)
    plan = released.planned(model, 1.0, 1e-5, 600)
    with pytest.raises(UsageError, match="not at hand"):
        Evaluation.of(facts, plan).fit(run_of(plan), None)
    with pytest.raises(PrivacyRefused, match="person"):
        Evaluation.of(facts.model_copy(update={"person": "who"}), plan).draft(released.Budget(1.0, 1e-5))


def test_images_of_another_form_are_refused_before_anything_is_charged(pictures) -> None:
    x, y = pictures(10)
    recipe = Evaluation(ImageSchema.with_class_count(4, 4, 2), "0" * 64)
    recipe.check(x, y, strict=False)
    with pytest.raises(UsageError, match="uint8"):
        recipe.check(x[:, :3], y, strict=False)
    with pytest.raises(UsageError, match="one label"):
        recipe.check(x, None, strict=False)
    with pytest.raises(UsageError, match="one label"):
        recipe.check(x, y[:5], strict=False)


def test_a_fit_does_not_follow_a_plan_to_evaluate(model, people, facts) -> None:
    plan = released.planned(model, 1.0, 1e-5, 600)
    with pytest.raises(UsageError, match="plan again"):
        VAE(1.0, 1e-5, 600, schema=facts).fit(people(50), plan=plan)


def test_classes_are_told_apart_whatever_they_are_called() -> None:
    schema = ImageSchema(height=4, width=4, classes=("sick", OTHER))
    counts = np.repeat([[100.0], [200.0], [1.0]], released._EDGES + 1, 1)
    found = Evaluated(schema, "", np.arange(float(released._EDGES)), counts, 0.0).figures()
    amounts = {name: amount["value"] / (released._EDGES + 1) for name, amount in found["records"].items()}
    assert amounts == {"sick": 100, OTHER: 200, f"{OTHER}*": 1}


def test_classes_that_one_bin_holds_are_not_said_to_be_alike(facts) -> None:
    counts = np.zeros((3, released._EDGES + 1))
    counts[:2, 0] = 500.0
    auc = Evaluated(facts, "", np.arange(float(released._EDGES)), counts, 0.0).figures()["auc"]["True"]
    assert auc == {"value": 0.5, "low": 0.0, "high": 1.0}


def test_records_without_a_class_are_none_of_the_others(facts) -> None:
    rng = np.random.default_rng(0)
    counts = 300.0 + rng.normal(0, 60, (3, released._EDGES + 1))
    auc = Evaluated(facts, "", np.arange(float(released._EDGES)), counts, 9.0).figures()["auc"]
    assert auc["True"]["value"] + auc["False"]["value"] == pytest.approx(1, abs=2e-4)


def test_thresholds_lie_in_their_intervals_as_often_as_they_say(facts) -> None:
    rng, edges = np.random.default_rng(2), np.linspace(-3.0, 3.0, released._EDGES)
    inside = told = 0
    for _ in range(100):
        scores = rng.normal(size=3_000)
        counts = np.zeros((3, released._EDGES + 1))
        np.add.at(counts, (0, np.searchsorted(edges, scores)), 1)
        noisy = counts + rng.normal(0, 4, counts.shape)
        for share, found in Evaluated(facts, "", edges, noisy, 4.0).figures()["thresholds"].items():
            told += found is not None
            inside += found is not None and found["low"] <= norm.ppf(float(share)) <= found["high"]
    assert told > 150
    assert inside >= 0.88 * told


def test_a_threshold_that_lies_beyond_the_bins_is_not_made_up(facts) -> None:
    counts = np.zeros((3, released._EDGES + 1))
    counts[0, 0] = 500.0
    found = Evaluated(facts, "", np.arange(float(released._EDGES)), counts, 0.0).figures()
    assert set(found["thresholds"].values()) == {None}


def tampered(model: Path, config, weights=None) -> bytes:
    members = files.read_archive(model)
    stored, tensors = json.loads(members["model.json"]), load(members["weights.safetensors"])
    stored["config"] |= config
    members["weights.safetensors"] = save(tensors | (weights or {}))
    return files.archive(members | {"model.json": json.dumps(stored).encode()})


def no_numbers(model: Path) -> torch.Tensor:
    cells = load(files.read_archive(model)["weights.safetensors"])["log_cells"]
    return torch.full_like(cells, float("nan"))


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"sizes": [5, 3, 3, 500_000_000]}, {}),
        ({"sizes": [3, 5, 3, 2]}, {}),
        (
            {"label": 1},
            {"weights": torch.full((3,), 1 / 3).double(), "log_cells": torch.zeros(3, 3, 10).double()},
        ),
        ({}, {"log_cells": torch.zeros(2, 3, 4).double()}),
        ({}, {"log_cells": torch.zeros(2, 3).double()}),
    ],
)
def test_a_model_of_other_records_than_its_schema_says_is_no_model(model, config, weights) -> None:
    with pytest.raises(ArtifactError, match=r"m lacks a part|m is a model of other records"):
        released.load_members(tampered(model, config, weights), "m")
