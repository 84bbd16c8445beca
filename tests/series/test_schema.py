"""The schema of series: its file, and what it refuses."""

import pytest

from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import DataError, UsageError
from privae.series.schema import SeriesSchema, read_schema

POWER = Column(name="power", kind="numeric", bounds=(0, 5), unit=0.1, missing=True)
STATE = Column(name='odd "name"', kind="category", categories=("on", "off"), other="else")
PLAIN = SeriesSchema(id="home", time="when", step="15min", window="1d", channels=(POWER, STATE))
LONG = PLAIN.model_copy(update={"channel": "what", "value": "reading"})
FULL = LONG.model_copy(
    update={
        "stride": "6h",
        "unit": "device",
        "kind": "type",
        "kinds": ("oven", "fridge"),
        "timezone": "Europe/Rome",
        "resample": "last",
        "hold": "1h",
        "filled": 0.25,
        "conditions": ("hour", "weekday", "kind"),
        "windows": 28,
        "rows": 300,
    }
)


@pytest.mark.parametrize("made", [PLAIN, LONG, FULL])
def test_a_schema_survives_its_file(made, tmp_path):
    made.check()
    made.save(tmp_path / "s.toml")
    for again in (SeriesSchema.load(tmp_path / "s.toml"), read_schema(tmp_path / "s.toml")):
        assert again == made
        assert again.hash == made.hash
    assert SeriesSchema.loads("\n" + made.dumps()) == made


def test_kinds_of_schemas_are_told_apart(tmp_path):
    (tmp_path / "t.toml").write_text('[columns.x]\nkind = "boolean"\n')
    assert isinstance(read_schema(tmp_path / "t.toml"), Schema)
    (tmp_path / "s.toml").write_text("\ufeff" + PLAIN.dumps())
    assert read_schema(tmp_path / "s.toml") == PLAIN


def test_what_follows_from_a_schema():
    assert PLAIN.columns == ("home", "when", "power", 'odd "name"')
    assert FULL.columns == ("home", "type", "when", "what", "reading")
    assert (PLAIN.seconds, PLAIN.steps) == ((900, 86400, 86400), 96)
    assert FULL.seconds[2] == 6 * 3600
    assert len({PLAIN.hash, LONG.hash, FULL.hash}) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[other]", "unknown key 'other'"),
        ("series = 3", "not a section"),
        ('[series]\ntime = "t"', "step: field required"),
        ('[series]\ntime = "t"\nstep = "1h"\nwindow = "1d"\nunit = "person"', "unit"),
        ('[series]\ntime = "t"\nstep = "1h"\nwindow = "1d"\nsize = 3', "unknown key 'size'"),
        ('[series]\ntime = "t"\nstep = "1h"\nwindow = "1d"\n[channels.x]\nkind = "odd"', "channels.x"),
        (
            '[series]\ntime = "t"\nstep = "1h"\nwindow = "1d"\n[channels.x]\naction = "keep"',
            "unknown key 'action'",
        ),
        ('[series]\ntime = "t"\nstep = "1h"\nwindow = "1d"\n[channels]\nx = 3', "not a section"),
        ('[series]\ntime = "t"\nstep = "1h"\nwindow = "1d"\nresample = "median"', "resample"),
        ("[series", "not valid TOML"),
    ],
)
def test_what_is_no_schema_is_refused_in_one_line(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        SeriesSchema.loads(text)
    assert "\n" not in str(caught.value)


BARE = Column(name="power", kind="numeric")
BOUGHT = Column(name="power", kind="category", categories="bought")
KIND = {"kind": "type", "kinds": ("a", "b"), "conditions": ("kind",)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channels": ()}, "needs a channel"),
        ({"channels": (BARE,)}, "'power': declare bounds"),
        ({"channels": (BOUGHT,)}, "declare its categories"),
        ({"channels": (POWER.model_copy(update={"action": "drop"}),)}, "leave the channel out"),
        ({"channels": (POWER.model_copy(update={"confirmed": False}),)}, "unconfirmed"),
        ({"channels": (POWER, POWER)}, "one column or channel twice"),
        ({"channel": "what"}, "channel and value go together"),
        ({"value": "x"}, "channel and value go together"),
        ({"channel": "power", "value": "x"}, "one column or channel twice"),
        ({"id": "when"}, "one column or channel twice"),
        ({"id": "score"}, "may not be named score"),
        ({"time": "expected"}, "may not be named expected"),
        ({"step": "1 hour"}, "step must be a duration"),
        ({"window": "daily"}, "window must be a duration"),
        ({"stride": "0s"}, "stride must be a duration"),
        ({"hold": "long"}, "hold must be a duration"),
        ({"window": "20min"}, "whole numbers of steps"),
        ({"stride": "20min"}, "whole numbers of steps"),
        ({"window": "15min"}, "2 to 4096 steps; change step or window"),
        ({"step": "1s"}, "2 to 4096 steps; change step or window"),
        ({"window": "17h", "stride": "15min"}, "at most 64 windows; give a longer stride"),
        ({"timezone": "Mars"}, "a name such as"),
        ({"id": None}, 'unit = "day" protects each of its days'),
        ({"id": None, "unit": "device"}, "needs id"),
        ({"unit": "window", "stride": "6h"}, "leave stride out"),
        ({"unit": "day", "window": "2d"}, "windows within a day"),
        ({"unit": "day", "window": "5h"}, "at the same hours every day"),
        ({"unit": "day", "window": "5h", "stride": "30h"}, "at the same hours every day"),
        ({"conditions": ("weekday", "weekday")}, "one name twice"),
        ({"conditions": ("hour",)}, "the same hour; take it out"),
        ({"conditions": ("weekday",), "window": "2d"}, "no weekday; take it out"),
        ({"conditions": ("weekday",), "stride": "7d"}, "no weekday; take it out"),
        (KIND | {"kinds": ()}, "go together"),
        (KIND | {"kind": None}, "go together"),
        (KIND | {"conditions": ()}, "go together"),
        (KIND | {"kinds": ("a",)}, "two different names"),
        (KIND | {"kinds": ("a", "a")}, "two different names"),
        ({"filled": 0.0}, "a share above 0"),
        ({"filled": 1.01}, "a share above 0"),
        ({"filled": float("nan")}, "a share above 0"),
        ({"rows": 0}, "at least 1: roughly how many units"),
        ({"windows": 0}, "between 1 and 1000"),
        ({"windows": 1001}, "between 1 and 1000"),
    ],
)
def test_contradictions_are_refused_in_one_line_that_says_what_to_do(change, says):
    with pytest.raises(UsageError, match=says) as caught:
        PLAIN.model_copy(update=change).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "day", "window": "5h", "stride": "6h", "conditions": ("hour", "weekday")},
        {"unit": "day", "window": "6h", "stride": "2d", "id": None},
        {"unit": "window", "window": "5h", "id": None},
        {"unit": "window", "window": "5h", "stride": "6h"},
        {"window": "16h", "stride": "15min"},
        {"step": "30s", "window": "1h"},
        KIND,
    ],
)
def test_these_are_none(change):
    PLAIN.model_copy(update=change).check()


def test_columns_that_lack_or_come_twice_are_named():
    with pytest.raises(DataError, match="no column 'when'"):
        PLAIN.ordered(["home", "power", 'odd "name"'])
    with pytest.raises(DataError, match="more than one column 'power'"):
        PLAIN.ordered(["home", "when", "power", "power", 'odd "name"'])
    assert PLAIN.ordered(["more", *PLAIN.columns]) is PLAIN
