"""`privae ledger anchor` and `anchored`, as a person uses them; every mistake is one line, and the key is in none."""

import json
import stat
import sys
from types import SimpleNamespace

import pytest

from privae import files
from privae.cli import main
from privae.custody import anchor
from privae.custody.blinded import Anchors
from privae.log.tree import root_of
from privae.privacy.ledger import Charge, Event, Ledger

RPC = ("--rpc", "http://name:password@localhost:8545/token")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A chain in memory, the key files of three accounts, and a contract in which the first two may write."""
    limit = sys.getrecursionlimit()
    from eth_tester import EthereumTester, PyEVMBackend
    from web3 import EthereumTesterProvider

    sys.setrecursionlimit(limit)  # see anchor.library

    tester, folder = EthereumTester(PyEVMBackend()), tmp_path_factory.mktemp("anchoring")
    ledger = Ledger.open(folder / "l.jsonl", 4.0, 1e-6)
    for plan in ("first", "second"):
        ledger.spend([Charge(plan, "schema", "moments", Event(20.0))], fine=False)
    keys = [key.to_bytes().hex() for key in tester.backend.account_keys[:3]]
    for number, key in enumerate(keys):
        (folder / f"{number}.key").write_text(key)
        (folder / f"{number}.key").chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor, "_provider", lambda rpc: EthereumTesterProvider(tester))
        on = anchor.chain(RPC[1])
        accounts = [anchor.account(on, bytes.fromhex(key)) for key in keys]
        writers = [account.address for account in accounts]
        contract = anchor.deploy(on, accounts[0], writers[:2], anchor.Terms()).contract
        lines = [entry.line() for entry in ledger.entries]
        # the tester finds gas by trying ten times; once is enough to meet a refusal
        backend = tester.backend
        patch.setattr(backend, "estimate_gas", lambda call, *_: (backend.call(call), 400_000)[1])
        yield SimpleNamespace(
            folder=folder, keys=keys, writers=writers, contract=contract, on=on, lines=lines
        )


@pytest.fixture
def at(room, tmp_path, monkeypatch):
    """A folder to work in, with a ledger of two entries; a third is ready."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRIVAE_EVM_KEY", raising=False)
    (tmp_path / "l").write_bytes(b"".join(room.lines[:2]))
    return SimpleNamespace(**vars(room), path=tmp_path / "l", anchors=tmp_path / "l.anchors")


@pytest.fixture
def run(at, capsys, caplog):
    """A function of a verb and its arguments: runs it, and hands on what it printed, in which no secret is."""

    def made(verb, *more, code=0):
        assert main(["ledger", verb, "l", *RPC, *more]) == code
        said = capsys.readouterr()
        secrets = [*at.keys, "password", "token"]
        if at.anchors.exists():
            secrets.append(json.loads(at.anchors.read_text())["salt"])
        assert not [secret for secret in secrets if secret in said.out + said.err + caplog.text]
        if code:
            assert len([line for line in said.err.splitlines() if line.startswith("privae: ")]) == 1
        return said

    made.key = lambda number: ("--key-file", str(at.folder / f"{number}.key"))
    made.mine = ("--contract", at.contract, *made.key(0))
    return made


def rewrite(path, entry, old, new):
    """Change an entry, and compute every hash anew, as an operator can."""
    ledger = Ledger.load(path)
    entries, previous = [], "0" * 64
    for index, found in enumerate(ledger.entries):
        changed = found.model_copy(update={old: new} if index == entry else {})
        entries.append(changed.model_copy(update={"previous_hash": previous}).sealed())
        previous = entries[-1].hash
    path.write_bytes(b"".join(each.line() for each in entries))
    Ledger.load(path)


def test_a_ledger_is_anchored_checked_and_anchored_again(run, at, room):
    said = json.loads(run("anchor", *run.mine, "--json", "--confirmations", "1").out)
    assert (said["entries"], said["new"], said["contract"]) == (2, True, at.contract)
    assert stat.S_IMODE(at.anchors.stat().st_mode) == 0o600
    assert "nothing was sent" in run("anchor", *run.mine).out
    at.path.write_bytes(b"".join(at.lines))
    run("anchor", *run.mine, "--quiet")
    found = json.loads(run("anchored", "--contract", at.contract, "--json").out)
    assert [(h["entries"], h["holds"], h["writer"]) for h in found["heads"]] == [
        (2, True, w) for w in at.writers[:1]
    ] + [(3, True, at.writers[0])]
    assert found["heads"][0]["transaction"] == said["transaction"]
    text = run("anchored", "--contract", at.contract).out
    assert "of 3 entries, the first 3 are as they were anchored" in text
    assert found["heads"][1]["time"] in text


def test_the_password_of_a_ledger_in_a_database_is_in_nothing_that_is_printed(run, at, monkeypatch, capsys):
    book, url = Ledger.load(at.path), "postgresql://me:hush@db.invalid/privacy"
    run("anchor", *run.mine)
    monkeypatch.setattr(Ledger, "load", lambda _: book)
    for words in (["anchor", url, *run.mine], ["anchored", url, "--contract", at.contract]):
        for more in ([], ["--json"]):
            assert main(["ledger", *words, "--anchors", str(at.anchors), *RPC, *more]) == 0
            said = capsys.readouterr()
            assert "hush" not in said.out + said.err


def test_nothing_of_the_ledger_is_on_the_chain(run, at, room):
    done = json.loads(run("anchor", *run.mine, "--json").out)
    sent = room.on._web3.eth.get_transaction(done["transaction"])
    data, ledger = bytes(sent["data"] if "data" in sent else sent["input"]), Ledger.load(at.path)
    lines = [entry.line() for entry in ledger.entries]
    assert len(data) == 4 + 3 * 32
    assert data[36:68] == (2).to_bytes(32, "big")
    known = [bytes.fromhex(entry.hash) for entry in ledger.entries] + [root_of(lines)]
    assert not [word for word in known if word in data]


@pytest.mark.parametrize(("entry", "field", "value"), [(1, "epsilon", 0.01), (0, "time", "2020-01-01")])
def test_a_rewritten_ledger_is_found(run, at, entry, field, value):
    run("anchor", *run.mine, "--quiet")
    rewrite(at.path, entry, field, value)
    said = run("anchored", "--contract", at.contract, code=6)
    assert "rewritten" in said.err or "no head of this ledger" in said.err
    if entry:
        assert "nothing was sent" in run("anchor", *run.mine, code=6).err
        error = json.loads(run("anchored", "--contract", at.contract, "--json", code=6).out)
        assert (error["holds"], error["error"]["exit_code"]) == (False, 6)
        assert "NO" in said.out


def test_another_reader_needs_the_ledger_and_its_anchors_file(run, at, tmp_path):
    run("anchor", *run.mine, "--quiet")
    at.anchors.rename(tmp_path / "given")
    assert "salt" in run("anchored", "--contract", at.contract, code=2).err
    assert run("anchored", "--contract", at.contract, "--anchors", "given", "--quiet").out
    assert (
        "no head of this ledger"
        in run(
            "anchored", "--contract", at.contract, "--anchors", "given", "--writer", at.writers[1], code=6
        ).err
    )
    Anchors.fresh().save(tmp_path / "other")
    assert "names no account" in run("anchored", "--contract", at.contract, "--anchors", "other", code=2).err


def test_a_contract_is_made_for_who_pays_or_for_those_who_are_named(run, at):
    made = json.loads(run("anchor", "--deploy", *run.key(0), "--json").out)
    run("anchor", "--contract", made["contract"], *run.key(0))
    said = run("anchor", "--deploy", *run.key(0), "--writer", at.writers[2])
    mine = said.out.split("made the contract ")[1].split(",")[0]
    assert "no writer" in run("anchor", "--contract", mine, *run.key(0), code=2).err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give --contract"),
        (("--contract", "0x1", "{key}"), "40 hexadecimal"),
        (("--contract", "{contract}", "--deploy"), "give --contract"),
        (("--contract", "{contract}", "--writer", "{stranger}"), "goes with --deploy"),
        (("--contract", "{stranger}", "{key}"), "no contract"),
        (("--contract", "{contract}", "--key-file", "{folder}/2.key"), "no writer"),
        (("--contract", "{contract}"), "PRIVAE_EVM_KEY"),
        (("--contract", "{contract}", "--key-file", "{folder}/open.key"), "others may read"),
        (("--contract", "{contract}", "{key}", "--chain-id", "1"), "not to chain 1"),
        (("--contract", "{contract}", "{key}", "--max-fee", "0.00001"), "--max-fee"),
        (("--contract", "{contract}", "{key}", "--max-fee", "nan"), "--max-fee"),
        (("--contract", "{contract}", "{key}", "--rpc", "ftp://name:password@token"), "address of a node"),
    ],
)
def test_every_mistake_is_one_line(run, at, more, said):
    (at.folder / "open.key").write_text(at.keys[0])
    (at.folder / "open.key").chmod(0o644)
    known = {"contract": at.contract, "stranger": at.writers[2], "folder": at.folder}
    given = [part for text in more for part in (run.key(0) if text == "{key}" else [text.format(**known)])]
    assert said in run("anchor", *given, code=2).err


def test_a_run_that_was_killed_is_run_again(run, at, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(anchor, "_settled", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run("anchor", *run.mine, code=130)  # the transaction is out, and nobody waited for it
    salt = Anchors.load(at.anchors).salt
    assert "names no account" in run("anchored", "--contract", at.contract, code=2).err
    assert "nothing was sent" in run("anchor", *run.mine).out
    assert Anchors.load(at.anchors).salt == salt
    assert "the first 2 are" in run("anchored", "--contract", at.contract).out


def test_two_at_once_do_not_anchor_twice(run, at):
    with files.owned(at.anchors):
        assert "in use by another process" in run("anchor", *run.mine, code=2).err


def test_a_chain_that_is_another_one_than_before_is_refused(run, at):
    run("anchor", *run.mine, "--quiet")
    kept = json.loads(at.anchors.read_text())
    kept["places"][0]["chain"] = 1
    at.anchors.write_text(json.dumps(kept))
    assert "not to chain 1" in run("anchor", *run.mine, code=2).err
    assert "not to chain 1" in run("anchored", "--contract", at.contract, code=2).err


def test_the_key_and_the_node_may_come_from_the_environment(at, monkeypatch, capsys):
    monkeypatch.setenv("PRIVAE_EVM_KEY", "0x" + at.keys[1])
    assert main(["ledger", "anchor", "l", "--contract", at.contract]) == 2
    assert "PRIVAE_EVM_RPC" in capsys.readouterr().err
    monkeypatch.setenv("PRIVAE_EVM_RPC", RPC[1])
    assert main(["ledger", "anchor", "l", "--contract", at.contract]) == 0
    assert main(["ledger", "anchored", "l", "--contract", at.contract, "-q"]) == 0
    assert at.writers[1] in capsys.readouterr().out


def test_a_broken_ledger_or_anchors_file_is_refused(run, at):
    at.anchors.write_text("{}")
    assert main(["ledger", "anchor", "l", *RPC, *run.mine]) == 6
    at.path.write_text("{}\n")
    assert main(["ledger", "anchored", "l", *RPC, "--contract", at.contract]) == 6
    assert main(["ledger", "anchored", "none", *RPC, "--contract", at.contract]) == 2
    assert main(["ledger", "anchored", "sqlite:///x", *RPC, "--contract", at.contract]) == 2
