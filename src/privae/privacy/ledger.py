"""What was spent, written down before anything is released: an append-only, hash-chained list of events."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.log import grants, rooms, store
from privae.log.entry import GENESIS, Entry, following, parsed, text_of
from privae.log.grants import OPEN, Grant
from privae.log.rooms import Room
from privae.log.store import Store
from privae.privacy import accountant
from privae.privacy.accountant import Composition, Filter
from privae.privacy.mechanism import Event, Relation

__all__ = ["Charge", "Entry", "Ledger"]

_Terms = tuple[float, str, Relation]
_Fields = Mapping[str, float | int | str]


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
    before its releases. A spend is one whole plan, charged to a grant, which was set aside in advance, or to the
    pool, which is the rest. It is admitted if
      (a) nothing was spent before, no grant is open, and the plan alone costs at most epsilon at delta less what
          it adds; or
      (b) the room of the grant, or of the pool, holds it (`log.rooms.room`): what `accountant.Filter` counts for it,
          and all that it adds to delta. A grant is made if the pool's room holds that much.
    Proof. Rooms keep *everything* ever spent within the filter, and all added deltas within its share of delta, 0.1
    delta (`log.rooms.room`). So if the first plan satisfies (b), the noise is (epsilon, 0.9 delta)-private by the
    filter, and added deltas (charged at the cap's epsilon) sum to 0.1 delta. If the first plan satisfies (a) alone,
    the pool's room is over-full from the start, so no second spend and no grant is ever admitted, and what was
    released is the first plan alone: (epsilon, delta) by (a). No release decides which case holds.
    Plans may run at the same time: each was reserved before it began. A plan run again is a new spend (rule
    19); an interrupted run that goes on (`resume`) is not. `epsilon` and `remaining` only describe.

    Integrity: each entry holds the hash of the one before. An edit, a new order or a missing entry before the
    last is detected on load. Someone who computes every hash anew, or cuts off the end, is not, short of
    comparing `head` with one noted elsewhere; a ledger in use does compare: it may only grow.
    Concurrency and kills: a write holds the store's lock, reads all again, checks, and adds its entries, all or none,
    on the disk when it returns. A kill, or an error that leaves the outcome open, can only charge too much.
    """

    def __init__(self, entries: Sequence[Entry], terms: _Terms, kept: Store | None, grant: str = "") -> None:
        self.entries = tuple(entries)
        self.delta, self.unit, self.relation = terms
        self._store, self._grant = kept, grant
        self._reserved = ""  # hash of the last entry of what this object charged, or resumed

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
        place: str | Path,
        epsilon: float,
        delta: float,
        composition: Composition = "renyi",
        *,
        unit: str = "record",
        relation: Relation = "add_or_remove",
    ) -> "Ledger":
        """Start the ledger of a data set, with a cap, in a new place: see `log.store.at`.

        Errors: UsageError for numbers that make no cap, or a ledger that is already there.
        """
        if not 0 < epsilon < math.inf:
            raise UsageError("the cap of a ledger is a positive, finite epsilon")
        cap = Filter.fixed(epsilon, delta, composition)
        fields = {"epsilon": cap.epsilon, "composition": composition, "order": cap.order}
        kept, terms = store.at(place), (delta, unit, relation)
        named = replace(_free(OPEN), plan_hash=token_hex(32))  # what a log is called by: no two begin alike
        first = cls((), terms, kept)._following([(named, fields)], 0.0)
        kept.begin(text_of(first))
        return cls(first, terms, kept)

    @classmethod
    def load(cls, place: str | Path, grant: str = "") -> "Ledger":
        """The ledger in a place, verified, and bound to it: later spends go there, to a grant if one is named.

        Errors: UsageError for a place or a grant that is not there; PrivacyRefused for a grant that was closed;
            ArtifactError unless every hash and every entry holds.
        """
        kept = store.at(place)
        read = cls.parse(kept.read())
        if grant:
            grants.open_one(read.grants, grant)
        return cls(read.entries, (read.delta, read.unit, read.relation), kept, grant)

    @classmethod
    def parse(cls, text: str) -> "Ledger":
        """Inverse of `dumps`: a ledger in memory. ArtifactError unless every hash and every line holds."""
        entries = parsed(text)
        _check_entries(entries)
        first = entries[0]
        return cls(entries, (first.delta, first.unit, first.relation), None)

    def dumps(self) -> str:
        """JSON Lines, one entry a line."""
        return text_of(self.entries)

    @property
    def place(self) -> str | None:
        """What `load` finds it by, without a password; None in memory."""
        return None if self._store is None else self._store.place

    @property
    def head(self) -> str:
        """Hash of the last entry: names the whole ledger."""
        return self.entries[-1].hash if self.entries else GENESIS

    @property
    def cap(self) -> Filter | None:
        """The terms of a data set's ledger; None for a model's own."""
        return _cap(self.entries[0]) if self.entries and self.entries[0].phase == OPEN else None

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event charged, in order."""
        return tuple(_event(entry)[0] for entry in self._charges())

    @property
    def epsilon(self) -> float:
        """Epsilon of everything charged so far, at `delta`."""
        plans = {(entry.plan_hash, entry.attempt) for entry in self._charges()}
        return self._composed(self.events, self._added(), adaptive=len(plans) > 1)

    @property
    def remaining(self) -> float:
        """Epsilon, at the ledger's delta, of the largest Gaussian plan that still fits; inf without a cap.

        Of a ledger that was loaded with a grant, what fits there. 0 for one that was closed.
        """
        if self.cap is None or grants.closing(self.entries):
            return math.inf if self.cap is None else 0.0
        return self._left(self.cap, self.room(self._grant), [Event(1.0, replace_ratio=1.0)])

    @property
    def grants(self) -> dict[str, Grant]:
        """Every grant that was made of the cap, by name."""
        return grants.read(self.entries) if self.cap is not None else {}

    def room(self, grant: str = "") -> Room:
        """What may still be charged to a grant, or to the pool. Errors: UsageError for a ledger without a cap."""
        cap, taken = self.cap, {}
        if cap is None:
            raise UsageError("this ledger has no cap; open one for the data set with: privae ledger open")
        for name in {grants.under(entry) for entry in self._charges()}:
            events = [_event(entry)[0] for entry in self._charges(name)]
            taken[name] = cap.used(events, self.relation), self._added(name)
        return rooms.room(grant, self.grants, taken, accountant.ADDED_SHARE * cap.delta)

    def check(self, events: Sequence[Event], added_delta: float = 0.0) -> None:
        """Raise PrivacyRefused if a plan of these events would not be admitted; write nothing."""
        self._refresh()
        self._admit(events, added_delta)

    def spend(self, charges: Sequence[Charge], *, fine: bool = True) -> None:
        """Write charges down, all or none; call it before anything of theirs is released.

        Under a cap the charges are one whole plan; charged a second time, they are its next attempt.
        fine=False: the epsilon noted is found ten times sooner, on a coarser lattice.
        Errors: PrivacyRefused past the cap or the grant, or where it was closed, or for another unit; ArtifactError if
            the ledger was changed; UsageError for charges of several plans under a cap; ResourceError if not written.
        """
        with self._writing() as made:
            self._check_terms(charges)
            events, added = [c.event for c in charges], math.fsum(c.added_delta for c in charges)
            self._admit(events, added)
            adaptive = self.cap is not None and bool(self.events)
            every = [*self.events, *events]
            epsilon = self._composed(every, self._added() + added, adaptive=adaptive, fine=fine)
            made += self._following([(self._numbered(c), _said(c, self._grant)) for c in charges], epsilon)
        self._reserved = self.head

    def note(self, make: Callable[[], tuple[str, _Fields]]) -> None:
        """Write an entry that releases nothing: the phase and the fields that `make` finds in the ledger as it is now.

        Errors: those of `make`; PrivacyRefused for a ledger that was closed, UsageError for one without a cap.
        """
        with self._writing() as made:
            self.room()
            grants.check_open(self.entries)
            phase, fields = make()
            made += self._following([(_free(phase), fields)], self.entries[-1].epsilon)

    def released(self, sha256: str) -> None:
        """Note, at no cost, the file that the run became which this object charged or resumed."""
        with self._writing() as made:
            self.room()  # raises without a cap: a note has no place there, and the ledger would not read any more
            spent, _ = self._run(self._reserved)
            free = _free(grants.released(spent.hash), spent)
            fields = {"reservation": spent.hash, "sha256": sha256}
            made += self._following([(free, fields)], self.entries[-1].epsilon)

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
        with self._writing() as made:
            spent, holder = self._run(reservation)
            if holder != known:
                raise PrivacyRefused("the fit was resumed before, from this checkpoint or a copy; fit again")
            free = _free(grants.resumed(reservation) + token, spent)
            made += self._following([(free, _said(free))], self.entries[-1].epsilon)
        self._reserved = reservation

    def _run(self, reservation: str) -> tuple[Entry, str]:
        spent = next((entry for entry in self.entries if entry.hash == reservation), None)
        if spent is None:
            raise PrivacyRefused("this fit was charged to another ledger; name that one")
        mine = grants.resumed(reservation)
        tokens = [e.phase.removeprefix(mine) for e in self.entries if e.phase.startswith(mine)]
        return spent, tokens[-1] if tokens else ""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[list[Entry]]:
        """Hold the lock, read again, and keep the entries that the block makes, once they are on the disk."""
        made: list[Entry] = []
        if self._store is None:
            yield made
        else:
            with self._store.writing() as page:
                self._take(page.read())
                yield made
                page.append(text_of(made))
        self.entries = (*self.entries, *made)

    def _charges(self, under: str | None = None) -> list[Entry]:
        """The entries that stand for events: all of them, or those of a grant, or with "" of the pool."""
        found = [entry for entry in self.entries if self.cap is None or not grants.is_note(entry.phase)]
        return [entry for entry in found if under is None or grants.under(entry) == under]

    def _admit(self, events: Sequence[Event], added: float) -> None:
        cap = self.cap
        if cap is None or not events:
            return
        grants.check_open(self.entries)
        if self._grant:
            grants.open_one(self.grants, self._grant)
        room = self.room(self._grant)
        if room.holds(cap.used(events, self.relation), added):
            return
        alone = self._composed(events, added, adaptive=False)
        if room.alone and alone <= cap.epsilon:
            return
        if room.added + added > (cap.delta if room.alone else room.most):
            raise PrivacyRefused("this run adds more to delta than is left; plan with a smaller delta")
        of = f"grant '{self._grant}'" if self._grant else f"{cap.epsilon:g}"
        left = f"{rooms.floor(self._left(cap, room, events)):g}"
        advice = f"Plan with --epsilon {left}." if float(left) else "Nothing more may be released."
        raise PrivacyRefused(f"this run needs epsilon {alone:.4g}; {left} of {of} is left. {advice}")

    def _left(self, cap: Filter, room: Room, events: Sequence[Event]) -> float:
        """Epsilon of a plan like `events` with just so much noise that it is admitted."""
        if room.alone:
            return cap.epsilon
        factor = rooms.smallest(lambda f: room.holds(cap.used(_louder(events, f), self.relation), 0.0))
        if math.isinf(factor):
            return 0.0
        return min(cap.epsilon, accountant.epsilon(_louder(events, factor), cap.delta, self.relation))

    def _composed(self, events: Sequence[Event], added: float, *, adaptive: bool, fine: bool = True) -> float:
        cap = self.cap
        if cap is not None and adaptive:
            return min(cap.epsilon, cap.so_far(events, self.relation))
        left = self.delta - added
        return accountant.epsilon(events, left, self.relation, fine=fine) if left > 0 else math.inf

    def _added(self, under: str | None = None) -> float:
        return math.fsum(_event(entry)[1] for entry in self._charges(under))

    def _check_terms(self, charges: Sequence[Charge]) -> None:
        if any(charge.unit != self.unit for charge in charges):
            raise PrivacyRefused(f"this ledger protects each {self.unit}; plan with unit = {self.unit!r}")
        if any(grants.is_reserved(charge.phase) for charge in charges):
            raise UsageError("a phase may not be named as a note is ('open'); name it after its release")
        if self.cap is not None and len({(c.plan_hash, c.attempt) for c in charges}) > 1:
            raise UsageError("a capped ledger is charged one whole plan at a time; spend them one by one")

    def _numbered(self, charge: Charge) -> Charge:
        if self.cap is None:
            return charge
        # privacy: fresh noise for the same plan is a new release, and must not look like the old one.
        earlier = [entry.attempt for entry in self.entries if entry.plan_hash == charge.plan_hash]
        return replace(charge, attempt=max([charge.attempt, *(attempt + 1 for attempt in earlier)]))

    def _following(self, written: Sequence[tuple[Charge, _Fields]], epsilon: float) -> list[Entry]:
        """New entries after the last one: charges, or notes in their form, each with the fields of its event."""
        made = list(self.entries[-1:])
        terms = {"delta": self.delta, "unit": self.unit, "relation": self.relation, "epsilon": epsilon}
        for charge, fields in written:
            own = {name: getattr(charge, name) for name in ("plan_hash", "schema_hash", "phase", "attempt")}
            made.append(following(made[-1] if made else None, event=dict(fields), **own, **terms))
        return made[len(made) - len(written) :]

    def _refresh(self) -> None:
        if self._store is not None:
            self._take(self._store.read())

    def _take(self, text: str) -> None:
        """Go on from what the store holds now, if that is what was known and more."""
        current = Ledger.parse(text).entries
        if current[: len(self.entries)] != self.entries:
            raise ArtifactError(f"{self.place} lost entries since it was read; restore a copy")
        self.entries = current


def _said(charge: Charge, grant: str = "") -> _Fields:
    named = {"grant": grant} if grant else {}
    return {**charge.event.to_dict(), "added_delta": charge.added_delta, **named}


def _free(phase: str, spent: Entry | None = None) -> Charge:
    """A note in the form of a charge: of a spend, or of the ledger."""
    whose = ("", "", 0) if spent is None else (spent.plan_hash, spent.schema_hash, spent.attempt)
    return Charge(*whose[:2], phase, Event(1.0, steps=0), whose[2])


def _louder(events: Sequence[Event], factor: float) -> list[Event]:
    return [replace(event, noise_multiplier=max(event.noise_multiplier, 1e-3) * factor) for event in events]


def _cap(entry: Entry) -> Filter:
    epsilon, order = grants.terms(entry)
    composition: Composition = "renyi" if entry.event["composition"] == "renyi" else "gaussian"
    return Filter(epsilon, entry.delta, composition, order)


def _event(entry: Entry, *, capped: bool = True) -> tuple[Event, float]:
    fields = {name: value for name, value in entry.event.items() if name != "grant" or not capped}
    added = fields.pop("added_delta", None)
    if not isinstance(added, float | int) or not 0 <= added < 1:
        raise ArtifactError("an event of the ledger has no added delta; restore a copy")
    return Event.from_dict(fields), float(added)


def _check_entries(entries: Sequence[Entry]) -> None:
    """Raise ArtifactError unless every entry says something; notes stand under a cap only."""
    capped = entries[0].phase == OPEN
    if capped:
        _cap(entries[0])
        grants.read(entries)
    for entry in entries:
        if not capped or not grants.is_note(entry.phase):
            _event(entry, capped=capped)
