"""The verbs certificate and verify, as a person uses them: exit codes, what is printed, and what never passes."""

import json
import shutil
import stat
import zipfile
from types import SimpleNamespace

import pytest

from privae import files
from privae.cli import checks, main
from privae.custody import keys
from privae.vae import VAE

PUBLIC = ["--epsilon", "3", "--delta", "1e-5", "--rows", "3000"]


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny, facts, people):
    """Models of the same table, one of them not private, a signing key, and a certificate of the first."""
    folder = tmp_path_factory.mktemp("room")
    named = {name: folder / f"{name}.privae" for name in ("first", "second", "open")}
    for name, path in named.items():
        epsilon = float("inf") if name == "open" else 3.0
        VAE(epsilon, 1e-5, 3000, schema=facts).fit(people(500)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(keys.PLACE, str(folder / "keys" / "signing.key"))
        paper = folder / "certificate.json"
        assert main(["certificate", str(named["first"]), "-o", str(paper), "-q"]) == 0
        yield SimpleNamespace(folder=folder, paper=paper, key=keys.signing_key(), **named)


def called(capsys, *arguments):
    """Exit code, stdout, stderr."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_certificate_is_written_and_checked_by_anyone(room, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(keys.PLACE, str(tmp_path / "new" / "signing.key"))
    paper = tmp_path / "certificate.json"
    code, out, err = called(capsys, "certificate", room.first, "-o", paper)
    assert code == 0
    assert f"a signing key was created: {tmp_path / 'new' / 'signing.key'}" in err
    assert stat.S_IMODE((tmp_path / "new" / "signing.key").stat().st_mode) == 0o600
    assert out.startswith("Adding or removing one record")
    assert f"privae verify {paper} {room.first} --key {keys.signing_key().fingerprint}" in out
    assert "created" not in called(capsys, "certificate", room.first, "-o", paper)[2]
    code, out, err = called(capsys, "verify", paper, room.first)
    assert code == 0
    assert out.startswith("Adding or removing one record")
    assert out.count("  ok  ") == 12
    assert "whose key" in out
    assert "NO" not in out


def test_the_certificate_alone_can_be_checked(room, capsys):
    code, out, _ = called(capsys, "verify", room.paper, "-q")
    assert code == 0
    assert "the model: no file was given" in out


def test_json_lists_every_check_and_what_was_not_checked(room, capsys):
    code, out, err = called(capsys, "verify", room.paper, room.first, "--key", room.key.public, "--json")
    said = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert said["holds"] is True
    assert {check["name"] for check in said["checks"]} >= {"signature", "signer", "epsilon", "model file"}
    assert all(check["ok"] and check["explanation"] for check in said["checks"])
    assert len(said["not_checked"]) == 6
    assert said["fingerprint"] == room.key.fingerprint
    assert said["claims"]["epsilon"] == pytest.approx(3)
    code, out, err = called(capsys, "verify", room.paper, room.second, "--json")
    said = json.loads(out)
    assert (code, out.count("\n"), err.count("\n")) == (6, 1, 1)
    assert said["holds"] is False
    assert said["claims"] is None
    assert said["error"] == {"type": "ArtifactError", "message": err[8:-1], "exit_code": 6}


def test_what_certificate_says_in_json(room, tmp_path, monkeypatch, capsys):
    code, out, err = called(capsys, "certificate", room.first, "-o", tmp_path / "c.json", "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert (said["key_file"], said["key_created"]) == (str(room.key.path), False)
    assert said["fingerprint"] == room.key.fingerprint


def test_another_model_does_not_pass(room, capsys):
    code, out, err = called(capsys, "verify", room.paper, room.second)
    assert code == 6
    assert out.startswith(f"{room.paper} DOES NOT HOLD")
    assert "  NO  model file:" in out
    assert (
        err
        == f"privae: {room.paper} does not hold: model file: it is about another file, or the model was changed since\n"
    )


def test_a_model_packed_anew_does_not_pass(room, tmp_path, capsys):
    packed = tmp_path / "packed.privae"
    members = files.read_archive(room.first)
    files.write_archive(packed, members, packed=False)
    assert VAE.load(packed).guarantee == VAE.load(room.first).guarantee  # as good a model file as the first
    code, out, _ = called(capsys, "verify", room.paper, packed)
    assert code == 6
    assert "  NO  model file:" in out
    assert "  ok  model's contents" in out
    other = files.read_archive(room.second)
    files.write_archive(packed, members | {"weights.safetensors": other["weights.safetensors"]})
    assert called(capsys, "verify", room.paper, packed)[0] == 6


def test_a_model_that_is_damaged_does_not_pass(room, tmp_path, capsys):
    damaged = tmp_path / "damaged.privae"
    shutil.copy(room.first, damaged)
    with zipfile.ZipFile(damaged, "a") as archive:
        archive.writestr("more", b"")
    assert called(capsys, "verify", room.paper, damaged)[0] == 6


def test_a_changed_certificate_does_not_pass(room, tmp_path, capsys):
    changed = tmp_path / "changed.json"
    text = room.paper.read_text()
    for old, new in (('"rows": 3000', '"rows": 3001'), ("e^3 ", "e^1 "), ('"steps": 1', '"steps": 2')):
        assert old in text
        changed.write_text(text.replace(old, new, 1))
        code, out, err = called(capsys, "verify", changed, room.first)
        assert code == 6
        assert err.count("\n") == 1
        assert "does not hold: signature" in err
        assert "fails is not examined further" in out


def test_another_signer_than_the_named_one_does_not_pass(room, tmp_path, capsys):
    code, _, err = called(capsys, "verify", room.paper, room.first, "--key", "0123456789abcdef")
    assert code == 6
    assert "does not hold: signer" in err
    assert called(capsys, "verify", room.paper, room.first, "--key", room.key.fingerprint)[0] == 0
    assert called(capsys, "verify", room.paper, room.first, "--key", "abc")[0] == 2


def test_a_model_without_noise_says_so_in_its_certificate(room, tmp_path, capsys):
    paper = tmp_path / "open.json"
    code, out, _ = called(capsys, "certificate", room.open, "-o", paper)
    assert code == 0
    assert out.startswith("NOT PRIVATE")
    code, out, _ = called(capsys, "verify", paper, room.open)
    assert code == 0
    assert out.startswith("NOT PRIVATE")
    assert json.loads(paper.read_text())["claims"]["sentence"].startswith("NOT PRIVATE")


def test_wrong_calls_are_said_in_one_line(room, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.json").write_text("{}")
    calls = [
        (2, "verify", room.first, room.paper),
        (2, "verify", tmp_path / "none.json"),
        (2, "verify", room.paper, tmp_path / "none.privae"),
        (6, "verify", tmp_path / "broken.json"),
        (2, "certificate", room.first, "-o", tmp_path / "certificate.txt"),
        (2, "certificate", room.first, "-o", tmp_path / "none" / "certificate.json"),
        (2, "certificate", tmp_path / "none.privae", "-o", tmp_path / "certificate.json"),
    ]
    for expected, *arguments in calls:
        code, _, err = called(capsys, *arguments)
        assert (code, err.count("\n")) == (expected, 1), arguments
    monkeypatch.setattr(checks, "_MOST", 1000)
    assert called(capsys, "verify", room.paper)[0] == 6


def test_a_model_that_changes_while_it_is_read_is_refused(room, tmp_path, monkeypatch, capsys):
    from privae.cli import request

    moving = tmp_path / "moving.privae"
    shutil.copy(room.first, moving)
    real = request.load

    def load(path):
        model = real(path)
        shutil.copy(room.second, moving)
        return model

    monkeypatch.setattr(request, "load", load)
    code, _, err = called(capsys, "certificate", moving, "-o", tmp_path / "c.json")
    assert code == 6
    assert "was replaced while it was read" in err
    assert not (tmp_path / "c.json").exists()


def test_a_key_that_others_may_read_signs_nothing(room, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(keys.PLACE, str(tmp_path / "signing.key"))
    keys.signing_key().path.chmod(0o644)
    code, _, err = called(capsys, "certificate", room.first, "-o", tmp_path / "c.json")
    assert (code, err.splitlines()[-1][:35]) == (2, "privae: others may read the key " + str(tmp_path)[:3])
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("verb", ["certificate", "verify"])
def test_the_verbs_show_an_example(verb, capsys):
    code, out, _ = called(capsys, verb, "--help")
    assert code == 0
    assert f"  privae {verb}" in out
    assert "--quiet" in out
    assert "--json" in out
