"""`privae encrypted`: a holder and a server with files, as they would be used; and every mistake in one line."""

import json
import stat

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.cli import main

WORDS = "correct horse battery staple"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A private model, one without noise, new images, an offer and keys."""
    folder = tmp_path_factory.mktemp("encrypted")
    draw = np.random.default_rng(0)
    x = (draw.random((300, 3, 3)) * draw.random((300, 1, 1)) * 255).astype(np.uint8)
    np.savez(folder / "new.npz", x=x[:6])
    VAE(20.0, 1e-5, fidelity=False).fit(x).save(folder / "m.privae")
    VAE(float("inf"), fidelity=False).fit(x).save(folder / "plain.privae")
    (folder / "words").write_text(WORDS + "\n")
    (folder / "words").chmod(0o600)
    return folder


@pytest.fixture
def at(room, monkeypatch):
    from privae.custody import vault

    monkeypatch.chdir(room)
    monkeypatch.setenv("PRIVAE_PASSPHRASE", WORDS)
    monkeypatch.setattr(vault, "_WORK", 2**10)
    return room


def run(capsys, *arguments, code=0):
    assert main(list(arguments)) == code
    return capsys.readouterr()


@pytest.fixture
def keyed(at, capsys):
    if not (at / "clinic.key").exists():
        run(capsys, "encrypted", "inspect", "m.privae", "-o", "offer.json", "-q")
        run(capsys, "encrypted", "keys", "offer.json", "-o", "clinic.key", "--batch", "-q")
        (at / "copy.pvhe").write_bytes((at / "clinic.pvhe").read_bytes())
        (at / "short").write_text("short")
        (at / "short").chmod(0o600)
    return at


def scored(capsys, *more, name="", outputs="r.pvhe s.pvhe"):
    """Pack the new images and score them under an offer and a key of one name; what scoring says."""
    records, results = outputs.split()
    offer, key = f"{name or 'offer'}.json", name or "clinic"
    holder = ("new.npz", "--offer", offer, "--key", f"{key}.key", "-o", records)
    run(capsys, "encrypted", "pack", *holder, "-q")
    server = ("m.privae", records, "--keys", f"{key}.pvhe", "-o", results)
    return run(capsys, "encrypted", "score", *server, *more).out


def test_from_records_to_scores_by_files(keyed, capsys):
    assert "results of 6 records" in scored(capsys)
    again = ("score", "m.privae", "r.pvhe", "--keys", "clinic.pvhe", "--offer", "offer.json", "-o", "s2.pvhe")
    run(capsys, "encrypted", *again, "-q")
    run(
        capsys,
        "encrypted",
        "unpack",
        "s2.pvhe",
        "--offer",
        "offer.json",
        "--key",
        "clinic.key",
        "-o",
        "scores.csv",
    )
    run(capsys, "score", "m.privae", "new.npz", "-o", "clear.csv", "-q")
    found, clear = pd.read_csv("scores.csv"), pd.read_csv("clear.csv")
    error = json.loads((keyed / "offer.json").read_text())["outputs"]["score"]["error"]
    assert (found.row == clear.row).all()
    assert (found.score - clear.score).abs().max() <= error


def test_the_secret_key_is_its_owners_and_never_overwritten(keyed, capsys):
    assert stat.S_IMODE((keyed / "clinic.key").stat().st_mode) == 0o600
    said = run(capsys, "encrypted", "keys", "offer.json", "-o", "clinic.key", code=2)
    assert "never overwritten" in said.err


def test_inspect_says_what_it_takes(keyed, capsys):
    said = run(
        capsys, "encrypted", "inspect", "m.privae", "--outputs", "score,codes", "--precision", "precise"
    ).out
    for word in ("128-bit security", "score", "codes", "strangest", "public keys"):
        assert word in said
    fields = json.loads(run(capsys, "encrypted", "inspect", "offer.json", "--json").out)
    assert fields["outputs"]["score"]["width"] == 1
    said = run(capsys, "encrypted", "inspect", "clinic.pvhe").out
    assert "keys" in said
    assert "without noise" in run(capsys, "encrypted", "inspect", "plain.privae").err


def test_a_passphrase_comes_from_a_file_or_is_asked_for(keyed, capsys, monkeypatch):
    monkeypatch.delenv("PRIVAE_PASSPHRASE")
    pack = (
        "encrypted",
        "pack",
        "new.npz",
        "--offer",
        "offer.json",
        "--key",
        "clinic.key",
        "-o",
        "w.pvhe",
        "--batch",
    )
    assert "PRIVAE_PASSPHRASE" in run(capsys, *pack, code=2).err
    run(capsys, *pack, "--passphrase-file", "words")
    (keyed / "words").chmod(0o644)
    assert "chmod 600" in run(capsys, *pack, "--passphrase-file", "words", code=2).err
    (keyed / "words").chmod(0o600)
    monkeypatch.setenv("PRIVAE_PASSPHRASE", "another passphrase, wrong")
    assert "another passphrase" in run(capsys, *pack, code=6).err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("score", "plain.privae", "r0.pvhe", "--keys", "clinic.pvhe", "-o", "x.pvhe"), 4, "--not-private"),
        (("serve", "plain.privae"), 4, "--not-private"),
        (("inspect", "m.privae", "--outputs", "scores"), 2, "outputs are some of"),
        (("inspect", "m.privae", "--precision", "exact"), 2, "precision is one of"),
        (("inspect", "new.npz"), 6, "new.npz"),
        (("inspect", "none.pvhe"), 2, "cannot be read"),
        (("keys", "none.json", "-o", "a.key"), 2, "cannot be read"),
        (("keys", "offer.json", "-o", "a.pvhe"), 2, "names the secret key"),
        (("keys", "new.npz", "-o", "a.key"), 6, "no offer"),
        (("keys", "offer.json", "-o", "none/a.key"), 2, "does not exist"),
        (("pack", "none.npz", "--offer", "offer.json", "--key", "clinic.key", "-o", "x.pvhe"), 2, "none.npz"),
        (
            ("pack", "new.npz", "--offer", "offer.json", "--key", "clinic.pvhe", "-o", "x.pvhe"),
            6,
            "holds keys",
        ),
        (
            ("unpack", "clinic.pvhe", "--offer", "offer.json", "--key", "clinic.key", "-o", "x.csv"),
            6,
            "holds keys",
        ),
        (
            ("ask", "http://localhost:9", "new.npz", "--key", "clinic.key", "-o", "x.csv"),
            2,
            "no service answers",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(keyed, capsys, arguments, code, says):
    before = {path.name for path in keyed.iterdir()}
    said = run(capsys, "encrypted", *arguments, code=code)
    lines = [text for text in said.err.splitlines() if text.startswith("privae: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert {path.name for path in keyed.iterdir()} == before


def test_shared_scores_are_noised_or_refused(keyed, capsys):
    scored(capsys, outputs="h.pvhe t.pvhe")
    unpack = (
        "encrypted",
        "unpack",
        "t.pvhe",
        "--offer",
        "offer.json",
        "--key",
        "clinic.key",
        "-o",
        "out.csv",
        "--share",
    )
    assert "precise" in run(capsys, *unpack, code=4).err
    stored = json.loads((keyed / "offer.json").read_text())
    stored["outputs"]["score"]["noise"] = 1e-9
    (keyed / "other.json").write_text(json.dumps(stored))
    said = run(capsys, *unpack[:3], "--offer", "other.json", *unpack[5:])
    assert "may leave you" in said.out
    assert json.loads((keyed / "clinic.key.shared").read_text())["shared"] == 6


def test_help_teaches(capsys):
    assert main(["encrypted", "--help"]) == 0
    said = capsys.readouterr().out
    for verb in ("keys", "pack", "score", "unpack", "serve", "inspect", "ask"):
        assert verb in said


def test_what_others_wrote_is_printed_plain(at, capsys):
    from privae.ckks.container import Container
    from privae.ckks.parameters import Parameters

    Container(
        "records", Parameters(8192, (40, 30, 40)), "0" * 64, {"\x1b]0;owned\x07": "\x1b[2J"}, b""
    ).write(at / "odd.pvhe")
    assert "\x1b" not in run(capsys, "encrypted", "inspect", "odd.pvhe").out


def test_several_outputs_come_back_by_files(at, capsys):
    run(capsys, "encrypted", "inspect", "m.privae", "--outputs", "codes,score", "-o", "both.json", "-q")
    run(capsys, "encrypted", "keys", "both.json", "-o", "both.key", "--batch", "-q")
    shown = run(capsys, "encrypted", "inspect", "both.key").out
    assert "secret key" in shown
    scored(capsys, "--offer", "both.json", name="both", outputs="b.pvhe bs.pvhe")
    unpack = ("unpack", "bs.pvhe", "--offer", "both.json", "--key", "both.key", "-o", "b.csv")
    said = run(capsys, "encrypted", *unpack).out
    assert "wrote b.csv: row (the first is 1) and score (higher = stranger)" in said
    assert len(pd.read_csv("b.csv")) == len(pd.read_csv("b-codes.csv")) == 6
