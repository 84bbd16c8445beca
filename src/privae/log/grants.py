"""Entries of a ledger that release nothing: what was set aside in advance, what was closed, what a charge became."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.log.entry import Entry

OPEN, CLOSED = "open", "closed"
_GRANT, _CLOSED, _RELEASED, _RESUMED = "grant ", "closed ", "released ", "resumed "
_FIELDS: dict[
    str, tuple[str, ...]
] = {  # what the event of a note holds: texts of what was released, else numbers
    _GRANT: ("epsilon", "delta", "share", "added_delta"),
    _CLOSED: (),
    _RELEASED: ("reservation", "sha256"),
    CLOSED: (),
}
_LONGEST = 64  # characters of a name
_LARGEST = 1e300  # a whole number beyond is no float


@dataclass(frozen=True)
class Grant:
    """A share of a cap, set aside in advance for one analysis.

    epsilon, delta: as it was asked for. share: of the total of the cap's filter. added_delta: of the cap's delta, for
    what thresholds and samplers add.
    """

    name: str
    epsilon: float
    delta: float
    share: float
    added_delta: float
    closed: bool = False


def is_note(phase: str) -> bool:
    """Whether entries of that phase stand for no event: terms of a cap, a grant, a closing, or what was released."""
    return phase in (OPEN, CLOSED) or phase.startswith((_GRANT, _CLOSED, _RELEASED))


def is_reserved(phase: str) -> bool:
    """Whether a charge may not be named so, for notes are."""
    return is_note(phase) or phase.startswith(_RESUMED)


def resumed(reservation: str) -> str:
    """What the phase of a note begins with that a run goes on; a token follows."""
    return f"{_RESUMED}{reservation[:16]} "


def released(reservation: str) -> str:
    """The phase of a note of the file that a run became."""
    return f"{_RELEASED}{reservation[:16]}"


def granted(name: str) -> str:
    """The phase of a grant. Errors: UsageError for a name that is none."""
    if not 0 < len(name) <= _LONGEST or not name.isprintable() or any(map(str.isspace, name)):
        raise UsageError(f"the name of a grant is 1 to {_LONGEST} characters without spaces")
    return f"{_GRANT}{name}"


def closed(name: str) -> str:
    """The phase that closes a grant, or with "" the whole ledger."""
    return f"{_CLOSED}{name}" if name else CLOSED


def under(entry: Entry) -> str:
    """The name of the grant that an entry is charged to; "" for the pool, which is whatever no grant has set aside."""
    return str(entry.event.get("grant", ""))


def closing(entries: Sequence[Entry]) -> str:
    """The date on which a ledger was closed; "" for an open one."""
    return next((entry.time for entry in entries if entry.phase == CLOSED), "")


def check_open(entries: Sequence[Entry]) -> None:
    """Raise PrivacyRefused for a ledger that was closed."""
    date = closing(entries)
    if date:
        raise PrivacyRefused(f"this ledger was closed on {date}: nothing may be charged to it any more")


def terms(entry: Entry) -> tuple[float, float]:
    """Epsilon and order of the cap that an entry opens. Errors: ArtifactError for one that caps nothing."""
    said = entry.event
    epsilon, order = said.get("epsilon"), said.get("order")
    if (
        len(said) != 3
        or said.get("composition") not in ("renyi", "gaussian")
        or epsilon is None
        or order is None
    ):
        raise ArtifactError("the ledger has no readable cap; restore a copy")
    if (
        isinstance(epsilon, str)
        or isinstance(order, str)
        or not 0 < epsilon < _LARGEST
        or not 1 < order < _LARGEST
    ):
        raise ArtifactError("the ledger has a cap that caps nothing; do not trust it")
    return float(epsilon), float(order)


def read(entries: Sequence[Entry]) -> dict[str, Grant]:
    """The grants of a capped ledger by name, in order, as its entries leave them.

    Errors: ArtifactError for notes that do not read, a grant made twice, a charge to a grant that is not open, and
        anything charged, granted or closed after the ledger was closed.
    """
    found: dict[str, Grant] = {}
    over = False
    for entry in entries[1:]:
        free = entry.phase.startswith((_RELEASED, _RESUMED))
        if entry.phase == OPEN or (over and not free):
            raise ArtifactError("the ledger goes on after it was closed, or opens twice; do not trust it")
        over = over or entry.phase == CLOSED
        _take(found, entry)
    return found


def open_one(grants: dict[str, Grant], name: str) -> Grant:
    """The grant of that name. Errors: UsageError if there is none, PrivacyRefused for one that was closed."""
    if name not in grants:
        raise UsageError(f"this ledger has no grant '{name}'; see: privae ledger show")
    if grants[name].closed:
        raise PrivacyRefused(f"grant '{name}' was closed: nothing may be charged to it any more")
    return grants[name]


def _take(found: dict[str, Grant], entry: Entry) -> None:
    """Take an entry into the grants so far."""
    kind, name = "".join(entry.phase.partition(" ")[:2]), entry.phase.partition(" ")[2]
    if kind in _FIELDS:
        _check_fields(entry, kind)
    if kind == _GRANT:
        if name in found:
            raise ArtifactError("the ledger makes a grant twice; do not trust it")
        epsilon, delta, share, added = (float(entry.event[field]) for field in _FIELDS[kind])
        found[name] = Grant(name, epsilon, delta, share, added)
    elif kind == _CLOSED:
        found[name] = replace(_still_open(found, name), closed=True)
    elif under(entry):
        _still_open(found, under(entry))


def _still_open(found: dict[str, Grant], name: str) -> Grant:
    if name not in found or found[name].closed:
        raise ArtifactError("the ledger names a grant that is not open; do not trust it")
    return found[name]


def _check_fields(entry: Entry, kind: str) -> None:
    """Raise ArtifactError unless a note holds what it should: texts, or numbers that are finite and not negative."""
    values = entry.event.values()
    texts = kind == _RELEASED and all(isinstance(value, str) for value in values)
    numbers = kind != _RELEASED and all(not isinstance(v, str) and 0 <= v < _LARGEST for v in values)
    if set(entry.event) != set(_FIELDS[kind]) or not (texts or numbers):
        raise ArtifactError("a note in the ledger does not read; restore a copy")
