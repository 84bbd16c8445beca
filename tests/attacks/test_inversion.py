"""Gradient inversion: what comes back from plain gradients, from updates, and from what the shipped code releases."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from privae.attacks import inversion
from privae.attacks.finding import Finding
from privae.attacks.inversion import UPDATES, View, gradient_inversion, inversion_of, of_model, released
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.errors import UsageError
from privae.models.likelihoods import Bernoulli, Categorical, Gaussian
from privae.models.networks import Network
from privae.privacy import accountant
from privae.privacy.clipping import Clipping
from privae.privacy.mechanism import for_gradients
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import Training
from privae.recipes.modality import ImageRecipe, TableRecipe
from privae.recipes.phases import Budget, Run, plan_of
from privae.recipes.target import target_of
from privae.training.watch import Silent

CONFIDENCE = 0.999
SMALL = Training(latent=4, hidden=(64,), steps=2, batch=20)
TABLE = Schema.loads(
    "[table]\nlabel = 'b'\n"
    + "".join(
        f"[columns.{name}]\nkind = 'category'\ncategories = ['p', 'q', 'r', 's', 't', 'u', 'v', 'w']\n"
        for name in "abcde"
    )
)


@pytest.fixture(scope="module", autouse=True)
def remembered():
    """The accountant is a function, and its lattice is coarser, so that plans are quick."""
    real = lru_cache(None)(accountant._evaluated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accountant, "_FINE", accountant._COARSE / 2)
        patch.setattr(accountant, "_evaluated", lambda events, *rest: real(tuple(events), *rest))
        yield


@pytest.fixture
def brief(monkeypatch):
    """Matching from one place and not for long, where the closed form finds what there is to find."""
    for name, value in {"_STARTS": 1, "_ROUNDS": 8, "_PARTS": 2}.items():
        monkeypatch.setattr(inversion, name, value)


@lru_cache
def scanned():
    return load_digits()


def digits(count):
    order = np.random.default_rng(0).permutation(1797)[:count]
    return torch.tensor(scanned().data[order] / 16, dtype=torch.float32)


def of_digits(activation="relu", hidden=(400,), condition=0):
    sizes = {"inputs": 64, "latent": 8, "hidden": hidden, "activation": activation, "condition": condition}
    return target_of(
        Network.from_config(sizes, torch.Generator().manual_seed(0)), Bernoulli(64), 8, condition
    )


def shipped(target, clip_norm, multiplier, epsilon):
    """The shipped clipped sum and the shipped noise, by a fixed key."""
    size = sum(p.numel() for p in target.network.parameters())
    mechanism, noise = for_gradients(clip_norm, multiplier, size, 1e-3), NoiseSource(bytes(32))
    return released(Clipping(clip_norm), lambda total: mechanism.release(total, noise), epsilon)


def table(count, seed=0):
    letters = np.random.default_rng(seed).choice(list("pqrstuvw"), (count, 5))
    return pd.DataFrame(letters, columns=list("abcde"))


def planned(recipe, epsilon, rows=200):
    budget = Budget(epsilon, 1e-6, rows)
    return plan_of(recipe.draft(budget), budget, recipe.schema.hash, "source")


def fitted(recipe, epsilon, *data):
    plan = planned(recipe, epsilon, len(data[0]))
    return recipe.fit(Run(plan, lambda *_: None, NoiseSource(bytes(32)), Silent()), *data), plan


@pytest.fixture(scope="module")
def trained():
    frame = table(200)
    return frame, *fitted(TableRecipe(TABLE, by_gradients=True, training=SMALL), 1.0, frame)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_plain_gradient_gives_every_record_of_a_small_batch_back(batch):
    found = inversion_of(of_digits(), digits(8), batch, View(), CONFIDENCE)
    assert (found.value, found.details["recovered"], found.details["records"]) == (1.0, 8, 8)
    # exact interval of 8 of 8: its lower end is (0.001 / 2)^(1 / 8)
    assert found.low == pytest.approx(0.0005 ** (1 / 8))
    assert found.high == 1.0
    assert not found.failed  # nothing was promised


def test_larger_batches_give_fewer_records_back():
    shares = [inversion_of(of_digits(), digits(64), n, View(), CONFIDENCE).value for n in (4, 16, 64)]
    assert shares[0] == 1.0
    assert shares[0] > shares[1] > shares[2]


def test_a_label_comes_back_with_its_record():
    target = of_digits(condition=10)
    rows = torch.cat([digits(4), torch.eye(10)[:4]], 1)
    assert inversion_of(target, rows, 4, View(), CONFIDENCE).value == 1.0


def test_matching_gradients_gives_records_back_where_every_unit_sees_every_record():
    target = of_digits("silu")
    rows = digits(4)
    seen = View().of(target, rows, torch.Generator().manual_seed(0))
    assert not inversion._hits(target, rows, inversion._closed(target, seen)).all()
    assert gradient_inversion(target, rows, seen, CONFIDENCE).value == 1.0


def test_an_update_of_several_local_steps_gives_records_back_at_a_small_rate():
    found = inversion_of(of_digits(), digits(8), 4, UPDATES, CONFIDENCE)
    assert found.value > 0.5
    assert found.details["steps"] == 5
    assert found.attack == "update inversion"


def test_an_update_is_the_change_of_weights_and_leaves_the_network_alone():
    target, rows = of_digits(), digits(4)
    before = [p.clone() for p in target.network.parameters()]
    one = replace(UPDATES, rate=1e-30).of(target, rows, torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(0)
    still = sum(target.gradient(target.batch(rows, drawn)) for _ in range(5)) / 5
    assert torch.allclose(one, still, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, target.network.parameters(), strict=True))


def test_an_update_whose_steps_diverge_is_taken_at_a_smaller_rate():
    sizes = {"inputs": 64, "latent": 4, "hidden": [64], "activation": "square"}
    network = Network.from_config(sizes, torch.Generator().manual_seed(0)).eval()
    target = target_of(network, Gaussian(64, 1e-4), 4)
    seen = UPDATES.of(target, digits(4), torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(0)
    first = target.gradient(target.batch(digits(4), drawn))
    assert seen.isfinite().all()
    assert seen.norm() <= inversion._DIVERGING * first.norm()
    assert inversion._span(target, seen, 4).shape == (4, 64)


def test_the_shipped_release_gives_nothing_back():
    target = of_digits()
    found = inversion_of(target, digits(8), 4, shipped(target, 1.0, 1.0, 1.0), CONFIDENCE)
    assert (found.value, found.low, found.failed) == (0.0, 0.0, False)


def test_clipping_alone_hides_nothing_and_a_promise_made_of_it_fails():
    target = of_digits()
    found = inversion_of(target, digits(24), 4, shipped(target, 1.0, 0.0, 1.0), CONFIDENCE)
    assert found.value > 0.8
    assert found.failed
    unpromised = inversion_of(target, digits(8), 4, shipped(target, 1.0, 0.0, math.inf), CONFIDENCE)
    assert not unpromised.failed


def test_what_is_found_of_other_records_counts_as_guessed(brief):
    # the same two pictures over and over: whoever finds one record has found half of all others
    rows = digits(2).repeat_interleave(12, 0)
    rows = (rows + 1e-3 * torch.arange(24)[:, None] / 24).clamp(0, 1)
    found = inversion_of(of_digits(), rows, 1, shipped(of_digits(), 1.0, 0.0, 1.0), CONFIDENCE)
    assert found.value == 1.0
    assert found.details["guessed"] == 24 * 11
    assert found.failed  # surely more than half came back


def test_rows_of_a_table_come_back_with_every_cell_right():
    sizes = (8, 8, 8, 8, 8)
    network = Network.from_config({"inputs": 40, "latent": 4, "hidden": (100,)}, torch.manual_seed(0))
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 8, (16, 5)))
    rows = nn.functional.one_hot(codes, 8).flatten(1).float()
    target = target_of(network, Categorical(sizes), 4)
    assert inversion_of(target, rows, 4, View(), CONFIDENCE).value == 1.0
    assert inversion_of(target, rows, 4, shipped(target, 1.0, 1.0, 1.0), CONFIDENCE).value == 0.0


def test_an_empty_block_matches_whatever_was_guessed_there():
    target = target_of(nn.Linear(4, 1), Categorical((2, 2)), 1)
    rows = torch.tensor([[0.0, 1, 0, 0], [1, 0, 1, 0]])
    assert inversion._hits(target, rows, torch.tensor([[0.1, 0.8, 0.3, 0.2]])).tolist() == [True, False]


def test_a_model_has_a_row_for_gradient_update_and_release(trained, brief):
    frame, model, plan = trained
    found = of_model(model, frame, plan, CONFIDENCE)
    assert [row.attack for row in found] == [attack.name for attack in inversion.ATTACKS]
    assert [row.failed for row in found] == [False] * 3
    assert found[0].value > 0.9
    assert found[0].details["records"] == 32
    assert set(found[0].details) >= {"fresh", "trained"}
    assert found[2].value == 0.0
    for row in found:
        assert not row.public
        assert "{" not in row.meaning["en"] + row.meaning["zh"]
        assert Finding.from_dict(row.to_dict()) == row


def test_images_with_labels_are_attacked_as_they_were_trained(monkeypatch, brief):
    monkeypatch.setattr(inversion, "BATCHES", 2)
    data = scanned()
    images, labels = np.round(data.images * 15.9).astype(np.uint8), data.target.astype(str).astype(object)
    recipe = ImageRecipe(
        ImageSchema.with_class_count(8, 8, 10), by_gradients=True, training=replace(SMALL, hidden=(200,))
    )
    model, _ = fitted(recipe, math.inf, images[:100], labels[:100])
    plan = planned(recipe, 5.0, 1797)
    plain, _, release = of_model(model, images[:60], plan, CONFIDENCE, labels=labels[:60])
    assert plain.value > 0.8
    assert release.value == 0.0


def test_a_plan_without_noise_gives_records_back_but_promised_nothing(trained, brief):
    frame, model, _ = trained
    bare = planned(TableRecipe(TABLE, by_gradients=True, training=SMALL), math.inf)
    release = of_model(model, frame, bare, CONFIDENCE)[2]
    assert release.value > 0.9
    assert not release.failed


def test_a_model_of_statistics_is_skipped_in_both_languages(trained):
    frame, model, _ = trained
    assert of_model(model, frame, planned(TableRecipe(TABLE), 5.0), CONFIDENCE) is inversion.NO_GRADIENTS
    assert set(inversion.NO_GRADIENTS.reason) == {"en", "zh"}


def test_too_few_records_are_skipped(trained):
    frame, model, plan = trained
    assert of_model(model, frame[:7], plan, CONFIDENCE) is inversion.TOO_FEW


@pytest.mark.parametrize("batch", [0, 5])
def test_a_batch_is_of_the_records_there_are(batch):
    with pytest.raises(UsageError, match="a batch holds"):
        inversion_of(of_digits(), digits(4), batch, View(), CONFIDENCE)
