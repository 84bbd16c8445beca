"""Places of a study killed at every write, and messages that go wrong on the way, for benchmarks/federated.py.

The study: three sites, images of 6 x 6, closed-form phases with noise, at epsilon 5; summed under masks, and summed on
ciphertexts. The sites' secrets are fixed, so that a run that was disturbed can be held against one that was not, byte
for byte.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from federated_data import DELTA, FIVE, assembled, image_schema
from harness import Report

from privae import VAE, files
from privae.errors import PrivaeError, ProtocolError
from privae.federated import chain, messages
from privae.federated import site as sites
from privae.federated.coordinator import Coordinator
from privae.federated.site import Site
from privae.plan import Plan
from privae.privacy.ledger import Ledger
from privae.training.books import charges_of, follows

EPSILON, RECORDS, NAMES = 5.0, 1200, FIVE[:3]
LARGEST = 2**20  # bytes of the largest message that is read, here
PATIENCE = 20  # stages without progress until a run counts as refused
Wire = Callable[[str, bytes, Callable[[bytes], bytes | None]], bytes | None]
Disks = Mapping[str, files.Shelf]


class Killed(BaseException):
    """The machine died."""


class Mortal(files.Shelf):
    """A disk whose machine is killed at one of its writes, before or after it."""

    def __init__(self, at: int | None = None, late: bool = False) -> None:
        super().__init__()
        self.writes, self._at, self._late = 0, at, late

    def put(self, name: str, content: bytes) -> None:
        """Keep it, or die."""
        self.writes += 1
        if self.writes == self._at and not self._late:
            raise Killed
        super().put(name, content)
        if self.writes == self._at:
            raise Killed


def straight(_: str, message: bytes, post: Callable[[bytes], bytes | None]) -> bytes | None:
    """A wire on which nothing happens."""
    return post(message)


@dataclass
class World:
    """One run of the study, whose places can be killed and started again."""

    plan: Plan
    made: Any
    folder: Path
    disks: dict[str, files.Shelf] = field(default_factory=dict)
    deaths: int = 0
    refusals: int = 0

    def run(self, killed: Disks, wire: Wire = straight) -> bytes | None:
        """To the end; whoever dies is started again, without the answer. None: it was refused."""
        self.disks = {name: files.Shelf() for name in (*self.made.sites, "coordinator")} | dict(killed)
        self.deaths = self.refusals = 0
        for old in self.folder.iterdir():
            old.unlink()
        self.sites = {name: self.site(name) for name in self.made.sites}
        self.coordinator, patience = self.coordinate(), PATIENCE
        while not self.coordinator.done:
            try:
                asked = self.coordinator.outbox()
                found = {
                    name: wire(name, message, lambda data, n=name: self.post(n, data))
                    for name, message in asked.items()
                }
                self.coordinator.take({name: raw for name, raw in found.items() if raw is not None})
            except Killed:
                self.deaths += 1
                self.coordinator = self.coordinate()
            except PrivaeError as error:
                self.refusals, patience = self.refusals + 1, patience - 1
                if not patience or not isinstance(error, ProtocolError):
                    return None
        return self.coordinator.model

    def site(self, name: str) -> Site:
        """A site as it starts, on what its disk holds."""
        own = self.made.sites[name].own
        return Site(replace(own, shelf=self.disks[name], ledger=self.folder / f"{name}.ledger"))

    def coordinate(self) -> Coordinator:
        """The coordinator as it starts, on what its disk holds."""
        key = self.made.coordinator._key
        return Coordinator(self.made.study, self.plan, key, self.disks["coordinator"], files.Shelf())

    def post(self, name: str, message: bytes) -> bytes | None:
        """A message to a site and its answer; None if it died of it."""
        try:
            return self.sites[name].answer(message)
        except Killed:
            self.deaths += 1
            self.sites[name] = self.site(name)
            return None

    def charged(self) -> bool:
        """Whether every ledger shows exactly what was planned, once: no death lost a charge or made a second one."""
        planned = [phase.name for phase in self.plan.phases]
        book = self.disks["coordinator"].get(chain.BOOK)
        told = charges_of(Ledger.parse(book.decode())) if book else []
        done = follows(told, self.plan, whole=True) and len(told) == len(planned)
        own = [Ledger.load(self.folder / f"{name}.ledger").entries[1:] for name in self.made.sites]
        once = all([(e.phase, e.attempt) for e in spent] == [(n, 1) for n in planned] for spent in own)
        return done and once


def kills(report: Report, options: Any) -> None:
    """An outcome table: how many cases of each kind ended with the same bytes, or refused, and with right charges."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, RECORDS)
    x = (rng.integers(0, 60, (RECORDS, 6, 6)) + (60 * y)[:, None, None]).astype(np.uint8)
    schema = image_schema(3, 6)
    plan = VAE(EPSILON, DELTA, rows=RECORDS, classes=3, fidelity=False, schema=schema).plan()
    records = (x, y.astype(str).astype(object))
    fixed = SimpleNamespace(urandom=lambda count: bytes(count))
    total: Counter[str] = Counter()
    logging.getLogger("privae.federated").setLevel(logging.CRITICAL)  # each refusal is meant
    with patch.object(sites, "os", fixed), patch.object(messages, "MOST", LARGEST):
        for way in ("masked", "encrypted"):
            made = assembled(plan, schema, records, "even", NAMES, sum=way)
            with tempfile.TemporaryDirectory() as folder:
                total += _outcomes(report, World(plan, made, Path(folder)), options.quick)
    report.check("kills and messages: cases that ended another way than they should",
                 total["cases"] - total["as it should be"], 0, "at_most")  # fmt: skip
    report.check("kills and messages: models with other bytes", total["another model"], 0, "at_most")
    report.check("kills and messages: cases with wrong charges", total["cases"] - total["charges right"], 0,
                 "at_most")  # fmt: skip


def _outcomes(report: Report, world: World, quick: bool) -> Counter[str]:
    """Of one study: rows of what became of each kind of case; their sums."""
    counted, way = {name: Mortal() for name in (*NAMES, "coordinator")}, world.made.study.sum
    whole, total = world.run(counted), Counter[str]()
    assert whole is not None
    assert world.charged()
    writes = {name: disk.writes for name, disk in counted.items()}
    for kind, cases in {**deaths(writes, quick), **disturbed(quick)}.items():
        found = Counter[str]()
        for killed, wire, due in cases():
            model = world.run(killed, wire)
            found["cases"] += 1
            found["same bytes"] += model == whole
            found["refused"] += model is None
            found["another model"] += model is not None and model != whole
            found["charges right"] += model is None or world.charged()
            found["released after a refusal"] += model is None and bool(world.coordinator.steps)
            found["as it should be"] += (model == whole) == due and world.deaths == len(killed)
        total += found
        shown = {name.replace(" ", "_"): found[name] for name in COUNTS}
        report.row(part="kills", sums=way, kind=kind, **shown)
    return total


COUNTS = ("cases", "same bytes", "refused", "another model", "charges right", "released after a refusal")
Case = tuple[Disks, Wire, bool]


def deaths(writes: Mapping[str, int], quick: bool) -> dict[str, Callable[[], Iterator[Case]]]:
    """Kinds of deaths, and their cases: who dies at which write, before and after it."""
    step = 5 if quick else 1

    def one(name: str) -> Iterator[Case]:
        for at in range(1, writes[name] + 1, step):
            for late in (False, True):
                yield {name: Mortal(at, late)}, straight, True

    def two() -> Iterator[Case]:
        most = min(writes[name] for name in NAMES[:2])
        for at in range(1, most + 1, step):
            yield {NAMES[0]: Mortal(at), NAMES[1]: Mortal(at, True)}, straight, True
            yield {NAMES[0]: Mortal(at), NAMES[1]: Mortal(most + 1 - at)}, straight, True

    kinds: dict[str, Callable[[], Iterator[Case]]] = {
        f"site {name} killed, at each of {writes[name]} writes, before and after": lambda n=name: one(n)
        for name in NAMES
    }
    mine = f"coordinator killed, at each of {writes['coordinator']} writes, before and after"
    return {**kinds, mine: lambda: one("coordinator"), "two sites killed in one run": two}


def disturbed(quick: bool) -> dict[str, Callable[[], Iterator[Case]]]:
    """Kinds of messages that go wrong, at each stage of the first sums; the true one is sent again afterwards.

    "always": at every stage, so that nothing but a refusal is right.
    """
    places = range(0, 12, 6 if quick else 3)  # of all requests to one site, which one is disturbed

    def once(change: Callable[[bytes], bytes], reply: bool) -> Iterator[Case]:
        for at in places:
            yield {}, altered(at, change, reply=reply), True

    def both(change: Callable[[bytes], bytes]) -> Callable[[], Iterator[Case]]:
        return lambda: (case for reply in (False, True) for case in once(change, reply))

    changes: dict[str, Callable[[bytes], bytes]] = {
        "bad signature": lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
        "changed body": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        "foreign version": lambda raw: b"privae-f9" + raw[len(messages.MAGIC) :],
        "oversized": lambda raw: raw + bytes(LARGEST),
        "cut off": lambda raw: raw[: len(raw) // 2],
    }
    kinds: dict[str, Callable[[], Iterator[Case]]] = {
        f"{name} messages, once at a stage, each way": both(change) for name, change in changes.items()
    }

    def always() -> Iterator[Case]:
        for change in changes.values():
            yield {}, lambda _, message, post, c=change: c(post(message) or b""), False

    return {
        **kinds,
        "the same, all replies of all sites": always,
        "messages delivered twice": lambda: iter([({}, doubled, True)]),
        "late replies: an old one comes in its place": lambda: (({}, late(at), True) for at in places),
        "replies reordered: one site's in another's name": lambda: (({}, swapped(at), True) for at in places),
    }


def altered(at: int, change: Callable[[bytes], bytes], *, reply: bool) -> Wire:
    """A wire on which one request to the second site, or its reply, is changed."""
    seen = Counter[str]()

    def wire(name: str, message: bytes, post: Callable[[bytes], bytes | None]) -> bytes | None:
        seen[name] += 1
        if name != NAMES[1] or seen[name] != at + 1:
            return post(message)
        if not reply:
            return post(change(message))
        answer = post(message)
        return None if answer is None else change(answer)

    return wire


def doubled(_: str, message: bytes, post: Callable[[bytes], bytes | None]) -> bytes | None:
    first, second = post(message), post(message)
    return first if first == second else b"two answers"


def late(at: int) -> Wire:
    """The reply to a request does not come; instead of the next reply of that site, it does."""
    kept: dict[str, Any] = {"seen": 0}

    def wire(name: str, message: bytes, post: Callable[[bytes], bytes | None]) -> bytes | None:
        answer = post(message)
        if name != NAMES[1]:
            return answer
        kept["seen"] += 1
        if kept["seen"] == at + 1:
            kept["old"] = answer
            return None
        return kept.pop("old", None) or answer

    return wire


def swapped(at: int) -> Wire:
    """Once, a site's reply comes in the name of the next one."""
    kept: dict[str, Any] = {"seen": 0}

    def wire(name: str, message: bytes, post: Callable[[bytes], bytes | None]) -> bytes | None:
        answer = post(message)
        if name == NAMES[0]:
            kept["first"] = answer
        kept["seen"] += name == NAMES[1]
        if name == NAMES[1] and kept["seen"] == at + 1 and "first" in kept:
            kept["seen"] += 1
            return kept["first"]
        return answer

    return wire
