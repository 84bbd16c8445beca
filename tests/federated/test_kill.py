"""Killed at a write, started again: the same model, byte for byte, and no charge lost (the benchmark's own world)."""

import importlib
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from privae.federated import site
from privae.federated.chain import parse_steps
from privae.transport.simulate import assemble, parted

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def kills(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("federated_kills")


@pytest.fixture(params=["masked", "encrypted"])
def world(kills, room, digits, monkeypatch, tmp_path, request):
    """A study of three sites whose places can be killed and started again."""
    monkeypatch.setattr(site, "os", SimpleNamespace(urandom=lambda count: bytes(count)))
    terms = room(epsilon=5.0, images=True, count=3, sum=request.param)
    schema = terms.study({n: n for n in terms.sites}, "b").schema_of
    made = assemble(terms, parted(digits(900), tuple(terms.sites), "even", schema))
    (tmp_path / "ledgers").mkdir()
    logging.getLogger("privae.federated").setLevel(logging.CRITICAL)

    class World(kills.World):
        def site(self, name):
            own = self.made.sites[name].own
            return site.Site(replace(own, shelf=self.disks[name], ledger=self.folder / f"{name}.ledger"))

    yield World(terms.plan_of(), made, tmp_path / "ledgers")
    logging.getLogger("privae.federated").setLevel(logging.NOTSET)


def whole(world, kills, place: str) -> tuple[bytes, int]:
    """The model of a run without a death, and how often a place wrote."""
    disk = kills.Mortal()
    model = world.run({place: disk})
    assert model is not None
    assert world.deaths == 0
    return model, disk.writes


def test_a_site_killed_at_any_write_changes_no_byte_of_the_model(world, kills) -> None:
    model, writes = whole(world, kills, "bion")
    assert writes > 6
    for at in range(1, writes + 1):
        assert world.run({"bion": kills.Mortal(at, late=at % 2 == 1)}) == model
        assert world.deaths == 1
        assert world.charged()


def test_a_coordinator_killed_at_a_write_changes_no_byte_of_the_model(world, kills) -> None:
    model, writes = whole(world, kills, "coordinator")
    assert writes > 10
    for at in range(1, writes + 1, 4):  # benchmarks/federated.py kills at every one
        assert world.run({"coordinator": kills.Mortal(at, late=at % 8 == 1)}) == model
        assert world.deaths == 1
        assert world.charged()
        disk, steps = world.disks["coordinator"], world.coordinator.steps
        kept = b"".join(disk.get(f"step-{index}") for index in range(len(steps)))
        assert parse_steps(kept.decode()) == steps
        assert disk.get(f"step-{len(steps)}") is None


def test_two_sites_and_the_coordinator_killed_at_once_change_no_byte_of_the_model(world, kills) -> None:
    model, _ = whole(world, kills, "coordinator")
    for at in (2, 4, 5, 7):
        deadly = {
            "ares": kills.Mortal(at),
            "ceto": kills.Mortal(at, True),
            "coordinator": kills.Mortal(2 * at),
        }
        assert world.run(deadly) == model
        assert world.deaths == 3
        assert world.charged()
