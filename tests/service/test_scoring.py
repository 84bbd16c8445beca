"""`privae score` of series: reading by reading through standard input, by points, and as pictures."""

import csv
import io
import math
import sys

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.cli import main
from privae.errors import DataError
from privae.fitted.following import points
from privae.privacy.noise import NoiseSource
from privae.service import scoring


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny, homes, people, facts):
    """A folder with a model of series, one of a table, and new readings."""
    folder = tmp_path_factory.mktemp("room")
    homes.schema.save(folder / "homes.toml")
    VAE(3.0, rows=300, schema=homes.schema).fit(homes(300), noise=NoiseSource(bytes(32))).save(
        folder / "m.privae"
    )
    VAE(math.inf).fit(people(100), schema=facts).save(folder / "t.privae")
    new = homes(2, days=2, seed=3)
    new.to_csv(folder / "new.csv", index=False)
    people(5).to_csv(folder / "people.csv", index=False)
    return folder


@pytest.fixture
def followed(room, monkeypatch, capsys):
    """A function of what standard input holds: the exit status, the rows that were answered, and what was said."""

    def run(sent):
        raw = io.BytesIO(sent if isinstance(sent, bytes) else sent.encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))
        status = main(["score", str(room / "m.privae"), "--follow"])
        out, err = capsys.readouterr()
        return status, list(csv.reader(io.StringIO(out))), err

    return run


def test_every_line_is_answered_with_the_score_of_its_step(room, followed):
    status, rows, _ = followed((room / "new.csv").read_text())
    assert status == 0
    assert rows[0] == ["home", "time", "score", "window", "share"]
    frame = pd.read_csv(room / "new.csv")
    found = points(VAE.load(room / "m.privae").fitted_, frame)
    assert len(rows) == 1 + len(frame) == 1 + len(found)
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(found["score"].tolist(), rel=2e-3)
    assert [row[0] for row in rows[1:]] == frame["home"].astype(str).tolist()


def test_lines_that_do_not_read_are_answered_with_empty_scores(followed):
    lines = [
        "more,time,heat,home,power",
        "x,2026-01-05 00:00,20,a,2",
        "",
        "x,soon,20,a,2",
        "only,two",
        'x,2026-01-05 01:00,?,a,"NA"',
        "1,2,3,4,5,6",
        "x,2026-01-05 02:00,20,,2",
        "x,2026-01-04,20,a,2",
        'x,2026-01-05 03:00,20,"a, or ""b""",1',
        "\0,\0,\0,\0,\0",
        "=1+1,2026-01-05 04:00,1e999,a,-1e999",
    ]
    status, rows, _ = followed("\r\n".join(lines))
    assert status == 0
    assert len(rows) == 11  # a blank line is none
    scored = [bool(row[2]) for row in rows[1:]]
    assert scored == [True, False, False, False, False, False, False, True, False, True]
    assert rows[8][0] == 'a, or "b"'
    assert all(len(row) == 5 for row in rows)


def test_a_mark_before_the_header_is_no_part_of_it(followed):
    status, rows, _ = followed("\ufeffhome,time,power,heat\na,2026-01-05 00:00,2,20\n")
    assert (status, len(rows)) == (0, 2)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "standard input is empty"),
        (b"\n\n", "standard input is empty"),
        (b"home,time,power\n", "no column 'heat'"),
        (b"home,time,power,heat,heat\n", "more than one column 'heat'"),
        (b"\xff\xfe\x00\x80" * 100, "not UTF-8"),
        (b"home,time,power,heat\na,2026-01-05,2,20\n\xff\xfe\n", "not UTF-8"),
        (b"home,time,power,heat\n" + b"x" * (2**20 + 1) + b"\n", "too long"),
    ],
)
def test_what_is_no_stream_of_rows_ends_in_one_line(followed, sent, says):
    status, _, err = followed(sent)
    assert status == 3
    assert says in err
    assert "Traceback" not in err
    assert len(err) < 400


def test_random_bytes_never_crash(followed):
    rng = np.random.default_rng(0)
    header = b"home,time,power,heat\n"
    for number in range(5):
        garbage = rng.bytes(3000)
        status, _, err = followed(header + (garbage if number % 2 else bytes(b % 128 for b in garbage)))
        assert status in (0, 3)
        assert "Traceback" not in err


def test_points_are_written_and_shown(room, tmp_path, capsys):
    model, new, target = str(room / "m.privae"), str(room / "new.csv"), tmp_path / "points.csv"
    assert main(["score", model, new, "--points", "-o", str(target)]) == 0
    found = pd.read_csv(target)
    assert found.columns.tolist() == ["home", "time", "score", "power expected", "heat expected"]
    assert len(found) == 96
    capsys.readouterr()
    assert main(["score", model, new, "--points", "--top", "3"]) == 0
    assert f"{found['score'].max():.4f}" in capsys.readouterr().out


def test_windows_are_scored_by_name_and_drawn(room, tmp_path, capsys):
    model, new, target = str(room / "m.privae"), str(room / "new.csv"), tmp_path / "heat.png"
    assert main(["score", model, new, "-o", str(tmp_path / "s.csv")]) == 0
    assert pd.read_csv(tmp_path / "s.csv").columns.tolist() == ["home", "time", "score"]
    assert main(["score", model, new, "--heat-map", str(target), "--top", "2"]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "few.csv").write_text("\n".join((room / "new.csv").read_text().splitlines()[:3]) + "\n")
    assert main(["score", model, str(tmp_path / "few.csv"), "--heat-map", str(tmp_path / "no.png")]) == 2
    assert "no window to draw" in capsys.readouterr().err
    assert main(["score", model, str(tmp_path / "few.csv"), "--points"]) == 0
    assert main(["encode", model, new, "-o", str(tmp_path / "codes.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "codes.csv")) == 4


def test_a_schema_of_series_is_planned_fitted_and_told_by_the_verbs(room, tmp_path, homes, capsys):
    homes(200).to_csv(tmp_path / "homes.csv", index=False)
    data = [str(tmp_path / "homes.csv"), "--schema", str(room / "homes.toml")]
    public = ["--epsilon", "3", "--delta", "1e-5", "--rows", "200"]
    assert main(["plan", *data, *public]) == 0
    assert "one household" in capsys.readouterr().out
    model = tmp_path / "m.privae"
    assert main(["fit", *data, *public, "-o", str(model), "--audit", "quick"]) == 0
    assert main(["inspect", str(model)]) == 0
    assert "time series, one household a unit: windows of 1d of power, heat" in capsys.readouterr().out
    assert main(["sample", str(model), "-n", "3", "-o", str(tmp_path / "s.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "s.csv")) == 3 * 3 * 24


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["m.privae"], "line by line with --follow"),
        (["m.privae", "new.csv", "--follow"], "leave out all but the model"),
        (["m.privae", "--follow", "--points"], "leave out all but the model"),
        (["m.privae", "--follow", "--top", "3"], "leave out all but the model"),
        (["m.privae", "--follow", "-o", "x.csv"], "leave out all but the model"),
        (["m.privae", "new.csv", "--points", "--by", "tail"], "leave out --by and --heat-map"),
        (["m.privae", "new.csv", "--points", "--heat-map", "x.png"], "leave out --by and --heat-map"),
        (["m.privae", "new.csv", "--top", "0"], "at least 1"),
        (["m.privae", "new.csv", "--heat-map", "x.csv"], ".png"),
        (["t.privae", "people.csv", "--points"], "by a model of series"),
        (["t.privae", "--follow"], "by a model of series"),
    ],
)
def test_what_does_not_go_together_is_refused(room, monkeypatch, capsys, options, says):
    monkeypatch.chdir(room)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["score", *options]) == 2
    assert says in capsys.readouterr().err
    assert not (room / "x.csv").exists()
    assert not (room / "x.png").exists()


def test_a_model_of_series_has_a_page_a_certificate_and_an_audit(room, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    model, new = str(room / "m.privae"), str(room / "new.csv")
    for more in ([], ["--data", new]):
        target = tmp_path / f"{len(more)}.html"
        assert main(["report", model, "-o", str(target), *more]) == 0
        text = target.read_text()
        assert "time series" in text
        assert "household" in text
        assert "of images" not in text
    assert main(["certificate", model, "-o", str(tmp_path / "c.json")]) == 0
    assert main(["audit", model, "--data", new, "-o", str(tmp_path / "a.json")]) == 0
    assert "Traceback" not in capsys.readouterr().err


class Endless(io.TextIOBase):
    """A line that never ends; it counts what was read of it."""

    read_so_far = 0

    def readline(self, size=-1):
        assert size > 0, "all of an endless line"
        self.read_so_far += size
        return "a" * size


def test_lines_are_rows_of_cells_and_blank_ones_are_none():
    lines = io.StringIO('id,time\n\n"a,b",2026-01-01\nlast,')
    assert list(scoring._rows(lines)) == [["id", "time"], ["a,b", "2026-01-01"], ["last", ""]]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory():
    lines = Endless()
    with pytest.raises(DataError, match="too long"):
        next(scoring._rows(lines))
    assert lines.read_so_far <= scoring._LONGEST + 1
