"""Law: the audit passes the shipped code, and fails it with any bug of benchmarks/audit_bugs.py planted in it.

A clean case fails with probability at most 1 in 1,000; all keys are fixed.
Sizes are smaller than the benchmark's; what each attack could show at most stays above the claim of epsilon 1.
"""

import hashlib
import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def bugs():
    spec = importlib.util.spec_from_file_location("audit_bugs", BENCHMARKS / "audit_bugs.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


BUGS = bugs()


@pytest.fixture(scope="module", autouse=True)
def small(tiny):
    """Fewer runs, records and canaries; the phases and their noise are remembered, for they are functions."""
    keys = (hashlib.sha256(b"bugs" + str(number).encode()).digest() for number in itertools.count())
    real, coins = BUGS.NoiseSource, BUGS.Coins
    phases: dict[tuple, object] = {}
    phase = BUGS.phase

    def remembered(*rate, **size):
        return phases.setdefault((rate, tuple(size.items())), phase(*rate, **size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BUGS, "NoiseSource", lambda: real(next(keys)))
        patch.setattr(BUGS, "Coins", lambda count: coins(count, 0.0, next(keys)))
        patch.setattr(BUGS, "phase", remembered)
        for name, value in {"RUNS": 80, "ROWS": 1_000, "WIDTH": 8_000}.items():
            patch.setattr(BUGS, name, value)
        yield


@pytest.mark.parametrize("case", BUGS.CASES, ids=lambda case: case.bug)
def test_the_shipped_code_passes_and_the_bug_is_caught(case):
    shipped, planted = case.shipped(), case.planted()
    assert shipped.attack == planted.attack == case.attack
    assert not shipped.failed
    assert shipped.value <= BUGS.EPSILON < shipped.power  # it passed, and could have failed
    assert planted.failed
    assert planted.value > BUGS.EPSILON


def test_every_kind_of_bug_that_the_audit_promises_to_catch_is_planted():
    assert {case.bug for case in BUGS.CASES} >= {
        "noise off",
        "clip off",
        "batch-mean loss",
        "wrong sampling rate",
        "raw bounds",
        "category leak",
        "divisor from the data",
    }
