"""Law: whatever is granted, charged and closed in whichever order, all of it stays within the cap's one filter."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from privae.custody import budgets
from privae.errors import PrivacyRefused, UsageError
from privae.privacy import accountant
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event

DELTA = 1e-5
ADDED = accountant.ADDED_SHARE * DELTA
NAMES = st.sampled_from(["", "a", "b", "c"])
SIZES = st.sampled_from([0.2, 0.5, 0.9, 0.999, 1.0, 1.5, 2.5])
STEPS = st.lists(
    st.tuples(st.sampled_from(["grant", "charge", "charge", "close"]), NAMES, SIZES, SIZES), max_size=10
)


def done(ledger, step):
    """The ledger after a step that was tried; sizes are shares of what is left there, or of the cap."""
    kind, name, size, added = step
    own = Ledger(
        ledger.entries, (ledger.delta, ledger.unit, ledger.relation), None, name if kind == "charge" else ""
    )
    try:
        if kind == "grant":
            budgets.grant(own, name or "d", size, added_delta=min(ADDED, 0.3 * added * ADDED))
        elif kind == "close":
            if name:
                budgets.close(own, name)
        else:
            room = own.room(name)
            mu = math.sqrt(size * (room.left or 0.1) * own.cap.gaussians)
            events = [Event(1.5 / mu), Event(1.35 / mu)]  # together nearly one of 1 / mu
            rest = max(0.0, room.most - room.added)
            own.spend([Charge("plan", "schema", "moments", e, added_delta=added * rest / 2) for e in events])
    except (PrivacyRefused, UsageError, KeyError):
        return ledger
    return own


@given(st.sampled_from(["renyi", "gaussian"]), STEPS)
@settings(max_examples=25, deadline=None)
def test_nothing_ever_passes_the_filter(composition, steps):
    cap = accountant.Filter.fixed(2.0, DELTA, composition)
    ledger = Ledger.parse(OPENED[composition])
    for step in steps:
        ledger = done(ledger, step)
        charged = [entry for entry in ledger.entries if "noise_multiplier" in entry.event]
        used = cap.used(ledger.events, ledger.relation)
        added = math.fsum(entry.event["added_delta"] for entry in charged)
        if used > 1 or added > ADDED * (1 + 1e-12):
            # one plan alone, by its own exact figure, and nothing beside it, ever
            assert len({entry.attempt for entry in charged}) == 1
            assert accountant.epsilon(ledger.events, DELTA - added) <= 2.0
            assert all(grant.closed for grant in ledger.grants.values())
        for name, grant in ledger.grants.items():
            room = ledger.room(name)
            assert room.used <= grant.share
            assert room.added <= grant.added_delta
    assert Ledger.parse(ledger.dumps()).entries == ledger.entries


def _opened(composition):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return Ledger.open(Path(folder) / "a.jsonl", 2.0, DELTA, composition).dumps()


OPENED = {composition: _opened(composition) for composition in ("renyi", "gaussian")}
