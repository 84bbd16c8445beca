"""The verbs of a budget, as a person runs them."""

import json

import pytest

from privae.cli import main
from privae.data.tables import write_table
from privae.privacy.ledger import Ledger

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """A function of words: runs privae, and gives the exit code, and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_a_budget_is_shared_out_charged_shown_and_closed(run, people, facts, tmp_path):
    (tmp_path / "s.toml").write_text(facts.dumps())
    write_table(people(300), tmp_path / "d.csv")
    assert run("ledger", "open", "h.ledger", "--epsilon", 4, "--delta", "1e-5")[0] == 0
    code, said = run("ledger", "grant", "h.ledger", "cardiology", "--epsilon", 1.5)
    assert code == 0
    assert "granted epsilon 1.5 at delta 1e-05: charge it with --ledger h.ledger --grant cardiology" in said
    fit = ("fit", "d.csv", "--schema", "s.toml", "--delta", "1e-6", "--audit", "none", "--ledger", "h.ledger")
    code, said = run(*fit, "--grant", "cardiology", "--epsilon", 3)
    assert code == 4
    assert "of grant 'cardiology' is left. Plan with --epsilon 1." in said
    assert run(*fit, "--grant", "absent", "--epsilon", 1)[0] == 2
    code, said = run(*fit, "--grant", "cardiology", "--epsilon", 1, "-o", "m.privae", "--json")
    assert code == 0
    read = Ledger.load("h.ledger")
    assert [entry.event.get("grant") for entry in read.entries[2:-1]] == ["cardiology"] * len(read.events)
    assert read.entries[-1].phase == f"released {read.entries[-2].hash[:16]}"
    shown = run("ledger", "show", "h.ledger")[1]
    assert "[cardiology]" in shown
    assert "of what no grant has set aside" in shown
    fields = json.loads(run("ledger", "show", "h.ledger", "--json")[1])
    assert [grant["name"] for grant in fields["grants"]] == ["cardiology"]
    assert 0 < fields["grants"][0]["left"] < 1.5
    code, said = run("ledger", "close", "h.ledger", "cardiology", "--json")
    assert json.loads(said)["remaining"] > fields["remaining"]
    assert run("ledger", "close", "h.ledger")[0] == 0
    assert run(*fit, "--epsilon", 0.1, "-o", "n.privae")[0] == 4
    code, said = run("ledger", "close", "h.ledger")
    assert (code, said.count("\n")) == (4, 1)
    assert "closed: nothing may be charged any more" in run("ledger", "show", "h.ledger")[1]


def test_a_stream_is_charged_to_a_grant(run):
    run("ledger", "open", "h.ledger", "--epsilon", 4, "--delta", "1e-5")
    run("ledger", "grant", "h.ledger", "fleet", "--epsilon", 1.5)
    words = (
        "stream",
        "open",
        "s",
        "--bounds",
        "power=0:5",
        "--steps",
        30,
        "--units",
        100,
        "--protect",
        "step",
    )
    assert run(*words, "--epsilon", 3, "--grant", "fleet", "--ledger", "h.ledger")[0] == 4
    code, said = run(*words, "--epsilon", 0.5, "--grant", "fleet", "--ledger", "h.ledger", "--json")
    assert (code, json.loads(said)["ledger"]) == (0, "h.ledger")
    assert [entry.event.get("grant") for entry in Ledger.load("h.ledger").entries] == [None, None, "fleet"]


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "d.csv", "--grant", "a", "--epsilon", 1),
        ("ledger", "grant", "absent.ledger", "a", "--epsilon", 1),
        ("ledger", "close", "absent.ledger"),
        ("ledger", "open", "mysql://me:hunter2@host/db", "--epsilon", 1),
        ("ledger", "show", "postgresql://me:hunter2@host:port/db"),
        ("ledger", "show", "postgresql:/me:hunter2@host/db"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, words):
    (tmp_path / "d.csv").write_text("a\n1\n")
    code, said = run(*words)
    assert (code, said.count("\n")) == (2, 1)
    assert "hunter2" not in said or words[-1].startswith("postgresql:/me")


def test_a_url_passes_the_command_line_unharmed_and_is_said_without_its_password(run):
    code, said = run("ledger", "open", "postgresql://me:hunter2@127.0.0.1:1/db?ledger=a", "--epsilon", 1)
    assert code == 7
    assert said.startswith("privae: postgresql://me@127.0.0.1:1/db?ledger=a: the database cannot be reached")
    assert "hunter2" not in said
