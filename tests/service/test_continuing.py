"""The verbs of a stream: open, add, show; what a person sees; mistakes are one line and release nothing."""

import json
import stat

import numpy as np
import pandas as pd
import pytest

from privae.cli import main

OPEN = (
    "--bounds",
    "power=0:5",
    "--bounds",
    "indoor=5:35",
    "--steps",
    "5",
    "--epsilon",
    "1",
    "--units",
    "300",
)
STEP = (*OPEN, "--protect", "step")


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    """A folder with three days of 300 homes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for t in range(3):
        frame = pd.DataFrame(
            {
                "home": [f"h{i}" for i in range(300)],
                "power": rng.gamma(2, 0.5, 300).round(3),
                "indoor": (20 + t + rng.normal(0, 1, 300)).round(2),
            }
        )
        frame.loc[::10, "indoor"] = np.nan
        frame.to_csv(f"2026-03-0{t + 1}.csv", index=False)
    return tmp_path


def said(capsys, *arguments, code=0):
    assert main(["stream", *(str(argument) for argument in arguments)]) == code
    return capsys.readouterr()


def added(capsys, *days):
    for name in days:
        said(capsys, "add", "fleet", f"2026-03-0{name}.csv", "--unit", "home", "-q")


def test_a_stream_is_opened_added_to_and_shown(room, capsys):
    text = said(capsys, "open", "fleet", *STEP).out
    assert "removing one day of one home" in text
    assert "1 day " in text
    assert "privae stream add fleet day.csv --unit home" in text
    assert stat.S_IMODE((room / "fleet" / "secret.state").stat().st_mode) == 0o600
    assert "nothing was released yet, of 5 days" in said(capsys, "show", "fleet").out
    did = said(capsys, "add", "fleet", "2026-03-01.csv", "--unit", "home")
    assert "released '2026-03-01', day 1 of 5" in did.out
    added(capsys, 2, 3)
    shown = said(
        capsys, "show", "fleet", "--last", "2", "-o", "means.csv", "--plot", "means.png", "--json"
    ).out
    found = json.loads(shown)
    indoor = found["means"][1]
    assert (found["step"], indoor["name"], indoor["day"]) == (3, "indoor", "2026-03-03")
    assert abs(indoor["mean"] - 21.5) < 6 * indoor["standard_error"] + 0.1
    assert len(pd.read_csv("means.csv")) == 6
    assert (room / "means.png").read_bytes().startswith(b"\x89PNG")
    assert "means over the last 2" in said(capsys, "show", "fleet", "--last", "2", "-q").out


def test_quiet_and_json(room, capsys):
    assert said(capsys, "open", "fleet", *STEP, "-q").out == ""
    fields = json.loads(said(capsys, "open", "other", *STEP, "--json").out)
    assert fields["guarantee"]["epsilon"] <= 1
    assert set(fields["standard_errors"]) == {"1", "5"}
    first = json.loads(said(capsys, "add", "fleet", "2026-03-01.csv", "--unit", "home", "--json").out)
    again = json.loads(said(capsys, "add", "fleet", "2026-03-01.csv", "--unit", "home", "--json").out)
    assert (first["step"], first["again"], again["step"], again["again"]) == (1, False, 1, True)


def test_a_plan_in_a_file_says_all(room, capsys):
    said(
        capsys,
        "open",
        "fleet",
        *STEP,
        "--no-gaps",
        "--best-for",
        "2",
        "--who",
        "meter",
        "--when",
        "hour",
        "-q",
    )
    said(capsys, "open", "copy", "--plan", "fleet/plan.toml", "-q")
    assert (room / "copy" / "plan.toml").read_text() == (room / "fleet" / "plan.toml").read_text()
    for name, value in (("--epsilon", "2"), ("--bounds", "a=0:1"), ("--best-for", "3")):
        wrong = said(capsys, "open", "new", "--plan", "fleet/plan.toml", name, value, code=2)
        assert f"{name} is fixed by the plan" in wrong.err
    assert "hour of one meter" in (room / "copy" / "ledger.jsonl").read_text()


def test_a_ledger_is_charged_once_and_refuses(room, capsys):
    assert main(["ledger", "open", "homes.ledger", "--epsilon", "1", "--unit", "person", "-q"]) == 0
    said(capsys, "open", "fleet", *OPEN, "--protect", "unit", "--ledger", "homes.ledger", "-q")
    added(capsys, 1, 2)
    refused = said(capsys, "open", "more", *OPEN, "--protect", "unit", "--ledger", "homes.ledger", code=4)
    assert "is left" in refused.err
    assert not (room / "more").exists()


def test_a_privacy_of_none_is_shouted(room, capsys):
    args = ("--bounds", "power=0:5", "--steps", "3", "--epsilon", "inf", "--units", "3", "--protect", "step")
    assert "NOT PRIVATE" in said(capsys, "open", "fleet", *args).out
    said(capsys, "add", "fleet", "2026-03-01.csv", "--unit", "home", "-q")
    shown = said(capsys, "show", "fleet").out
    assert "NOT PRIVATE" in shown
    exact = pd.read_csv("2026-03-01.csv")["power"].clip(0, 5).mean()
    assert f"{exact:.4g}" in shown


@pytest.mark.parametrize("gone", ["--bounds", "--steps", "--epsilon", "--units", "--protect"])
def test_what_has_no_default_is_asked_for(gone, capsys):
    rest = [item for pair in zip(STEP[::2], STEP[1::2], strict=True) if pair[0] != gone for item in pair]
    assert gone in said(capsys, "open", "fleet", *rest, code=2).err


@pytest.mark.parametrize("text", ["power", "power=1", "power=a:b", "=0:1", "power=5:0", "power=0:inf"])
def test_bounds_that_do_not_read(text, capsys):
    wrong = said(capsys, "open", "fleet", *STEP[4:], "--bounds", text, code=2)
    assert wrong.err.count("\n") == 1
    twice = said(capsys, "open", "fleet", *STEP, "--bounds", "power=0:1", code=2)
    assert "a name of its own" in twice.err


def test_mistakes_of_a_day_are_one_line_and_release_nothing(room, capsys):
    said(capsys, "open", "fleet", *STEP, "-q")
    pd.DataFrame({"home": ["a"], "power": [1]}).to_csv("short.csv", index=False)
    for arguments, code, words in (
        (("short.csv", "--unit", "home"), 3, "no column 'indoor'"),
        (("2026-03-01.csv", "--unit", "who"), 3, "no column 'who'"),
        (("nothing.csv", "--unit", "home"), 2, "does not exist"),
        (("2026-03-01.csv", "--unit", "home", "--day", ""), 2, "printable"),
    ):
        wrong = said(capsys, "add", "fleet", *arguments, code=code)
        assert words in wrong.err
        assert wrong.err.strip().count("\n") <= 1
    assert len(pd.read_csv("fleet/released.csv")) == 0
    assert "holds no stream" in said(capsys, "show", "nowhere", code=2).err
    assert "before drawing" in said(capsys, "show", "fleet", "--plot", "a.png", code=2).err
    assert "must end in" in said(capsys, "show", "fleet", "-o", "means.txt", code=2).err


def test_a_day_with_no_rows_and_cells_that_are_no_numbers(room, capsys):
    said(capsys, "open", "fleet", *STEP, "-q")
    (room / "empty.csv").write_text("home,power,indoor\n")
    (room / "odd.csv").write_text("home,power,indoor\nh1,much,\nh1,nan,1e999\n,1,20\n")
    said(capsys, "add", "fleet", "empty.csv", "--unit", "home", "-q")
    out = said(capsys, "add", "fleet", "odd.csv", "--unit", "home")
    assert "much" not in out.out + out.err
    assert "too few" in said(capsys, "show", "fleet").out


@pytest.mark.parametrize("verb", ["open", "add", "show"])
def test_help_teaches(verb, capsys):
    text = said(capsys, verb, "--help").out
    assert "Examples:" in text
    assert f"privae stream {verb} fleet" in text
