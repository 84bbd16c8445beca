import itertools
import math
import re

import pytest

from privae.report.charts import HIGH, WIDE, Axes, Line, Part, beside, curves, cut, heat, pairs_of_bars, track

AXES = Axes("across", "up")
LOG = Axes("across", "up", "log")


def points(markup):
    text = re.search(r'points="([^"]*)"', markup).group(1)
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_curve_runs_from_corner_to_corner():
    (left, bottom), (right, top) = points(curves([Line([0, 1], [0, 1], "exact")], AXES, "a curve"))
    assert (left, bottom, right, top) == (50, HIGH - 44, WIDE - 12, 12)


def test_logarithmic_axes_place_a_decade_a_third_apart():
    placed = points(curves([Line([1e-3, 1e-2, 1e-1, 1], [1e-3, 1e-2, 1e-1, 1], "exact")], LOG, "a curve"))
    steps = [b[0] - a[0] for a, b in itertools.pairwise(placed)]
    assert steps == pytest.approx([(WIDE - 62) / 3] * 3, abs=0.11)


def test_points_past_the_axes_stay_on_their_edge():
    placed = points(curves([Line([0.0, 1e-9, 2.0], [-1.0, 0.0, math.nan], "exact")], LOG, "a curve"))
    assert all(50 <= x <= WIDE - 12 and 12 <= y <= HIGH - 44 for x, y in placed)


def test_every_chart_says_what_it_is_and_escapes_it():
    drawn = [
        curves([], AXES, "<x>"),
        track([], "<x>"),
        pairs_of_bars([], [], "<x>"),
        heat(["<x>", "b"], [[0, 1], [1, 0]], 1.0, "<x>"),
        beside(0, 0, 0, "<x>"),
    ]
    assert all(
        'role="img" aria-label="&lt;x&gt;"' in chart or 'aria-label="&lt;x&gt;"' in chart for chart in drawn
    )
    assert not [chart for chart in drawn if "<x>" in chart]


def test_a_bar_is_as_long_as_its_share_and_never_longer_than_its_track():
    assert 'x="25.00%"' in track([Part(0.25, 0.5, "accent")], "bar")
    assert 'width="50.00%"' in track([Part(0.25, 0.5, "accent")], "bar")
    assert 'width="100.00%"' in track([Part(0.0, 9.0, "accent")], "bar")
    assert 'class="mark"' in track([], "bar", mark=2.0)
    assert 'class="mark"' not in track([], "bar")


def test_bars_stand_side_by_side_on_one_scale():
    heights = re.findall(
        r'height="([\d.]+)" class="(real|synthetic)"', pairs_of_bars([0.5, 0.25], [0.125, 0.0], "bars")
    )
    assert [(float(high), kind) for high, kind in heights] == [
        (97.0, "real"),
        (48.5, "real"),
        (24.2, "synthetic"),
        (0.0, "synthetic"),
    ]


def test_a_heat_map_is_darkest_where_it_is_worst_and_names_few_columns():
    small = heat(["a", "b"], [[0.0, 0.2], [0.1, 0.0]], 0.2, "pairs")
    assert re.findall(r'fill-opacity="([\d.]+)"', small) == ["1.000", "0.520"]
    assert small.count("<text") == 4
    many = heat([f"c{i}" for i in range(60)], [[0.0] * 60] * 60, 0.0, "pairs")
    assert "<text" not in many
    assert many.count("<rect") == 60 * 59


def test_long_names_are_cut():
    assert cut("short", 8) == "short"
    assert cut("marital_status", 8) == "marital…"
