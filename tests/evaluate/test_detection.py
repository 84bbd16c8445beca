import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.codec import Codec
from privae.errors import UsageError
from privae.evaluate import detection
from privae.evaluate.learners import logistic


def apart(left, right, codec):
    return detection.tables_told_apart((left, codec.encode(left)), (right, codec.encode(right)), codec)


def test_rows_of_one_population_cannot_be_told_apart(facts, people) -> None:
    """n = 400 and 400: the standard error of an AUC is 0.02, and 0.1 is five of them; the seeds are fixed."""
    found = apart(people(400, 1), people(400, 2), Codec(facts))
    assert all(abs(value - 0.5) < 0.1 for value in found.values())


def test_a_shifted_column_is_told_apart(facts, people) -> None:
    right = people(300, 2).assign(job="cook")
    assert min(apart(people(300, 1), right, Codec(facts)).values()) > 0.7


def test_boosting_sees_what_cells_hide(facts, people) -> None:
    left = people(400, 1)
    right = people(400, 2)
    right["height"] = right["height"].round(1)  # mostly in the same bins
    found = apart(left, right, Codec(facts))
    assert found["boosting"] > 0.9
    assert found["logistic"] < 0.65


def test_gaps_infinity_and_values_outside_the_schema_are_told_apart_without_a_crash(facts, people) -> None:
    left = people(40, 1)
    right = left.assign(age=np.inf, height=np.nan, job="pilot", ill="maybe")
    assert apart(left, right, Codec(facts))["logistic"] == 1
    assert apart(left.drop(columns="ill"), left, Codec(facts))["logistic"] == 1


def test_copies_of_one_another_score_below_one_half() -> None:
    rows = np.eye(60)
    assert detection.told_apart(rows, rows, logistic(50)) < 0.5


def test_blurred_images_are_told_apart(pictures) -> None:
    sharp, _ = pictures(100, 1)
    other, _ = pictures(100, 2)
    soft = ((other.astype(int) + np.roll(other, 1, 1)) // 2).astype(np.uint8)
    assert abs(detection.images_told_apart(sharp, other)["boosting"] - 0.5) < 0.15
    assert detection.images_told_apart(sharp, soft)["boosting"] > 0.8


def test_too_few_rows_to_tell_apart_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 10"):
        detection.told_apart(np.zeros((9, 2)), np.zeros((50, 2)), logistic(50))


def test_anomaly_figures_by_hand() -> None:
    found = detection.anomaly_figures([4, 3, 2, 1], [True, False, True, False], tops=(1, 2, 4, 5))
    assert found == {
        "auc": 0.75,
        "average_precision": 0.8333,
        "precision_at": {"1": 1.0, "2": 0.5, "4": 0.5},
        "share": 0.5,
    }


def test_ties_at_the_edge_count_as_if_ordered_by_lot() -> None:
    assert detection.anomaly_figures([1, 1, 1, 1], [1, 0, 0, 0], tops=(2,))["precision_at"] == {"2": 0.25}
    assert detection.anomaly_figures([2, 1, 1, 0], [1, 0, 1, 0], tops=(2,))["precision_at"] == {"2": 0.75}


def test_an_anomaly_set_of_one_class_says_so() -> None:
    for labels in ([0, 0], [1, 1], []):
        found = detection.anomaly_figures([1.0, 2.0][: len(labels)], labels)
        assert found["value"] is None
        assert "same label" in found["reason"]


def test_scores_that_are_no_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="one score and one label"):
        detection.anomaly_figures([1.0], [1, 0])
    with pytest.raises(UsageError, match="no finite number"):
        detection.anomaly_figures([1.0, np.nan], [1, 0])


def test_labels_may_be_of_any_type() -> None:
    labels = pd.Series([1, 0, 0])
    assert detection.anomaly_figures(pd.Series([3.0, 1.0, 2.0]), labels)["auc"] == 1


SPANS = {
    "one": [(100, 120)],
    "ends": [(0, 3), (60, 61), (240, 250)],
    "near": [(30, 40), (46, 50), (90, 110), (111, 112), (200, 230)],
}


def series(name):
    """250 scores, many of which tie, and labels of these spans."""
    at, labels = np.arange(250), np.zeros(250, int)
    for first, after in SPANS[name]:
        labels[first:after] = 1
    return (at**2 * 31 % 97) // 2 + 20 * labels, labels


@pytest.mark.parametrize(
    ("name", "width", "roc", "precision"),
    [
        ("one", 0, 0.8818, 0.6933),
        ("one", 7, 0.8835, 0.6939),
        ("one", 20, 0.9036, 0.7111),
        ("one", 31, 0.9171, 0.7258),
        ("ends", 0, 0.7339, 0.2305),
        ("ends", 7, 0.7790, 0.2610),
        ("ends", 20, 0.8294, 0.3233),
        ("ends", 31, 0.8578, 0.3659),
        ("near", 0, 0.8000, 0.6710),
        ("near", 7, 0.8294, 0.7049),
        ("near", 20, 0.8669, 0.7491),
        ("near", 31, 0.8888, 0.7798),
    ],
)
def test_volumes_are_those_of_the_authors_packages(name, width, roc, precision) -> None:
    """`RangeAUC_volume_opt` of vus 0.0.6 and of TSB-AD 1.5 (equal to twelve digits), a threshold for every point."""
    found = detection.range_figures(*series(name), width)
    assert (found["vus_roc"], found["vus_pr"]) == (roc, precision)


def test_between_the_lengths_of_buffers_a_surface_is_straight() -> None:
    scores, labels = series("ends")
    truth = labels.astype(bool)
    every = np.mean([detection._areas(scores.astype(float), truth, width) for width in range(91)], axis=0)
    found = detection.range_figures(scores, labels, 90)
    assert abs(found["vus_roc"] - every[0]) < 0.002
    assert abs(found["vus_pr"] - every[1]) < 0.002


def test_volumes_of_one_range_without_buffers_are_the_figures_of_points() -> None:
    found = detection.range_figures(*series("one"), 0)
    assert (found["vus_roc"], found["vus_pr"]) == (found["auc"], found["average_precision"])
    assert found["share"] == 0.08


def test_perfect_scores_have_volume_one() -> None:
    _, labels = series("near")
    for width in (0, 1, 20, 400):
        found = detection.range_figures(labels, labels, width)
        assert (found["vus_roc"], found["vus_pr"]) == (1, 1)


def test_a_score_that_comes_late_is_forgiven_by_buffers_alone() -> None:
    _, labels = series("one")
    late = np.roll(labels, 12)
    found = detection.range_figures(late, labels, 60)
    assert found["auc"] < 0.7
    assert found["vus_roc"] > found["auc"] + 0.05
    assert found["vus_roc"] > detection.range_figures(np.roll(labels, 100), labels, 60)["vus_roc"] + 0.1


def test_a_range_that_is_never_found_costs_though_most_points_are() -> None:
    labels = np.zeros(300, int)
    labels[50:100], labels[200] = 1, 1
    scores = labels.copy()
    scores[200] = -1
    found = detection.range_figures(scores, labels, 0)
    assert found["auc"] > 0.97
    assert found["vus_roc"] < 0.6


def test_random_scores_get_what_guessing_gives_which_is_half_without_buffers() -> None:
    """The standard error of a mean of 40 is at most 0.01; a point-adjusted F1 would be near 1."""
    rng = np.random.default_rng(0)
    labels = np.zeros(1000, int)
    labels[400:440] = 1
    found = [detection.range_figures(rng.random(1000), labels, 0)["vus_roc"] for _ in range(40)]
    assert abs(np.mean(found) - 0.5) < 0.05
    wide = [detection.range_figures(rng.random(1000), labels, 60) for _ in range(20)]
    by_lot = np.mean([one["by_lot"]["vus_roc"] for one in wide])
    assert by_lot > 0.53
    assert abs(np.mean([one["vus_roc"] for one in wide]) - by_lot) < 0.05


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 60), st.integers(0, 99))
def test_volumes_are_shares_and_only_the_order_of_scores_counts(labels, width, seed) -> None:
    scores = np.random.default_rng(seed).integers(0, 6, len(labels))
    found = detection.range_figures(scores, labels, width)
    assert found == detection.range_figures(np.exp(scores / 2.0) - 9, labels, width)
    if 0 < sum(labels) < len(labels):
        assert all(0 <= found[key] <= 1 for key in ("vus_roc", "vus_pr"))
        reverse = detection.range_figures(scores[::-1], labels[::-1], width)
        assert reverse["vus_roc"] == pytest.approx(found["vus_roc"], abs=2e-4)
    else:
        assert "same label" in found["reason"]


def test_ranges_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="one score and one label"):
        detection.range_figures([1.0], [1, 0], 0)
    with pytest.raises(UsageError, match="no finite number"):
        detection.range_figures([1.0, np.inf], [1, 0], 0)
    for width in (-1, 0.5):
        with pytest.raises(UsageError, match="whole number"):
            detection.range_figures([1.0, 2.0], [1, 0], width)
