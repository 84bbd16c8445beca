import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.attacks import bounds, membership
from privae.attacks.membership import LOSS, components, from_scores, nearest
from privae.attacks.world import Records, Vocabulary, World, joint, pixels
from privae.errors import UsageError
from privae.recipes.gradients import Training

SMALL = Training(latent=2, hidden=(4,), steps=2, batch=30)
ALL = (
    membership.loss,
    membership.parts,
    membership.reconstruction,
    membership.monte_carlo,
    membership.domias,
)
BLACK_BOX = ALL[3:]
CONFIDENCE = 0.999


def rng(seed=0):
    return np.random.default_rng(seed)


def numeric(values):
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    return Records(values, np.ones(values.shape[1], bool), tuple(f"x{i}" for i in range(values.shape[1])))


def world(members, holdout, synthetic, **more):
    """A world of numeric records; raw data are the same numbers."""
    members, holdout, synthetic = (numeric(each) for each in (members, holdout, synthetic))
    frames = [pd.DataFrame(each.values) for each in (members, synthetic, holdout)]
    return World(frames[0], frames[1], members, synthetic, frames[2], holdout, **{"kept_out": 1 / 3} | more)


class Memory:
    """A model that knows what it saw: parts and scores are noise, plus `bonus` for a record that was used."""

    def __init__(self, used, bonus, noises=0):
        self.used, self.bonus, self.noises = set(np.ravel(used[:, 0])), bonus, noises

    def score(self, data):
        seen = np.array([x in self.used for x in data.to_numpy()[:, 0]])
        return self.bonus * seen + rng(len(data)).normal(size=len(data))

    def embed(self, data):
        return data.to_numpy()

    def parts(self, data):
        noise = rng(len(data) + 1).normal(size=(self.noises, len(data)))
        told = {"told": -self.score(data)} if self.bonus else {}
        return {"distance": self.score(data), **told, **{f"noise {i}": x for i, x in enumerate(noise)}}


def remembered(bonus, count=(600, 300), noises=3, seed=0, **more):
    made = rng(seed).random((sum(count), 2))
    members, holdout = made[: count[0]], made[count[0] :]
    return world(
        members, holdout, rng(seed + 999).random((50, 2)), model=Memory(members, bonus, noises), **more
    )


# what scores prove


def test_a_tiny_case_by_hand():
    """Of four pairs three are right; above every other score lies one of two members."""
    found = from_scores(LOSS, np.array([0.9, 0.4]), np.array([0.5, 0.1]), (1.0, 0.0, 0.5), CONFIDENCE, rng())
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)
    assert [(each["fpr"], each["value"]) for each in found.details["tpr"]] == [(0.001, 0.5), (0.01, 0.5)]
    assert (found.details["members"], found.details["others"], found.details["bound"]) == (2, 2, 0.0)
    assert not found.failed


def test_a_scorer_that_remembers_fails_a_small_claim_and_not_a_large_one():
    """Scores of members lie 4 standard deviations higher: nearly every guess is right."""
    members, others = rng(0).normal(size=500) + 4, rng(1).normal(size=400)
    found = {
        epsilon: from_scores(LOSS, members, others, (epsilon, 1e-6, 0.45), CONFIDENCE, rng())
        for epsilon in (0.5, 8.0, None)
    }
    assert found[0.5].value > 0.99
    assert found[0.5].details["bound"] > 2
    assert found[0.5].details["bound"] <= found[0.5].power < 8
    assert [found[epsilon].failed for epsilon in (0.5, 8.0, None)] == [True, False, True]
    assert found[0.5].details["tpr"][1]["low"] > 0.8


def test_independent_scores_are_a_coin_flip_and_never_fail():
    """20 draws of 400 and 200 scores, each at 99.9 %: a right test errs in at most 2 % of all runs; seeds fixed."""
    for seed in range(20):
        draw = rng(seed)
        scores = draw.normal(size=400), draw.normal(size=200)
        for epsilon in (0.1, None):
            found = from_scores(LOSS, *scores, (epsilon, 1e-6, 1 / 3), CONFIDENCE, draw)
            assert found.low <= 0.5 <= found.high
            assert not found.failed
            assert found.details["bound"] <= 0.1


@pytest.mark.parametrize("value", [0.0, -np.inf, np.nan])
def test_equal_scores_prove_nothing(value):
    """1,000 guesses among ties are right by a coin: off by 5 standard deviations in one of a million; seed fixed."""
    found = from_scores(LOSS, np.full(500, value), np.full(500, value), (0.0, 0.0, 0.5), CONFIDENCE, rng())
    assert found.value == 0.5
    assert not found.failed
    assert abs(found.details["right"] - found.details["guesses"] / 2) < 80


def test_a_score_that_is_no_number_is_the_lowest():
    found = from_scores(
        LOSS, np.array([np.nan, 2.0]), np.array([1.0, 0.0]), (1.0, 0.0, 0.5), CONFIDENCE, rng()
    )
    assert found.value == 0.5


def test_four_statements_share_the_error_of_a_finding():
    """A quarter of it is the interval's, an eighth that of each TPR, and a half the bound's."""
    scores = rng(0).normal(size=100), rng(1).normal(size=100)
    found = from_scores(LOSS, *scores, (1.0, 0.0, 0.5), 0.992, rng())
    alone = bounds.auc_interval(*scores, 0.998)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    for each in found.details["tpr"]:
        assert each["high"] == pytest.approx(bounds.tpr_at_fpr(*scores, each["fpr"], 0.999).high)
    power = bounds.scores_bound(rng().random(200), np.arange(200) < 100, 0.0, 0.996)[1]
    assert found.power == pytest.approx(power, abs=1e-5)


def test_a_holdout_that_no_coin_decided_bounds_no_epsilon_and_fails_no_claim():
    """Members score 4 standard deviations higher: so they may, in another year or ward."""
    scores = rng(0).normal(size=500) + 4, rng(1).normal(size=400)
    found = from_scores(LOSS, *scores, (0.5, 1e-6, 0.0), CONFIDENCE, rng())
    assert found.value > 0.99
    assert not found.failed
    assert found.power is None
    assert "bound" not in found.details
    assert "bounds no epsilon" in found.meaning["en"]
    assert from_scores(LOSS, *scores, (None, 0.0, 0.0), CONFIDENCE, rng()).failed


# points and distances


def test_texts_are_one_apart_and_sets_share_their_space():
    first = Records(np.array([[0.25, 0.0], [0.25, 7.0]]), np.array([True, False]), ("x", "y"))
    second = Records(np.array([[0.75, 7.0], [0.25, -1.0]]), np.array([True, False]), ("x", "y"))
    a, b = joint(first, second)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert apart == pytest.approx(np.array([[np.sqrt(1.25), 1], [0.5, 1]]))


def test_many_texts_share_axes_and_the_frequent_ones_do_not():
    codes = np.concatenate([np.repeat(np.arange(32.0), 3), np.arange(32.0, 1000)])
    (points,) = joint(Records(codes[:, None], np.array([False]), ("x",)))
    assert points.shape == (len(codes), 64)
    assert points[:96:3] @ points[:96:3].T == pytest.approx(np.eye(32) / 2)
    assert (points[96:, :32] == 0).all()
    assert joint(Records(np.zeros((0, 1)), np.array([False]), ("x",)))[0].shape == (0, 0)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_principal_components_keep_distances(shape):
    """All axes on which the basis varies are kept when there are at most 50; the points lie in their span."""
    basis = rng().normal(size=shape)
    (points,) = components(basis, basis, rng=rng())
    assert points.shape[1] == min(shape[1], shape[0] - 1)
    apart = [np.linalg.norm(each[:, None] - each[None], axis=2) for each in (basis, points)]
    assert apart[0] == pytest.approx(apart[1])


def test_at_most_fifty_components_the_strongest():
    basis = rng().normal(size=(300, 80)) * np.linspace(1, 3, 80)
    (points,) = components(basis, basis, rng=rng())
    values = np.linalg.svd(basis - basis.mean(0), compute_uv=False)
    assert points.shape == (300, 50)
    assert np.sort(np.linalg.norm(points, axis=0))[::-1] == pytest.approx(values[:50])


def test_the_nearest_points_come_first():
    found = nearest(np.array([[0.0], [10.0]]), np.array([[1.0], [3.0], [4.0]]), 2)
    assert found == pytest.approx(np.array([[1, 3], [6, 7]]))
    assert nearest(np.zeros((2, 1)), np.ones((1, 1)), 3).shape == (2, 1)


# attacks


def test_the_monte_carlo_attack_by_hand():
    """Generated: 0 and 1. Members at 0, others at 0.5: smallest distances 0 and 0.5, their median is 0.25."""
    found = membership.monte_carlo(world([0.0] * 8, [0.5] * 8, [0.0, 1.0]), CONFIDENCE, rng())
    assert found.details["radius"] == pytest.approx(0.25)
    assert found.value == 1.0


@pytest.mark.parametrize("attack", BLACK_BOX)
def test_copies_are_found_in_generated_records(attack):
    """Every member of 600 was copied with an error of 0.001; the hold-out was not."""
    members, holdout = rng(0).random((600, 3)), rng(1).random((400, 3))
    copies = members + rng(2).normal(size=members.shape) * 0.001
    found = attack(world(members, holdout, copies, epsilon=1.0, delta=1e-6), CONFIDENCE, rng())
    assert found.value > 0.9
    assert found.failed
    assert found.channel == "samples"


@pytest.mark.parametrize("attack", BLACK_BOX)
def test_independent_generated_records_tell_nothing(attack):
    """20 draws, each at 99.9 %: a right test errs in at most 2 % of all runs; seeds fixed."""
    for seed in range(20):
        draw = rng(seed)
        made = world(*(draw.random((count, 3)) for count in (200, 150, 200)), epsilon=0.1, delta=1e-6)
        found = attack(made, CONFIDENCE, draw)
        assert found.low <= 0.5 <= found.high
        assert not found.failed


def test_the_density_ratio_keeps_half_of_the_holdout_as_its_reference():
    draw = rng()
    found = membership.domias(world(*(draw.random((count, 2)) for count in (50, 31, 50))), CONFIDENCE, rng())
    assert (found.details["reference"], found.details["others"]) == (15, 16)
    assert (found.power, found.details["members"]) == (0.0, 50) or found.power > 0


@pytest.mark.parametrize("attack", ALL[:3])
def test_a_model_that_remembers_is_found_and_one_that_does_not_is_not(attack):
    found = attack(remembered(5.0, epsilon=1.0, delta=1e-6), CONFIDENCE, rng())
    assert found.value > 0.99
    assert found.failed
    assert found.channel == "parameters"
    assert not attack(remembered(0.0, epsilon=1.0, delta=1e-6), CONFIDENCE, rng()).failed


def test_the_part_that_tells_is_found_with_its_sign():
    found = membership.parts(remembered(5.0), CONFIDENCE, rng())
    assert (found.details["part"], found.details["higher"]) == ("told", False)
    assert (found.details["members"], found.details["others"]) == (300, 150)


def test_the_part_is_chosen_on_other_records_than_it_is_measured_on():
    """The best of 100 parts that are noise: chosen on the records it is measured on, its AUC would be .58.

    20 draws of 100 and 75 measured scores: their mean AUC has standard deviation 0.01, and 4 of them are allowed.
    """
    found = [
        membership.parts(remembered(0.0, (200, 150), noises=100, seed=seed), CONFIDENCE, rng(seed))
        for seed in range(20)
    ]
    assert abs(np.mean([each.value for each in found]) - 0.5) < 0.04
    assert not any(each.failed for each in found)


def test_what_cannot_be_attacked_is_refused():
    draw = rng()
    small = world(draw.random((20, 2)), draw.random((7, 2)), draw.random((20, 2)))
    enough = world(draw.random((20, 2)), draw.random((8, 2)), draw.random((20, 2)))
    for attack in ALL:
        with pytest.raises(UsageError, match="hold"):
            attack(small, CONFIDENCE, rng())
        with pytest.raises(UsageError, match="hold"):
            attack(replace(enough, holdout=None, holdout_records=None), CONFIDENCE, rng())
    for attack in ALL[:3]:
        with pytest.raises(UsageError, match="model"):
            attack(enough, CONFIDENCE, rng())
    for attack in BLACK_BOX:
        with pytest.raises(UsageError, match="generate"):
            attack(replace(enough, synthetic_records=enough.synthetic_records[:0]), CONFIDENCE, rng())


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("recipe", "epsilon"), [("auto", 5.0), ("gradients", math.inf)])
def test_every_attack_runs_on_a_fitted_table(facts, people, recipe, epsilon):
    members, holdout = people(400, 0), people(150, 1)
    vae = VAE(epsilon, rows=400, schema=facts, recipe=recipe, training=SMALL).fit(members)
    synthetic, words = vae.sample(300, seed=0), Vocabulary(facts)
    records = [words.records(frame) for frame in (members, synthetic, holdout)]
    made = World(
        members, synthetic, records[0], records[1], holdout, records[2], facts, vae.fitted_, epsilon, 1e-6
    )
    for attack in ALL:
        found = attack(made, CONFIDENCE, rng())
        assert attack(made, CONFIDENCE, rng()) == found
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert not found.failed
        assert not found.public
        assert "{" not in found.meaning["en"] + found.meaning["zh"]
        assert json.loads(json.dumps(found.to_dict()))["details"]["members"] in (400, 200)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("recipe", "epsilon"), [("auto", 5.0), ("gradients", math.inf)])
def test_every_attack_runs_on_fitted_images(pictures, recipe, epsilon):
    (members, labels), (holdout, _) = pictures(400, 0), pictures(150, 1)
    vae = VAE(epsilon, rows=400, classes=2, recipe=recipe, training=SMALL, fidelity=False).fit(
        members, labels
    )
    synthetic = vae.fitted_.sample(300, 0)[0]
    records = [pixels(each) for each in (members, synthetic, holdout)]
    made = World(
        members, synthetic, records[0], records[1], holdout, records[2], None, vae.fitted_, epsilon, 1e-6
    )
    for attack in ALL:
        found = attack(made, CONFIDENCE, rng())
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert not found.failed
