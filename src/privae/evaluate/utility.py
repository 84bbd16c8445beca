"""What synthetic data are good for: learn on them and test on real rows; and all figures of one data set at once.

privacy: every figure is computed on real records without noise: for the data holder only.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from privae.data.codec import Codec
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.errors import UsageError
from privae.evaluate import detection, sections
from privae.evaluate.learners import Codes, boosting, categorical, fitted, logistic, onehot
from privae.evaluate.sets import Drawn, Pictures, Table, draw, pictures

Images = tuple[NDArray[np.uint8], Any]
"""uint8 [n, h, w] and labels [n], or None."""
Data = pd.DataFrame | Images

ROWS = 10_000
"""Rows of each set that are compared; more are drawn by lot."""
IMAGES = 5_000
ITERATIONS = 300
IMAGE_ITERATIONS = 50
MODELS = ("logistic", "boosting")
NOTE = "computed on real data: for the data holder only"


class Watch(Protocol):
    """What a progress display must understand; see `training.watch`."""

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins."""

    def advance(self, count: int) -> None:
        """`count` steps were done."""


def measure(codec: Codec) -> str:
    """What says how well the label is predicted: AUC where it has two cells (a gap is none), else accuracy."""
    return "AUC" if codec.label is not None and _classes(codec) == 2 else "accuracy"


def table_scores(
    train: Codes, test: Codes, codec: Codec, models: Sequence[str] = MODELS, seed: int = 0
) -> dict[str, float]:
    """How well each model, trained on some rows, predicts the label of others; see `measure`.

    "logistic" is a logistic regression on one-hot cells, "boosting" gradient boosting on codes. Rows without a
    known label take no part.

    Shapes: codes [n, m], [k, m].
    Errors: UsageError where the schema names no label, or all rows of either set have the same one.
    """
    if codec.label is None:
        raise UsageError("the schema names no label; name it under [table]")
    if len(codec.names) < 2:
        raise UsageError("the label is the only column, so nothing can predict it")
    (x, y), (new_x, new_y) = (_learnable(codes, codec) for codes in (train, test))
    if min(len(np.unique(y)), len(np.unique(new_y))) < 2:
        raise UsageError("learning needs two labels among the rows to train on, and among those to test on")
    inside = [place for place in range(len(codec.sizes)) if place != codec.label]
    sizes = codec.sizes[inside]
    inputs: dict[str, Callable[[Codes], Any]] = {
        "logistic": lambda codes: onehot(codes, sizes),
        "boosting": np.asarray,
    }
    learners = {
        "logistic": logistic(ITERATIONS),
        "boosting": boosting(categorical(codec, inside), _classes(codec), seed),
    }
    result = {}
    for name in models:
        model = fitted(learners[name], inputs[name](x), y)
        result[name] = _score(model, inputs[name](new_x), new_y, measure(codec))
    return result


def image_score(train: Images, test: Images, iterations: int = ITERATIONS) -> float:
    """Share of right labels of a logistic regression on pixels, trained on some images, of others.

    Shapes: ([n, h, w], [n]), ([k, h, w], [k]).
    """
    (x, y), (new_x, new_y) = (
        (x.reshape(len(x), -1) / 255.0, np.asarray(y).astype(str)) for x, y in (train, test)
    )
    return float(fitted(logistic(iterations), x, y).score(new_x, new_y))


def _classes(codec: Codec) -> int:
    column = codec.schema.kept[codec.label or 0]
    return column.size - int(column.missing)


def _learnable(codes: Codes, codec: Codec) -> tuple[Codes, Codes]:
    """All columns but the label, and the label, of the rows whose label is known."""
    label = codes[:, codec.label or 0]
    known = (label >= 0) & (label < _classes(codec))
    return np.delete(codes[known], codec.label or 0, axis=1), label[known]


def _score(model: Any, x: Any, y: Codes, how: str) -> float:  # noqa: ANN401
    if how == "AUC":
        return float(roc_auc_score(y, model.predict_proba(x)[:, 1]))
    return float(model.score(x, y))


def measured(
    real: Data,
    test: Data | None,
    synthetic: Data,
    schema: Schema | ImageSchema,
    watch: Watch | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one data set, as JSON (no NaN, no infinity). For the data holder only.

    real: rows that the synthetic ones were made from; test: rows of the same population that they were not made
    from, or None. Tables are DataFrames, images are (uint8 [n, h, w], labels or None) with an ImageSchema.
    real and synthetic are compared in equal numbers: a half of the real rows with as many synthetic ones, at most
    10,000 (5,000 images) by lot; every `baseline` is the same figure between that half and the other half, so a
    perfect synthesizer reaches the baseline, not 0.

    Where a section cannot be computed it is {"value": None, "reason": in English, "reason_zh": in Chinese}. Else:

    - "kind": "table" or "image". "note": for whom. "rows": {"real", "synthetic", "test", "compared"}.
    - "marginals": total variation of each column's cells (images: of 16 gray levels of each pixel):
      {"measure", "mean", "worst", "worst_name" (None for images), "baseline": {"mean", "worst"}}.
    - "pairs": of each two columns' cells: {"measure", "names", "tv": matrix, with each column itself on the diagonal,
      "mean", "worst", "worst_names", "baseline": {"mean", "worst"}, "left_out": columns beyond the first 60}.
      Not for images.
    - "correlation": {"measure", "names", "real": matrix, "synthetic": matrix, "mean_difference",
      "baseline": {"mean_difference"}}; Cramer's V over cells, or Pearson's r of DCT coefficients for images (then
      without names and matrices).
    - "train_on_synthetic": {"label", "measure": "AUC" or "accuracy", "guess", "tested_on": "held-out rows" or
      "half of the real rows", "models": {"logistic" [, "boosting"]: {"synthetic", "real"}}}: trained on either, tested
      on the same real rows; "guess" is what guessing gives.
    - "frechet": {"measure", "space", "value", "baseline"}: squared Frechet distance in a stated space.
    - "detection": {"measure", "logistic", "boosting", "baseline": {"logistic", "boosting"}}: AUC of telling synthetic
      from real; 0.5 = it cannot.
    - "columns": for plots, a list of {"name", "kind", "labels", "real", "synthetic", "tv", "baseline"}: a name and a
      share for each cell or range; images have one of their labels, if any. Empty where there are too few rows.

    Errors: DataError for a table that lacks a column of the schema; UsageError for images of different sizes.
    """
    rng = np.random.default_rng(seed)
    if isinstance(schema, ImageSchema):
        found = _computed(_draw_images((real, test, synthetic), rng), _IMAGE_SECTIONS, watch, seed)
        return {"kind": "image", "note": NOTE, **found}
    found = _computed(_draw_rows((real, test, synthetic), Codec(schema), rng), _TABLE_SECTIONS, watch, seed)
    return {"kind": "table", "note": NOTE, **found}


def _draw_images(data: Sequence[Any], rng: np.random.Generator) -> Drawn[Pictures]:
    if not all(part is None or isinstance(part, tuple) for part in data):
        raise UsageError("give images as a pair (images, labels or None), with the schema of images")
    real, test, synthetic = pictures(data)
    if real is None or synthetic is None:
        raise UsageError("give real and synthetic images")
    return draw(real, test, synthetic, IMAGES, rng)


def _draw_rows(data: Sequence[Any], codec: Codec, rng: np.random.Generator) -> Drawn[Table]:
    if not all(part is None or isinstance(part, pd.DataFrame) for part in data):
        raise UsageError("give tables as DataFrames, with the schema of a table")
    real, test, synthetic = (None if part is None else Table(part, codec) for part in data)
    if real is None or synthetic is None:
        raise UsageError("give a real and a synthetic table")
    return draw(real, test, synthetic, ROWS, rng)


def _computed(drawn: Drawn[Any], parts: "_Sections", watch: Watch | None, seed: int) -> dict[str, Any]:
    """Every section, or why it cannot be computed."""
    enough = drawn.counts["compared"] >= detection.FEWEST
    if watch is not None:
        watch.phase("measuring utility", len(parts))
    result: dict[str, Any] = {"rows": drawn.counts}
    for name, compute in parts.items():
        result[name] = compute(drawn, seed) if enough else sections.absent("rows")
        if watch is not None:
            watch.advance(1)
    return result if enough else {**result, "columns": []}


def _table_training(drawn: Drawn[Table], seed: int) -> sections.Section:
    codec = drawn.first.codec
    if codec.label is None:
        return sections.absent("label")
    if len(codec.names) < 2:
        return sections.absent("alone")
    labels = [_learnable(one.codes, codec)[1] for one in (drawn.train, drawn.learned, drawn.test)]
    if why := hindrance(labels):
        return sections.absent(why)
    real, made = (
        table_scores(one.codes, drawn.test.codes, codec, MODELS, seed) for one in (drawn.train, drawn.learned)
    )
    return _training(drawn, codec.names[codec.label], measure(codec), labels[2], (real, made))


def _image_training(drawn: Drawn[Pictures], _: int) -> sections.Section:
    sets = (drawn.train, drawn.learned, drawn.test)
    if any(one.labels is None for one in sets):
        return sections.absent("label")
    known = [one[np.flatnonzero(one.labels >= 0)] for one in sets if one.labels is not None]
    labels = [one.labels for one in known if one.labels is not None]
    if why := hindrance(labels):
        return sections.absent(why)
    pairs = [(one.x, one.labels) for one in known]
    real, made = ({"logistic": image_score(pair, pairs[2], IMAGE_ITERATIONS)} for pair in pairs[:2])
    return _training(drawn, "label", "accuracy", labels[2], (real, made))


def hindrance(labels: Sequence[Codes]) -> str | None:
    """Which of the rows to train on, the synthetic ones and the rows to test on have fewer than two labels."""
    return next(
        (why for why, y in zip(("train", "synthetic", "test"), labels, strict=True) if len(np.unique(y)) < 2),
        None,
    )


def _training(
    drawn: Drawn[Any], label: str, how: str, truth: Codes, scores: tuple[dict[str, float], dict[str, float]]
) -> sections.Section:
    real, made = scores
    return {
        "label": label,
        "measure": how,
        "guess": 0.5 if how == "AUC" else sections.rounded(np.bincount(truth).max() / len(truth)),
        "tested_on": "held-out rows" if drawn.held_out else "half of the real rows",
        "models": {
            name: {"synthetic": sections.rounded(made[name]), "real": sections.rounded(real[name])}
            for name in real
        },
    }


_Sections = dict[str, Callable[[Any, int], Any]]

_TABLE_SECTIONS: _Sections = {
    "marginals": sections.marginals,
    "pairs": sections.pairs,
    "correlation": sections.correlation,
    "train_on_synthetic": _table_training,
    "frechet": sections.table_distance,
    "detection": sections.table_detection,
    "columns": sections.table_columns,
}
_IMAGE_SECTIONS: _Sections = {
    "marginals": sections.pixels,
    "pairs": lambda *_: sections.absent("pixels"),
    "correlation": sections.frequencies,
    "train_on_synthetic": _image_training,
    "frechet": sections.image_distance,
    "detection": sections.image_detection,
    "columns": sections.label_columns,
}
