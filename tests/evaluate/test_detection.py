import numpy as np
import pandas as pd
import pytest

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
