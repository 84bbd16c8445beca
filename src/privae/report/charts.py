"""Charts as inline SVG: bars on a track, curves, paired bars, a heat map. Colors are classes of the page's style.

Sizes are chosen so that text stays readable from 400 px on. A chart's own numbers are marks of its scale; figures
stand beside it as text, and its data in the page's JSON.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from privae.report.view import Html, View, join, plain, shown, tag

WIDE, HIGH = 360.0, 270.0
LOWEST = 1e-3
"""Where logarithmic axes begin."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 12.0, 12.0, 44.0
_CELL, _NAMES = 14.0, 120.0
_NAMED = 24  # columns up to which a heat map names them
_LONGEST = 18
_FEW = 8  # values of a column up to which each is named
Scale = Literal["linear", "log"]
_Shares = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Part:
    """A piece of a bar, as shares of the track: where it starts, how long it is, and its class."""

    start: float
    length: float
    kind: str


@dataclass(frozen=True)
class Line:
    """A curve: points and class."""

    x: Sequence[float]
    y: Sequence[float]
    kind: str


@dataclass(frozen=True)
class Axes:
    """Names of both axes, which run from 0 (logarithmic: 0.001) to 1, and their scale."""

    x: str
    y: str
    scale: Scale = "linear"


def track(parts: Sequence[Part], label: str, mark: float | None = None) -> Html:
    """A horizontal bar as wide as its place, with an upright mark at a share of it."""
    inside = [_part(part) for part in parts]
    if mark is not None:
        inside.append(tag("rect", x=_percent(_within(mark) * 0.994), y=0, width=3, height=18, class_="mark"))
    ground = tag("rect", x=0, y=3, width="100%", height=12, rx=2, class_="ground")
    return tag("svg", ground, *inside, class_="track", role="img", aria_label=label, width="100%", height=18)


def bar_row(name: object, figure: Html, parts: Sequence[Part], mark: float | None = None) -> Html:
    """A line of a bar chart: its name, its bar, its figure."""
    bar = track(parts, f"{plain(name)}: {plain(figure)}", mark)
    said = tag("span", name, class_="bar-name"), bar, tag("span", figure, class_="bar-figure")
    return tag("div", *said, class_="bar")


def legend(names: Mapping[str, Html]) -> Html:
    """What the lines or bars of a chart are, each by its look."""
    keys = [tag("li", tag("i", class_=f"key {kind}"), tag("span", name)) for kind, name in names.items()]
    return tag("figcaption", tag("ul", *keys, class_="legend"))


def panel(view: View, place: int, column: Mapping[str, Any]) -> Html:
    """One column of a table, real beside synthetic: a named bar for each of a few values, else bars in order."""
    name, labels = str(column.get("name")), [str(label) for label in column.get("labels") or ()]
    real, synthetic = ([float(share) for share in column.get(key) or ()] for key in ("real", "synthetic"))
    view.figures.curves[f"columns.{place}"] = {"labels": labels, "real": real, "synthetic": synthetic}
    distance = view.say("distance", tv=view.number(f"columns.{place}.tv", column.get("tv")))
    title = tag("h4", view.text(f"columns.{place}.name", name), title=name)
    draw = _named_bars if len(labels) <= _FEW else _ordered_bars
    drawn = draw(view, place, labels, (real, synthetic))
    return tag("div", title, tag("p", distance, class_="quiet"), drawn, class_="panel")


def _ordered_bars(view: View, place: int, labels: Sequence[str], shares: _Shares) -> Html:
    label = f"{plain(view.say('real'))}, {plain(view.say('synthetic'))}: {labels[0]} – {labels[-1]}"
    ends = [view.text(f"columns.{place}.labels.{i}", cut(labels[i], _LONGEST)) for i in (0, -1)]
    return join(pairs_of_bars(*shares, label), tag("div", *ends, class_="ends"))


def _named_bars(view: View, place: int, labels: Sequence[str], shares: _Shares) -> Html:
    highest = max([*shares[0], *shares[1], 0.0])
    names = [plain(view.say(kind)) for kind in ("real", "synthetic")]
    rows = []
    for i, (label, *both) in enumerate(zip(labels, *shares, strict=False)):
        text = view.text(f"columns.{place}.{i}.label", cut(label, _LONGEST))
        said = ", ".join(f"{name} {shown(share, 'share')}" for name, share in zip(names, both, strict=True))
        bars = beside(both[0], both[1], highest, said)
        rows.append(
            tag("div", tag("span", text, title=label, class_="bar-name"), bars, title=said, class_="bar")
        )
    return tag("div", *rows, class_="bars small")


def beside(real: float, synthetic: float, highest: float, label: str) -> Html:
    """Two thin horizontal bars, real above synthetic, as shares of the highest."""
    bars = [
        tag("rect", x=0, y=y, width=_percent(max(_share(value, highest), 0.004)), height=6, rx=1, class_=kind)
        for value, y, kind in ((real, 2, "real"), (synthetic, 9, "synthetic"))
    ]
    return tag("svg", *bars, class_="track", role="img", aria_label=label, width="100%", height=18)


def curves(lines: Sequence[Line], axes: Axes, label: str) -> Html:
    """Curves over the unit square, with grid, ticks and names of the axes."""
    drawn = [
        tag("polyline", points=" ".join(_point(axes, *point) for point in zip(line.x, line.y, strict=True)))
        for line in lines
    ]
    groups = [tag("g", one, class_=f"line {line.kind}") for one, line in zip(drawn, lines, strict=True)]
    return _svg(label, WIDE, HIGH, _frame(axes), *groups)


def pairs_of_bars(real: Sequence[float], synthetic: Sequence[float], label: str) -> Html:
    """Upright bars, real beside synthetic, on a common scale from 0."""
    highest = max([*real, *synthetic, 1e-12])
    width = 300.0 / max(len(real), 1)
    bars = [
        _bar(place * width + shift * width, width * 0.42, value / highest, kind)
        for shift, kind, values in ((0.06, "real", real), (0.52, "synthetic", synthetic))
        for place, value in enumerate(values)
    ]
    ground = tag("line", x1=0, x2=300, y1=100, y2=100, class_="axis")
    return _svg(label, 300.0, 101.0, *bars, ground, stretch="none")


def heat(names: Sequence[str], values: Sequence[Sequence[float]], highest: float, label: str) -> Html:
    """A square of cells, the darker the nearer to `highest`; up to 24 columns are named."""
    count, named = len(names), len(names) <= _NAMED
    margin = _NAMES if named else 4.0
    side = _CELL if named else 480.0 / count
    cells = [
        _cell(margin + across * side, down * side, side, 0.04 + 0.96 * _share(value, highest))
        for down, row in enumerate(values)
        for across, value in enumerate(row)
        if across != down
    ]
    texts = _names(names, margin, side) if named else []
    return _svg(
        label,
        margin + count * side + 4,
        count * side + (_NAMES - 20 if named else 4),
        *cells,
        *texts,
        kind="heat",
    )


def _svg(
    label: str, wide: float, high: float, *inside: Html, stretch: str | None = None, kind: str = "chart"
) -> Html:
    box = f"0 0 {_short(wide)} {_short(high)}"
    return tag(
        "svg", *inside, viewBox=box, role="img", aria_label=label, class_=kind, preserveAspectRatio=stretch
    )


def _part(part: Part) -> Html:
    start = _within(part.start)
    length = max(_within(part.start + part.length) - start, 0.004)
    return tag("rect", x=_percent(start), y=3, width=_percent(length), height=12, rx=2, class_=part.kind)


def _frame(axes: Axes) -> Html:
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0) if axes.scale == "linear" else (1e-3, 1e-2, 1e-1, 1.0)
    x, y = _LEFT + (WIDE - _LEFT - _RIGHT) / 2, _TOP + (HIGH - _TOP - _BOTTOM) / 2
    names = (
        tag("text", axes.x, x=_short(x), y=_short(HIGH - 8), class_="name", text_anchor="middle"),
        tag(
            "text",
            axes.y,
            transform=f"translate(13 {_short(y)}) rotate(-90)",
            class_="name",
            text_anchor="middle",
        ),
    )
    return join(*(_tick(axes, tick) for tick in ticks), *names)


def _tick(axes: Axes, value: float) -> Html:
    x, y = _place(axes, value, value)
    bottom, text = HIGH - _BOTTOM, f"{value:g}"
    return join(
        tag("line", x1=_short(x), x2=_short(x), y1=_TOP, y2=bottom, class_="grid"),
        tag("line", x1=_LEFT, x2=WIDE - _RIGHT, y1=_short(y), y2=_short(y), class_="grid"),
        tag("text", text, x=_short(x), y=bottom + 15, class_="tick", text_anchor="middle"),
        tag("text", text, x=_LEFT - 6, y=_short(y + 4), class_="tick", text_anchor="end"),
    )


def _place(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = (_scaled(value, axes.scale) for value in (x, y))
    return _LEFT + across * (WIDE - _LEFT - _RIGHT), HIGH - _BOTTOM - up * (HIGH - _TOP - _BOTTOM)


def _point(axes: Axes, x: float, y: float) -> str:
    return ",".join(_short(value) for value in _place(axes, x, y))


def _scaled(value: float, scale: Scale) -> float:
    return _within(1 - math.log(max(value, LOWEST)) / math.log(LOWEST) if scale == "log" else value)


def _bar(x: float, width: float, share: float, kind: str) -> Html:
    high = 97 * _within(share)
    return tag(
        "rect", x=_short(x), y=_short(100 - high), width=_short(width), height=_short(high), class_=kind
    )


def _cell(x: float, y: float, side: float, share: float) -> Html:
    edge = _short(side - min(1.0, side / 8))
    return tag(
        "rect", x=_short(x), y=_short(y), width=edge, height=edge, class_="cell", fill_opacity=f"{share:.3f}"
    )


def _names(names: Sequence[str], margin: float, side: float) -> list[Html]:
    beside = [
        tag(
            "text",
            cut(name, _LONGEST),
            x=margin - 5,
            y=_short((i + 0.75) * side),
            class_="tick",
            text_anchor="end",
        )
        for i, name in enumerate(names)
    ]
    bottom = len(names) * side + 6
    below = [
        tag(
            "text",
            cut(name, _LONGEST),
            transform=f"translate({_short(margin + (i + 0.3) * side)} {_short(bottom)}) rotate(60)",
            class_="tick",
        )
        for i, name in enumerate(names)
    ]
    return [*beside, *below]


def cut(name: str, longest: int) -> str:
    """A name, its end cut off where it is too long.

    >>> cut("marital_status", 8)
    'marital…'
    """
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _share(value: float, highest: float) -> float:
    return _within(value / highest) if highest > 0 else 0.0


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0) if not math.isnan(value) else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
