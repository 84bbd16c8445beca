"""From guesses to bounds: epsilon lower bounds with their power, exact intervals of shares, AUC, TPR at a FPR.

Every function takes a `confidence` that its caller has corrected already for all findings of one audit.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privae.errors import UsageError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]

CONFIDENCE = 0.999
"""Of a whole audit, all of its findings together (guarantees.md rule 22)."""

_LARGEST = 60.0  # epsilon at which a search for a bound ends
_CURVE = 200  # points of a ROC curve
_ASYMPTOTIC = 200  # records of a kind from which a normal approximation of the AUC is trusted


@dataclass(frozen=True)
class Interval:
    """A value between two bounds."""

    value: float
    low: float
    high: float


def corrected(findings: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of one of so many findings, so that all of them hold together (Bonferroni).

    >>> round(corrected(10), 6)
    0.9999
    """
    return 1 - (1 - confidence) / max(findings, 1)


def one_run_p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Largest probability, under (epsilon, delta), of at least so many right guesses in one run.

    `canaries` units were each included by a secret fair coin of its own, and `guesses` of the coins were guessed,
    the others not. Add-or-remove.
    Source: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, Theorem 5.2.

    >>> one_run_p_value(10, 10, 10, 0.0, 0.0) == 0.5**10
    True
    """
    if not 0 <= right <= guesses <= canaries:
        raise UsageError("right guesses are at most the guesses, and those at most the canaries")
    rate = 1 / (1 + math.exp(-epsilon))
    beta = float(stats.binom.sf(right - 1, guesses, rate))
    if delta == 0 or right == 0:
        return min(beta, 1.0)
    short = np.arange(1, right + 1)  # how many guesses a failure of probability delta may turn right
    below = stats.binom.cdf(right - 1, guesses, rate) - stats.binom.cdf(right - 1 - short, guesses, rate)
    return min(beta + 2 * canaries * delta * float((below / short).max()), 1.0)


def one_run_bound(right: int, guesses: int, canaries: int, delta: float, confidence: float) -> float:
    """Epsilon lower bound from the guesses of one run: the largest epsilon that they reject, 0 if they reject none.

    Guarantee: a mechanism that is (epsilon, delta)-private for each canary gives a bound above epsilon with
    probability at most 1 - confidence, for a number of guesses that was fixed beforehand.

    >>> round(one_run_bound(100, 100, 100, 0.0, 0.999), 2), round(one_run_bound(1000, 1000, 1000, 0.0, 0.999), 2)
    (2.64, 4.97)
    """
    level = 1 - confidence

    def rejected(epsilon: float) -> bool:
        return one_run_p_value(right, guesses, canaries, epsilon, delta) < level

    if not rejected(0.0):
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def one_run_power(guesses: int, canaries: int, delta: float, confidence: float) -> float:
    """The bound that one run would give if every guess were right."""
    return one_run_bound(guesses, guesses, canaries, delta, confidence)


def guessed(scores: Floats, included: Bools, guesses: int) -> int:
    """Right guesses, when the highest half of `guesses` is guessed to be in, and the lowest half to be out.

    Shapes: scores and included [n]; a higher score means "in". Ties are broken by place, which coins do not know.
    """
    each = min(guesses // 2, len(scores) // 2)
    order = np.argsort(scores, kind="stable")
    return int(included[order[len(order) - each :]].sum() + (~included[order[:each]]).sum())


def guesses_about(canaries: int) -> int:
    """How many of so many coins are guessed: half of them.

    >>> guesses_about(500), guesses_about(2), guesses_about(1)
    (250, 2, 0)
    """
    return 2 * max(canaries // 4, min(canaries // 2, 1))


def scores_bound(
    scores: Floats, included: Bools, delta: float, confidence: float
) -> tuple[float, float, int, int]:
    """Epsilon lower bound from scores of canaries, its power, and the right guesses among how many.

    Half of the canaries are guessed, those with the highest and the lowest scores: a number fixed beforehand. Fewer
    guesses are more often right, but prove less, and delta weighs more on them.
    """
    guesses = guesses_about(len(scores))
    right = guessed(scores, included, guesses)
    bound = one_run_bound(right, guesses, len(scores), delta, confidence)
    return bound, one_run_power(guesses, len(scores), delta, confidence), right, guesses


def share(hits: int, trials: int, confidence: float) -> Interval:
    """A share with its exact interval, both sides together at `confidence`. No trials: [0, 1].

    Source: Clopper and Pearson 1934.
    """
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.isf(tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return Interval(hits / trials, low, high)


def game_bound(with_it: tuple[int, int], without: tuple[int, int], delta: float, confidence: float) -> float:
    """Epsilon lower bound of a game of many runs: an event's (hits, runs) with a unit and without it.

    Both directions and both the event and its complement are tried, all at `confidence` together: the two shares
    have exact intervals, which hold or fail together, whatever is computed from them.

    >>> round(game_bound((1000, 1000), (0, 1000), 0.0, 0.95), 2)
    5.61
    """
    level = 1 - (1 - confidence) / 2
    shares = [share(*runs, level) for runs in (with_it, without)]
    shares += [Interval(1 - s.value, 1 - s.high, 1 - s.low) for s in shares]
    inside, outside, not_inside, not_outside = shares
    best = 0.0
    for more, less in (
        (inside, outside),
        (outside, inside),
        (not_inside, not_outside),
        (not_outside, not_inside),
    ):
        if more.low > delta and less.high > 0:
            best = max(best, math.log((more.low - delta) / less.high))
    return best


def auc(members: Floats, others: Floats) -> float:
    """Probability that a member scores higher than another record, ties counting half: [n], [m] -> a share."""
    ranks = stats.rankdata(np.concatenate([members, others]))
    above = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(above / (len(members) * len(others)))


def auc_interval(members: Floats, others: Floats, confidence: float) -> Interval:
    """AUC with DeLong's interval, which is asymptotic; with Hoeffding's, which always holds, for under 200 of a kind.

    Source: DeLong et al. 1988; Hoeffding 1963 for two-sample U-statistics.
    """
    value, (n, m) = auc(members, others), (len(members), len(others))
    ranks = stats.rankdata(np.concatenate([members, others]))
    inside = (ranks[:n] - stats.rankdata(members)) / m
    outside = 1 - (ranks[n:] - stats.rankdata(others)) / n
    variance = (inside.var(ddof=1) / n if n > 1 else 1.0) + (outside.var(ddof=1) / m if m > 1 else 1.0)
    half = float(stats.norm.isf((1 - confidence) / 2)) * math.sqrt(variance)
    if variance == 0 or min(n, m) < _ASYMPTOTIC:
        half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * min(n, m)))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def tpr_at_fpr(members: Floats, others: Floats, fpr: float, confidence: float) -> Interval:
    """Share of members above the lowest threshold that at most a share `fpr` of the others is above."""
    allowed = math.floor(fpr * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed] if allowed < len(others) else -math.inf
    return share(int((members > threshold).sum()), len(members), confidence)


def roc(members: Floats, others: Floats) -> dict[str, list[float]]:
    """Points of the ROC curve: {"fpr": [...], "tpr": [...]}, at most 200, dense where the FPR is small."""
    scores = np.concatenate([members, others])
    cuts = np.unique(scores)[::-1]
    fpr = 1 - np.searchsorted(np.sort(others), cuts, side="left") / len(others)
    tpr = 1 - np.searchsorted(np.sort(members), cuts, side="left") / len(members)
    wanted = np.unique(
        np.searchsorted(
            fpr,
            np.concatenate([np.geomspace(1 / len(others), 1, _CURVE // 2), np.linspace(0, 1, _CURVE // 2)]),
        )
    )
    kept = wanted[wanted < len(cuts)]
    return {
        "fpr": [0.0, *np.round(fpr[kept], 6).tolist(), 1.0],
        "tpr": [0.0, *np.round(tpr[kept], 6).tolist(), 1.0],
    }


def excess(
    members: tuple[int, int], others: tuple[int, int], epsilon: float, delta: float, confidence: float
) -> tuple[float, bool]:
    """Lower bound of the difference of two shares (hits, trials), and whether they contradict (epsilon, delta).

    Contradiction: the members' share is surely above e^epsilon times the others' plus delta, by two exact intervals,
    one side of each, at `confidence` together; where no difference is allowed at all, by Fisher's exact test.
    """
    inside, outside = (share(*runs, confidence) for runs in (members, others))
    above = inside.low - outside.high
    if epsilon == 0 and delta == 0:
        hits, trials = members[0] + others[0], members[1] + others[1]
        return above, bool(stats.hypergeom.sf(members[0] - 1, trials, hits, members[1]) < 1 - confidence)
    return above, inside.low > math.exp(min(epsilon, 700.0)) * outside.high + delta


def balanced(members: int, others: int, rng: np.random.Generator) -> tuple[Places, Places]:
    """Places of as many members as others, drawn by lot."""
    each = min(members, others)
    return np.sort(rng.permutation(members)[:each]), np.sort(rng.permutation(others)[:each])


def thinned(members: int, kept_out: float, rng: np.random.Generator) -> Places:
    """Places of members that were drawn with probability p / (1 - p), p being the chance to be kept out of the fit.

    Guarantee: if every record was kept out by a coin of its own with probability p <= 1/2, then among those that
    were kept out or drawn here each was a member by a fair coin, independently of all others: the chance of both is
    (1 - p) p / (1 - p) = p. That is what `one_run_bound` asks.
    """
    return np.flatnonzero(rng.random(members) < min(kept_out / (1 - kept_out), 1.0))
