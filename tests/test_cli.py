"""The verbs, as a person uses them: what they write, what they print, and what --quiet and --json change."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from privae.cli import main
from privae.cli import terminal as shown
from privae.cli.request import parsed_classes
from privae.cli.terminal import Bars, Lines, Terminal, jsonable
from privae.errors import UsageError
from privae.plan import Plan
from privae.training.state import uninterrupted
from privae.training.watch import Silent, Watch
from privae.vae import VAE

PUBLIC = ["--epsilon", "3", "--delta", "1e-5", "--rows", "3000"]


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny, facts, people, pictures):
    """A folder with a table, its schema, images, and a model of each."""
    folder = tmp_path_factory.mktemp("room")
    people(3000).to_csv(folder / "people.csv", index=False)
    people(40, seed=1).to_csv(folder / "new.csv", index=False)
    facts.save(folder / "people.toml")
    x, y = pictures(1500)
    np.savez(folder / "pictures.npz", x=x, y=y)
    table = [str(folder / "people.csv"), "--schema", str(folder / "people.toml")]
    assert main(["fit", *table, *PUBLIC, "-o", str(folder / "people.privae"), "-q"]) == 0
    images = [str(folder / "pictures.npz"), "--classes", "2", "--no-fidelity"]
    assert main(["fit", *images, *PUBLIC, "-o", str(folder / "pictures.privae"), "-q"]) == 0
    return SimpleNamespace(folder=folder, table=table, images=images, model=str(folder / "people.privae"))


def said(capsys, *arguments) -> dict:
    """The one JSON object that a verb prints."""
    assert main([*map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    return json.loads(out)


def test_help_teaches_and_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from privae.cli import main; rc = main(['fit', '--help']); "
        "heavy = {'torch', 'pandas', 'sklearn'} & set(sys.modules); sys.exit(rc or bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert "privae fit patients.csv --schema patients.schema.toml --epsilon 3" in done.stdout
    assert done.returncode == 0, "privae --help must not import torch: keep privae/__init__.py lazy"


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "schema",
        "plan",
        "fit",
        "sample",
        "score",
        "encode",
        "inspect",
        "ledger open",
        "ledger show",
        "ledger sign",
        "ledger export",
        "ledger import",
        "ledger prove",
        "ledger verify",
        "audit",
        "report",
        "certificate",
        "verify",
    ],
)
def test_every_verb_shows_an_example_and_takes_quiet_and_json(verb: str, capsys) -> None:
    assert main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  privae {verb}" in text
    assert "--quiet" in text
    assert "--json" in text


def test_no_verb_is_help_and_version_is_a_line(capsys) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("privae ")


def test_schema_drafts_what_a_person_completes(room, tmp_path, capsys) -> None:
    target = tmp_path / "draft.toml"
    assert main(["schema", room.table[0], "-o", str(target)]) == 0
    assert "declare the bounds and categories" in capsys.readouterr().out
    assert "# bounds = " in target.read_text()
    assert main(["schema", room.table[0], "-o", str(target)]) == 2  # it may hold declarations by now
    assert "may hold what you declared" in capsys.readouterr().err
    assert said(capsys, "schema", room.table[0], "--public")["origin"] == "public"
    assert main(["schema", room.images[0]]) == 2


def test_schema_says_what_looks_like_an_identifier(tmp_path, capsys):
    canary = "canary"
    table, target = tmp_path / "t.csv", tmp_path / "s.toml"
    pd.DataFrame({"姓名": [canary, "b"], "email": ["a@b.org", "c@d.org"], "age": [1, 2]}).to_csv(
        table, index=False
    )
    assert main(["schema", str(table), "-o", str(target), "-q"]) == 0
    assert "# looks like a person's name (by its name)" in target.read_text(encoding="utf-8")
    assert main(["schema", str(table), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert [finding["column"] for finding in fields["findings"]] == ["姓名", "email", "age"]
    assert fields["findings"][1]["instead"] == {"action": "mask", "rule": {"first": 1, "after": "@"}}
    assert fields["schema"]["columns"]["email"]["action"] == "drop"
    assert main(["schema", str(table), "-o", str(tmp_path / "u.toml")]) == 0
    said = capsys.readouterr().out
    assert "look like identifiers, and are left out: 姓名, email\ntell people apart together: age" in said
    assert canary not in said


def test_plan_says_what_is_spent_and_whether_it_can_work(room, tmp_path, capsys) -> None:
    assert main(["plan", *room.table, *PUBLIC, "-o", str(tmp_path / "plan.toml")]) == 0
    text = capsys.readouterr().out
    for part in ("pair tables", "100%", "can it work: yes", "expected: about", "replacing one", "fit "):
        assert part in text
    assert Plan.load(tmp_path / "plan.toml").epsilon == 3
    few = said(capsys, "plan", *room.table, "--epsilon", "0.01", "--rows", "100")
    assert few["can_work"] is False
    assert few["plan"]["delta"] == 1e-6
    unknown = said(capsys, "plan", *room.table, "--epsilon", "inf")
    assert unknown["can_work"] is None
    assert unknown["promise"]["sentence"].startswith("NOT PRIVATE")
    assert unknown["plan"]["epsilon"] == "inf"


@pytest.mark.usefixtures("tiny")
def test_a_polynomial_network_is_planned_and_fitted(room, tmp_path, capsys) -> None:
    plan, model = str(tmp_path / "plan.toml"), str(tmp_path / "pictures.privae")
    square = [*room.images[:-1], *PUBLIC, "--activation", "square"]
    assert main(["plan", *square]) == 2
    assert 'activations are for recipe="gradients"' in capsys.readouterr().err
    made = [*square, "--recipe", "gradients", "-o", plan]
    assert main(["plan", *made]) == 0
    assert Plan.load(Path(plan)).settings["activation"] == "square"
    Path(plan).write_text(Path(plan).read_text().replace("steps = 300", "steps = 5"))
    assert main(["fit", *room.images[:-1], "--plan", plan, "-o", model, "-q", "--audit", "none"]) == 0
    assert VAE.load(model).fitted_.model.network.config.activation == "square"


def test_plans_that_one_place_cannot_follow_are_refused(room, tmp_path, capsys) -> None:
    plan, model = tmp_path / "plan.toml", tmp_path / "people.privae"
    sites = ["--recipe", "gradients", "--local-steps", "2", "--epsilon", "8", "--rows", "3", "-o", str(plan)]
    assert main(["plan", *room.table, *sites]) == 0
    assert main(["fit", *room.table, "--plan", str(plan), "-o", str(model)]) == 2
    assert "fit with: privae federated" in capsys.readouterr().err
    plan.write_text(plan.read_text().replace("learning_rate = ", 'learning_rate = "x" # '))
    assert main(["fit", *room.table, "--plan", str(plan), "-o", str(model)]) == 2
    assert "plan.toml: the settings of the gradients do not read" in capsys.readouterr().err
    assert not model.exists()


def test_plan_reads_the_header_and_no_record(room, tmp_path, capsys) -> None:
    names = Path(room.table[0]).read_text().splitlines()[0]
    (tmp_path / "header.csv").write_text(names + "\nthis,is,not,a,record\n")
    assert main(["plan", str(tmp_path / "header.csv"), *room.table[1:], *PUBLIC]) == 0
    assert main(["plan", *room.images, *PUBLIC]) == 0
    assert "class prior" in capsys.readouterr().out


def test_delta_is_said_aloud_when_it_is_not_given(room, capsys) -> None:
    assert main(["plan", *room.table, "--epsilon", "1"]) == 0
    assert "delta was not given: 1e-06" in capsys.readouterr().err


def test_a_default_delta_is_said_before_anything_is_spent(room, tmp_path, capsys, monkeypatch) -> None:
    def fit(*_, **__):
        raise UsageError("nothing is spent")

    monkeypatch.setattr(VAE, "fit", fit)
    words = ["fit", *room.table, "--epsilon", "1", "-o", str(tmp_path / "m.privae")]
    assert main(words) == 2
    assert "delta was not given: 1e-06" in capsys.readouterr().err


def test_fit_follows_a_plan_and_charges_a_ledger(room, tmp_path, capsys) -> None:
    ledger, plan, model = (str(tmp_path / name) for name in ("h.ledger", "plan.toml", "m.privae"))
    assert main(["ledger", "open", ledger, "--epsilon", "4", "--delta", "1e-5"]) == 0
    assert main(["plan", *room.table, *PUBLIC, "-o", plan]) == 0
    capsys.readouterr()
    assert main(["fit", *room.table, "--plan", plan, "--ledger", ledger, "-o", model]) == 0
    out, err = capsys.readouterr()
    assert "not covered:" in out
    assert "pair tables ..." in err
    entries = said(capsys, "ledger", "show", ledger)
    phases = [entry["phase"] for entry in entries["entries"]]
    assert phases == ["open", "pair tables", f"released {entries['entries'][1]['hash'][:16]}"]
    assert entries["cap"] == 4
    again = [*room.table, *PUBLIC, "--ledger", ledger, "-o", str(tmp_path / "second.privae")]
    assert main(["fit", *again]) == 4
    assert "Plan with --epsilon" in capsys.readouterr().err
    assert not (tmp_path / "second.privae").exists()
    assert main(["ledger", "show", ledger]) == 0
    assert "remaining: epsilon" in capsys.readouterr().out
    assert main(["fit", *room.table, "--plan", plan, "--epsilon", "1", "-o", model]) == 2
    assert "--epsilon is fixed by the plan" in capsys.readouterr().err


def test_a_fit_that_ends_leaves_its_model_alone_and_names_what_it_does_from_the_first(
    room, tmp_path, capsys
) -> None:
    assert main(["fit", *room.table, *PUBLIC, "-o", str(tmp_path / "m.privae")]) == 0
    phases = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" ...")]
    assert phases[:2] == ["choosing the noise ...", f"reading {Path(room.table[0]).name} ..."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.privae", "m.privae.audit.json"]


def test_a_fit_neither_begins_over_an_interrupted_one_nor_resumes_none(room, tmp_path, capsys) -> None:
    """Said before a record is read: the table is not there at first."""
    kept, options = tmp_path / "m.privae.checkpoint", [*PUBLIC, "-o", str(tmp_path / "m.privae")]
    absent = ["fit", str(tmp_path / "absent.csv"), *room.table[1:], *options]
    fit = ["fit", *room.table, *options]
    assert main([*absent, "--resume"]) == 2
    assert "there is no fit to resume" in capsys.readouterr().err
    kept.write_bytes(b"an interrupted fit")
    assert main(absent) == 2
    assert "resume it (--resume), or remove the file" in capsys.readouterr().err
    assert main([*fit, "--resume"]) == 6
    assert "is damaged and cannot be resumed" in capsys.readouterr().err
    assert kept.read_bytes() == b"an interrupted fit"
    assert main(["inspect", str(kept)]) == 6


def test_a_device_is_one_that_is_there(room, tmp_path, capsys) -> None:
    fit = ["fit", *room.table, *PUBLIC, "-o", str(tmp_path / "m.privae")]
    assert main([*fit, "--device", "abacus"]) == 2
    assert 'there is no device "abacus"' in capsys.readouterr().err
    assert main([*fit, "--device", "cpu"]) == 0


def test_fit_without_noise_says_so_wherever_it_speaks(room, tmp_path, capsys) -> None:
    model, made = str(tmp_path / "m.privae"), str(tmp_path / "s.csv")
    assert main(["fit", *room.table, "--epsilon", "inf", "-o", model]) == 0
    assert "NOT PRIVATE" in capsys.readouterr().out
    for verb in (["sample", model, "-n", "3", "-o", made], ["inspect", model]):
        assert main(verb) == 0
        assert "NOT PRIVATE" in capsys.readouterr().out


def test_a_fit_never_replaces_a_model_or_its_input_by_default(room, tmp_path, capsys) -> None:
    data = tmp_path / "people.csv"
    data.write_bytes(Path(room.table[0]).read_bytes())
    (tmp_path / "people.privae").write_bytes(b"spent")
    assert main(["fit", str(data), *room.table[1:], *PUBLIC]) == 2
    assert "its budget was spent" in capsys.readouterr().err
    assert (tmp_path / "people.privae").read_bytes() == b"spent"
    for name in ("people.csv", "no/model.privae", "model.txt"):
        assert main(["fit", str(data), *room.table[1:], *PUBLIC, "-o", str(tmp_path / name)]) == 2
    assert data.read_bytes() == Path(room.table[0]).read_bytes()


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_sample_writes_a_table_as_it_went_in(room, tmp_path, name, capsys) -> None:
    target = tmp_path / name
    fields = said(capsys, "sample", room.model, "-n", 50, "--seed", 1, "-o", target)
    frame = pd.read_csv(target) if name.endswith("csv") else pd.read_parquet(target)
    assert fields["records"] == len(frame) == 50
    assert list(frame.columns) == ["age", "job", "height", "ill"]
    assert fields["guarantee"].startswith("Adding or removing one record")
    assert main(["sample", room.model, "-o", str(tmp_path / "s.npz")]) == 2
    assert main(["sample", room.model, "-n", "-1", "-o", str(target)]) == 2


def test_a_table_is_fitted_for_anomaly_scores(room, tmp_path, capsys) -> None:
    facts = room.folder / "people.toml"
    plain = tmp_path / "plain.toml"
    plain.write_text(facts.read_text().replace('label = "ill"\n', ""))
    table = [str(room.folder / "people.csv"), "--schema", str(plain)]
    assert main(["plan", *table, *PUBLIC, "--recipe", "detection", "-o", str(tmp_path / "plan.toml")]) == 0
    assert "recipe detection" in capsys.readouterr().out
    model = tmp_path / "m.privae"
    assert (
        main(["fit", *table, "--plan", str(tmp_path / "plan.toml"), "-o", str(model), "--audit", "none"]) == 0
    )
    told = "note: scores use how the numbers of a record move together"
    assert told in capsys.readouterr().out
    assert main(["inspect", str(model)]) == 0
    assert told in capsys.readouterr().out
    new = room.folder / "new.csv"
    frame, fitted = pd.read_csv(new), VAE.load(model)
    for options, name in (([], "combined"), (["--by", "tail"], "tail")):
        top = said(capsys, "score", model, new, "--top", 3, *options)["scores"]
        expected = np.sort(fitted.decision_function(frame, name))[::-1][:3]
        assert [row["score"] for row in top] == pytest.approx(expected.tolist())
    assert main(["score", room.model, str(new), "--by", "tail"]) == 2
    assert "one score" in capsys.readouterr().err
    assert main(["fit", *room.table, *PUBLIC, "--recipe", "detection", "-o", str(tmp_path / "n.privae")]) == 2
    assert "label 'ill' takes no part in detection" in capsys.readouterr().err


def test_images_are_fitted_for_anomaly_scores_and_drawn_with_their_heat(room, tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    x = np.clip(128 + 30 * np.linspace(-1, 1, 8)[:, None] + rng.normal(0, 20, (3000, 8, 8)), 0, 255)
    np.savez(tmp_path / "x.npz", x=x.astype(np.uint8))
    model, heat = tmp_path / "x.privae", tmp_path / "heat.png"
    fit = [
        str(tmp_path / "x.npz"),
        "--recipe",
        "detection",
        "--epsilon",
        "1",
        "--rows",
        "3000",
        "-o",
        str(model),
    ]
    assert main(["fit", *fit, "--audit", "standard", "-q"]) == 0
    top = said(capsys, "score", model, tmp_path / "x.npz", "--top", 60, "--heat-map", heat)["scores"]
    assert len(top) == 60
    assert heat.read_bytes().startswith(b"\x89PNG")
    target = tmp_path / "h.png"
    assert main(["score", room.model, str(room.folder / "new.csv"), "--heat-map", str(target)]) == 2
    assert "heat maps are of images" in capsys.readouterr().err
    assert main(["score", str(model), str(tmp_path / "x.npz"), "--heat-map", str(tmp_path / "h.csv")]) == 2
    assert not target.exists()


def test_score_names_the_strangest_rows(room, tmp_path, capsys) -> None:
    new, target = room.folder / "new.csv", tmp_path / "scores.csv"
    expected = VAE.load(room.model).decision_function(pd.read_csv(new, dtype=str))
    assert main(["score", room.model, str(new), "-o", str(target)]) == 0
    frame = pd.read_csv(target)
    assert list(frame["row"]) == list(range(1, 41))
    assert np.allclose(frame["score"], expected)
    capsys.readouterr()
    top = said(capsys, "score", room.model, new, "--top", 3)["scores"]
    assert [one["row"] for one in top] == list(np.argsort(-expected, kind="stable")[:3] + 1)
    assert main(["score", room.model, str(new)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21
    assert main(["score", room.model, str(new), "--top", "0"]) == 2
    assert main(["score", room.model, room.images[0]]) == 2


def test_encode_writes_codes(room, tmp_path, capsys) -> None:
    target = tmp_path / "codes.parquet"
    width = said(capsys, "encode", room.model, room.folder / "new.csv", "-o", target)["codes"]
    frame = pd.read_parquet(target)
    assert list(frame.columns) == [f"z{i}" for i in range(width)]
    assert len(frame) == 40


def test_images_go_the_same_way(room, tmp_path, capsys) -> None:
    model, scores = room.folder / "pictures.privae", tmp_path / "scores.csv"
    said(capsys, "sample", model, "-n", 30, "-o", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as made:
        assert made["x"].shape == (30, 4, 4)
        assert made["x"].dtype == np.uint8
        assert set(made["y"]) <= {0, 1}
    assert main(["score", str(model), str(tmp_path / "s.npz"), "-o", str(scores)]) == 0
    assert len(pd.read_csv(scores)) == 30
    assert main(["inspect", str(model)]) == 0
    assert "images of 4 x 4 pixels, labels 0, 1" in capsys.readouterr().out
    assert main(["fit", room.images[0], "--classes", "2", "--schema", room.table[2], *PUBLIC]) == 2
    assert main(["fit", *room.table, "--classes", "2", *PUBLIC]) == 2


def test_inspect_tells_all_but_the_weights(room, capsys) -> None:
    fields = said(capsys, "inspect", room.model)
    assert fields["kind"] == "table"
    assert fields["guarantee"]["epsilon"] == pytest.approx(3, rel=1e-3)
    assert fields["plan"]["phases"][0]["name"] == "pair tables"
    assert fields["ledger"][-1]["hash"] == fields["ledger_head"]
    assert "age" in fields["schema"]["columns"]
    assert main(["inspect", room.model]) == 0
    assert "ledger head: " in capsys.readouterr().out


def test_quiet_says_nothing_but_what_was_asked_for(room, tmp_path, capsys) -> None:
    assert main(["sample", room.model, "-n", "3", "-o", str(tmp_path / "s.csv"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["inspect", room.model, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "Adding or removing one record" in out
    assert err == ""


@pytest.mark.parametrize("example", ["adult", "digits"])
def test_the_demo_shows_real_beside_synthetic(example, tiny, tmp_path, monkeypatch, capsys) -> None:
    from privae.cli import demo

    table, schema = demo.load_table()
    monkeypatch.setattr(demo, "load_table", lambda: (table[:4000], schema))
    folder = tmp_path / "demo"
    fields = said(capsys, "demo", example, "-o", folder)
    names = {f"{example}.privae", "real-beside-synthetic.png"}
    assert names < set(fields["files"]) == {path.name for path in folder.iterdir()}
    assert (folder / "real-beside-synthetic.png").read_bytes().startswith(b"\x89PNG")
    assert all(0.1 < value <= 1 for key, value in fields.items() if key.startswith(("auc", "accuracy")))


def test_the_demo_tells_the_next_commands(tiny, tmp_path, capsys) -> None:
    assert main(["demo", "digits", "-o", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "the data are public" in text
    assert f"privae sample {tmp_path / 'digits.privae'}" in text
    (tmp_path / "file").write_text("")
    assert main(["demo", "-o", str(tmp_path / "file" / "demo")]) == 2


def test_classes_are_a_number_or_names() -> None:
    assert parsed_classes(None) is None
    for wrong in ("", "one", "a,,b"):
        with pytest.raises(UsageError, match="number"):
            parsed_classes(wrong)


def test_progress_is_drawn_on_a_terminal_and_told_in_lines_elsewhere(monkeypatch, capsys) -> None:
    def watched(watch: Watch) -> None:
        watch.phase("tables", 1)
        watch.advance(1, 0.5)
        watch.phase("steps", 4)
        watch.advance(2, 1.25)
        watch.note("a note [1]")

    with Terminal().progress("reading") as watch:
        assert isinstance(watch, Lines)
        monkeypatch.setattr(shown, "_EVERY", -1.0)
        watched(watch)
    assert "steps: 2 of 4, epsilon so far 1.25" in capsys.readouterr().err
    with Terminal(quiet=True).progress("reading") as watch:
        assert isinstance(watch, Silent)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Terminal().progress("reading") as watch:
        assert isinstance(watch, Bars)
        watched(watch)
    for part in ("reading", "tables", "epsilon 1.25", "a note [1]"):
        assert part in terminal.getvalue()


def test_sigterm_waits_for_a_block_as_ctrl_c_does_and_is_left_to_torchrun(monkeypatch) -> None:
    done = []

    def block() -> None:
        with shown.ending(), uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append("the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the block"]
    job = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in job.items():
        monkeypatch.setenv(name, str(value))
    with shown.ending():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_json_has_no_number_that_is_not_one() -> None:
    assert jsonable({"a": (float("inf"), float("nan"), -float("inf"), Path("x"), None)}) == {
        "a": ["inf", None, "-inf", "x", None]
    }
