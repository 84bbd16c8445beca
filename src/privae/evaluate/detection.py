"""Telling apart: synthetic from real rows by a classifier, and anomalies from the rest by their scores.

privacy: every figure is computed on real records without noise: for the data holder only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from privae.data.codec import Codec, acted
from privae.data.values import numbers
from privae.errors import UsageError
from privae.evaluate.fidelity import low_pass_and_bands
from privae.evaluate.learners import Codes, boosting, categorical, fitted, logistic, onehot

Floats = NDArray[np.float64]

FOLDS = 3
FEWEST = 10
"""Rows on either side, below which no classifier is asked."""
ITERATIONS = 100

MOST_BUFFERS = 16
"""Lengths of buffers at which a surface is computed; between them it is taken as straight."""

_TOPS = (10, 100)
_LOTS = 3
_ONE_LABEL = {
    "value": None,
    "reason": "all rows have the same label, so there is nothing to find",
    "reason_zh": "所有行的标签都相同，没有可供检出的对象",
}


def told_apart(left: Any, right: Any, model: Any, seed: int = 0) -> float:  # noqa: ANN401
    """AUC of a classifier that tells the right rows from the left ones, on rows that it did not see; 0.5 = it cannot.

    Three folds, the mean of their AUC. Below 0.5: rows of one side are copies of the other's.

    Shapes: features [n, d] and [k, d], dense or sparse.
    Errors: UsageError for fewer than ten rows on either side.
    """
    if min(left.shape[0], right.shape[0]) < FEWEST:
        raise UsageError(f"telling rows apart needs at least {FEWEST} on either side; give more rows")
    x = sparse.vstack([left, right]).tocsr() if sparse.issparse(left) else np.concatenate([left, right])
    y = np.repeat([0, 1], [left.shape[0], right.shape[0]])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)
    found = [
        roc_auc_score(y[test], fitted(model, x[train], y[train]).predict_proba(x[test])[:, 1])
        for train, test in folds
    ]
    return float(np.mean(found))


def tables_told_apart(
    left: tuple[pd.DataFrame, Codes], right: tuple[pd.DataFrame, Codes], codec: Codec, seed: int = 0
) -> dict[str, float]:
    """`told_apart` for rows and their codes, by {"logistic": over cells, "boosting": over values}.

    Boosting sees the numbers themselves, clipped to their bounds, so it also finds what cells cannot show.
    """
    sizes = codec.sizes + 1
    cells = [onehot(codes + 1, sizes) for _, codes in (left, right)]
    values = [_values(frame, codes, codec) for frame, codes in (left, right)]
    booster = boosting(categorical(codec, range(len(sizes))), 2, seed)
    return {
        "logistic": told_apart(cells[0], cells[1], logistic(ITERATIONS), seed),
        "boosting": told_apart(values[0], values[1], booster, seed),
    }


def images_told_apart(left: NDArray[np.uint8], right: NDArray[np.uint8], seed: int = 0) -> dict[str, float]:
    """`told_apart` for images, by {"logistic": over pixels, "boosting": over low frequencies and band energies}."""
    pixels = [images.reshape(len(images), -1) / 255.0 for images in (left, right)]
    features = [low_pass_and_bands(images) for images in (left, right)]
    return {
        "logistic": told_apart(pixels[0], pixels[1], logistic(ITERATIONS), seed),
        "boosting": told_apart(features[0], features[1], boosting(None, 2, seed), seed),
    }


def anomaly_figures(
    scores: Sequence[float] | Floats, labels: Sequence[Any] | NDArray[Any], tops: Sequence[int] = _TOPS
) -> dict[str, Any]:
    """How well scores find anomalies: {"auc", "average_precision", "precision_at": {"10": ...}, "share"}.

    A higher score is stranger; labels are true (or 1) for an anomaly. `precision_at` k is the share of anomalies
    among the k strangest, k up to the number of rows; ties are counted as if ordered by lot. "share" is that of
    anomalies among all rows, what guessing gives for both precisions.

    Shapes: [n], [n].
    Edges: where all labels are the same, {"value": None, "reason", "reason_zh"}.
    Errors: UsageError for other lengths, or a score that is no finite number.

    >>> anomaly_figures([3.0, 2.0, 1.0, 0.0], [1, 0, 1, 0], tops=(1, 3))["precision_at"]
    {'1': 1.0, '3': 0.6667}
    """
    found, truth = _scored(scores, labels)
    if truth.all() or not truth.any():
        return dict(_ONE_LABEL)
    return {
        "auc": _rounded(roc_auc_score(truth, found)),
        "average_precision": _rounded(average_precision_score(truth, found)),
        "precision_at": {str(top): _precision(found, truth, top) for top in tops if 1 <= top <= len(found)},
        "share": _rounded(truth.mean()),
    }


def range_figures(
    scores: Sequence[float] | Floats, labels: Sequence[Any] | NDArray[Any], width: int
) -> dict[str, Any]:
    """How well scores find anomalous ranges of one series: volumes under the surface, beside figures of points.

    A higher score is stranger; labels are true (or 1) for each anomalous point, in the order of time. The volumes
    forgive a score that comes a little early or late: every range gets a buffer of l // 2 points at each end, worth
    sqrt(1 - distance / l), which counts where it is found and is not missed where it is not; the share that is
    found of it all is multiplied by the share of ranges that are found anywhere.

    - "vus_roc", "vus_pr": means over l = 0 ... width of the area under the curve of that against false alarms, and of
      its average precision. Every score is a threshold; every l is computed up to 31, beyond it 32 of them, and
      straight between these. A usual width is the length of an anomaly, or a period.
    - "by_lot": {"vus_roc", "vus_pr"} of the same scores in random order, means of three: what guessing gives, which
      is *not* 0.5, and the more the wider the buffers are (0.75 where 1 % is anomalous and width is 5 ranges long).
    - "auc", "average_precision", "share": of points, as in `anomaly_figures`; the volumes of one range at width 0.

    There is no point-adjusted F1, on purpose: it counts a whole range as found for one hit, so random scores look
    like the state of the art with it (Kim et al. 2022, arXiv:2109.05257).

    Shapes: [n], [n].
    Edges: where all labels are the same, {"value": None, "reason", "reason_zh"}; buffers end where the series does.
    Errors: UsageError for other lengths, a score that is no finite number, or a width below 0.
    Source: Paparrizos et al. 2022, "Volume Under the Surface", PVLDB 15(11), and arXiv:2502.13318, as their packages
    compute it by default: vus 0.0.6 and TSB-AD 1.5, of which buffers that are missed only where found are.

    >>> range_figures([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1], width=0)["vus_roc"]
    1.0
    """
    found, truth = _scored(scores, labels)
    if int(width) != width or width < 0:
        raise UsageError("the width of a buffer is a whole number of points, 0 or more")
    if truth.all() or not truth.any():
        return dict(_ONE_LABEL)
    rng = np.random.default_rng(0)
    lots = [_volumes(rng.permutation(found), truth, int(width)) for _ in range(_LOTS)]
    return {
        **_volume_names(_volumes(found, truth, int(width))),
        "by_lot": _volume_names(np.mean(lots, axis=0)),
        "auc": _rounded(roc_auc_score(truth, found)),
        "average_precision": _rounded(average_precision_score(truth, found)),
        "share": _rounded(truth.mean()),
    }


def _volume_names(volumes: Floats) -> dict[str, float]:
    return dict(zip(("vus_roc", "vus_pr"), map(_rounded, volumes.tolist()), strict=True))


def _volumes(scores: Floats, truth: NDArray[np.bool_], width: int) -> Floats:
    """Means of `_areas` over l = 0 ... width, [2]. Two l share a length of buffers: even and odd ones are two lines."""
    most = width // 2
    buffers = np.unique(np.linspace(0, most, min(most + 1, MOST_BUFFERS)).round().astype(np.int64))
    surface = np.array([[_areas(scores, truth, 2 * b + odd) for odd in (0, 1)] for b in buffers.tolist()])
    lines = np.array([[np.interp(np.arange(most + 1), buffers, line) for line in one] for one in surface.T])
    return np.asarray(lines.transpose(0, 2, 1).reshape(len(lines), -1)[:, : width + 1].mean(1))


def _areas(scores: Floats, truth: NDArray[np.bool_], width: int) -> tuple[float, float]:
    """Areas under the curves of ranges at one width: of finds against false alarms, and of precision against finds."""
    starts, ends = _ranges(truth)
    worth = _buffered(truth, starts, ends, width)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # a threshold takes all points with its score
    thresholds, called = scores[order][last], 1.0 + np.flatnonzero(last)
    hits = np.cumsum(worth[order])[last]
    buffered = np.cumsum(np.where(truth, 0.0, worth)[order])[last]
    positives = truth.sum() + buffered / 2
    strongest = np.sort(_strongest(scores, starts, ends, width // 2))
    existence = 1 - np.searchsorted(strongest, thresholds) / len(strongest)
    finds = np.concatenate([[0.0], np.minimum(hits / positives, 1) * existence])
    alarms = np.concatenate([[0.0], (called - hits) / (len(truth) - positives)])
    area = np.trapezoid(np.append(finds, 1.0), np.append(alarms, 1.0))
    return float(area), float((np.diff(finds) * hits / called).sum())


def _ranges(truth: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last points of the ranges. Shapes: [n] -> [k], [k]."""
    change = np.diff(np.concatenate([[0], truth.astype(np.int8), [0]]))
    return np.flatnonzero(change == 1), np.flatnonzero(change == -1) - 1


def _buffered(
    truth: NDArray[np.bool_], starts: NDArray[np.int64], ends: NDArray[np.int64], width: int
) -> Floats:
    """Labels with their buffers, which add up to 1 at most. Shapes: [n], [k], [k] -> [n]."""
    distance = np.arange(width // 2 + 1)
    slope = np.where(distance > 0, np.sqrt(1 - distance / max(width, 1)), 0.0)
    marks = np.zeros((2, len(truth)))
    marks[0, ends], marks[1, len(truth) - 1 - starts] = 1, 1
    after, before = (np.convolve(mark, slope)[: len(truth)] for mark in marks)
    return np.asarray(np.minimum(1.0, truth + after + before[::-1]))


def _strongest(scores: Floats, starts: NDArray[np.int64], ends: NDArray[np.int64], buffer: int) -> Floats:
    """Highest score of each range and its buffers; ranges whose buffers share a point are one. Shapes: -> [<= k]."""
    apart = ends[:-1] + buffer < starts[1:] - buffer
    first = np.maximum(starts[np.append(True, apart)] - buffer, 0)
    after = np.minimum(ends[np.append(apart, True)] + buffer + 1, len(scores))
    edges = np.stack([first, after], 1).ravel()
    return np.asarray(np.maximum.reduceat(np.append(scores, -np.inf), edges)[::2])


def _scored(
    scores: Sequence[float] | Floats, labels: Sequence[Any] | NDArray[Any]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores and labels as arrays; see the errors of `anomaly_figures`."""
    found, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if found.ndim != 1 or found.shape != truth.shape:
        raise UsageError("give one score and one label a row")
    if not np.isfinite(found).all():
        raise UsageError("a score is no finite number; scores are numbers, higher for stranger rows")
    return found, truth


def _precision(scores: Floats, truth: NDArray[np.bool_], top: int) -> float:
    """Share of anomalies among the highest scores; of rows that tie at the edge, their mean."""
    edge = np.sort(scores)[len(scores) - top]
    above, tied = scores > edge, scores == edge
    return _rounded((truth[above].sum() + truth[tied].mean() * (top - above.sum())) / top)


def _values(frame: pd.DataFrame, codes: Codes, codec: Codec) -> Floats:
    """Numbers as they are, within their bounds, and codes of everything else; NaN for a gap. Shapes: -> [n, m]."""
    result = np.where(codes < 0, np.nan, codes.astype(np.float64))
    header = [str(name) for name in frame.columns]
    for place, column in enumerate(codec.schema.kept):
        if column.kind == "numeric" and column.name in header:
            found, _ = numbers(acted(column, frame.iloc[:, header.index(column.name)]))
            edges = column.numeric_bins.edges
            result[:, place] = np.clip(found, edges[0], edges[-1])
    return result


def _rounded(value: float) -> float:
    return round(float(value), 4)
