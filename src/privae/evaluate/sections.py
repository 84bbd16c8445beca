"""The sections of a utility report on what the rows themselves show: columns, pairs, distances, detection.

Each is a function of `Drawn` rows and a seed that gives JSON; `utility.measured` says what the keys mean.

privacy: every figure is computed on real records without noise: for the data holder only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from privae.evaluate import columns, detection, fidelity
from privae.evaluate.fidelity import Floats
from privae.evaluate.sets import Drawn, Pictures, Table

Section = dict[str, Any]

MOST_COLUMNS = 60
"""Columns whose pairs are compared: the first ones."""

_REASONS = {
    "rows": (
        f"this needs at least {2 * detection.FEWEST} real and {detection.FEWEST} synthetic rows",
        f"至少需要 {2 * detection.FEWEST} 行真实数据和 {detection.FEWEST} 行合成数据",
    ),
    "label": ("no column is the label, so there is nothing to predict", "未指定标签列，没有可预测的目标"),
    "alone": ("the label is the only column, so nothing can predict it", "只有标签一列，没有可用于预测的列"),
    "train": ("the real rows to train on do not hold two labels", "用于训练的真实行中没有两种标签"),
    "synthetic": ("the synthetic rows do not hold two labels", "合成行中没有两种标签"),
    "test": ("the real rows to test on do not hold two labels", "用于测试的真实行中没有两种标签"),
    "pair": ("what is alone has no pairs", "只有一列，没有列对"),
    "windows": (
        f"this needs at least {2 * detection.FEWEST} real and {detection.FEWEST} synthetic windows",
        f"至少需要 {2 * detection.FEWEST} 个真实窗口和 {detection.FEWEST} 个合成窗口",
    ),
    "step": ("windows of one step have no order", "只有一步的窗口没有先后顺序"),
    "channel": ("one channel has no pairs", "只有一个通道，没有通道对"),
    "gaps": ("a set holds too few known values for it", "其中一组数据的已知值过少"),
    "pixels": ("pixels have too many pairs; see the correlation", "像素对过多，请参见相关性"),
}


def absent(why: str) -> Section:
    """What stands for a section that cannot be computed, and why."""
    return {"value": None, "reason": _REASONS[why][0], "reason_zh": _REASONS[why][1]}


def marginals(drawn: Drawn[Table], _: int) -> Section:
    """Distances of columns."""
    sizes, names = drawn.first.codec.sizes, drawn.first.codec.names
    found, base = (
        fidelity.column_variation(drawn.first.codes, other.codes, sizes)
        for other in (drawn.made, drawn.second)
    )
    return {
        "measure": "total variation of a column's cells; 0 = alike, 1 = nothing in common",
        **_spread(found),
        "worst_name": names[int(found.argmax())],
        "baseline": _spread(base),
    }


def pairs(drawn: Drawn[Table], _: int) -> Section:
    """Distances of pairs of columns."""
    codec = drawn.first.codec
    names = codec.names[:MOST_COLUMNS]
    if len(names) < 2:
        return absent("pair")
    first, second, made = (one.codes[:, :MOST_COLUMNS] for one in (drawn.first, drawn.second, drawn.made))
    found, base = (
        fidelity.pair_variation(first, other, codec.sizes[:MOST_COLUMNS]) for other in (made, second)
    )
    row, column = np.tril_indices(len(names), -1)
    worst = int(found[row, column].argmax())
    return {
        "measure": "total variation of the cells of two columns; 0 = alike, 1 = nothing in common",
        "names": list(names),
        "tv": _listed(found),
        **_spread(fidelity.of_pairs(found)),
        "worst_names": [names[column[worst]], names[row[worst]]],
        "baseline": _spread(fidelity.of_pairs(base)),
        "left_out": len(codec.names) - len(names),
    }


def correlation(drawn: Drawn[Table], _: int) -> Section:
    """Associations of columns, and how far apart they are."""
    codec = drawn.first.codec
    names = codec.names[:MOST_COLUMNS]
    if len(names) < 2:
        return absent("pair")
    real, other, made = (
        fidelity.associations(one.codes[:, :MOST_COLUMNS], codec.sizes[:MOST_COLUMNS])
        for one in (drawn.first, drawn.second, drawn.made)
    )
    return {
        "measure": "Cramer's V over cells, corrected for bias; 0 = independent",
        "names": list(names),
        "real": _listed(real),
        "synthetic": _listed(made),
        **_difference(real, made),
        "baseline": _difference(real, other),
    }


def table_distance(drawn: Drawn[Table], _: int) -> Section:
    """Frechet distance of tables."""
    sizes = drawn.first.codec.sizes
    parts = [fidelity.table_features(one.codes, sizes) for one in (drawn.first, drawn.second, drawn.made)]
    space = f"one-hot cells over sqrt(2 columns), hashed where they are more than {fidelity.TABLE_FEATURES}"
    return _frechet(parts, space)


def table_detection(drawn: Drawn[Table], seed: int) -> Section:
    """How well rows are told apart."""
    first, second, made = ((one.frame, one.codes) for one in (drawn.first, drawn.second, drawn.made))
    codec = drawn.first.codec
    found, base = (detection.tables_told_apart(first, other, codec, seed) for other in (made, second))
    return _detection(found, base, "logistic regression on cells, boosting on values")


def table_columns(drawn: Drawn[Table], _: int) -> list[Section]:
    """Every column as bars."""
    first, codec = drawn.first, drawn.first.codec
    base = fidelity.column_variation(first.codes, drawn.second.codes, codec.sizes)
    return columns.beside(first.codes, drawn.made.codes, base, codec)


def pixels(drawn: Drawn[Pictures], _: int) -> Section:
    """Distances of pixels."""
    found, base = (fidelity.pixel_variation(drawn.first.x, other.x) for other in (drawn.made, drawn.second))
    measure = f"total variation of {fidelity.LEVELS} gray levels of a pixel; 0 = alike, 1 = nothing in common"
    return {"measure": measure, **_spread(found), "worst_name": None, "baseline": _spread(base)}


def frequencies(drawn: Drawn[Pictures], _: int) -> Section:
    """Correlations of low frequencies."""
    real, other, made = (
        fidelity.correlations(fidelity.low_pass(one.x)) for one in (drawn.first, drawn.second, drawn.made)
    )
    if len(real) < 2:
        return absent("pair")
    measure = f"Pearson's r of the {len(real)} lowest frequencies of the 2-D DCT"
    return {"measure": measure, **_difference(real, made), "baseline": _difference(real, other)}


def image_distance(drawn: Drawn[Pictures], _: int) -> Section:
    """Frechet distance of images."""
    parts = [fidelity.low_pass(one.x) for one in (drawn.first, drawn.second, drawn.made)]
    space = (
        f"{parts[0].shape[1]} lowest frequencies of the 2-D DCT of pixels in [0, 1]; not Inception features"
    )
    return _frechet(parts, space)


def image_detection(drawn: Drawn[Pictures], seed: int) -> Section:
    """How well images are told apart."""
    first, second, made = (one.x for one in (drawn.first, drawn.second, drawn.made))
    found, base = (detection.images_told_apart(first, other, seed) for other in (made, second))
    return _detection(
        found, base, "logistic regression on pixels, boosting on low frequencies and band energies"
    )


def label_columns(drawn: Drawn[Pictures], _: int) -> list[Section]:
    """The labels of images as bars; none without labels."""
    first, second, made = (one.labels for one in (drawn.first, drawn.second, drawn.made))
    if first is None or second is None or made is None:
        return []
    return [columns.label_beside(drawn.first.names, first, made, second)]


def rounded(value: float | np.floating[Any]) -> float:
    """To four decimals, which is what the report shows."""
    return round(float(value), 4)


def _frechet(parts: Sequence[Floats], space: str) -> Section:
    first, second, made = parts
    return {
        "measure": "squared Frechet distance between Gaussians with the same means and covariances",
        "space": space,
        "value": rounded(fidelity.frechet(first, made)),
        "baseline": rounded(fidelity.frechet(first, second)),
    }


def _detection(found: dict[str, float], base: dict[str, float], how: str) -> Section:
    measure = f"AUC of telling synthetic from real rows, cross-validated; 0.5 = it cannot; {how}"
    shown, baseline = ({name: rounded(value) for name, value in one.items()} for one in (found, base))
    return {"measure": measure, **shown, "baseline": baseline}


def _spread(values: Floats) -> dict[str, float]:
    return {"mean": rounded(values.mean()), "worst": rounded(values.max())}


def _difference(left: Floats, right: Floats) -> dict[str, float]:
    return {"mean_difference": rounded(np.abs(fidelity.of_pairs(left) - fidelity.of_pairs(right)).mean())}


def _listed(matrix: Floats) -> list[list[float]]:
    return [[rounded(value) for value in row] for row in matrix.tolist()]
