"""The ledger that participants verify, as a person uses it: every change of a log is found, and every fork is named."""

import json
import shutil

import pytest

from privae.cli import main
from privae.custodian import leaves
from privae.custodian.ledgers import verified
from privae.custody import heads, keys, logs
from privae.custody.heads import Equivocation
from privae.custody.logs import Log
from privae.errors import ArtifactError, PrivaeError, ResourceError, UsageError
from privae.federated import chain
from privae.files import canonical_json
from privae.log.tree import Tree
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event


def checked(content, where="log"):
    return leaves.checked(logs.parse(content, where))


def signed(log, *hands, size=None):
    """The log with its head (of its first `size` entries) signed by keys."""
    part = Log(log.kind, log.leaves[:size])
    return log.with_heads(heads.signed(part.head(), hand) for hand in hands)


@pytest.fixture
def book(opened, hands, tmp_path):
    """A ledger's log with two signed heads."""
    log = leaves.of_ledger(opened(tmp_path / "h.ledger"))
    return signed(signed(log, hands["oslo"], size=2), hands["oslo"], hands["lyon"])


@pytest.fixture
def hospital(opened, hands, tmp_path, monkeypatch, capsys):
    """A folder with h.ledger; run(*words, by=name) is the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    opened(tmp_path / "h.ledger")

    def run(*words, by="oslo"):
        monkeypatch.setenv(keys.PLACE, str(hands[by].path))
        code = main([*map(str, words)])
        return code, capsys.readouterr()

    return run


def reforged(log, leaves_):
    """What somebody without any key can make of a log: other entries under their own root, and no heads."""
    return Log(log.kind, tuple(leaves_), marks=log.marks).dumps()


# what a log says


def test_leaves_of_a_study_are_append_only_while_it_runs(course) -> None:
    made, before = course(steps=5, block=2), ()
    for _ in made.run():
        parts = made.study, made.plan, made.account.ledger.entries, made.steps, made.model
        now = tuple(leaves.leaves_of(*parts))
        assert now[: len(before)] == before
        assert len(now) == len(before) + 1 or not before
        before = now
    assert len(before) == 2 + 4 + 6 + 2 + 1  # study, plan; charges, sums, agreed; the end
    uncharged = made.account.ledger.entries[:-1]
    with pytest.raises(ArtifactError, match="never charged"):
        tuple(leaves.leaves_of(made.study, made.plan, uncharged, made.steps, made.model))


def test_a_study_is_verified_from_its_folder_and_from_its_export_alike(finished, hands) -> None:
    from_folder = leaves.read(str(finished.folder))
    from_export = checked(from_folder.log.dumps())
    assert list(from_folder.lines()) == list(from_export.lines())
    assert from_folder.fields() == from_export.fields()
    assert from_folder.recomputed == (3, 3)
    assert from_folder.log.root() == Tree(from_folder.log.leaves).root().hex()
    assert {*from_folder.signed.values()} == {13}  # who signed the end signed everything
    from_folder.require([hands["oslo"].fingerprint, hands["bern"].public])
    with pytest.raises(ArtifactError, match="signed nothing here"):
        from_folder.require([hands["stranger"].fingerprint])
    assert "2 to 3 sites each" in "\n".join(from_folder.lines())


def test_a_study_under_way_is_a_log_and_its_heads_stay_true(course, hands, tmp_path) -> None:
    made, kept = course(steps=3, block=2), None
    for number, _ in enumerate(made.run()):
        log = leaves.read(str(made.write(tmp_path / "ledger"))).log
        log = signed(log, hands["lyon"]) if number % 3 == 0 else log
        kept = log if kept is None else logs.extended(kept, log)
    found = leaves.checked(kept)
    assert [one.head.size for one in kept.heads] == sorted({one.head.size for one in kept.heads})
    assert len(kept.heads) > 2
    assert found.log.size == kept.size == 12


def test_a_log_is_read_from_a_server_too() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ResourceError, match=r"server|reached") as raised:
        leaves.read("postgresql://me:hidden@127.0.0.1:1/privacy?ledger=hospital")
    assert "hidden" not in str(raised.value)


def test_a_ledger_says_what_its_events_cost(opened, tmp_path) -> None:
    opened(tmp_path / "h.ledger", spends=5)
    found = leaves.read(str(tmp_path / "h.ledger"))
    assert found.recomputed == (5, 5)
    assert found.log.leaves == tuple(found.ledger.dumps().encode().splitlines(keepends=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves, "_EFFORT", 8)
        assert leaves.recomputed(found.ledger) == (3, 5)
    own = Ledger.fresh(1e-5)
    for _ in range(3):
        own.spend([Charge("ab", "cd", "g", Event(4.0, 0.01, 20))], fine=False)
    assert leaves.recomputed(own) == (3, 3)


@pytest.mark.parametrize("change", [{"epsilon": 0.5}, {"event": None}])
def test_a_ledger_that_was_written_anew_says_less_than_its_events_cost(opened, tmp_path, change) -> None:
    entries, made = list(opened(tmp_path / "h.ledger").entries), []
    event = {**entries[2].event, "noise_multiplier": 80.0} if "event" in change else entries[2].event
    entries[2] = entries[2].model_copy(update={**change, "event": event})
    for entry in entries:
        previous = made[-1].hash if made else entry.previous_hash
        made.append(entry.model_copy(update={"previous_hash": previous}).sealed())
    with pytest.raises(ArtifactError, match="not what its events cost"):
        checked(Log("ledger", tuple(entry.line() for entry in made)).dumps())


def test_a_cap_that_does_not_hold_is_found(opened, tmp_path) -> None:
    first = opened(tmp_path / "h.ledger", spends=0).entries
    book = Ledger(first, (1e-5, "record", "add_or_remove"), None)
    book._admit = lambda *_: None
    for number in range(2):
        book.spend([Charge(f"{number}", "ab", "p", Event(0.5))])
        with pytest.raises(ArtifactError, match="more was charged"):
            leaves.recomputed(book)


# changes of a log, all of which are found


def test_no_byte_of_a_log_can_be_changed(book) -> None:
    content = book.dumps()
    assert checked(content).signed
    for place, byte in enumerate(content):
        changed = content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :]
        with pytest.raises(ArtifactError):
            checked(changed)


def test_no_byte_of_a_study_can_be_changed(finished, hands) -> None:
    content = signed(leaves.read(str(finished.folder)).log, hands["oslo"]).dumps()
    for place in range(0, len(content), 13):
        changed = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        with pytest.raises(ArtifactError):
            checked(changed)


def rearranged(lines):
    """Each line removed, doubled, exchanged with its neighbor, and the file cut off before it."""
    for i in range(len(lines)):
        yield [*lines[:i], *lines[i + 1 :]]
        yield [*lines[: i + 1], *lines[i:]]
        yield lines[:i]
        yield (
            [*lines[:i], *lines[i : i + 2][::-1], *lines[i + 2 :]]
            if i + 1 < len(lines)
            else [*lines, lines[0]]
        )


@pytest.mark.parametrize("kind", ["ledger", "study"])
def test_no_line_can_be_taken_out_doubled_or_moved(book, finished, hands, kind) -> None:
    log = book if kind == "ledger" else signed(leaves.read(str(finished.folder)).log, hands["oslo"])
    first, *middle, last = log.dumps().splitlines(keepends=True)
    for lines in rearranged([first, *middle, last]):
        with pytest.raises(ArtifactError):
            checked(b"".join(lines))
        with pytest.raises(ArtifactError):
            checked(b"".join(lines)[:-1])
    # by somebody who writes the first line anew, and takes the heads away
    for lines in rearranged(middle):
        if not lines or lines == middle[: len(lines)]:
            continue  # a beginning is a log; that more was signed shows as long as one head is left, see below
        with pytest.raises(ArtifactError):
            checked(reforged(log, lines))


def test_a_log_that_was_cut_off_shows_by_any_head_that_is_left(book, hands) -> None:
    short = Log("ledger", book.leaves[:3], book.heads)
    with pytest.raises(
        ArtifactError, match="a head of 4 entries was signed, and 3 are here: the end was cut off"
    ):
        checked(short.dumps())
    with pytest.raises(ArtifactError, match="signed for 2 of 3 entries only"):
        leaves.checked(Log("ledger", book.leaves[:3], book.heads[:1])).require([hands["oslo"].public])


def test_entries_that_were_written_anew_do_not_fit_a_head(book) -> None:
    anew = Ledger.parse(b"".join(book.leaves[:1]).decode())
    anew.spend([Charge("ef" * 32, "ab" * 32, "moments", Event(8.0))])
    anew.spend([Charge("ee" * 32, "ab" * 32, "moments", Event(8.0))])
    anew.spend([Charge("ed" * 32, "ab" * 32, "moments", Event(8.0))])
    forged = Log("ledger", tuple(entry.line() for entry in anew.entries), book.heads)
    with pytest.raises(ArtifactError, match="not those whose head was signed"):
        checked(forged.dumps())


def test_heads_of_strangers_and_of_other_logs_are_refused(finished, book, hands) -> None:
    log = leaves.read(str(finished.folder)).log
    with pytest.raises(ArtifactError, match="no site of the study"):
        checked(signed(log, hands["stranger"]).dumps())
    with pytest.raises(ArtifactError, match="signed for another log"):
        log.with_heads(book.heads)
    with pytest.raises(ArtifactError, match="signed for another log"):
        checked(Log(log.kind, log.leaves, book.heads, log.marks).dumps())
    forged = signed(
        Log("ledger", book.leaves), hands["stranger"]
    )  # a head in the place of those that were signed
    with pytest.raises(ArtifactError, match="signed nothing here"):
        leaves.checked(forged).require([hands["oslo"].fingerprint])


@pytest.mark.parametrize("size", [4, 5])
def test_a_key_that_signs_two_versions_is_named(book, hands, size) -> None:
    fork = Ledger.parse(b"".join(book.leaves[:3]).decode())
    for number in range(size - 3):
        fork.spend([Charge(f"{number}f", "ab" * 32, "moments", Event(8.0))])
    other = signed(leaves.of_ledger(fork), hands["lyon"], hands["bern"])
    for mine, theirs in ((book, other), (other, book)):
        with pytest.raises(Equivocation) as caught:
            logs.extended(mine, theirs)
        assert caught.value.evidence.held().signers == (hands["lyon"].public,)
    with pytest.raises(Equivocation):
        other.with_heads(book.heads)
    unsigned = leaves.of_ledger(fork)
    with pytest.raises(ArtifactError, match="differ from entry 3 on, and no key signed both"):
        logs.extended(book, unsigned)
    mine = signed(Log("ledger", book.leaves), hands["oslo"])
    with pytest.raises(Equivocation) as caught:
        logs.extended(mine, signed(unsigned, hands["bern"]))
    assert caught.value.evidence.signers == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda marks: {**marks, "more": {}},
        lambda marks: {**marks, "ended": {"oslo": marks["ended"]["lyon"]}},
        lambda marks: {**marks, "ended": {"rome": marks["ended"]["lyon"]}},
        lambda marks: {**marks, "charged": {"ab": {}}},
        lambda marks: {**marks, "charged": []},
        lambda marks: {"charged": marks["charged"]},
        lambda marks: {},
    ],
)
def test_marks_of_a_study_that_are_not_its_own_are_refused(finished, change) -> None:
    log = leaves.read(str(finished.folder)).log
    with pytest.raises(ArtifactError):
        checked(Log(log.kind, log.leaves, marks=change(dict(log.marks))).dumps())


def test_a_study_that_somebody_tells_otherwise_does_not_hold(finished) -> None:
    log = leaves.read(str(finished.folder)).log
    for place, leaf in enumerate(log.leaves):
        for name, value in json.loads(leaf).items():
            wrong = {**json.loads(leaf), name: [] if isinstance(value, dict) else {}}
            less = {key: one for key, one in json.loads(leaf).items() if key != name}
            for other in (wrong, less, []):
                line = canonical_json(other) + b"\n"
                with pytest.raises(ArtifactError):
                    checked(reforged(log, [*log.leaves[:place], line, *log.leaves[place + 1 :]]))


# proofs


def test_a_proof_stands_by_itself_and_no_byte_of_it_can_be_changed(book, hands, tmp_path) -> None:
    path = tmp_path / "proof.json"
    for proof, pins in (
        (book.inclusion(2), ["lyon"]),
        (book.consistency(2), ["oslo"]),
        (book.consistency(3), []),
    ):
        content = heads.canonical(proof)
        path.write_bytes(content)
        told, fields = verified(str(path), (), [hands[name].fingerprint for name in pins])
        assert proof.root in told
        assert hands["lyon"].public in fields["signed"]
        with pytest.raises(ArtifactError, match="did not sign"):
            verified(str(path), (), [hands["bern"].fingerprint])
        for place in range(0, len(content), 3):
            changed = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            with pytest.raises(ArtifactError):
                heads.parsed(logs.Proof, changed, "p").held()
    unsigned = Log("ledger", book.leaves).inclusion(1, 2)
    path.write_bytes(heads.canonical(unsigned))
    assert "NOT SIGNED" in verified(str(path))[0]
    for ask in (lambda: book.inclusion(4), lambda: book.inclusion(2, 2), lambda: book.inclusion(-1)):
        with pytest.raises(UsageError, match="has 4 entries"):
            ask()
    for ask in (lambda: book.consistency(0), lambda: book.consistency(5), lambda: book.consistency(3, 2)):
        with pytest.raises(UsageError, match="has 4 entries"):
            ask()


def test_a_proof_of_another_version_than_a_head_names_who_signed_both(book, hands) -> None:
    fork = Ledger.parse(b"".join(book.leaves[:3]).decode())
    fork.spend([Charge("ff", "ab" * 32, "moments", Event(8.0))])
    other = signed(leaves.of_ledger(fork), hands["lyon"])
    with pytest.raises(Equivocation) as caught:
        other.inclusion(3).held(book.heads)
    assert caught.value.evidence.signers == (hands["lyon"].public,)
    with pytest.raises(ArtifactError, match="another root than the proof"):
        Log("ledger", other.leaves).inclusion(3).held(book.heads)


# as a person types it


def test_the_course_of_participants_who_sign_export_keep_and_verify(hospital, hands, tmp_path) -> None:
    assert hospital("ledger", "sign", "h.ledger", "-o", "heads.json")[0] == 0
    code, said = hospital("ledger", "sign", "h.ledger", "-o", "heads.json", "--json", by="lyon")
    assert (code, json.loads(said.out)["signatures"]) == (0, 2)
    assert hospital("ledger", "sign", "h.ledger", "-o", "heads.json", by="lyon")[0] == 0  # once is enough
    code, said = hospital("ledger", "export", "h.ledger", "--heads", "heads.json", "-o", "log.jsonl")
    assert (code, "privae ledger verify log.jsonl" in said.out) == (0, True)
    (tmp_path / "h.ledger").rename(tmp_path / "away")
    pins = [word for name in ("oslo", "lyon") for word in ("--key", hands[name].fingerprint)]
    code, said = hospital("ledger", "verify", "log.jsonl", *pins, "--json")
    found = json.loads(said.out)
    assert (code, found["size"], found["epsilon_recomputed"]) == (0, 4, 3)
    assert (
        found["root"]
        == Tree(Ledger.load(tmp_path / "away").dumps().encode().splitlines(keepends=True)).root().hex()
    )
    code, said = hospital("ledger", "verify", "log.jsonl", "--key", hands["bern"].fingerprint)
    assert (code, said.out, len(said.err.strip().splitlines())) == (6, "", 1)
    assert hospital("ledger", "import", "log.jsonl", "mine.jsonl")[0] == 0
    Ledger.load(tmp_path / "away").spend([Charge("aa", "ab" * 32, "moments", Event(8.0))])
    assert (
        hospital("ledger", "import", "away", "mine.jsonl", *pins)[0] == 6
    )  # nobody signed the last entry yet
    code, said = hospital("ledger", "import", "away", "mine.jsonl", "--json")
    assert (code, json.loads(said.out)["new"]) == (0, 1)
    assert len(checked((tmp_path / "mine.jsonl").read_bytes()).log.heads) == 1
    before = (tmp_path / "mine.jsonl").read_bytes()
    code, said = hospital("ledger", "import", "log.jsonl", "mine.jsonl", "--json")
    assert (code, json.loads(said.out)["new"]) == (0, 0)
    assert (tmp_path / "mine.jsonl").read_bytes() == before
    assert hospital("ledger", "prove", "mine.jsonl", "--entry", 1, "--size", 4, "-o", "proof.json")[0] == 0
    code, said = hospital("ledger", "verify", "proof.json", "--heads", "heads.json", *pins)
    assert (code, "signed by" in said.out) == (0, True)
    assert hospital("ledger", "prove", "mine.jsonl", "--since", 4, "-o", "proof.json", "--quiet")[0] == 0
    code, said = hospital("ledger", "verify", "proof.json")
    assert (code, "goes on from its first 4" in said.out) == (0, True)
    code, said = hospital("ledger", "verify", "heads.json", *pins)
    assert (code, "4 entries" in said.out) == (0, True)
    assert {path.name for path in tmp_path.glob("*.lock")} <= {"h.ledger.lock", "away.lock"}


def test_a_fork_is_refused_its_signer_named_and_the_proof_printed(hospital, hands, tmp_path) -> None:
    shutil.copy(tmp_path / "h.ledger", tmp_path / "fork.ledger")
    for name, plan in (("h", "aa"), ("fork", "bb")):
        Ledger.load(tmp_path / f"{name}.ledger").spend([Charge(plan, "ab", "moments", Event(8.0))])
        assert hospital("ledger", "sign", f"{name}.ledger", "-o", f"{name}.json", by="bern")[0] == 0
        words = ("ledger", "export", f"{name}.ledger", "--heads", f"{name}.json", "-o", f"{name}.jsonl")
        assert hospital(*words)[0] == 0
    assert hospital("ledger", "import", "h.jsonl", "mine.jsonl")[0] == 0
    before = (tmp_path / "mine.jsonl").read_bytes()
    for words in (
        ("import", "fork.jsonl", "mine.jsonl"),
        ("export", "fork.ledger", "--heads", "fork.json", "-o", "h.jsonl"),
        ("verify", "h.ledger", "--heads", "h.json", "--heads", "fork.json"),
        ("verify", "h.json", "--heads", "fork.json"),
        ("sign", "h.ledger", "-o", "fork.json"),
    ):
        code, said = hospital("ledger", *words)
        assert (code, said.out) == (6, ""), words
        assert len([line for line in said.err.splitlines() if line.startswith("privae:")]) == 1
        if words[0] != "sign":
            assert hands["bern"].fingerprint in said.err
    assert (tmp_path / "mine.jsonl").read_bytes() == before
    code, said = hospital("ledger", "import", "fork.jsonl", "mine.jsonl", "--json")
    found = json.loads(said.out)
    assert (code, found["error"]["exit_code"]) == (6, 6)
    (tmp_path / "evidence.json").write_bytes(canonical_json(found["evidence"]) + b"\n")
    code, said = hospital("ledger", "verify", "evidence.json", "--key", hands["bern"].fingerprint)
    assert (code, said.out.startswith(f"proved: key {hands['bern'].fingerprint} signed two versions")) == (
        0,
        True,
    )
    assert hospital("ledger", "verify", "evidence.json", "--key", hands["oslo"].fingerprint)[0] == 6


def test_a_study_is_signed_by_its_sites_alone_and_extended_by_anybody(hospital, finished, tmp_path) -> None:
    folder = str(finished.folder)
    code, said = hospital("ledger", "sign", folder, "-o", "heads.json", by="stranger")
    assert (code, "no site's of this study" in said.err) == (2, True)
    assert hospital("ledger", "sign", folder, "-o", "heads.json", by="bern")[0] == 0
    assert hospital("ledger", "export", folder, "--heads", "heads.json", "-o", "log.jsonl")[0] == 0
    code, said = hospital("ledger", "verify", folder, "--heads", "heads.json")
    assert (code, "all of it is signed by: bern, lyon, oslo" in said.out) == (0, True)
    code, said = hospital("ledger", "verify", "log.jsonl", "--json")
    found = json.loads(said.out)
    assert (code, found["kind"], len(found["rounds"])) == (0, "study", 7)
    assert hospital("ledger", "import", folder, "mine.jsonl")[0] == 0
    (tmp_path / "link.jsonl").symlink_to("mine.jsonl")
    assert hospital("ledger", "import", "log.jsonl", "link.jsonl")[0] == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(checked((tmp_path / "mine.jsonl").read_bytes()).log.heads) == 1
    (finished.folder / chain.ROUNDS).write_bytes(b"")
    assert hospital("ledger", "verify", folder)[0] == 6


def test_whatever_else_is_named_is_one_line(hospital, tmp_path) -> None:
    hospital("ledger", "sign", "h.ledger", "-o", "heads.json")
    hospital("ledger", "export", "h.ledger", "-o", "log.jsonl")
    odd = {
        "empty": b"",
        "brace": b"{",
        "json.json": b"{}\n",
        "binary": bytes(range(256)),
        "deep": b"[" * 5000,
        "deeper": b"{" * 5000,
        "named": b'{"format":"privae-log/1"}\n',
        "three": b'{"format":"privae-log/1"}\n{}\n{}\n',
        "proof": b'{"format":"privae-proof/1"}\n',
        "future": b'{"format":"privae-log/2"}\n',
    }
    for name, content in odd.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "log.jsonl").read_bytes()
    for words in (
        *(("verify", name) for name in (*odd, "folder", "absent")),
        *(("export", name, "-o", "x.jsonl") for name in odd),
        ("export", "h.ledger", "-o", "x.json"),
        ("export", "log.jsonl", "-o", "log.jsonl"),
        ("import", "heads.json", "x.jsonl"),
        ("import", "log.jsonl", "folder"),
        ("import", "log.jsonl", "absent/x.jsonl"),
        ("sign", "h.ledger", "-o", "json.json"),
        ("prove", "h.ledger", "-o", "p.json"),
        ("prove", "h.ledger", "--entry", 1, "--since", 1, "-o", "p.json"),
        ("prove", "h.ledger", "--entry", 9, "-o", "p.json"),
        ("verify", "h.ledger", "--heads", "absent"),
        ("verify", "h.ledger", "--key", "me"),
    ):
        code, said = hospital("ledger", *words)
        assert code in (2, 6), words
        assert said.out == ""
        assert len([line for line in said.err.splitlines() if line.startswith("privae:")]) == 1
    assert (tmp_path / "json.json").read_bytes() == b"{}\n"
    assert (tmp_path / "log.jsonl").read_bytes() == before
    assert not (tmp_path / "x.jsonl").exists()


def test_a_ledger_in_a_database_is_read_by_its_url_and_its_password_is_nowhere(hospital, monkeypatch):
    url, seen = "postgresql://me:hush@db.invalid/privacy", []
    book = Ledger.load("h.ledger")
    monkeypatch.setattr(leaves.Ledger, "load", lambda place: seen.append(place) or book)
    code, out = hospital("ledger", "verify", url)
    assert (code, seen) == (0, [url])
    assert "hush" not in out.out + out.err
    code, out = hospital("ledger", "export", url, "-o", "log.jsonl")
    assert code == 0
    assert "hush" not in out.out + out.err


def test_errors_of_the_library_are_ours(book) -> None:
    """What a stranger wrote sets off no other error."""
    first, *middle, last = book.dumps().splitlines(keepends=True)
    for line in (b"[]\n", b"1\n", b'"x"\n', b"null\n", b"{}\n", b"\n", b"\xff\n", b"[" * 3000 + b"\n"):
        for place in range(len(middle) + 2):
            lines = [first, *middle, last]
            lines[place] = line
            with pytest.raises(PrivaeError):
                checked(b"".join(lines))
        with pytest.raises(PrivaeError):
            checked(reforged(book, [book.leaves[0], line]))
