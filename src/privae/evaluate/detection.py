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

from privae.data.codec import Codec
from privae.data.values import numbers
from privae.errors import UsageError
from privae.evaluate.fidelity import low_pass_and_bands
from privae.evaluate.learners import Codes, boosting, categorical, fitted, logistic, onehot

Floats = NDArray[np.float64]

FOLDS = 3
FEWEST = 10
"""Rows on either side, below which no classifier is asked."""
ITERATIONS = 100

_TOPS = (10, 100)


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
    found, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if found.ndim != 1 or found.shape != truth.shape:
        raise UsageError("give one score and one label a row")
    if not np.isfinite(found).all():
        raise UsageError("a score is no finite number; scores are numbers, higher for stranger rows")
    if truth.all() or not truth.any():
        return {
            "value": None,
            "reason": "all rows have the same label, so there is nothing to find",
            "reason_zh": "所有行的标签都相同，没有可供检出的对象",
        }
    return {
        "auc": _rounded(roc_auc_score(truth, found)),
        "average_precision": _rounded(average_precision_score(truth, found)),
        "precision_at": {str(top): _precision(found, truth, top) for top in tops if 1 <= top <= len(found)},
        "share": _rounded(truth.mean()),
    }


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
            found, _ = numbers(frame.iloc[:, header.index(column.name)])
            edges = column.numeric_bins.edges
            result[:, place] = np.clip(found, edges[0], edges[-1])
    return result


def _rounded(value: float) -> float:
    return round(float(value), 4)
