"""The promise of a training of one's own: what its ledger says that was released, as a printed guarantee."""

import math
from collections.abc import Iterator

from privae.errors import PrivacyRefused, UsageError
from privae.plan import MOST_NUMBERS, PLACES, sampler_delta
from privae.privacy import accountant
from privae.privacy.gradients import Summation
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Relation
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Sampling


def promised(ledger: Ledger, noise: NoiseSource, sampling: Sampling, summation: Summation) -> Guarantee:
    """The guarantee of everything that was charged to a model's own ledger, at the ledger's delta.

    Guarantee: that of `accountant.epsilon`, if each release was charged before it was made, by the event of
    `sampling`, all parameters were fixed before the first one, and all noise came from `noise`. Of the ledger's
    delta the accountant gets what neither the sampler of the noise, nor cut batches, nor what was charged as
    added takes; the first two grow with epsilon, so they are taken at a little more than the figure that they
    are part of. Replacing a unit can cost what was charged as added twice.
    Edges: nothing charged -> epsilon 0; a release without noise, or a delta that is used up -> infinity.
    Errors: UsageError for a data set's ledger (its cap is the promise for all plans together); PrivacyRefused
    where more noise was drawn than delta pays for.
    """
    if ledger.cap is not None:
        raise UsageError("a guarantee is of a model's own ledger; charge the plan to Ledger.fresh(delta) too")
    if noise.numbers_drawn > MOST_NUMBERS:
        raise PrivacyRefused("more noise was drawn than delta pays for; plan fewer steps")
    found, (rest, added, sampler) = _settled(ledger, sampling, "add_or_remove")
    replaced, _ = _settled(ledger, sampling, "replace_one")
    return Guarantee(
        epsilon=found,
        delta=ledger.delta,
        epsilon_replace_one=max(found, replaced),
        accountant=accountant.method(ledger.events, rest),
        delta_accountant=rest,
        delta_threshold=added,
        delta_sampler=sampler,
        not_covered=tuple(_not_covered(noise, summation)),
        unit=ledger.unit,
        relation=ledger.relation,
    )


def _settled(
    ledger: Ledger, sampling: Sampling, relation: Relation
) -> tuple[float, tuple[float, float, float]]:
    """Epsilon, and the parts of delta: the accountant's, what was added, the noise sampler's."""
    steps = sum(event.steps for event in ledger.events)
    charged = math.fsum(float(entry.event["added_delta"]) for entry in ledger.entries)
    guess = 1e-6
    while True:
        sampler = sampler_delta(guess)
        added = charged * (2 if relation == "replace_one" else 1) + sampling.added_delta(guess, steps)
        rest = ledger.delta - added - sampler
        if rest <= 0:
            return math.inf, (ledger.delta, 0.0, 0.0)
        found = accountant.epsilon(ledger.events, rest, relation)
        if found <= guess or found == math.inf:
            return found, (rest, added, sampler)
        # privacy: what is taken of delta grows with epsilon, so it is taken at no less than what comes out
        guess = 1.001 * found


def _not_covered(noise: NoiseSource, summation: Summation) -> Iterator[str]:
    if noise.fixed:
        yield "a noise key was given by hand: whoever knows it can remove the noise; for tests only"
    yield "your code: the model, its first weights, and a loss that keeps records apart on all values, as on the probe"
    yield "rates, steps, rows, clip norm and every other setting: they are public choices"
    yield "what else leaves: figures computed on the records, files and screens, error messages, timing"
    yield "the noise key is assumed secret and its AES-256-CTR keystream pseudorandom"
    yield "facts about groups: what is true of many records may be learned about each of them"
    yield "other fits of the same data, unless all of them share one ledger; trying settings out is a fit too"
    if summation.precision == "float32":
        yield "floating-point summation of gradients in float32"
    yield PLACES
