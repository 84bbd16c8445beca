import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.attacks import membership, reference
from privae.attacks.reference import References, calibrated, dominated, fitted, likelihood_ratios
from privae.attacks.world import Records, Vocabulary, World
from privae.errors import UsageError

CONFIDENCE = 0.999


def rng(seed=0):
    return np.random.default_rng(seed)


class Memory:
    """Records are easy or hard, which hides what a model adds to those that it saw."""

    def __init__(self, seen, bonus):
        self.seen, self.bonus = set(seen.to_numpy()[:, 0]), bonus

    def score(self, data):
        values = data.to_numpy()[:, 0]
        noise = rng(int(1e6 * sum(self.seen)) + len(data)).normal(size=len(data))
        return 1000 * values + self.bonus * np.isin(values, list(self.seen)) + 0.1 * noise


def world(bonus, count=(150, 100), seed=0, **more):
    values = rng(seed).random((sum(count), 1))
    frames = [pd.DataFrame(each, columns=["x"]) for each in np.split(values, [count[0]])]
    records = [Records(each.to_numpy(), np.array([True]), ("x",)) for each in frames]
    return World(
        frames[0],
        frames[0],
        records[0],
        records[0],
        frames[1],
        records[1],
        model=Memory(frames[0], bonus),
        refit=lambda data: Memory(data, bonus),
        **more,
    )


class Told:
    def __init__(self):
        self.said = []

    def phase(self, name, total):
        self.said.append((name, total))

    def advance(self, count, epsilon=None):
        self.said.append(count)

    def note(self, text):
        raise AssertionError("the time of a fit tells of the data: for the holder's eyes alone")

    def aside(self, text):
        self.said.append(text)


def test_the_likelihood_ratio_by_hand():
    """With it 1 and 3, without it -1 and -3: means 2 and -2, variance 2, or 3 with the error of a mean of two."""
    inside = np.array([[True], [False], [True], [False]])
    found = References(np.array([2.0]), np.array([[1.0], [-1], [3], [-3]]), inside, np.array([True]))
    assert likelihood_ratios(found) == pytest.approx([16 / (2 * 3)])


def test_the_dominated_share_by_hand():
    """Likelihoods 0.2 and 0.6 of the first record average 0.4, so 0.8 gains 2; the second record gains 1."""
    scores = np.log([[0.2, 0.5], [0.6, 0.5]])
    found = References(np.log([0.8, 0.5]), scores, np.zeros((2, 2), bool), np.zeros(2, bool))
    assert dominated(found).tolist() == [1.0, 0.5]


def test_scores_that_are_no_numbers_are_the_lowest():
    inside = np.array([[True, True], [False, False]] * 2)
    found = References(
        np.array([-np.inf, 1.0]), np.array([[1.0, np.nan]] * 4), inside, np.array([True, False])
    )
    assert np.isfinite(likelihood_ratios(found)).all()
    assert dominated(found).tolist() == [0.5, 1.0]


def test_every_record_is_inside_half_of_the_models_and_pairs_complement():
    found = fitted(world(1.0), rng(), models=6)
    assert found.inside.shape == (6, 200)
    assert (found.inside.sum(0) == 3).all()
    assert (found.inside.sum(1) == 100).all()
    assert (found.inside[::2] != found.inside[1::2]).all()
    assert found.member.sum() == 100


def test_a_reference_model_sees_as_many_records_as_the_audited_one():
    """The members that nobody plays for are in every fit."""
    sizes, common = [], []
    made = world(1.0)

    def refit(data):
        sizes.append(len(data))
        common.append(set(data["x"]))
        return Memory(data, 1.0)

    fitted(replace(made, refit=refit), rng(), models=4)
    assert sizes == [150] * 4
    assert len(set.intersection(*common)) == 50
    assert set.intersection(*common) < set(made.members["x"])


def test_calibration_sees_through_easy_and_hard_records():
    """Scores spread over 1,000 and membership adds 5: without calibration nothing is seen, with it everything."""
    made = world(5.0, epsilon=1.0, delta=1e-6, kept_out=0.4)  # 100 of 250 records, by coins
    assert membership.loss(made, CONFIDENCE, rng()).value < 0.7
    for found in calibrated(made, CONFIDENCE, rng()):
        assert found.value > 0.99
        assert found.failed
        assert found.details["models"] == 8
        assert "8 models" in found.meaning["en"]
        assert "8 个" in found.meaning["zh"]


def test_a_model_that_remembers_nothing_is_a_coin_flip():
    """20 draws of 100 and 100 records, two findings each at 99.9 %: 4 % of all runs would err; seeds fixed."""
    for seed in range(20):
        made = world(0.0, (100, 100), seed, epsilon=0.1, delta=1e-6)
        for found in calibrated(made, CONFIDENCE, rng(seed), models=4):
            assert found.low <= 0.5 <= found.high
            assert not found.failed


def test_the_watch_is_told_the_time_before_the_others_start():
    told = Told()
    fitted(world(1.0), rng(), models=4, watch=told)
    assert told.said == [("reference models", 4), 1, "3 more reference models will take about 0 s", 1, 1, 1]
    assert reference._duration(100.4) == "100 s"
    assert reference._duration(600.0) == "10 minutes"


def test_processes_give_the_same_scores():
    made = world(1.0, (30, 20))

    def refit(data):
        class Mean:
            def score(self, rows):
                return rows["x"].to_numpy() - data["x"].mean()

        return Mean()

    made = replace(made, refit=refit)
    alone, shared = (fitted(made, rng(), models=4, workers=workers) for workers in (1, 2))
    assert (alone.scores == shared.scores).all()


def test_what_cannot_be_calibrated_is_refused():
    made = world(1.0)
    for lacking in (replace(made, refit=None), replace(made, model=None)):
        with pytest.raises(UsageError, match="no model"):
            fitted(lacking, rng())
    with pytest.raises(UsageError, match="hold"):
        fitted(replace(made, holdout=None, holdout_records=None), rng())
    for models in (2, 5):
        with pytest.raises(UsageError, match="pairs"):
            fitted(made, rng(), models=models)


@pytest.mark.usefixtures("tiny")
def test_a_plan_is_fitted_again_on_a_table_and_on_images(facts, people, pictures):
    members, holdout, words = people(300, 0), people(100, 1), Vocabulary(facts)
    vae = VAE(2.0, rows=300, schema=facts)

    def refit(data):
        return VAE(2.0, rows=300, schema=facts).fit(data).fitted_

    records = [words.records(each) for each in (members, holdout)]
    made = World(
        members,
        members,
        records[0],
        records[0],
        holdout,
        records[1],
        facts,
        vae.fit(members).fitted_,
        2.0,
        1e-6,
        refit=refit,
    )
    for found in calibrated(made, CONFIDENCE, rng(), models=4):
        assert (found.details["members"], found.details["others"]) == (100, 100)
        assert not found.failed
        assert math.isfinite(found.value)
    images = pictures(60)[0]
    known = reference._together(images[:40], images[40:])
    assert (known == images).all()
