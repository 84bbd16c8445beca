"""The anomaly benchmark fits no anomaly and scores no fitted record; what it declares is round."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def detection():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("benchmark_detection", BENCHMARKS / "detection.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("left", [0.0, 0.1])
def test_half_of_the_normals_is_fitted_and_nothing_is_scored_that_was(detection, left):
    x, y = np.arange(120.0)[:, None], np.arange(120) >= 100
    fitted, tested, truth = detection.split(x, y, 0, left)
    kept = 0 if left == 0 else 6  # 6 of 56 are a tenth
    assert (fitted[:, 0] >= 100).sum() == kept
    assert len(fitted) == 50 + kept
    assert truth.sum() == 20 - kept
    assert not set(fitted[:, 0]) & set(tested[:, 0])
    assert ((tested[:, 0] >= 100) == truth).all()
    assert (detection.split(x, y, 1, left)[0] != fitted).any()


def test_every_set_declares_each_column_and_can_be_planned(detection):
    for name, declared in detection.SETS.items():
        schema = detection.schema_of(name)
        assert len(schema.columns) == len(declared.facts)
        assert declared.rows % 100 == 0
        schema.check()


def test_the_data_free_score_reads_the_bounds_alone(detection):
    scored = detection.data_free("thyroid")
    values = np.array([[0.5] * 6, [1.0] * 6])
    assert scored(None, values, 0)["distance"].tolist() == [0.0, 1.5]
