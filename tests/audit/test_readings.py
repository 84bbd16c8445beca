"""The reader of all other records finds canaries in the sums of anomaly detection where noise is off, and not else."""

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.audit.canaries import LOSS, READING
from privae.audit.coins import Coins
from privae.audit.readings import joint, likely
from privae.data.column import Column
from privae.data.schema import Schema

KEY = bytes(range(32))
WIDE = Schema(
    columns=(
        *(Column(name=f"x{i}", kind="numeric", bounds=(-5, 5), unit=0.1) for i in range(12)),
        Column(name="way", kind="category", categories=("a", "b")),
    )
)


def numbers(count, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(count, 12)), columns=[f"x{i}" for i in range(12)])
    return frame.assign(way=rng.choice(["a", "b"], count))


def findings(epsilon, seed=0, images=False):
    vae = VAE(epsilon, rows=3000, recipe="detection", schema=None if images else WIDE)
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (800, 12, 12), dtype=np.uint8) if images else numbers(800, seed)
    vae.fit(records, coins=Coins(100, 0.0, bytes([seed]) * 32))
    return {found.attack: found for found in vae.canary_findings_}


@pytest.mark.parametrize("images", [False, True])
def test_without_noise_nearly_every_guess_is_right(images):
    found = findings(float("inf"), images=images)
    assert list(found) == [READING.name, LOSS.name]
    assert found[READING.name].details["right"] >= 0.95 * found[READING.name].details["guesses"]


@pytest.mark.parametrize(("seed", "images"), [(0, False), (1, False), (2, True)])
def test_at_epsilon_one_no_reader_contradicts_the_promise(seed, images):
    for found in findings(1.0, seed, images).values():
        assert not found.failed
        assert found.value <= 1.0 < found.power


@pytest.mark.parametrize("images", [False, True])
def test_a_promise_of_sums_without_noise_fails(monkeypatch, images):
    from privae.privacy.mechanism import Mechanism

    monkeypatch.setattr(Mechanism, "release", lambda self, total, noise, **more: total.astype(np.float64))
    assert findings(1.0, images=images)[READING.name].failed


def test_phases_are_weighted_by_their_noise():
    reads, overlaps = np.array([1.0, 0.0]), np.eye(2)
    assert joint([(reads, overlaps, 0.5)]) == pytest.approx(likely(reads, overlaps, 0.5))
    both = joint([(reads, overlaps, 0.5), (reads[::-1], overlaps, 5.0)])
    assert both == pytest.approx(likely(reads + 0.01 * reads[::-1], 1.01 * overlaps, 0.5))
