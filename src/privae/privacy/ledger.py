"""What was spent, written down before anything is released: an append-only, hash-chained list of events."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from privae import files
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy import accountant
from privae.privacy.accountant import Composition, Filter
from privae.privacy.mechanism import Event, Relation

_GENESIS = "0" * 64
_Terms = tuple[float, str, Relation]
_OPEN = "open"
_RESUMED = "resumed "  # and a token: the phase of a note that costs nothing
_LOUDEST = 2.0**30  # factor on the noise beyond which a plan is given up


class Entry(BaseModel):
    """One line of a ledger. Public: numbers of the plan and hashes, nothing of the data.

    `event` is an Event's fields plus `added_delta`, or the terms of a cap. `epsilon` is what everything up to
    and including the spend that this entry belongs to costs at `delta`. `time` is a date (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    time: str
    plan_hash: str
    schema_hash: str
    unit: str
    relation: Relation
    phase: str
    event: dict[str, float | int | str]
    epsilon: float
    delta: float
    attempt: int
    code_version: str
    previous_hash: str
    hash: str = ""
    signatures: tuple[str, ...] = ()

    def sealed(self) -> "Entry":
        """The same entry with the hash of everything in it but hash and signatures."""
        return self.model_copy(update={"hash": files.digest(self._fields(exclude={"hash", "signatures"}))})

    def line(self) -> bytes:
        """Canonical JSON, one line."""
        return files.canonical_json(self._fields(exclude=set())) + b"\n"

    def _fields(self, exclude: set[str]) -> dict[str, Any]:
        fields = self.model_dump(mode="python", exclude=exclude)
        if math.isinf(self.epsilon):
            fields["epsilon"] = "inf"  # JSON has no number for it
        return fields


@dataclass(frozen=True)
class Charge:
    """One phase of a plan, to be written down before it releases anything.

    added_delta: what the phase adds to delta beyond its noise: a threshold, the sampler (rule 5).
    """

    plan_hash: str
    schema_hash: str
    phase: str
    event: Event
    attempt: int = 1
    unit: str = "record"
    added_delta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.added_delta < 1:
            raise UsageError("an added delta lies between 0 and 1")


class Ledger:
    """Append-only record of what was charged; `spend` raises before anything is released.

    Two kinds. A model's own ledger (`fresh`) has no cap: its plan was fixed before its first release, so its
    epsilon is that of all its events together (guarantees.md rule 16). A data set's ledger (`open`) has a cap
    (epsilon, delta) that holds for any number of plans, each chosen after seeing what the earlier released.

    Guarantee of a cap: everything released under it is together (epsilon, delta)-private, if each spend comes
    before its releases. A spend is one whole plan, and is admitted if
      (a) nothing was spent before, and the plan alone costs at most epsilon at delta less what it adds; or
      (b) `accountant.Filter` admits *everything* ever spent with it, and all added deltas sum to at most its
          share of delta, 0.1 delta.
    Proof. If the first plan satisfies (b), then everything admitted does: later spends are admitted by (b)
    alone, whose sums include the first. The noise is then (epsilon, 0.9 delta)-private by the filter, and added
    deltas (charged at the cap's epsilon) sum to 0.1 delta. If the first plan satisfies (a) and not (b), the
    sums of (b) exceed their bounds from the start and only grow, so no second spend is ever admitted, and what
    was released is the first plan alone: (epsilon, delta) by (a). No release decides which case holds.
    Plans may run at the same time: each was reserved before it began. A plan run again is a new spend (rule
    19); an interrupted run that goes on (`resume`) is not. `epsilon` and `remaining` only describe.

    Integrity: each entry holds the hash of the one before. An edit, a new order or a missing entry before the
    last is detected on load. Someone who computes every hash anew, or cuts off the end, is not, short of
    comparing `head` with one noted elsewhere; a ledger in use does compare: its file may only grow.
    Concurrency: a write holds a lock on PATH.lock, reads the file again, checks, and replaces it whole.
    """

    def __init__(self, entries: Sequence[Entry], terms: _Terms, path: Path | None) -> None:
        self.entries = tuple(entries)
        self.delta, self.unit, self.relation = terms
        self.path = path

    def __repr__(self) -> str:
        return f"Ledger(entries={len(self.entries)}, delta={self.delta:g}, unit={self.unit!r})"

    @classmethod
    def fresh(cls, delta: float, unit: str = "record", relation: Relation = "add_or_remove") -> "Ledger":
        """A model's own ledger, in memory, with no cap.

        >>> ledger = Ledger.fresh(1e-5)
        >>> ledger.spend([Charge("plan", "schema", "moments", Event(3.7306))])
        >>> round(ledger.epsilon, 3)
        1.0
        """
        accountant.check_delta(delta)
        return cls((), (delta, unit, relation), None)

    @classmethod
    def open(
        cls,
        path: Path,
        epsilon: float,
        delta: float,
        composition: Composition = "renyi",
        *,
        unit: str = "record",
        relation: Relation = "add_or_remove",
    ) -> "Ledger":
        """Start the ledger of a data set, with a cap, in a new file.

        Errors: UsageError for numbers that make no cap, or a file that is already there.
        """
        if not 0 < epsilon < math.inf:
            raise UsageError("the cap of a ledger is a positive, finite epsilon")
        path = path.resolve()  # a link would be replaced, and its target never charged
        files.check_writable(path)
        cap = Filter.fixed(epsilon, delta, composition)
        terms = {"epsilon": cap.epsilon, "composition": composition, "order": cap.order}
        ledger = cls((), (delta, unit, relation), path)
        with files.locked(path):
            if path.exists():
                raise UsageError(f"{path} exists, and a ledger is never overwritten; name another file")
            ledger._append([Charge("", "", _OPEN, Event(1.0), attempt=0)], 0.0, terms)
        return ledger

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """The ledger in a file, verified, and bound to the file: later spends go there."""
        read = cls.parse(_read(path))
        return cls(read.entries, (read.delta, read.unit, read.relation), path.resolve())

    @classmethod
    def parse(cls, text: str) -> "Ledger":
        """Inverse of `dumps`: a ledger in memory. ArtifactError unless every hash and every line holds."""
        if not text.endswith("\n"):
            raise ArtifactError("the ledger is empty or half-written; restore a copy")
        entries = [_parsed(line) for line in text[:-1].split("\n")]
        _check_chain(entries)
        first = entries[0]
        return cls(entries, (first.delta, first.unit, first.relation), None)

    def dumps(self) -> str:
        """JSON Lines, one entry a line."""
        return b"".join(entry.line() for entry in self.entries).decode()

    @property
    def head(self) -> str:
        """Hash of the last entry: names the whole ledger."""
        return self.entries[-1].hash if self.entries else _GENESIS

    @property
    def cap(self) -> Filter | None:
        """The terms of a data set's ledger; None for a model's own."""
        return _cap(self.entries[0]) if self.entries and self.entries[0].phase == _OPEN else None

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event charged, in order."""
        return tuple(_event(entry)[0] for entry in self.entries if entry.phase != _OPEN)

    @property
    def epsilon(self) -> float:
        """Epsilon of everything charged so far, at `delta`."""
        plans = {(entry.plan_hash, entry.attempt) for entry in self.entries if entry.phase != _OPEN}
        return self._composed(self.events, self._added(), adaptive=len(plans) > 1)

    @property
    def remaining(self) -> float:
        """Epsilon, at the ledger's delta, of the largest Gaussian plan that still fits; inf without a cap."""
        return math.inf if self.cap is None else self._left(self.cap, [Event(1.0, replace_ratio=1.0)])

    def check(self, events: Sequence[Event], added_delta: float = 0.0) -> None:
        """Raise PrivacyRefused if a plan of these events would not be admitted; write nothing."""
        self._refresh()
        self._admit(events, added_delta)

    def spend(self, charges: Sequence[Charge], *, fine: bool = True) -> None:
        """Write charges down, all or none; call it before anything of theirs is released.

        Under a cap the charges are one whole plan; charged a second time, they are its next attempt.
        fine=False: the epsilon noted is found ten times sooner, on a coarser lattice.
        Errors: PrivacyRefused past the cap or for another unit; ArtifactError if the file was changed;
            UsageError for charges of several plans under a cap.
        """
        with self._writing():
            self._check_terms(charges)
            events, added = [c.event for c in charges], math.fsum(c.added_delta for c in charges)
            self._admit(events, added)
            adaptive = self.cap is not None and bool(self.events)
            every = [*self.events, *events]
            epsilon = self._composed(every, self._added() + added, adaptive=adaptive, fine=fine)
            self._append([self._numbered(charge) for charge in charges], epsilon)

    def charged(self, phase: str) -> int:
        """Steps of a phase that were charged so far."""
        return sum(_event(entry)[0].steps for entry in self.entries if entry.phase == phase)

    def holder(self, reservation: str) -> str:
        """The token under which the run goes on whose spend ends in the entry of that hash; "" until `resume`."""
        self._refresh()
        return self._run(reservation)[1]

    def resume(self, reservation: str, known: str, token: str) -> None:
        """Note, at no cost, that an interrupted run goes on under a new token, in place of the known one.

        Guarantee: of a checkpoint's copies, which all know one token, only one goes on; PrivacyRefused else.
        """
        with self._writing():
            spent, holder = self._run(reservation)
            if holder != known:
                raise PrivacyRefused("the fit was resumed before, from this checkpoint or a copy; fit again")
            phase = f"{_RESUMED}{reservation[:16]} {token}"
            free = Charge(spent.plan_hash, spent.schema_hash, phase, Event(1.0, steps=0), spent.attempt)
            self._append([free], self.epsilon)

    def _run(self, reservation: str) -> tuple[Entry, str]:
        spent = next((entry for entry in self.entries if entry.hash == reservation), None)
        if spent is None:
            raise PrivacyRefused("this fit was charged to another ledger; name that one")
        mine = f"{_RESUMED}{reservation[:16]} "
        tokens = [e.phase.removeprefix(mine) for e in self.entries if e.phase.startswith(mine)]
        return spent, tokens[-1] if tokens else ""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.path is None else files.locked(self.path):
            self._refresh()
            yield

    def _admit(self, events: Sequence[Event], added: float) -> None:
        cap = self.cap
        if cap is None or not events or self._fits(cap, events, added):
            return
        if self._added() + added > (accountant.ADDED_SHARE if self.events else 1) * cap.delta:
            raise PrivacyRefused("this run adds more to delta than is left; plan with a smaller delta")
        left = f"{math.floor(self._left(cap, events) * 1000) / 1000:g}"
        need = f"this run needs epsilon {self._composed(events, added, adaptive=False):.4g}"
        advice = f"Plan with --epsilon {left}." if float(left) else "Nothing more may be released."
        raise PrivacyRefused(f"{need}; {left} of {cap.epsilon:g} is left. {advice}")

    def _fits(self, cap: Filter, events: Sequence[Event], added: float) -> bool:
        if not self.events and self._composed(events, added, adaptive=False) <= cap.epsilon:
            return True
        within = self._added() + added <= accountant.ADDED_SHARE * cap.delta
        return within and cap.used([*self.events, *events], self.relation) <= 1

    def _left(self, cap: Filter, events: Sequence[Event]) -> float:
        """Epsilon of a plan like `events` with just so much noise that it is admitted."""
        if not self.events:
            return cap.epsilon
        low, high = 0.0, 1.0
        while not cap.used([*self.events, *_louder(events, high)], self.relation) <= 1:
            low, high = high, high * 2
            if high > _LOUDEST:
                return 0.0
        while high > low * 1.0001 and high > 1 / _LOUDEST:
            middle = (low + high) / 2
            fits = cap.used([*self.events, *_louder(events, middle)], self.relation) <= 1
            low, high = (low, middle) if fits else (middle, high)
        return min(cap.epsilon, accountant.epsilon(_louder(events, high), cap.delta, self.relation))

    def _composed(self, events: Sequence[Event], added: float, *, adaptive: bool, fine: bool = True) -> float:
        cap = self.cap
        if cap is not None and adaptive:
            return min(cap.epsilon, cap.so_far(events, self.relation))
        left = self.delta - added
        return accountant.epsilon(events, left, self.relation, fine=fine) if left > 0 else math.inf

    def _added(self) -> float:
        return math.fsum(_event(entry)[1] for entry in self.entries if entry.phase != _OPEN)

    def _check_terms(self, charges: Sequence[Charge]) -> None:
        if any(charge.unit != self.unit for charge in charges):
            raise PrivacyRefused(f"this ledger protects each {self.unit}; plan with unit = {self.unit!r}")
        if any(charge.phase == _OPEN or charge.phase.startswith(_RESUMED) for charge in charges):
            raise UsageError("a phase may not be named 'open' or 'resumed ...'; name it after its release")
        if self.cap is not None and len({(c.plan_hash, c.attempt) for c in charges}) > 1:
            raise UsageError("a capped ledger is charged one whole plan at a time; spend them one by one")

    def _numbered(self, charge: Charge) -> Charge:
        if self.cap is None:
            return charge
        # privacy: fresh noise for the same plan is a new release, and must not look like the old one.
        earlier = [entry.attempt for entry in self.entries if entry.plan_hash == charge.plan_hash]
        return replace(charge, attempt=max([charge.attempt, *(attempt + 1 for attempt in earlier)]))

    def _append(self, charges: Sequence[Charge], epsilon: float, terms: dict[str, Any] | None = None) -> None:
        entries = list(self.entries)
        for charge in charges:
            entry = Entry(
                index=len(entries),
                # privacy: a finer clock would tell how long a phase took, hence how many records there are.
                time=datetime.now(UTC).date().isoformat(),
                plan_hash=charge.plan_hash,
                schema_hash=charge.schema_hash,
                unit=self.unit,
                relation=self.relation,
                phase=charge.phase,
                event=terms or {**charge.event.to_dict(), "added_delta": charge.added_delta},
                epsilon=epsilon,
                delta=self.delta,
                attempt=charge.attempt,
                code_version=files.code_version(),
                previous_hash=entries[-1].hash if entries else _GENESIS,
            )
            entries.append(entry.sealed())
        if self.path is not None:
            files.write_shared(self.path, b"".join(entry.line() for entry in entries))
        self.entries = tuple(entries)

    def _refresh(self) -> None:
        current = self.entries if self.path is None else Ledger.parse(_read(self.path)).entries
        if current[: len(self.entries)] != self.entries:
            raise ArtifactError(f"{self.path} lost entries since it was read; restore a copy")
        self.entries = current


def _louder(events: Sequence[Event], factor: float) -> list[Event]:
    return [replace(event, noise_multiplier=max(event.noise_multiplier, 1e-3) * factor) for event in events]


def _cap(entry: Entry) -> Filter:
    terms = entry.event
    if set(terms) != {"epsilon", "composition", "order"} or terms["composition"] not in ("renyi", "gaussian"):
        raise ArtifactError("the ledger has no readable cap; restore a copy")
    composition: Composition = "renyi" if terms["composition"] == "renyi" else "gaussian"
    return Filter(float(terms["epsilon"]), entry.delta, composition, float(terms["order"]))


def _event(entry: Entry) -> tuple[Event, float]:
    fields = dict(entry.event)
    added = fields.pop("added_delta", None)
    if not isinstance(added, float | int) or not 0 <= added < 1:
        raise ArtifactError("an event of the ledger has no added delta; restore a copy")
    return Event.from_dict(fields), float(added)


def _parsed(line: str) -> Entry:
    try:
        entry = Entry.model_validate_json(line)
    except ValidationError:
        raise ArtifactError("a line of the ledger does not read; restore a copy") from None
    if entry.sealed().hash != entry.hash or entry.line().decode() != line + "\n":
        raise ArtifactError("an entry of the ledger was changed after it was written; restore a copy")
    return entry


def _check_chain(entries: Sequence[Entry]) -> None:
    first, previous = entries[0], _GENESIS
    for index, entry in enumerate(entries):
        if entry.index != index or entry.previous_hash != previous:
            raise ArtifactError("an entry of the ledger is missing or out of order; restore a copy")
        if (entry.delta, entry.unit, entry.relation) != (first.delta, first.unit, first.relation):
            raise ArtifactError("the ledger changes its terms halfway; restore a copy")
        _cap(entry) if index == 0 and entry.phase == _OPEN else _event(entry)
        previous = entry.hash


def _read(path: Path) -> str:
    try:
        return files.content(path).decode()
    except UnicodeDecodeError:
        raise ArtifactError(f"{path} is not a ledger, or it is damaged; restore a copy") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown').lower()}") from None
