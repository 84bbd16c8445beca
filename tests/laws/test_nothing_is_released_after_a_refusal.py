"""Law: what the ledger refuses is never released, whoever else spends, and whoever edits the file."""

import threading

import numpy as np
import pytest

from privae import files
from privae.errors import ArtifactError, PrivacyRefused, ResourceError
from privae.log import database
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import for_sums
from privae.privacy.noise import NoiseSource

DELTA = 1e-5
MECHANISM = for_sums(1.0, 5.0, 2.0)


def fit(ledger, plan, noise):
    """The shape of every fit: written down first, or refused."""
    ledger.spend([Charge(plan, "schema", "moments", MECHANISM.event())])
    return MECHANISM.release(np.zeros(3), noise)


def test_a_refused_plan_draws_no_noise_and_writes_nothing(tmp_path):
    path, noise = tmp_path / "hospital.ledger", NoiseSource(bytes(32))
    ledger = Ledger.open(path, 1.0, DELTA)
    fit(ledger, "first", noise)
    drawn, content = noise.numbers_drawn, path.read_bytes()
    with pytest.raises(PrivacyRefused, match=r"this run needs epsilon .* of 1 is left"):
        fit(ledger, "second", noise)
    assert noise.numbers_drawn == drawn
    assert path.read_bytes() == content
    assert len(ledger.events) == 1


def test_what_was_released_is_at_most_what_was_written(tmp_path):
    ledger, noise = Ledger.open(tmp_path / "a", 2.0, DELTA), NoiseSource(bytes(32))
    released = 0
    for plan in range(20):
        try:
            fit(ledger, str(plan), noise)
            released += 1
        except PrivacyRefused:
            break
    assert 1 <= released < 20
    assert len(Ledger.load(tmp_path / "a").events) == released
    assert ledger.epsilon <= 2.0


@pytest.mark.parametrize("name", ["a", "a.jsonl"])
def test_several_spenders_at_once_cannot_overshoot(tmp_path, name):
    """Eight threads, each with its own view of the file, taken while it was empty; the cap admits one."""
    path = tmp_path / name
    Ledger.open(path, 1.0, DELTA)
    ledgers = [Ledger.load(path) for _ in range(8)]
    start, outcomes = threading.Barrier(8), []

    def spend(number):
        start.wait()
        try:
            fit(ledgers[number], str(number), NoiseSource(bytes(32)))
            outcomes.append("released")
        except PrivacyRefused:
            outcomes.append("refused")

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["released"]
    assert len(Ledger.load(path).events) == 1


def test_a_second_view_sees_what_the_first_spent(tmp_path):
    Ledger.open(tmp_path / "a", 1.0, DELTA)
    one, other = Ledger.load(tmp_path / "a"), Ledger.load(tmp_path / "a")
    fit(one, "one", NoiseSource(bytes(32)))
    with pytest.raises(PrivacyRefused):
        other.check([MECHANISM.event()])
    assert other.events == one.events


@pytest.mark.parametrize("harm", ["edit", "roll back", "half"])
def test_a_ledger_that_was_tampered_with_admits_nothing(tmp_path, harm):
    path = tmp_path / "a.jsonl"
    ledger = Ledger.open(path, 5.0, DELTA)
    opened = path.read_bytes()
    fit(ledger, "first", NoiseSource(bytes(32)))
    spent = path.read_bytes()
    path.write_bytes({"edit": spent.replace(b"5.0", b"500.0"), "roll back": opened, "half": spent[:-9]}[harm])
    noise = NoiseSource(bytes(32))
    with pytest.raises(ArtifactError):
        fit(ledger, "second", noise)
    assert noise.numbers_drawn == 0


@pytest.mark.parametrize("name", ["a", "a.jsonl"])
def test_a_charge_that_cannot_be_written_releases_nothing(tmp_path, monkeypatch, name):
    ledger, noise = Ledger.open(tmp_path / name, 5.0, DELTA), NoiseSource(bytes(32))

    def full(*_, **__):
        raise ResourceError("the disk is full")

    monkeypatch.setattr(files, "write_atomically", full)
    monkeypatch.setattr(database, "_add", full)
    with pytest.raises(ResourceError):
        fit(ledger, "first", noise)
    assert noise.numbers_drawn == 0
    assert ledger.events == ()
