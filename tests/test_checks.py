"""The verbs that check: audit, report, certificate and verify, and the audit that ends a fit, as a person uses them."""

import json
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from privae import VAE, files
from privae.attacks import inversion
from privae.audit import suite
from privae.audit.coins import Coins
from privae.cli import main
from privae.cli.terminal import Lines
from privae.privacy.ledger import Ledger
from privae.recipes import image

PUBLIC = ["--epsilon", "3", "--delta", "1e-5", "--rows", "2000"]
KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def brief(monkeypatch, tmp_path):
    """Few rounds of matching, few generated records, and a signing key of the test's own."""
    for name, value in {"BATCHES": 2, "_STARTS": 1, "_ROUNDS": 1, "_PARTS": 1}.items():
        monkeypatch.setattr(inversion, name, value)
    monkeypatch.setattr(suite, "_PLAYED", 600)
    monkeypatch.setattr(image, "_DECODER_STEPS", 3)
    monkeypatch.setenv("PRIVAE_KEY_FILE", str(tmp_path / "keys" / "signing.key"))


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny, facts, people, pictures):
    """Tables and images, hold-outs of both, and models: with coins, without, of images."""
    folder = tmp_path_factory.mktemp("room")
    people(2000).to_csv(folder / "people.csv", index=False)
    people(200, seed=1).to_csv(folder / "held.csv", index=False)
    people(400, seed=2).to_csv(folder / "made.csv", index=False)
    facts.save(folder / "people.toml")
    x, y = pictures(1200)
    np.savez(folder / "x.npz", x=x, y=y)
    more, names = pictures(100, 1)
    np.savez(folder / "held.npz", x=more, y=names)
    paths = SimpleNamespace(folder=folder)
    for path in sorted(folder.iterdir()):
        setattr(paths, path.name.replace(".", "_"), str(path))
    paths.table = [paths.people_csv, "--schema", paths.people_toml]
    paths.images = [paths.x_npz, "--classes", "2", "--no-fidelity"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "_PLAYED", 600)
        for name, fit in {
            "plain": [*paths.table, "--audit", "none"],
            "coins": [*paths.table, "--audit", "standard"],
            "pictures": [*paths.images, "--audit", "none"],
        }.items():
            model = str(folder / f"{name}.privae")
            setattr(paths, name, model)
            assert main(["fit", *fit, *PUBLIC, "-o", model, "-q"]) == 0
    return paths


def ran(capsys, *arguments):
    """The exit code, stdout and stderr of a verb."""
    code = main([*map(str, arguments)])
    return code, *capsys.readouterr()


def refused(capsys, *arguments, code=2) -> str:
    """The one line on stderr of a call that is refused, beside what was begun."""
    found, out, err = ran(capsys, *arguments)
    assert (found, out) == (code, ""), (arguments, err)
    err = "".join(line for line in err.splitlines(keepends=True) if not line.endswith(" ...\n"))
    assert err.startswith("privae: ")
    assert err.count("\n") == 1
    return err


def mode(path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


# --- audit ------------------------------------------------------------------------------------------------


def test_audit_tells_its_verdict_its_findings_and_what_did_not_run(room, capsys) -> None:
    code, out, _ = ran(capsys, "audit", room.plain, "--data", room.people_csv, "-q")
    assert code == 0
    assert out.startswith("audit (quick): passed, accounted epsilon 3")
    assert "not run: " in out
    assert "--holdout" in out
    code, out, err = ran(capsys, "audit", room.plain, "--data", room.people_csv, "--holdout", room.held_csv)
    assert code == 0
    assert "AUC" in out
    assert "audit: quick ..." in err
    assert "FAILED" not in out


def test_audit_is_one_json_object_and_a_file_for_its_owners_eyes(room, tmp_path, capsys) -> None:
    target = tmp_path / "audit.json"
    code, out, err = ran(
        capsys, "audit", room.plain, "--data", room.people_csv, "-o", target, "--level", "standard", "--json"
    )
    assert (code, err, out.count("\n")) == (0, "", 1)
    told, kept = json.loads(out), json.loads(target.read_text())
    assert told["output"] == str(target)
    assert {name: value for name, value in told.items() if name != "output"} == kept
    assert kept["passed"]
    assert kept["level"] == "standard"
    assert mode(target) == 0o600


def test_audit_uses_the_coins_of_the_fit(room, capsys) -> None:
    """Written beside the model: who took part is known, so attacks on membership need no hold-out."""
    code, out, _ = ran(capsys, "audit", room.coins, "--data", room.people_csv, "--json")
    done = json.loads(out)
    assert code == 0
    assert done["holdout"] == "split"
    assert any(f["attack"] == "canary loss" for f in done["findings"])
    plain = json.loads(ran(capsys, "audit", room.plain, "--data", room.people_csv, "--json")[1])
    assert plain["holdout"] is None
    assert len(plain["skipped"]) > len(done["skipped"])


def test_coins_of_another_fit_are_refused(room, tmp_path, capsys) -> None:
    model = tmp_path / "m.privae"
    model.write_bytes(Path(room.plain).read_bytes())
    Coins(20, 0.05, KEY, "ab" * 32).save(tmp_path / "m.privae.coins")
    assert "of another fit" in refused(capsys, "audit", model, "--data", room.people_csv, code=6)
    (tmp_path / "m.privae.coins").write_text("{}")
    assert "holds no coins" in refused(capsys, "audit", model, "--data", room.people_csv, code=6)


def test_images_are_audited_with_their_model(room, capsys) -> None:
    code, out, _ = ran(
        capsys, "audit", room.pictures, "--data", room.x_npz, "--holdout", room.held_npz, "--json"
    )
    assert code == 0
    assert json.loads(out)["holdout"] == "given"


def test_a_copied_table_fails_with_exit_code_5_and_one_line(room, tmp_path, capsys) -> None:
    numbers = pd.DataFrame(np.random.default_rng(0).random((300, 3)).round(6), columns=list("abc"))
    numbers.to_csv(tmp_path / "n.csv", index=False)
    (tmp_path / "n.toml").write_text(
        "".join(f"[columns.{c}]\nkind = 'numeric'\nbounds = [0, 1]\ndecimals = 6\n" for c in "abc")
    )
    copied = ["audit", "--synthetic", tmp_path / "n.csv", "--data", tmp_path / "n.csv"]
    copied += ["--schema", tmp_path / "n.toml"]
    code, out, err = ran(capsys, *copied, "-q")
    assert code == 5
    assert out.startswith("audit (quick): FAILED")
    assert err.count("\n") == 1
    assert err.startswith("privae: the audit failed: ")
    assert err.endswith("do not publish this\n")
    code, out, err = ran(capsys, *copied, "--json", "-o", tmp_path / "a.json")
    assert (code, out.count("\n"), err.count("\n")) == (5, 1, 1)
    assert not json.loads(out)["passed"]
    assert not json.loads((tmp_path / "a.json").read_text())["passed"]
    assert mode(tmp_path / "a.json") == 0o600


def test_another_tools_rows_are_audited_without_a_model(room, capsys) -> None:
    black_box = [
        "audit",
        "--synthetic",
        room.made_csv,
        "--data",
        room.people_csv,
        "--schema",
        room.people_toml,
    ]
    code, out, _ = ran(capsys, *black_box, "--holdout", room.held_csv, "--json")
    done = json.loads(out)
    assert (code, done["epsilon"], done["plan_hash"], done["holdout"]) == (0, None, None, "given")
    code, out, _ = ran(capsys, *black_box, "--epsilon", "2", "--json")
    assert (code, json.loads(out)["epsilon"]) == (0, 2.0)


def test_a_wrong_call_is_one_line_that_says_what_to_do(room, tmp_path, capsys) -> None:
    model, data = room.plain, ["--data", room.people_csv]
    made = ["--synthetic", room.made_csv]
    schema = ["--schema", room.people_toml]
    for wrong, said in (
        (["audit", model], "needs --data"),
        (["audit", *data], "--synthetic"),
        (["audit", *data, *made], "--schema"),
        (["audit", model, *data, *made], "as it is"),
        (["audit", model, *data, *schema], "as it is"),
        (["audit", model, *data, "--epsilon", "1"], "as it is"),
        (["audit", model, *data, "--delta", "1e-6"], "as it is"),
        (["audit", model, *data, "--level", "thorough"], "--level"),
        (["audit", model, *data, "-o", tmp_path / "a.html"], "must end in .json"),
        (["audit", model, *data, "-o", tmp_path / "no" / "a.json"], "does not exist"),
        (["audit", model, "--data", room.x_npz], "does not fit the model"),
        (["audit", model, *data, "--holdout", room.held_npz], "of one kind"),
        (["audit", *data, *schema, "--synthetic", room.held_npz], "audits tables"),
        (["audit", *data, *made, *schema, "--epsilon", "-1"], "greater than 0"),
        (["audit", *data, *made, *schema, "--epsilon", "nan"], "greater than 0"),
        (["audit", *data, *made, *schema, "--epsilon", "1", "--delta", "2"], "between 0 and 1"),
        (["audit", *data, *made, *schema, "--delta", "1e-6"], "--epsilon"),
        (["audit", tmp_path / "none.privae", *data], "cannot be read"),
        (["report", model, "-o", tmp_path / "r.html", "--holdout", room.held_csv], "give both"),
        (["report", model, "-o", tmp_path / "r.json"], "must end in .html"),
        (["report", model, "-o", tmp_path / "r.html", "--lang", "fr"], "--lang"),
        (["report", model, "-o", tmp_path / "r.html", "--findings", tmp_path / "no.json"], "cannot be read"),
        (["certificate", model, "-o", tmp_path / "c.txt"], "must end in .json"),
        (["verify", model], "name the certificate first"),
        (["verify", tmp_path / "no.json"], "cannot be read"),
    ):
        assert said in refused(capsys, *wrong), wrong
    assert list(tmp_path.iterdir()) == []


# --- report -----------------------------------------------------------------------------------------------


def test_report_speaks_both_languages_and_a_public_page_is_anyones_to_read(room, tmp_path, capsys) -> None:
    page = tmp_path / "r.html"
    for language, word in (("en", "epsilon"), ("zh", "隐私")):
        code, out, _ = ran(capsys, "report", room.coins, "-o", page, "--lang", language, "--public")
        assert code == 0
        assert "may be published" in out
        assert word in page.read_text()
        assert mode(page) == 0o644
    assert "canary reading" not in page.read_text()


def test_a_page_with_data_is_the_holders_alone_and_a_public_one_shows_nothing_of_them(
    room, tmp_path, capsys
) -> None:
    page, held = tmp_path / "r.html", ["--data", room.people_csv, "--holdout", room.held_csv]
    code, out, _ = ran(capsys, "report", room.plain, *held, "-o", page, "--json")
    assert (code, json.loads(out)["public"]) == (0, False)
    assert mode(page) == 0o600
    secret = page.read_text()
    code, *_ = ran(capsys, "report", room.plain, *held, "-o", page, "--public", "-q")
    assert mode(page) == 0o644
    public = page.read_text()
    assert "membership" in secret.lower()
    for name in ("duplicates", "copies-exact"):
        assert name in secret
        assert name not in public
    assert len(public) < len(secret)


def test_a_page_of_images_shows_them_to_the_holder(room, tmp_path, capsys) -> None:
    page = tmp_path / "r.html"
    code, *_ = ran(
        capsys, "report", room.pictures, "--data", room.x_npz, "--holdout", room.held_npz, "-o", page, "-q"
    )
    assert code == 0
    assert page.read_text().count("data:image/png;base64") >= 2
    ran(capsys, "report", room.pictures, "--data", room.x_npz, "-o", page, "-q", "--public")
    assert "data:image/png;base64" not in page.read_text()


def test_a_report_takes_the_findings_of_an_earlier_audit_of_this_model_alone(room, tmp_path, capsys) -> None:
    found, page = tmp_path / "a.json", tmp_path / "r.html"
    assert ran(capsys, "audit", room.plain, "--data", room.people_csv, "-o", found, "-q")[0] == 0
    assert ran(capsys, "report", room.plain, "--findings", found, "-o", page, "-q")[0] == 0
    assert mode(page) == 0o600
    assert "copies-exact" in page.read_text()
    page.unlink()
    other = ["report", room.coins, "--findings", found, "-o", page]
    assert "about another model" in refused(capsys, *other, code=6)
    for content in ("", "[]", "{}", "5", '{"format": "privae-audit/1"}', json.dumps({"format": "x"})):
        found.write_text(content)
        assert "audit" in refused(capsys, "report", room.plain, "--findings", found, "-o", page, code=6)
    assert not page.exists()


# --- certificate and verify -------------------------------------------------------------------------------


def test_a_certificate_is_signed_and_anyone_can_check_it(room, tmp_path, capsys) -> None:
    paper = tmp_path / "c.json"
    code, out, err = ran(capsys, "certificate", room.coins, "-o", paper, "--json")
    fields = json.loads(out)
    assert (code, err, fields["key_created"]) == (0, "", True)
    assert mode(paper) == 0o644
    assert mode(fields["key_file"]) == 0o600
    assert "canary reading" not in paper.read_text()
    code, out, _ = ran(capsys, "certificate", room.coins, "-o", paper)
    assert f"privae verify {paper} {room.coins} --key {fields['fingerprint']}" in out
    code, out, _ = ran(capsys, "verify", paper, room.coins, "--key", fields["fingerprint"])
    assert code == 0
    assert "not checked:" in out
    assert "NO " not in out
    code, out, _ = ran(capsys, "verify", paper, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True)


def test_a_certificate_of_another_model_or_signer_does_not_hold(room, tmp_path, capsys) -> None:
    paper = tmp_path / "c.json"
    assert ran(capsys, "certificate", room.coins, "-o", paper, "-q")[0] == 0
    code, out, err = ran(capsys, "verify", paper, room.plain)
    assert code == 6
    assert "NO  " in out
    assert err.count("\n") == 1
    code, out, err = ran(capsys, "verify", paper, "--key", "0" * 16, "--json")
    assert (code, out.count("\n"), err.count("\n")) == (6, 1, 1)
    assert json.loads(out)["error"]["exit_code"] == 6
    paper.write_text(paper.read_text().replace("3", "1", 1))
    assert ran(capsys, "verify", paper)[0] == 6


# --- the audit that ends a fit ----------------------------------------------------------------------------


def test_a_fit_leaves_its_findings_and_its_coins_to_their_owner(room) -> None:
    """In the room, three fits: without an audit, with a standard one, and one of images without."""
    beside = sorted(path.name for path in room.folder.glob("coins.privae*"))
    assert beside == ["coins.privae", "coins.privae.audit.json", "coins.privae.coins"]
    assert [path.name for path in room.folder.glob("plain.privae*")] == ["plain.privae"]
    for name in beside[1:]:
        assert mode(room.folder / name) == 0o600
    kept = json.loads((room.folder / "coins.privae.audit.json").read_text())
    assert (kept["level"], kept["holdout"], kept["passed"]) == ("standard", "split", True)
    coins = Coins.load(room.folder / "coins.privae.coins")
    assert (coins.canaries, coins.kept_out) == (40, 0.05)
    stored = files.read_archive(Path(room.coins))
    assert not any(coins.key in content or coins.key.hex().encode() in content for content in stored.values())
    assert coins.fit == VAE.load(room.coins).identity


def test_a_fit_tells_its_verdict_and_no_finding(room, tmp_path, capsys) -> None:
    fit = ["fit", *room.table, *PUBLIC, "-o", tmp_path / "m.privae", "--audit", "quick"]
    code, out, _ = ran(capsys, *fit)
    assert code == 0
    assert "audit (quick): passed" in out
    assert "for the data holder only" in out
    code, out, err = ran(capsys, *fit, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out)["audit"]["passed"] is True
    assert "findings" not in out


def test_with_a_holdout_nobody_is_kept_out(room, tmp_path, capsys) -> None:
    fit = ["fit", *room.table, *PUBLIC, "-o", tmp_path / "m.privae", "--audit", "standard", "-q"]
    assert ran(capsys, *fit, "--holdout", room.held_csv)[0] == 0
    assert Coins.load(tmp_path / "m.privae.coins").kept_out == 0.0
    assert json.loads((tmp_path / "m.privae.audit.json").read_text())["holdout"] == "given"
    assert ran(capsys, *fit[:-3], "--audit", "none", "-q")[0] == 0
    assert [path.name for path in tmp_path.glob("m.*")] == ["m.privae"]  # what was of the other fit is gone


def test_a_failed_audit_ends_a_fit_with_exit_code_5_and_leaves_the_model(
    room, tmp_path, capsys, monkeypatch
) -> None:
    copies = suite.copies

    def failing(world, confidence):
        return copies.DUPLICATES.found(
            0.5, (0.4, 0.6), confidence, failed=True, repeated=1, members=2, shared=0, others=1
        )

    entry = suite._of(copies.DUPLICATES, suite._seen(failing))
    monkeypatch.setattr(suite, "_SUITE", (entry,))
    code, _, err = ran(capsys, "fit", *room.table, *PUBLIC, "-o", tmp_path / "m.privae", "-q")
    assert code == 5
    assert err.startswith("privae: the audit failed: ")
    assert err.count("\n") == 1
    assert (tmp_path / "m.privae").exists()


@pytest.mark.parametrize("broken", [ValueError("a cell"), MemoryError()])
def test_an_audit_that_breaks_takes_nothing_from_the_fit(room, tmp_path, capsys, monkeypatch, broken) -> None:
    def breaking(*_):
        raise broken

    entry = suite._of(suite.copies.DUPLICATES, suite._seen(breaking))
    monkeypatch.setattr(suite, "_SUITE", (entry,))
    code, _, err = ran(capsys, "fit", *room.table, *PUBLIC, "-o", tmp_path / "m.privae")
    assert code == 0
    assert "its audit did not run" in err
    assert "a cell" not in err
    assert (tmp_path / "m.privae").exists()


@pytest.mark.parametrize("kind", ["images", "columns", "size"])
def test_a_holdout_of_another_form_is_refused_before_anything_is_charged(
    room, tmp_path, capsys, kind, people
) -> None:
    ledger = tmp_path / "h.ledger"
    Ledger.open(ledger, 4.0, 1e-5)
    before = ledger.read_bytes()
    people(20).drop(columns="job").to_csv(tmp_path / "few.csv", index=False)
    np.savez(tmp_path / "large.npz", x=np.zeros((20, 5, 5), np.uint8), y=np.zeros(20, int))
    fit, held = {
        "images": (room.table, room.held_npz),
        "columns": (room.table, tmp_path / "few.csv"),
        "size": (room.images, tmp_path / "large.npz"),
    }[kind]
    fit = ["fit", *fit, *PUBLIC, "--ledger", ledger, "-o", tmp_path / "m.privae", "--holdout", held]
    code, _, err = ran(capsys, *fit, "-q")
    assert code in (2, 3)
    assert err.count("\n") == 1
    assert ledger.read_bytes() == before
    assert list(tmp_path.glob("m.privae*")) == []


def test_a_killed_fit_goes_on_with_its_own_coins(room, tmp_path, capsys, monkeypatch) -> None:
    """Interrupted after its tables were released: their canaries are those that its key planted."""
    model = tmp_path / "m.privae"
    fit = ["fit", *room.table, *PUBLIC, "-o", model, "--audit", "standard"]

    def press(self, count, epsilon=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "advance", press)
        assert ran(capsys, *fit)[0] == 130
    assert not model.exists()
    pending = tmp_path / "m.privae.checkpoint.coins"
    assert mode(pending) == 0o600
    begun = Coins.load(pending)
    assert "begun with" in refused(capsys, *fit[:-2], "--resume", "-q")
    assert ran(capsys, *fit, "--resume", "-q")[0] == 0
    ended = Coins.load(tmp_path / "m.privae.coins")
    assert (ended.key, ended.canaries, ended.kept_out) == (begun.key, begun.canaries, begun.kept_out)
    assert sorted(path.name for path in tmp_path.glob("m.*")) == [
        "m.privae",
        "m.privae.audit.json",
        "m.privae.coins",
    ]
    done = json.loads((tmp_path / "m.privae.audit.json").read_text())
    reading = next(f for f in done["findings"] if f["attack"] == "canary reading")
    # had the second life planted other canaries, half of the guesses would be wrong
    assert not reading["failed"]
    assert VAE.load(model).identity == ended.fit


def test_an_interrupted_fit_without_canaries_does_not_go_on_with_them(
    room, tmp_path, capsys, monkeypatch
) -> None:
    fit = ["fit", *room.table, *PUBLIC, "-o", tmp_path / "m.privae"]

    def press(self, count, epsilon=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "advance", press)
        assert ran(capsys, *fit)[0] == 130
    err = refused(capsys, *fit, "--audit", "standard", "--resume", "-q")
    assert "begun with another --audit" in err
    assert ran(capsys, *fit, "--resume", "-q")[0] == 0


def test_several_processes_plant_no_canaries(room, tmp_path, capsys, monkeypatch) -> None:
    from privae.cli import auditing
    from privae.errors import UsageError
    from privae.training.launch import Place

    monkeypatch.setattr(auditing, "place", lambda: Place(rank=0, size=2))
    with pytest.raises(UsageError, match="one process"):
        auditing.coins_for(1000, tmp_path / "m.privae", planting=True, split=True, resume=False)
    assert auditing.coins_for(1000, tmp_path / "m.privae", planting=False, split=True, resume=False) is None
    assert list(tmp_path.iterdir()) == []


def test_two_fits_of_one_plan_have_names_of_their_own(people, facts, tmp_path) -> None:
    """Their ledgers are equal, to the head, if they are of one day; a model that was loaded keeps its name."""
    one, other = (VAE(3.0).fit(people(500), schema=facts) for _ in range(2))
    assert one.ledger.head == other.ledger.head
    assert one.identity != other.identity
    one.save(tmp_path / "m.privae")
    assert VAE.load(tmp_path / "m.privae").identity == one.identity
