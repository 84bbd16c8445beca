"""Who may spend what of a data set's cap: shares that are set aside in advance, and what is closed for good."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privae import files
from privae.errors import PrivacyRefused, PrivaeError, UsageError
from privae.log import grants, rooms
from privae.log.grants import Grant
from privae.privacy import accountant
from privae.privacy.accountant import Filter
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Event
from privae.training.group import Group

_FAINT = 1e-9  # mu of a Gaussian that costs nothing


@dataclass(frozen=True)
class Account:
    """A grant, and epsilons at the ledger's delta: of Gaussian plans that take what was spent, and what is left."""

    grant: Grant
    spent: float
    left: float


def grant(
    ledger: Ledger, name: str, epsilon: float, delta: float | None = None, added_delta: float | None = None
) -> Grant:
    """Set a share of a cap aside for one analysis: whatever others spend, it is there, and more of it never is.

    epsilon, delta: the share is that of a Gaussian plan of this epsilon at this delta (by default the ledger's). A plan
    with gradients takes more than a Gaussian one of the same epsilon; what fits, a refusal says. added_delta: for
    thresholds and samplers, by default the same share of what the cap has for them. The name is public.
    Guarantee: the cap's, for everything together (`Ledger`): proved in `log.rooms.room`.
    Errors: PrivacyRefused for more than the pool has left, and a ledger that was closed; UsageError for a name that was
        used before, numbers that make no sense, or a ledger without a cap.
    """
    meant = ledger.delta if delta is None else delta

    def make() -> tuple[str, dict[str, float | int | str]]:
        phase = grants.granted(name)
        if name in ledger.grants:
            raise UsageError(f"this ledger had a grant '{name}' before; choose another name")
        asked = _asked(_cap(ledger), (name, epsilon, meant), added_delta)
        _admit(ledger, asked)
        fields = ("epsilon", "delta", "share", "added_delta")
        return phase, {field: getattr(asked, field) for field in fields}

    ledger.note(make)
    return ledger.grants[name]


def close(ledger: Ledger, name: str = "") -> None:
    """End a grant, whose unspent share goes back to the pool; or the whole ledger: nothing may be charged any more.

    Fits that were charged before go on, and are resumed: they cost nothing more.
    Errors: UsageError for a grant that is not there; PrivacyRefused for what was closed before.
    """

    def make() -> tuple[str, dict[str, float | int | str]]:
        if name:
            grants.open_one(ledger.grants, name)
        return grants.closed(name), {}

    ledger.note(make)


def to_charge(place: str | None, grant: str, group: Group) -> Ledger | None:
    """The ledger that a command charges, or a grant of it, loaded in the first process alone; None if none is named.

    Errors: those of `Ledger.load`, in all processes; UsageError for a grant of no ledger.
    """
    if grant and place is None:
        raise UsageError("a grant is of a ledger; name that, too: --ledger")
    found: list[Ledger] = []
    if place is not None:
        group.same(lambda: found.extend([Ledger.load(place, grant)]))
    return found[0] if found else None


def note_release(ledger: Ledger | None, model: Path, say: Callable[[str], None]) -> None:
    """Note in the ledger which file its charge became. The model is there already: a note that fails is only said."""
    if ledger is None:
        return
    try:
        with files.opened(model) as file:
            ledger.released(hashlib.file_digest(file, "sha256").hexdigest())
    except (PrivaeError, OSError) as error:
        said = str(error) if isinstance(error, PrivaeError) else f"{model.name} cannot be read"
        say(f"the ledger has the charge, but no note of the file that it became: {said}")


def accounts(ledger: Ledger) -> list[Account]:
    """What every grant has spent, and has left, in order."""
    found, over = [], bool(grants.closing(ledger.entries))
    for granted in ledger.grants.values():
        room = ledger.room(granted.name)
        left = 0.0 if over or granted.closed else room.left
        found.append(Account(granted, _worth(ledger, room.used), _worth(ledger, left)))
    return found


def _asked(cap: Filter, asked: tuple[str, float, float], added: float | None) -> Grant:
    name, epsilon, delta = asked
    if not 0 < epsilon < math.inf:
        raise UsageError("a grant is of a positive, finite epsilon")
    whole = accountant.ADDED_SHARE * cap.delta
    if added is not None and not 0 <= added <= whole:
        raise UsageError(f"an added delta lies between 0 and {whole:g}, which is all that the cap has for it")
    share = accountant.gaussian_mu(epsilon, delta) ** 2 / cap.gaussians if cap.gaussians > 0 else math.inf
    return Grant(name, float(epsilon), float(delta), share, whole * share if added is None else float(added))


def _admit(ledger: Ledger, asked: Grant) -> None:
    """Raise PrivacyRefused unless the pool holds a grant."""
    room = ledger.room()
    # the first grant lowers the pool's bounds by what sums of shares may be rounded
    limit, most = (bound * (1 - rooms.ROUNDING) for bound in (room.limit, room.most))
    if room.used + asked.share > limit:
        left = rooms.floor(_worth(ledger, max(0.0, limit - room.used), asked.delta) * (1 - rooms.ROUNDING))
        advice = f"Grant --epsilon {left:g}." if left else "Nothing more may be set aside."
        of = f"{_cap(ledger).epsilon:g}"
        raise PrivacyRefused(
            f"this grant needs epsilon {asked.epsilon:g}; {left:g} of {of} can be set aside. {advice}"
        )
    if room.added + asked.added_delta > most:
        raise PrivacyRefused(
            "this grant adds more to delta than is left; set less of it aside: --added-delta"
        )


def _worth(ledger: Ledger, share: float, delta: float | None = None) -> float:
    """The epsilon of the Gaussian plan that takes a share of the filter's total."""
    mu = math.sqrt(share * _cap(ledger).gaussians)
    return accountant.epsilon([Event(1 / mu)], delta or ledger.delta) if mu > _FAINT else 0.0


def _cap(ledger: Ledger) -> Filter:
    ledger.room()  # raises where there is none
    assert ledger.cap is not None
    return ledger.cap
