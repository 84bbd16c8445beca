"""Killed at any write, started again: the same model, byte for byte, and no charge lost."""

from types import SimpleNamespace

import pytest

from privae import files
from privae.errors import ProtocolError
from privae.federated import chain, site
from privae.federated.coordinator import Coordinator
from privae.federated.site import Own, Site
from privae.transport.simulate import assemble, parted


class Killed(BaseException):
    pass


class Mortal(files.Shelf):
    """A disk whose machine is killed at one of its writes, before or after it."""

    def __init__(self, at: int | None = None, late: bool = False) -> None:
        super().__init__()
        self.writes, self._at, self._late = 0, at, late

    def put(self, name: str, content: bytes) -> None:
        self.writes += 1
        if self.writes != self._at:
            super().put(name, content)
        else:
            if self._late:
                super().put(name, content)
            raise Killed


class World:
    """A study whose places can be killed and started again."""

    def __init__(self, terms, records, disks=None) -> None:
        schema = terms.study({n: n for n in terms.sites}, "b").schema_of
        made = assemble(terms, parted(records, tuple(terms.sites), "even", schema))
        self.study, self.plan = made.study, terms.plan_of()
        self.owns = {name: one.own for name, one in made.sites.items()}
        self.key = made.coordinator._key

    def start(self, disks=()) -> None:
        """New disks everywhere; `disks`: those that will be killed, by place."""
        self.disks = {name: files.Shelf() for name in (*self.owns, "state")} | dict(disks)
        self.results, self.deaths = files.Shelf(), 0
        self.sites = {name: self.site(name) for name in self.owns}
        self.coordinator = self.coordinate()

    def site(self, name: str) -> Site:
        own = self.owns[name]
        return Site(Own(own.study, own.policy, own.key, own.records, self.disks[name]))

    def coordinate(self) -> Coordinator:
        return Coordinator(self.study, self.plan, self.key, self.disks["state"], self.results)

    def run(self, patience: int = 20) -> bytes:
        """Until the end; whoever dies is started again, without the answer."""
        while not self.coordinator.done:
            try:
                replies = {
                    name: self.post(name, message) for name, message in self.coordinator.outbox().items()
                }
                self.coordinator.take({name: reply for name, reply in replies.items() if reply is not None})
            except Killed:
                self.deaths += 1
                self.coordinator = self.coordinate()
            except ProtocolError:
                patience -= 1
                if not patience:
                    raise
        return self.coordinator.model

    def post(self, name: str, message: bytes) -> bytes | None:
        try:
            return self.sites[name].answer(message)
        except Killed:
            self.deaths += 1
            self.sites[name] = self.site(name)
            return None


@pytest.fixture
def world(room, digits, monkeypatch):
    monkeypatch.setattr(site, "os", SimpleNamespace(urandom=lambda count: bytes(count)))
    return World(room(epsilon=float("inf"), images=True, count=3), digits(200))


def test_a_site_killed_at_any_write_changes_no_byte_of_the_model(world) -> None:
    world.start({"bion": Mortal()})
    whole, writes = world.run(), world.disks["bion"].writes
    assert writes > 8
    for at in range(1, writes + 1):
        world.start({"bion": Mortal(at, late=at % 2 == 1)})
        assert world.run() == whole
        assert world.deaths == 1


def test_a_coordinator_killed_at_a_write_changes_no_byte_of_the_model(world) -> None:
    world.start({"state": Mortal()})
    whole, writes = world.run(), world.disks["state"].writes
    assert writes > 12
    for at in range(1, writes + 1, 4):  # benchmarks/federated.py kills at every one
        world.start({"state": Mortal(at, late=at % 8 == 1)})
        assert world.run() == whole
        assert world.deaths == 1
        assert chain.parse_steps(world.disks["state"].get(chain.ROUNDS).decode()) == world.coordinator.steps


def test_two_sites_and_the_coordinator_killed_at_once_change_no_byte_of_the_model(world) -> None:
    world.start()
    whole = world.run()
    for at in (2, 4, 5, 7):
        world.start({"ares": Mortal(at), "ceto": Mortal(at, True), "state": Mortal(2 * at)})
        assert world.run() == whole
        assert world.deaths == 3
