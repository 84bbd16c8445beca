"""Sealed files, as a person uses them: a table that exists only sealed is fitted, and no file tells of it."""

import io
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from privae import VAE, files
from privae.cli import main
from privae.errors import ArtifactError, UsageError
from privae.privacy.ledger import Ledger
from privae.sealing import fresh, identities, is_sealed, public_of, unseal
from privae.sealing.header import MAGIC
from privae.training.launch import place  # noqa: F401  loaded before the environment is changed

PLANTED = "Zbigniew-7731"
NOT_SEALED = {".lock", ".key", ".ledger", ".pub"}
ENVIRONMENT = (
    identities.SECRET,
    identities.PLACE,
    identities.PASSPHRASE,
    identities.SEAL_TO,
    "PRIVAE_KEY_FILE",
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRIVAE_KEY_FILE", str(tmp_path / "signing.key"))


def run(*arguments, code=0):
    assert main([*map(str, arguments)]) == code


def refused(capsys, *arguments, code=6, match=""):
    """The one line of a refusal."""
    capsys.readouterr()
    run(*arguments, "-q", code=code)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert match in err
    return err


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny, facts, people):
    """A folder with a table, its schema and a model of it, all of which exist sealed only."""
    folder = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        for name in ENVIRONMENT:
            patch.delenv(name, raising=False)
        key, table = folder / "k.key", people(500)
        table.loc[:9, "job"] = PLANTED
        run("keys", "new", "-o", key, "-q")
        public = identities.from_place(key).publics[0]
        patch.setenv(identities.SEAL_TO, public)
        files.write_atomically(folder / "people.csv.age", lambda file: table.to_csv(file, index=False))
        facts.save(folder / "people.toml")
        (folder / "k.pub").write_text(public + "\n")
        patch.delenv(identities.SEAL_TO)
        run("ledger", "open", folder / "h.ledger", "--epsilon", "9", "--delta", "1e-4", "-q")
        fit = [
            "fit",
            folder / "people.csv.age",
            "--schema",
            folder / "people.toml",
            "--epsilon",
            "3",
            "--delta",
        ]
        fit += ["1e-5", "--rows", "500", "--ledger", folder / "h.ledger", "--audit", "none"]
        run(*fit, "--seal-to", folder / "k.pub", "--identity", key, "-q")
        assert identities.SEAL_TO not in os.environ
        assert identities.PLACE not in os.environ
    model = folder / "people.privae"
    return SimpleNamespace(folder=folder, key=key, public=public, model=model, fit=[*map(str, fit)])


def unsealed(path, key):
    out = io.BytesIO()
    with path.open("rb") as file:
        unseal(file, out, identities.from_place(key))
    return out.getvalue()


def test_after_a_fit_of_a_sealed_table_no_file_tells_of_it(room):
    found = {path.name: path.read_bytes() for path in room.folder.iterdir()}
    assert set(found) == {
        "people.privae",
        "people.csv.age",
        "people.toml",
        "k.key",
        "k.pub",
        "h.ledger",
    }
    for name, content in found.items():
        assert content.startswith(MAGIC) != (Path(name).suffix in NOT_SEALED), name
        for planted in (PLANTED, "height", "nurse", "weights"):
            assert planted.encode() not in content, name
    assert PLANTED.encode() in unsealed(room.folder / "people.csv.age", room.key)


def test_a_sealed_model_is_used_as_any_other(room, tmp_path, monkeypatch, capsys):
    out, model = tmp_path / "out", room.model
    out.mkdir()
    monkeypatch.setenv(identities.PLACE, str(room.key))
    to = ("--seal-to", room.public, "-q")
    run("sample", model, "-n", "20", "-o", out / "s.csv", *to)
    run("sample", model, "-n", "20", "-o", out / "s.parquet.age", *to)
    run("score", model, out / "s.parquet.age", "-o", out / "scores.csv.age", *to)
    run("encode", model, out / "s.csv", "-o", out / "codes.parquet", *to)
    run("certificate", model, "-o", out / "c.json", *to)
    run("report", model, "-o", out / "r.html", "--public", *to)
    run("audit", model, "--data", room.folder / "people.csv.age", "-o", out / "a.json", *to)
    assert all(is_sealed(path) for path in out.iterdir())
    assert len(pd.read_csv(io.BytesIO(unsealed(out / "scores.csv.age", room.key)))) == 20
    certificate = json.loads(unsealed(out / "c.json", room.key))
    (tmp_path / "plain.privae").write_bytes(unsealed(model, room.key))
    (tmp_path / "plain.json").write_bytes(unsealed(out / "c.json", room.key))
    run("verify", out / "c.json", model, "-q")
    run(
        "verify", tmp_path / "plain.json", tmp_path / "plain.privae", "-q"
    )  # the hash is that of what is sealed
    assert certificate["signature"]
    run("inspect", model, "-q")
    run("sample", model, "-n", "5", "-o", tmp_path / "open.csv", "-q")
    assert not is_sealed(tmp_path / "open.csv")
    monkeypatch.delenv(identities.PLACE)
    monkeypatch.setenv(identities.SECRET, identities.from_place(room.key).secrets[0])
    assert VAE.load(model).sample(3).shape == (3, 4)


def test_a_replica_of_a_ledger_is_sealed_and_extended(room, tmp_path, capsys):
    keep = (
        "ledger",
        "import",
        room.folder / "h.ledger",
        tmp_path / "r.jsonl",
        "--seal-to",
        room.public,
        "-q",
    )
    run(*keep)
    assert is_sealed(tmp_path / "r.jsonl")
    refused(capsys, *keep, match="is sealed")
    run(*keep, "--identity", room.key)
    assert b"privae-log/1" in unsealed(tmp_path / "r.jsonl", room.key)


def test_without_its_key_nothing_is_read_and_the_line_says_what_to_do(room, tmp_path, capsys, monkeypatch):
    advice = "is sealed; name the key that opens it with --identity, or in PRIVAE_IDENTITY_FILE"
    table, model = room.folder / "people.csv.age", room.model
    for command in (
        [
            "fit",
            table,
            "--schema",
            room.folder / "people.toml",
            "--epsilon",
            "1",
            "--rows",
            "9",
            "-o",
            tmp_path / "m.privae",
        ],
        ["schema", table],
        ["sample", model, "-o", tmp_path / "s.csv"],
        ["inspect", model],
        ["verify", table, model],
        ["audit", model, "--data", table],
    ):
        refused(capsys, *command, match=advice)
    other = tmp_path / "o.key"
    run("keys", "new", "-o", other, "-q")
    told = refused(
        capsys, "inspect", model, "--identity", other, match="does not open: it is sealed to other keys"
    )
    assert identities.from_place(other).secrets[0] not in told
    other.chmod(0o644)
    refused(capsys, "inspect", model, "--identity", other, code=2, match="others may read the key")
    monkeypatch.setenv(identities.PLACE, str(other))
    refused(capsys, "inspect", model, match="others may read the key")
    assert names(tmp_path) == ["o.key"]


def test_public_keys_that_do_not_read_are_refused_before_anything_is_spent(
    room, tmp_path, capsys, monkeypatch
):
    before = (room.folder / "h.ledger").read_bytes()
    fit = [*room.fit, "-o", tmp_path / "m.privae", "--identity", room.key]
    for wrong in ("age1x", tmp_path / "absent", room.key, room.public[:-1]):
        refused(capsys, *fit, "--seal-to", wrong, code=2)
    refused(
        capsys, *room.fit, "--identity", room.key, "-o", tmp_path / "m.privae.age", code=2, match="--seal-to"
    )
    monkeypatch.setenv(identities.SEAL_TO, "age1x")
    refused(capsys, *fit, code=2, match="no public key")
    with pytest.raises(UsageError, match="no public key"):
        files.check_writable(tmp_path / "a")
    assert (room.folder / "h.ledger").read_bytes() == before
    assert names(tmp_path) == []


def test_a_ledger_is_never_sealed_and_a_sealed_copy_is_there_to_be_read(room, tmp_path, capsys):
    copy = tmp_path / "copy.age"
    run("seal", room.folder / "h.ledger", "--to", room.public, "-o", copy, "-q")
    capsys.readouterr()
    run("ledger", "show", copy, "--identity", room.key, "--json")
    shown = json.loads(capsys.readouterr().out)
    run("ledger", "show", room.folder / "h.ledger", "--json")
    assert json.loads(capsys.readouterr().out)["head"] == shown["head"]
    assert Ledger.load(room.folder / "h.ledger").epsilon > 0
    cut = tmp_path / "cut.age"
    (tmp_path / "cut").write_bytes((room.folder / "h.ledger").read_bytes()[:5000])
    run("seal", tmp_path / "cut", "--to", room.public, "-o", cut, "-q")
    refused(capsys, "ledger", "show", cut, "--identity", room.key, match="restore a copy")
    again = [part if part != str(room.folder / "h.ledger") else copy for part in room.fit]
    again += ["--identity", room.key, "-o", tmp_path / "m.privae"]
    before = copy.read_bytes()
    refused(capsys, *again, code=2, match="is sealed, so it is a copy to be read")
    assert copy.read_bytes() == before
    assert not (tmp_path / "m.privae").exists()


def test_a_sealed_checkpoint_resumes_with_its_key_and_is_sealed_again(
    tmp_path, tiny, pictures, capsys, monkeypatch
):
    from privae import Training
    from privae.training.books import Books

    key, kept, x = tmp_path / "k.key", tmp_path / "m.privae.checkpoint", pictures(60)[0]
    run("keys", "new", "-o", key, "-q")
    public = identities.from_place(key).publics[0]
    monkeypatch.setenv(identities.SEAL_TO, public)
    vae = VAE(math.inf, 1e-5, 60, "gradients", training=Training(steps=12))
    charge, calls = Books.charge, []

    def cut_off(self, phase, event):
        calls.append(phase)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return charge(self, phase, event)

    monkeypatch.setattr(Books, "charge", cut_off)
    with pytest.raises(KeyboardInterrupt):
        vae.fit(x, checkpoint=kept)
    assert is_sealed(kept)
    again = VAE(math.inf, 1e-5, 60, "gradients", training=Training(steps=12))
    with pytest.raises(ArtifactError, match=r"name its key with --identity; if it is damaged, remove it"):
        again.fit(x, checkpoint=kept, resume=True)
    monkeypatch.setenv(identities.PLACE, str(key))
    again.fit(x, checkpoint=kept, resume=True)
    assert is_sealed(kept)
    monkeypatch.delenv(identities.PLACE)
    again.save(tmp_path / "m.privae")  # which removes the checkpoint, though no key opens it here
    assert names(tmp_path) == ["k.key", "m.privae"]
    assert is_sealed(tmp_path / "m.privae")


def test_a_checkpoint_that_another_wrote_in_between_stays(tmp_path, tiny, pictures, monkeypatch):
    monkeypatch.setenv(identities.SEAL_TO, public_of(fresh()))
    kept = tmp_path / "c"
    vae = VAE(math.inf, 1e-5, 100, fidelity=False).fit(pictures(100)[0], checkpoint=kept)
    content = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(content)
    vae.save(tmp_path / "m")
    assert names(tmp_path) == ["c", "m"]


def test_images_and_parquet_and_a_name_without_its_ending(tmp_path, tiny, pictures, monkeypatch, capsys):
    from privae.data.images import read_images, write_images
    from privae.data.tables import read_header, read_table, write_table

    secret = fresh()
    monkeypatch.setenv(identities.SEAL_TO, public_of(secret))
    x, y = pictures(40)
    frame = pd.DataFrame({"a": ["1", "2"], "b": ["x", 'y,"z']})
    for ending in ("", ".age"):
        write_images(tmp_path / f"x.npz{ending}", x, y)
        write_table(frame, tmp_path / f"t.csv{ending}")
        write_table(frame, tmp_path / f"t.parquet{ending}")
    assert all(is_sealed(path) for path in tmp_path.iterdir())
    with pytest.raises(ArtifactError, match="is sealed"):
        read_header(tmp_path / "t.csv")
    monkeypatch.setenv(identities.SECRET, secret)
    for ending in ("", ".age"):
        assert (read_images(tmp_path / f"x.npz{ending}")[0] == x).all()
        for kind in ("csv", "parquet"):
            assert read_header(tmp_path / f"t.{kind}{ending}") == ("a", "b")
            assert read_table(tmp_path / f"t.{kind}{ending}").equals(frame)
    from privae.cli.request import image_shape

    assert image_shape(tmp_path / "x.npz.age") == ((4, 4), True)
    damaged = bytearray((tmp_path / "x.npz").read_bytes())
    damaged[-20] ^= 1
    (tmp_path / "x.npz").write_bytes(damaged)
    with pytest.raises(ArtifactError, match="was changed or cut off"):
        read_images(tmp_path / "x.npz")


def test_a_stream_is_sealed_and_goes_on_with_its_key(tmp_path, capsys):
    key, folder = tmp_path / "k.key", tmp_path / "fleet"
    run("keys", "new", "-o", key, "-q")
    public = identities.from_place(key).publics[0]
    pd.DataFrame({"home": range(9), "power": np.linspace(0, 4, 9)}).to_csv(tmp_path / "day.csv", index=False)
    begin = [
        "stream",
        "open",
        folder,
        "--bounds",
        "power=0:5",
        "--steps",
        "3",
        "--epsilon",
        "1",
        "--units",
        "9",
    ]
    begin += ["--protect", "step", "--seal-to", public]
    refused(capsys, *begin, code=2, match="read again in its use")
    assert not folder.exists()
    run(*begin, "--identity", key, "-q")
    run(
        "stream",
        "add",
        folder,
        tmp_path / "day.csv",
        "--unit",
        "home",
        "--identity",
        key,
        "--seal-to",
        public,
        "-q",
    )
    assert all(is_sealed(path) for path in folder.iterdir())
    run("stream", "show", folder, "--identity", key, "-q")
    refused(capsys, "stream", "show", folder, match="is sealed")


def test_kits_are_not_sealed_and_say_so(tmp_path, monkeypatch):
    from privae.transport import kits

    monkeypatch.setenv(identities.SEAL_TO, public_of(fresh()))
    with pytest.raises(
        UsageError, match="NVFlare starts from kits, and opens no sealed files; unset PRIVAE_SEAL_TO"
    ):
        kits._check(None, tmp_path / "kits", 8002)


def test_results_that_are_handed_on_are_sealed_once(tmp_path, monkeypatch):
    from privae.transport import folders

    secret, source = fresh(), tmp_path / "source"
    source.mkdir()
    (source / "plan.toml").write_bytes(b"open")
    monkeypatch.setenv(identities.SEAL_TO, public_of(secret))
    folders.take(source, tmp_path / "one")
    folders.take(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "plan.toml").read_bytes() == (tmp_path / "two" / "plan.toml").read_bytes()
    monkeypatch.setenv(identities.SECRET, secret)
    assert files.content(tmp_path / "two" / "plan.toml") == b"open"


# --- the verbs of files ---------------------------------------------------------------------------------------


@pytest.fixture
def keyed(tmp_path):
    """Two keys, a file of two chunks and a bit, and the same sealed to the first key."""
    run("keys", "new", "-o", tmp_path / "k.key", "-q")
    run("keys", "new", "-o", tmp_path / "n.key", "-q")
    clear = np.random.default_rng(0).bytes(150_000)
    (tmp_path / "f").write_bytes(clear)
    one, two = (identities.from_place(tmp_path / name).publics[0] for name in ("k.key", "n.key"))
    run("seal", tmp_path / "f", "--to", one, "-o", tmp_path / "f.age", "-q")
    return SimpleNamespace(folder=tmp_path, one=one, two=two, clear=clear)


def test_keys_are_made_and_shown_and_never_lost(tmp_path, capsys):
    path = tmp_path / "k.key"
    run("keys", "new", "-o", path)
    out, err = capsys.readouterr()
    secret = identities.from_place(path).secrets[0]
    assert out == public_of(secret) + "\n"
    assert "keep it secret" in err
    run("keys", "public", path)
    assert capsys.readouterr().out == out
    run("keys", "new", "-o", tmp_path / "j.key", "--json")
    assert json.loads(capsys.readouterr().out)["public"].startswith("age1")
    content = path.read_bytes()
    assert secret not in refused(capsys, "keys", "new", "-o", path, code=2, match="never overwritten")
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_seal_and_unseal_and_reseal(keyed, capsys):
    at = keyed.folder
    run("unseal", at / "f.age", "--key", at / "k.key", "-o", at / "g", "-q")
    assert (at / "g").read_bytes() == keyed.clear
    assert stat.S_IMODE((at / "g").stat().st_mode) == 0o600
    run("reseal", at / "f.age", "--key", at / "k.key", "--to", keyed.two, "-o", at / "h.age", "-q")
    refused(capsys, "unseal", at / "h.age", "--key", at / "k.key", "-o", at / "x", match="does not open")
    run("unseal", at / "h.age", "--key", at / "n.key", "-o", at / "x", "-q")
    assert (at / "x").read_bytes() == keyed.clear
    (at / "both").write_text(f"{keyed.one}\n{keyed.two}\n")
    run("seal", at / "f", "--to", at / "both", "-o", at / "b.age")
    assert "sealed to 2 public keys" in capsys.readouterr().out
    for key in ("k.key", "n.key"):
        run("unseal", at / "b.age", "--key", at / key, "-o", at / "x", "-q")


def test_verbs_of_sealed_files_take_what_their_lines_say_and_no_seal_to(keyed, capsys):
    at = keyed.folder
    refused(capsys, "unseal", at / "f.age", "-o", at / "i", match="with --identity")
    run("unseal", at / "f.age", "--identity", at / "k.key", "-o", at / "i", "-q")
    assert (at / "i").read_bytes() == keyed.clear
    # privacy: an option that promises to seal, and is not kept, leaves plaintext that is believed to be sealed
    asked = ("unseal", at / "f.age", "--key", at / "k.key", "--seal-to", keyed.one, "-o", at / "j")
    assert main([*map(str, asked)]) == 2
    assert not (at / "j").exists()


def test_a_passphrase_seals_for_people_who_share_no_key(keyed, capsys, monkeypatch):
    from privae.sealing import header

    monkeypatch.setattr(header, "_WORK", 6)
    at = keyed.folder
    (at / "words").write_text("correct horse battery\n")
    (at / "words").chmod(0o600)
    run("seal", at / "f", "--passphrase-file", at / "words", "-o", at / "p.age", "-q")
    run("unseal", at / "p.age", "--passphrase-file", at / "words", "-o", at / "x", "-q")
    assert (at / "x").read_bytes() == keyed.clear
    monkeypatch.setenv(identities.PASSPHRASE, "correct horse battery")
    assert files.content(at / "p.age") == keyed.clear
    monkeypatch.setenv(identities.PASSPHRASE, "other words entirely")
    refused(capsys, "unseal", at / "p.age", "-o", at / "y", match="does not open")
    (at / "words").write_text("short\n")
    refused(
        capsys,
        "seal",
        at / "f",
        "--passphrase-file",
        at / "words",
        "-o",
        at / "y",
        code=2,
        match="12 characters",
    )
    for more in ([], ["--passphrase-file", at / "words", "--to", keyed.one]):
        refused(capsys, "seal", at / "f", *more, "-o", at / "y", code=2)
    assert not (at / "y").exists()


def broken(content):
    flipped = bytearray(content)
    flipped[-40_000] ^= 1
    start = content.index(b"\n", content.index(b"\n---") + 1) + 17
    chunk = 64 * 1024 + 16
    swapped = content[:start] + content[start + chunk : start + 2 * chunk] + content[start : start + chunk]
    return {
        "flipped": bytes(flipped),
        "swapped": swapped + content[start + 2 * chunk :],
        "cut": content[:-1],
        "cut at a chunk": content[: start + chunk],
        "added to": content + b"x",
        "header": content.replace(b"X25519 ", b"X25519 A", 1),
        "empty": b"",
    }


@pytest.mark.parametrize("old", [None, b"the old output"])
def test_what_does_not_open_leaves_no_plaintext_and_the_old_output(keyed, capsys, old):
    at = keyed.folder
    if old is not None:
        (at / "out").write_bytes(old)
    before = names(at)
    for content in broken((at / "f.age").read_bytes()).values():
        (at / "f.age").write_bytes(content)
        refused(capsys, "unseal", at / "f.age", "--key", at / "k.key", "-o", at / "out")
        assert names(at) == before
        assert old is None or (at / "out").read_bytes() == old


def test_mistakes_are_one_line(keyed, capsys):
    at = keyed.folder
    for command, match in (
        (["seal", at / "absent", "--to", keyed.one, "-o", at / "x"], "cannot be read"),
        (["seal", at, "--to", keyed.one, "-o", at / "x"], "not a regular file"),
        (["seal", at / "f", "--to", keyed.one, "-o", at / "f"], "is what is read"),
        (["seal", at / "f", "--to", keyed.one, "-o", at / "no" / "f"], "does not exist"),
        (["seal", at / "f.age", "--to", keyed.one, "-o", at / "x"], "is sealed already"),
        (["seal", at / "f", "--to", at / "k.key", "-o", at / "x"], "holds a secret key"),
        (["reseal", at / "f.age", "--key", at / "k.key", "-o", at / "x"], "say who can open it"),
        (["ledger", "open", at / "x", "--epsilon", "1", "--seal-to", keyed.one], "No such option"),
        (["seal", at / "f", "--to", keyed.one, "-o", at / "x", "--identity", at / "k.key"], "No such option"),
    ):
        refused(capsys, *command, code=2, match=match)
    refused(capsys, "unseal", at / "f.age", "-o", at / "x", match="is sealed; name the key")
    refused(capsys, "unseal", at / "f", "--key", at / "k.key", "-o", at / "x", match="is not a sealed file")
    assert not (at / "x").exists()


KILLED = """
import sys, time
from privae.cli import main
from privae.sealing import envelope

ear = envelope._Ear.write
def slow(self, content):
    done = ear(self, content)
    print("wrote", flush=True)
    time.sleep(60)
    return done

envelope._Ear.write = slow
main(sys.argv[1:])
"""


def test_killed_while_it_unseals_it_leaves_nothing(keyed):
    at = keyed.folder
    try:
        os.close(os.open(at, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        pytest.skip("this file system has no files without a name")
    before = names(at)
    command = ["unseal", "f.age", "--key", "k.key", "-o", "out", "-q"]
    running = subprocess.Popen([sys.executable, "-c", KILLED, *command], cwd=at, stdout=subprocess.PIPE)
    assert running.stdout.readline() == b"wrote\n"
    assert names(at) == before
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    assert names(at) == before


@pytest.mark.skipif(
    shutil.which("age") is None, reason="the standard tool age is not installed (Debian: age)"
)
def test_the_standard_tool_takes_the_same_keys(keyed):
    at = keyed.folder
    told = subprocess.run(["age", "-d", "-i", "k.key", "f.age"], cwd=at, capture_output=True, check=True)
    assert told.stdout == keyed.clear


def test_the_keys_of_a_job_reach_its_processes(keyed, monkeypatch):
    monkeypatch.setenv(identities.SEAL_TO, keyed.one)
    code = (
        "from pathlib import Path; from privae import files; files.write_secretly(Path('child'), b'secret')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=keyed.folder, check=True)
    assert is_sealed(keyed.folder / "child")
    with pytest.raises(ArtifactError, match="is sealed"):
        files.content(keyed.folder / "child")


def test_a_ledger_whose_last_charges_lie_beside_it_is_not_sealed_without_them(tmp_path, capsys):
    (tmp_path / "l").write_bytes(b"SQLite format 3\0")
    (tmp_path / "l-wal").write_bytes(b"charges")
    assert main(["seal", str(tmp_path / "l"), "--to", public_of(fresh()), "-o", str(tmp_path / "l.age")]) == 2
    assert "ledger show" in capsys.readouterr().err
    assert not (tmp_path / "l.age").exists()
