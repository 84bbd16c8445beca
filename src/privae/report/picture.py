"""Pictures of real beside synthetic data: a grid of images, or the columns of a table side by side.

privacy: they show real records or their counts. They are for public data, or for the data holder alone.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from privae import files
from privae.errors import UsageError

Floats = NDArray[np.float64]
Images = tuple[NDArray[np.uint8], NDArray[Any] | None]
"""uint8 [n, h, w] and labels [n], or None."""

_REAL, _SYNTHETIC = "#4c6a92", "#e07b39"
_SIDE = 10  # images a side of a grid
_BARS = 20
_MOST_TEXTS = 8
_LONGEST = 16  # characters of a category's name
_FEW = 40  # steps of which each is marked
_ROWS, _EACH = 4, 3  # of windows beside others
_GAP = 0.08  # of an image, between two of them


def beside(
    real: pd.DataFrame, synthetic: pd.DataFrame, path: str | Path, title: str, columns: Sequence[str]
) -> None:
    """Write a PNG with one panel a column: how often each value, or range of values, occurs in either table.

    Numbers are counted in ranges of the real ones (their 1 % to 99 % quantiles), texts by their commonest.
    Edges: a column without any value gives an empty panel.
    Errors: UsageError for no column or one that a table lacks, or a path that cannot be written.
    """
    missing = [name for name in columns if name not in real.columns or name not in synthetic.columns]
    if not columns or missing:
        raise UsageError(
            f"no column '{missing[0]}' to draw" if missing else "name at least one column to draw"
        )
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(3.4 * across, 2.7 * down + 0.9), dpi=130, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel, name in zip(panels, columns, strict=False):
        _panel(panel, name, real[name], synthetic[name])
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    _save(figure, path)


def course(means: pd.DataFrame, path: str | Path, title: str, step: str) -> None:
    """Write a PNG of released means over time, a panel a number, with a band of two standard errors of the noise.

    means: columns step, name, mean, standard_error; gaps stay gaps. All of it is released, so anybody may see it.
    Errors: UsageError for no row, or a path that cannot be written.
    """
    names = list(dict.fromkeys(means["name"]))
    if not names:
        raise UsageError("there is no mean to draw")
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(max(6.4, 4.2 * across), 2.5 * down + 0.9), dpi=130, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for panel, name in zip(panels, names, strict=False):
        rows = means[means["name"] == name]
        x, mean, error = (rows[key].to_numpy(dtype=np.float64) for key in ("step", "mean", "standard_error"))
        panel.fill_between(x, mean - 2 * error, mean + 2 * error, color=_REAL, alpha=0.25, linewidth=0)
        panel.plot(x, mean, color=_REAL, linewidth=1.6, marker="o" if len(x) < _FEW else None, markersize=3)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(step, fontsize=9)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    figure.suptitle(f"{title}\nband: two standard errors of the noise", fontsize=11)
    _save(figure, path)


def beside_images(real: Images, synthetic: Images, path: str | Path, title: str) -> None:
    """Write a PNG with two grids of up to 10 x 10 images, one class a row where there are labels.

    Errors: UsageError for no image, or a path that cannot be written.
    """
    figure = Figure(figsize=(9.6, 5.3), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    for panel, (x, y), name, color in (
        (left, real, "real", _REAL),
        (right, synthetic, "synthetic", _SYNTHETIC),
    ):
        if not len(x):
            raise UsageError("there is no image to draw")
        panel.imshow(_mosaic(x, y), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        panel.set_title(name, color=color, fontsize=11, fontweight="bold")
        panel.set_axis_off()
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    _save(figure, path)


def grid(images: Images) -> bytes:
    """A PNG of up to 10 x 10 images, one class a row where there are labels. Errors: UsageError for no image."""
    x, y = images
    if not len(x):
        raise UsageError("there is no image to draw")
    return _png(_mosaic(x, y))


def pairs(above: NDArray[np.uint8], below: NDArray[np.uint8]) -> bytes:
    """A PNG of images [n, h, w] in a row, each above another one of [n, h, w].

    Errors: UsageError for no image, or for other numbers of them.
    """
    if not len(above) or above.shape != below.shape:
        raise UsageError("there are no pairs of images to draw")
    gap = max(1, round(_GAP * max(above.shape[1:])))
    stacked = np.concatenate([above, np.zeros((len(above), gap, above.shape[2]), np.uint8), below], 1)
    spaced = np.pad(stacked, ((0, 0), (0, 0), (0, gap)))
    return _png(np.concatenate(list(spaced), 1)[:, :-gap])


def heats(images: NDArray[np.uint8], heat: Floats, names: Sequence[str], path: str | Path) -> None:
    """Write a PNG of images, each beside itself with what makes it strange in red, and less strange in blue.

    Shapes: images and heat [n, h, w], names [n]; one scale of heat for all.
    Errors: UsageError for no image, or a path that cannot be written.
    """
    if not len(images):
        raise UsageError("there is no image to draw")
    across = min(4, len(images))
    down = -(-len(images) // across)
    figure = Figure(figsize=(2.9 * across, 1.75 * down + 0.6), dpi=130, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    most = float(np.quantile(np.abs(heat), 0.995)) or 1.0
    for panel, image, own, name in zip(panels, images, heat, names, strict=False):
        gap = np.full((len(image), max(1, round(_GAP * image.shape[1])), 3), 1.0)
        gray = np.repeat(image[..., None] / 255.0, 3, 2)
        panel.imshow(np.concatenate([gray, gap, _glowing(gray, own / most)], 1), interpolation="nearest")
        panel.set_title(name, fontsize=8.5, loc="left")
    for panel in panels:
        panel.set_axis_off()
    figure.suptitle(
        "left: the image; right: what makes it strange (red), and less strange (blue)", fontsize=9
    )
    _save(figure, path)


def profiles(
    real: Floats,
    synthetic: Floats,
    path: str | Path,
    names: Sequence[str],
    title: str = "",
    step: str = "step",
) -> None:
    """Write a PNG with one panel a channel: the mean of either's windows at each step, and their 10 % to 90 %.

    Shapes: windows [n, t, c] and [k, t, c], NaN for a gap; names [c].
    Edges: a step without a value in a set is a gap.
    Errors: UsageError for no window, or windows of different shapes, or a path that cannot be written.
    """
    if (
        not len(real)
        or not len(synthetic)
        or {real.shape[1:], synthetic.shape[1:]} != {(real.shape[1], len(names))}
    ):
        raise UsageError("give windows of one shape on either side, and one name a channel")
    long = real.shape[1] > _FEW
    across = 1 if long else min(3, len(names))
    down = -(-len(names) // across)
    size = (9.6 if long else max(6.4, 4.2 * across), 2.6 * down + 0.9)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for place, (panel, name) in enumerate(zip(panels, names, strict=False)):
        for values, label, color in ((real, "real", _REAL), (synthetic, "synthetic", _SYNTHETIC)):
            _profile(panel, values[:, :, place], label, color)
        panel.set_title(name, fontsize=10, fontweight="bold", loc="left")
        panel.set_xlabel(step, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle(f"{title}\nline: mean; band: 10 % to 90 % of windows".strip(), fontsize=11)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    _save(figure, path)


def _profile(panel: Axes, values: Floats, label: str, color: str) -> None:
    """One side's mean and band by step: [n, t]."""
    known = pd.DataFrame(values)
    steps = np.arange(values.shape[1])
    low, high = (known.quantile(share).to_numpy() for share in (0.1, 0.9))
    panel.fill_between(steps, low, high, color=color, alpha=0.22, linewidth=0)
    panel.plot(steps, known.mean().to_numpy(), color=color, linewidth=1.6, label=label)


def examples(real: Floats, synthetic: Floats, path: str | Path, title: str = "", step: str = "step") -> None:
    """Write a PNG of up to twelve windows of one channel of either: real ones on the left, synthetic on the right.

    Shapes: [n, t] and [k, t], NaN for a gap. Both sides have one scale.
    Errors: UsageError for no window, or a path that cannot be written.
    """
    if not len(real) or not len(synthetic):
        raise UsageError("there is no window to draw")
    figure = Figure(figsize=(9.6, 5.2), dpi=110, layout="constrained")
    panels = figure.subplots(_ROWS, 2 * _EACH, sharex=True, sharey=True)
    for first, windows_of, color in ((0, real, _REAL), (_EACH, synthetic, _SYNTHETIC)):
        for panel, values in zip(panels[:, first : first + _EACH].ravel(), windows_of, strict=False):
            panel.plot(values, color=color, linewidth=1.2)
    for panel in panels.ravel():
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=7, length=2)
    for place, name, color in ((0, "real", _REAL), (_EACH, "synthetic", _SYNTHETIC)):
        panels[0, place].set_title(name, fontsize=10, fontweight="bold", loc="left", color=color)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(step, fontsize=9)
    _save(figure, path)


def windows(explained: Sequence[tuple[str, Any, Sequence[Any]]], path: str | Path) -> None:
    """Write a PNG of windows, one a row: each track's readings, what was expected, and what makes it strange.

    explained: titles, times [t] and tracks (`fitted.following.Track`), of which the six of most heat are drawn.
    Errors: UsageError for no window, or a path that cannot be written.
    """
    if not explained:
        raise UsageError("there is no window to draw")
    across = min(6, max(len(tracks) for _, _, tracks in explained))
    figure = Figure(figsize=(1.2 + 3.4 * across, 0.7 + 1.9 * len(explained)), dpi=120, layout="constrained")
    panels = figure.subplots(len(explained), across, squeeze=False)
    most = max(float(np.abs(track.heat).max()) for _, _, tracks in explained for track in tracks) or 1.0
    for row, (title, time, tracks) in zip(panels, explained, strict=True):
        order = sorted(tracks, key=lambda track: -float(np.abs(track.heat).sum()))[:across]
        for panel, track in zip(row, order, strict=False):
            _track(panel, time, track, most)
        row[0].set_title(title, fontsize=8.5, loc="left")
    figure.suptitle("line: readings; band: expected; red: strange, blue: less so", fontsize=9)
    _save(figure, path)


def _track(panel: Any, time: Any, track: Any, most: float) -> None:  # noqa: ANN401  matplotlib's axes
    low, high = track.expected - 2 * track.deviation, track.expected + 2 * track.deviation
    panel.fill_between(time, low, high, color="0.85", linewidth=0)
    panel.plot(time, track.values, color="0.25", linewidth=1)
    share = np.clip(np.abs(track.heat) / most, 0.0, 1.0)
    colors = np.where((track.heat > 0)[:, None], (0.85, 0.1, 0.1), (0.1, 0.3, 0.85))
    panel.scatter(
        time, track.values, s=4 + 60 * share, c=np.c_[colors, 0.15 + 0.85 * share], zorder=3, linewidths=0
    )
    panel.set_ylabel(track.name, fontsize=8)
    panel.tick_params(labelsize=6.5)
    concise: Any = ConciseDateFormatter
    panel.xaxis.set_major_formatter(concise(panel.xaxis.get_major_locator()))


def _glowing(gray: Floats, heat: Floats) -> Floats:
    """An image [h, w, 3] under its heat [h, w], of which 1 covers two thirds of it."""
    share = 0.65 * np.clip(np.abs(heat), 0.0, 1.0)[..., None]
    color = np.where(heat[..., None] > 0, (0.85, 0.1, 0.1), (0.1, 0.3, 0.85))
    return np.asarray((1 - share) * gray + share * color)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Gray levels [h, w] as a PNG, dark on light, enlarged to be seen."""
    times = max(1, 480 // max(pixels.shape))
    made = BytesIO()
    imsave(made, 255 - pixels.repeat(times, 0).repeat(times, 1), cmap="gray", vmin=0, vmax=255, format="png")
    return made.getvalue()


def _panel(panel: Axes, name: str, real: "pd.Series[Any]", synthetic: "pd.Series[Any]") -> None:
    """Two bars a value, as shares of either table."""
    numbers = pd.api.types.is_numeric_dtype(real) and not pd.api.types.is_bool_dtype(real)
    shares, names = _ranges(real, synthetic) if numbers else _texts(real, synthetic)
    places = np.arange(len(names), dtype=np.float64)
    for share, shift, label, color in zip(
        shares, (-0.2, 0.2), ("real", "synthetic"), (_REAL, _SYNTHETIC), strict=True
    ):
        if numbers:
            panel.bar(places + shift, share, 0.4, label=label, color=color)
        else:
            panel.barh(places + shift, share, 0.4, label=label, color=color)
    panel.set_title(name.replace("_", " "), fontsize=10, fontweight="bold", loc="left")
    panel.tick_params(labelsize=7.5, length=2)
    panel.spines[["top", "right"]].set_visible(False)
    ticks = places if not numbers else places[:: max(1, len(places) // 5)]
    axis, values = (panel.xaxis, panel.yaxis) if numbers else (panel.yaxis, panel.xaxis)
    axis.set_ticks(ticks, [names[int(place)] for place in ticks])
    values.set_major_formatter(lambda value, _: f"{value:.0%}")
    if not numbers:
        panel.invert_yaxis()


def _ranges(real: "pd.Series[Any]", synthetic: "pd.Series[Any]") -> tuple[list[Floats], list[str]]:
    known, made = (column.dropna().to_numpy(np.float64) for column in (real, synthetic))
    if not len(known):
        return [np.zeros(1), np.zeros(1)], [""]
    distinct = np.unique(known)
    if len(distinct) <= _BARS:
        inner, names = (distinct[1:] + distinct[:-1]) / 2, [f"{value:g}" for value in distinct]
    else:
        starts = _starts(known)
        inner, names = starts[1:], [_short(start) for start in starts]
    edges = np.concatenate([[-np.inf], inner, [np.inf]])
    return [_shares(known, edges), _shares(made, edges)], names


def _starts(known: Floats) -> Floats:
    """Where about 20 equal ranges begin; whole numbers get whole ranges."""
    low, high = np.quantile(known, [0.01, 0.99])
    step = (high - low) / _BARS or 1.0
    if (known == np.round(known)).all():
        low, step = np.floor(low), np.ceil(step)
    return np.arange(low, max(high, low + step), step)


def _shares(values: Floats, edges: Floats) -> Floats:
    counted: Floats = np.histogram(values, edges)[0].astype(np.float64)
    return counted / max(len(values), 1)


def _texts(real: "pd.Series[Any]", synthetic: "pd.Series[Any]") -> tuple[list[Floats], list[str]]:
    known, made = (
        column.astype(object).where(column.notna(), "(missing)").astype(str) for column in (real, synthetic)
    )
    names = known.value_counts().index[:_MOST_TEXTS].tolist()
    shares: list[Floats] = [
        np.array([(column == name).mean() for name in names], dtype=np.float64) for column in (known, made)
    ]
    return shares, [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if abs(value) >= 10_000 else f"{value:.3g}"


def _mosaic(x: NDArray[np.uint8], y: NDArray[Any] | None) -> NDArray[np.uint8]:
    """One image of many: 10 x 10, a row a class in the order of the labels."""
    height, width = x.shape[1:]
    gap = max(1, round(_GAP * max(height, width)))
    shown = _chosen(y, len(x))
    canvas = np.full((len(shown) * (height + gap) - gap, _SIDE * (width + gap) - gap), 0, np.uint8)
    for down, row in enumerate(shown):
        for across, place in enumerate(row):
            top, start = down * (height + gap), across * (width + gap)
            canvas[top : top + height, start : start + width] = x[place]
    return canvas


def _chosen(y: NDArray[Any] | None, count: int) -> list[list[int]]:
    if y is None:
        places = list(range(min(count, _SIDE**2)))
        return [places[start : start + _SIDE] for start in range(0, len(places), _SIDE)]
    labels = pd.Series(y).astype(str)
    kinds = sorted(labels.unique(), key=lambda text: (len(text), text))[:_SIDE]
    return [np.flatnonzero(labels == kind)[:_SIDE].tolist() for kind in kinds]


def _save(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    files.write_atomically(Path(path), lambda file: figure.savefig(file, format="png", facecolor="white"))
