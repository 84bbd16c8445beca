"""`torchrun ... -m privae fit` as a person runs it, and what a process says that is not the first of its job."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import privae
from privae.cli import main
from privae.cli import terminal as shown
from privae.cli.terminal import Terminal
from privae.errors import DataError
from privae.privacy.ledger import Ledger
from privae.recipes.gradients import Training
from privae.training.launch import TOLD
from privae.training.watch import Silent
from privae.vae import VAE

STEPS = 12
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FIT = ["-m", "privae", "fit", "people.csv", "--schema", "people.toml", "--plan", "plan.toml"]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, facts, people):
    """Two fits by two processes each, charged to one ledger that has room for one of them."""
    folder = tmp_path_factory.mktemp("jobs")
    people(600).to_csv(folder / "people.csv", index=False)
    facts.save(folder / "people.toml")
    drawn = VAE(3.0, 1e-6, 600, "gradients", facts, training=Training(steps=STEPS, batch=600))
    drawn.plan(facts).save(folder / "plan.toml")
    Ledger.open(folder / "people.ledger", 4.0, 1e-5)

    def fitted(*options):
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(privae.__file__).parents[1])}
        done = subprocess.run(
            [*TORCHRUN, *FIT, "--ledger", "people.ledger", *options],
            cwd=folder,
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done, Ledger.load(folder / "people.ledger")

    first = fitted("-o", "first.privae")
    return SimpleNamespace(folder=folder, first=first, second=fitted("-o", "second.privae", "--json"))


def test_two_processes_fit_one_model_and_charge_once(jobs):
    done, ledger = jobs.first
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in jobs.folder.glob("first*")) == [
        "first.privae",
        "first.privae.audit.json",
    ]
    model = VAE.load(jobs.folder / "first.privae")
    assert sum(event.steps for event in model.ledger.events) == STEPS
    assert [entry.phase.split()[0] for entry in ledger.entries] == ["open", "gradients", "released"]
    assert len(model.sample(5, seed=1)) == 5


def test_the_first_process_alone_speaks(jobs):
    done, _ = jobs.first
    assert done.stdout.count("wrote first.privae") == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("gradients")] == ["gradients ..."]
    assert "privae:" not in done.stderr


def test_a_refused_job_says_so_once_and_changes_nothing(jobs):
    done, ledger = jobs.second
    assert done.returncode != 0
    assert json.loads(done.stdout)["error"]["exit_code"] == 4
    assert len([line for line in done.stderr.splitlines() if line.startswith("privae:")]) == 1
    assert "exitcode:4" in done.stderr.replace(" ", "")
    assert not list(jobs.folder.glob("second*"))
    assert ledger.head == jobs.first[1].head


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two."""
    job = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shown, "_LAST_WORD", 0.0)


def test_the_second_process_says_nothing(second, capsys, monkeypatch):
    out = Terminal()
    with out.progress("reading") as watch:
        assert isinstance(watch, Silent)
    out.note("a note")
    out.report("text", {})
    Terminal(as_json=True).answer("text", {"a": 1})
    assert capsys.readouterr() == ("", "")


def test_the_second_process_leaves_what_all_meet_to_the_first(second, capsys):
    told = DataError("the file does not read")
    told.add_note(TOLD)
    assert shown.fail(told, as_json=True) == 3
    assert shown.fail(KeyboardInterrupt(), as_json=False) == 130
    assert main(["fit", "--no-such-option"]) == 2
    assert capsys.readouterr() == ("", "")


def test_an_error_of_the_second_process_alone_is_said_on_stderr(second, capsys):
    assert shown.fail(DataError("the file does not read"), as_json=True) == 3
    assert capsys.readouterr() == ("", "privae: process 1: the file does not read\n")


def test_a_place_that_does_not_read_is_an_error_that_is_said(second, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "first")
    Terminal().note("a note")
    assert shown.fail(DataError("no"), as_json=False) == 3
    assert capsys.readouterr().err == "a note\nprivae: no\n"


def test_what_is_for_the_data_holder_alone_reaches_a_terminal_and_no_log(monkeypatch, capsys):
    with Terminal().progress("reading") as watch:
        watch.aside("3 gradients were not finite")
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Terminal().progress("reading") as watch:
        watch.aside("3 gradients were not finite")
    assert "3 gradients were not finite" in terminal.getvalue()
