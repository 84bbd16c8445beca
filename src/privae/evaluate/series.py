"""How close synthetic windows of series are to real ones: profiles, values, memory, channels, and what they teach.

Windows are float64 [n, T, C]: n windows of T steps of C channels, NaN for a gap. Bounds are public, low and high of
each channel; values are clipped to them, and a distance of values is in units of their width. Gaps are left out.

privacy: every figure is computed on real records without noise: for the data holder only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from privae.data.values import column_of, distinct
from privae.errors import UsageError
from privae.evaluate.detection import FEWEST, told_apart
from privae.evaluate.fidelity import Floats, of_pairs, pair_sums, pearson
from privae.evaluate.learners import boosting, fitted
from privae.evaluate.sections import Section, absent, rounded
from privae.evaluate.sets import Drawn, Windows, draw
from privae.evaluate.utility import NOTE, hindrance

Bounds = tuple[Sequence[float] | Floats, Sequence[float] | Floats]
"""The lowest and the highest value of each channel, both [C], public."""
Labels = Sequence[Any] | NDArray[Any]

WINDOWS = 5_000
"""Windows of each set that are compared; more are drawn by lot."""
PAST = 4
"""Steps from which the next one is predicted."""

_STEPS = 20_000  # at most, to learn the next one from; more are drawn by lot
_ROUNDS = 100
_GAP = -1e9  # below any value, so that boosting sees gaps; it refuses a column without a known value


def profile_distance(left: Floats, right: Floats, bounds: Bounds) -> dict[str, float]:
    """Between mean profiles, {"mean", "deviation"}: mean absolute differences, over channels and steps.

    A profile is the mean over windows at each step of each channel; "deviation" compares standard deviations. Both
    are in units of the bounds' widths.

    Shapes: [n, T, C], [k, T, C], bounds [C], [C].
    Edges: a step of a channel that without a value in either set is left out; NaN where none is left.
    Errors: as `scaled`.
    """
    parts = [_profile(scaled(windows, bounds)) for windows in _alike(left, right)]
    return {
        name: _mean_known(np.abs(parts[0][place] - parts[1][place]))
        for place, name in enumerate(("mean", "deviation"))
    }


def marginal_distance(left: Floats, right: Floats, bounds: Bounds) -> float:
    """Wasserstein-1 distance of the values of a channel, over all steps, in units of its width; mean over channels.

    Shapes: [n, T, C], [k, T, C], bounds [C], [C].
    Edges: a channel without a value in either set is left out; NaN where none is left.
    Errors: as `scaled`.
    """
    parts = [scaled(windows, bounds) for windows in _alike(left, right)]
    channels = zip(*(np.moveaxis(part.reshape(-1, part.shape[2]), 1, 0) for part in parts), strict=True)
    return _mean_known(np.array([_wasserstein(*pair) for pair in channels]))


def autocorrelation_distance(left: Floats, right: Floats, bounds: Bounds) -> float:
    """Mean absolute difference of `autocorrelations`, over channels and lags 1 ... T - 1; at most 2.

    Shapes: [n, T, C], [k, T, C], bounds [C], [C].
    Edges: a lag without a pair of known values in either set is left out; NaN where none is left.
    Errors: as `scaled`; UsageError for windows of one step.
    """
    found = [autocorrelations(windows, bounds) for windows in _alike(left, right)]
    return _mean_known(np.abs(found[0] - found[1]))


def autocorrelations(windows: Floats, bounds: Bounds) -> Floats:
    """Pearson's r of all pairs of values of a channel that are 1 ... T - 1 steps apart in the same window.

    What all windows have in common, their mean profile, is taken off first: it is `profile_distance` that compares
    profiles, and a shared time of day is no memory.

    Shapes: [n, T, C], bounds [C], [C] -> [T - 1, C].
    Edges: 0 for a channel that is its profile in every window; NaN where no pair is known.
    Errors: as `scaled`; UsageError for windows of one step.
    """
    if windows.shape[1] < 2:
        raise UsageError("windows of one step have no autocorrelation; give longer ones")
    units = scaled(windows, bounds)
    values = np.moveaxis(units - _profile(units)[0], 2, 0)
    grams = pair_sums(values)
    lags = range(1, windows.shape[1])
    return pearson(np.array([[np.trace(gram, lag, 1, 2) for lag in lags] for gram in grams]))


def correlation_distance(left: Floats, right: Floats, bounds: Bounds) -> float:
    """Mean absolute difference of Pearson's r of each two channels, over all steps where both are known; at most 2.

    Shapes: [n, T, C], [k, T, C], bounds [C], [C].
    Edges: a channel that is constant is correlated with nothing: 0; two that are never known together are left out;
    NaN where none is left.
    Errors: as `scaled`; UsageError for one channel.
    """
    parts = [scaled(windows, bounds) for windows in _alike(left, right)]
    if left.shape[2] < 2:
        raise UsageError("one channel has no pairs; give two or more")
    found = [of_pairs(pearson(pair_sums(part.reshape(-1, part.shape[2])))) for part in parts]
    return _mean_known(np.abs(found[0] - found[1]))


def next_step(train: Floats, test: Floats, seed: int = 0) -> float:
    """R2 of gradient boosting that predicts a step from the four before it, trained on some windows, on others.

    Each channel has its own learner, which sees all channels; the mean of their R2. 1 is perfect, 0 as good as
    the mean of the test's values, and below 0 worse. At most 20,000 steps of either, by lot, take part.

    Shapes: [n, T, C], [k, T, C].
    Edges: windows of two to four steps predict from as many steps as they have before the last; a step that is a
    gap is not predicted; a channel is left out where it is constant in the test, or never known in
    training; NaN where none is left.
    Errors: UsageError for windows of one step, or of different shapes.
    """
    _alike(train, test)
    if train.shape[1] < 2:
        raise UsageError("windows of one step have no next step; give longer ones")
    rng = np.random.default_rng(seed)
    (x, y), (new_x, new_y) = (_steps(windows, rng) for windows in (train, test))
    channels = zip(y.T, new_y.T, strict=True)
    return _mean_known(np.array([_r2((x, target), (new_x, truth), seed) for target, truth in channels]))


def told_windows_apart(left: Floats, right: Floats, seed: int = 0) -> float:
    """`told_apart` for windows: boosting on every value, and on its change from the step before, which tells noise.

    Shapes: [n, T, C], [k, T, C].
    Errors: UsageError for windows of different shapes, or fewer than ten on either side.
    """
    features = [_flat(windows) for windows in _alike(left, right)]
    return told_apart(features[0], features[1], boosting(None, 2, seed), seed)


def class_transfer(
    train: Floats, train_labels: Labels, test: Floats, test_labels: Labels, seed: int = 0
) -> dict[str, float]:
    """How well boosting, trained on some windows, tells the labels of others: {"accuracy"}, of two labels "auc" too.

    Windows without a label (None or NaN) take no part. A label that is in the test alone is never told right.

    Shapes: [n, T, C], [n], [k, T, C], [k].
    Errors: UsageError for windows of different shapes, a missing label, or fewer than two labels on either side.
    """
    _alike(train, test)
    places = _places((train, test), (train_labels, test_labels))
    pairs = zip((train, test), places, strict=True)
    (x, y), (new_x, new_y) = ((_flat(x)[codes >= 0], codes[codes >= 0]) for x, codes in pairs)
    if min(len(np.unique(y)), len(np.unique(new_y))) < 2:
        raise UsageError(
            "learning needs two labels among the windows to train on, and among those to test on"
        )
    names = np.unique(np.concatenate([y, new_y]))
    model = fitted(boosting(None, len(names), seed), x, y)
    result = {"accuracy": float(model.score(new_x, new_y))}
    if len(names) == 2:
        result["auc"] = float(roc_auc_score(new_y == names[1], model.predict_proba(new_x)[:, 1]))
    return result


def scaled(windows: Floats, bounds: Bounds) -> Floats:
    """Values in units of the bounds' widths, clipped to them; NaN for a gap. Shapes: [n, T, C], [C], [C] -> [n, T, C].

    Errors: UsageError for bounds that do not fit, or are not low < high.
    """
    low, high = (np.asarray(bound, dtype=np.float64) for bound in bounds)
    if low.shape != high.shape or low.shape != windows.shape[2:]:
        raise UsageError("give one low and one high bound a channel")
    if not (np.isfinite(high - low).all() and (high > low).all()):
        raise UsageError("the low bound of every channel must be below its high one, and both finite")
    return np.asarray((np.clip(windows, low, high) - low) / (high - low))


def series_figures(
    real: Floats,
    synthetic: Floats,
    test: Floats | None,
    bounds: Bounds,
    labels: tuple[Labels, Labels, Labels | None] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one set of windows, as JSON (no NaN, no infinity). For the data holder only.

    real: windows that the synthetic ones were made from; test: windows of the same population that they were not
    made from, best of other persons or of a later time, or None. labels: of the windows of all three, or None.
    A half of the real windows is compared with as many synthetic ones, at most 5,000 by lot; every `baseline` is
    the same figure between that half and the other one, so a perfect synthesizer reaches the baseline, not 0.
    Halves are drawn by lot: where windows overlap or a person has several, a baseline is better than a new draw's.

    Where a section cannot be computed it is {"value": None, "reason": in English, "reason_zh": in Chinese}. Else:

    - "note": for whom. "windows": numbers {"real", "synthetic", "test", "compared"}.
    - "profile": {"measure", "mean", "deviation", "baseline": {"mean", "deviation"}}; see `profile_distance`.
    - "marginals": {"measure", "mean", "baseline": {"mean"}}; see `marginal_distance`.
    - "autocorrelation", "correlation": {"measure", "mean_difference", "baseline": {"mean_difference"}}.
    - "detection": {"measure", "boosting", "baseline": {"boosting"}}: AUC of telling them apart; 0.5 = it cannot.
    - "next_step": {"measure", "tested_on": "held-out windows" or "half of the real windows", "synthetic", "real"}:
      trained on either, tested on the same real windows.
    - "class_transfer", only with labels: likewise, and "synthetic" and "real" are those of `class_transfer`.

    Shapes: [n, T, C], [k, T, C], [l, T, C], bounds [C], [C].
    Errors: UsageError for windows of different shapes, bounds that do not fit, or a missing label.
    """
    given = (real, synthetic) if test is None else (real, synthetic, test)
    _alike(*given)
    places = [None] * len(given) if labels is None else _places(given, labels[: len(given)])
    sets = [Windows(scaled(x, bounds), codes) for x, codes in zip(given, places, strict=True)]
    drawn = draw(sets[0], None if test is None else sets[2], sets[1], WINDOWS, np.random.default_rng(seed))
    found = {name: _distance(name, drawn, seed) for name in _DISTANCES}
    found["next_step"] = _taught(drawn, seed, _forecast)
    if labels is not None:
        found["class_transfer"] = _taught(drawn, seed, _transfer)
    return {"note": NOTE, "windows": drawn.counts, **found}


def _distance(name: str, drawn: Drawn[Windows], seed: int) -> Section:
    """A figure between real and synthetic windows beside that between two halves of the real ones."""
    measure, compute = _DISTANCES[name]
    _, steps, channels = drawn.first.x.shape
    if drawn.counts["compared"] < FEWEST:
        return absent("windows")
    if (name, steps) == ("autocorrelation", 1) or (name, channels) == ("correlation", 1):
        return absent("step" if name == "autocorrelation" else "channel")
    unit = (np.zeros(channels), np.ones(channels))  # drawn windows are scaled
    found, base = (compute(drawn.first.x, one.x, unit, seed) for one in (drawn.made, drawn.second))
    if not np.isfinite([*found.values(), *base.values()]).all():
        return absent("gaps")
    return {"measure": measure, **_rounded(found), "baseline": _rounded(base)}


def _taught(drawn: Drawn[Windows], seed: int, compute: "_Lesson") -> Section:
    """What is learned from synthetic beside what is learned from real windows, on the same real ones."""
    if drawn.counts["compared"] < FEWEST:
        return absent("windows")
    tested = "held-out windows" if drawn.held_out else "half of the real windows"
    found = compute(drawn, seed)
    return found if "reason" in found else {"tested_on": tested, **found}


def _forecast(drawn: Drawn[Windows], seed: int) -> Section:
    if drawn.first.x.shape[1] < 2:
        return absent("step")
    found, real = (next_step(one.x, drawn.test.x, seed) for one in (drawn.learned, drawn.train))
    if not np.isfinite([found, real]).all():
        return absent("gaps")
    measure = f"R2 of boosting that predicts a step from the {PAST} before it; 1 = perfect"
    return {"measure": measure, "synthetic": rounded(found), "real": rounded(real)}


def _transfer(drawn: Drawn[Windows], seed: int) -> Section:
    sets = ((one.x, one.labels) for one in (drawn.train, drawn.learned, drawn.test) if one.labels is not None)
    known = [(x[codes >= 0], codes[codes >= 0]) for x, codes in sets]
    if why := hindrance([codes for _, codes in known]):
        return absent(why)
    real, found = (_rounded(class_transfer(*pair, *known[2], seed=seed)) for pair in known[:2])
    return {
        "measure": "labels told right by boosting on values and changes",
        "synthetic": found,
        "real": real,
    }


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: rounded(value) for name, value in figures.items()}


_Lesson = Callable[[Drawn[Windows], int], Section]
_DISTANCES: dict[str, tuple[str, Callable[[Floats, Floats, Bounds, int], dict[str, float]]]] = {
    "profile": (
        "mean profiles, and deviations from them, apart in widths of the bounds; 0 = alike",
        lambda left, right, unit, _: profile_distance(left, right, unit),
    ),
    "marginals": (
        "Wasserstein-1 of a channel's values, in widths of its bounds; 0 = alike",
        lambda left, right, unit, _: {"mean": marginal_distance(left, right, unit)},
    ),
    "autocorrelation": (
        "Pearson's r of a channel, less its mean profile, with itself 1 to T - 1 steps later",
        lambda left, right, unit, _: {"mean_difference": autocorrelation_distance(left, right, unit)},
    ),
    "correlation": (
        "Pearson's r of each two channels",
        lambda left, right, unit, _: {"mean_difference": correlation_distance(left, right, unit)},
    ),
    "detection": (
        "AUC of telling synthetic from real windows, cross-validated; 0.5 = it cannot; boosting on values and changes",
        lambda left, right, _, seed: {"boosting": told_windows_apart(left, right, seed)},
    ),
}


def _alike(*sets: Floats) -> tuple[Floats, ...]:
    """The sets, if they are windows of the same steps and channels."""
    if any(x.ndim != 3 for x in sets) or len({x.shape[1:] for x in sets}) > 1:
        raise UsageError(
            "the sets of windows differ in shape; give windows [n, steps, channels] of one shape"
        )
    if not all(x.size for x in sets):
        raise UsageError("there are no windows to compare; give at least one on either side")
    if any(np.isinf(x).any() for x in sets):
        raise UsageError("a value of a window is infinite; give numbers, and NaN for a gap")
    return sets


def _places(sets: Sequence[Floats], labels: Sequence[Labels | None]) -> list[NDArray[np.int64]]:
    """The place of each label among those of all sets, -1 for a gap."""
    parts = [[] if found is None else list(found) for found in labels]
    if [len(part) for part in parts] != [len(x) for x in sets]:
        raise UsageError("give one label a window, of every set of windows")
    places, _ = distinct(column_of([label for part in parts for label in part]))
    return np.split(places, np.cumsum([len(part) for part in parts])[:-1])


def _profile(units: Floats) -> tuple[Floats, Floats]:
    """Means and standard deviations over windows, NaN where none is known. Shapes: [n, T, C] -> [T, C], [T, C]."""
    known = ~np.isnan(units)
    count = np.where(known.any(0), known.sum(0), np.nan)
    mean = np.where(known, units, 0.0).sum(0) / count
    return mean, np.sqrt((np.where(known, units - mean, 0.0) ** 2).sum(0) / count)


def _wasserstein(left: Floats, right: Floats) -> float:
    known = [values[~np.isnan(values)] for values in (left, right)]
    return float(wasserstein_distance(*known)) if all(map(len, known)) else np.nan


def _flat(windows: Floats) -> Floats:
    """Values and their changes, one row a window. Shapes: [n, T, C] -> [n, (2 T - 1) C]."""
    changes = np.diff(windows, axis=1)
    values = np.concatenate([windows, changes], 1).reshape(len(windows), -1)
    return np.asarray(np.nan_to_num(values, nan=_GAP))


def _steps(windows: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Four steps and the one after them, at most 20,000 times by lot. Shapes: [n, T, C] -> [m, 4 C], [m, C]."""
    past = min(PAST, windows.shape[1] - 1)
    views = np.lib.stride_tricks.sliding_window_view(windows, past + 1, axis=1)
    count, spans = views.shape[:2]
    window, start = np.divmod(rng.permutation(count * spans)[:_STEPS], spans)
    chosen = views[window, start]
    return np.nan_to_num(chosen[:, :, :past].reshape(len(chosen), -1), nan=_GAP), chosen[:, :, past]


def _r2(train: tuple[Floats, Floats], test: tuple[Floats, Floats], seed: int) -> float:
    """R2 of one channel, NaN where it cannot be told. Shapes: [m, d], [m]."""
    (x, y), (new_x, new_y) = (
        (one[~np.isnan(target)], target[~np.isnan(target)]) for one, target in (train, test)
    )
    if not len(y) or not len(new_y) or np.ptp(new_y) == 0:
        return np.nan
    model = HistGradientBoostingRegressor(max_iter=_ROUNDS, early_stopping=False, random_state=seed)
    return float(model.fit(x, y).score(new_x, new_y))


def _mean_known(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
