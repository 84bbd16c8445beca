"""What may still be charged to a capped ledger: to each grant, and to the pool that no grant has set aside."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from privae.log.grants import Grant

ROUNDING = 1e-9
"""Of a total: more than float64 loses where shares of it are added up; nobody misses it."""

_LOUDEST = 2.0**30  # factor on the noise beyond which a plan is given up

Taken = Mapping[str, tuple[float, float]]
"""What was spent from each grant, and as "" from the pool: of the filter's total, and added to delta."""


@dataclass(frozen=True)
class Room:
    """A grant, or the pool: what was spent from it, and the most that may be.

    used, limit: of the total of the cap's filter, which is 1. added, most: of delta, for thresholds and samplers.
    alone: nothing was spent or set aside anywhere, so that one plan may have the whole cap by its own figure.
    """

    used: float
    added: float
    limit: float
    most: float
    alone: bool = False

    @property
    def left(self) -> float:
        """Of the filter's total, what may still be charged."""
        return max(0.0, self.limit - self.used)

    def holds(self, used: float, added: float) -> bool:
        """Whether one more plan fits that takes `used` of the total and adds `added` to delta."""
        return self.used + used <= self.limit and self.added + added <= self.most


def room(name: str, grants: Mapping[str, Grant], taken: Taken, added: float) -> Room:
    """The room of a grant, or as "" that of the pool. added: A, all that plans may add to delta.

    A grant has the share s of the filter's total, and a of A, that it was given. The pool has the rest: 1 less s of
    each open grant, less what was really spent from each closed one; and of A alike.
    Guarantee: if every plan is charged to a room that holds it, and every grant that is made is held by the pool, then
        all that was ever charged takes at most 1 of the total and adds at most A, in whatever order, and however plans,
        grants and closings are chosen after seeing what earlier plans released.
    Proof. Let T be what was spent from the pool, and s of each open grant, and what was spent from each closed one.
        A plan of the pool, and a new grant, are held only if T <= 1 afterwards. A plan of a grant leaves T as it is,
        and what is spent from the grant at most s. Closing a grant puts what was spent from it in the place of s, so
        T does not grow. Hence T <= 1 always, and what was ever charged takes at most T, for what a filter counts simply
        adds up, and a grant's is at most s. The same holds for A. The bounds depend on the cap and the grants alone,
        which is what a filter needs: its total and order are fixed at opening (`accountant.Filter`, guarantees.md
        rule 17).
    Rounding: where there are grants, the pool's bounds are lower by 1e-9, far more than sums of doubles are off.
    """
    used, spent = taken.get(name, (0.0, 0.0))
    if name:
        return Room(used, spent, grants[name].share, grants[name].added_delta)
    kept = [
        taken.get(grant.name, (0.0, 0.0)) if grant.closed else (grant.share, grant.added_delta)
        for grant in grants.values()
    ]
    whole = 1 - ROUNDING if grants else 1.0
    limit, most = whole - math.fsum(share for share, _ in kept), added * whole - math.fsum(a for _, a in kept)
    alone = all(grant.closed for grant in grants.values()) and not taken
    return Room(used, spent, limit, most, alone)


def floor(epsilon: float) -> float:
    """An epsilon to advise: rounded down to three digits after the point."""
    return math.floor(epsilon * 1000) / 1000


def smallest(fits: Callable[[float], bool]) -> float:
    """The smallest factor on a plan's noise, to 0.01 %, with which it fits; inf if none up to 2^30 does."""
    low, high = 0.0, 1.0
    while not fits(high):
        low, high = high, high * 2
        if high > _LOUDEST:
            return math.inf
    while high > low * 1.0001 and high > 1 / _LOUDEST:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
