"""Law: a loop that does what was accounted is hardly ever contradicted, and never shown to cost more than it does.

200 audits of the shipped loop at 99.9 %: 0.2 false alarms expected at most, and any at all in 18 of 100 choices of
keys; the keys are fixed, so the law does not flake. It would be broken by a bound that errs as seldom as 1 in 100.
"""

import numpy as np
import pytest

from privae.attacks.bounds import CONFIDENCE
from privae.audit import game
from privae.audit.game import gradient_canaries
from privae.plan import Phase
from privae.privacy import accountant
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource

AUDITS, CANARIES, DELTA = 200, 200, 1e-6
TARGETS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0)


def phase(multiplier: float) -> Phase:
    return Phase(
        name="gradients",
        kind="gradients",
        share=1.0,
        sensitivity=1.0,
        replace_ratio=2.0,
        sampling_rate=1.0,
        steps=1,
        size=CANARIES,
        noise_multiplier=multiplier,
    )


@pytest.fixture(scope="module")
def phases():
    """A phase for each epsilon, from a half to ten; what each costs is computed once."""
    made = [phase(accountant.calibrate(epsilon, DELTA, lambda s: [Event(s, 1.0, 1)])) for epsilon in TARGETS]
    costs = {one.noise_multiplier: accountant.epsilon([one.event()], DELTA) for one in made}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            game,
            "accountant",
            type("Known", (), {"epsilon": lambda events, _: costs[events[0].noise_multiplier]}),
        )
        yield made


def key(number: int) -> NoiseSource:
    return NoiseSource(number.to_bytes(32, "big"))


def audited(planned: Phase, number: int, confidence: float):
    return gradient_canaries(planned, CANARIES, DELTA, confidence, key(number))


def test_no_audit_of_the_shipped_loop_fails(phases):
    found = [audited(phases[n % len(phases)], n, CONFIDENCE) for n in range(AUDITS)]
    assert not any(one.failed for one in found)
    assert all(one.value <= one.details["epsilon"] for one in found)
    assert all(0 <= one.value <= one.power for one in found)


def test_alarms_are_as_rare_as_said_where_they_can_be_counted(phases):
    """100 audits at 90 %: at most 10 expected, 22 is 4 standard deviations."""
    found = [audited(phases[n % len(phases)], 1000 + n, 0.9) for n in range(100)]
    assert sum(one.failed for one in found) <= 22


def test_what_is_shown_grows_with_what_is_spent(phases):
    """The mean bound of five audits at 90 %, epsilon by epsilon: an attack that could see nothing would stay at 0."""
    means = [
        np.mean([audited(one, 5000 + 10 * place + n, 0.9).value for n in range(5)])
        for place, one in enumerate(phases)
    ]
    assert means[0] < means[3] < means[-1]
    assert means[-1] > 1.5
    assert all(mean <= epsilon for mean, epsilon in zip(means, TARGETS, strict=True))
