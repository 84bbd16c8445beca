"""The verbs of a ledger that participants verify: sign its head, export, keep a replica, prove, verify it all."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privae.cli import examples, ledgers
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from privae.custodian.leaves import Checked
    from privae.custody.heads import SignedHead

Told = tuple[str, dict[str, Any]]

Source = Annotated[
    str, given.argument("LEDGER", "A data set's ledger, the folder ledger/ of a study, or a log (.jsonl).")
]
Anything = Annotated[
    str, given.argument("WHAT", "A ledger, a study's folder, a log or replica, heads, a proof, or evidence.")
]
LogFile = Annotated[str, given.argument("LOG", "A log that was exported; or whatever else holds one.")]
Replica = Annotated[Path, given.argument("REPLICA", "Your own copy (.jsonl): made, or extended.")]
HeadFiles = Annotated[
    list[Path] | None, given.option("--heads", text="Signed heads of the log (.json); once a file.")
]
Pins = Annotated[
    list[str] | None,
    given.option("--key", text="Who must have signed all of it: a public key or fingerprint; once a key."),
]
EntryNumber = Annotated[int | None, given.option("--entry", text="Prove that this entry is there; from 0.")]
Since = Annotated[
    int | None, given.option("--since", text="Prove that the log goes on from its first so many entries.")
]
Size = Annotated[
    int | None, given.option("--size", text="Prove it of the first so many entries. Default: of all.")
]


@ledgers.command(
    "sign",
    epilog=examples(
        "privae ledger sign hospital.ledger -o heads.json",
        "PRIVAE_KEY_FILE=$PWD/oslo.key privae ledger sign results/ledger -o heads.json",
    ),
)
def sign(
    source: Source, output: given.Output, quiet: given.Quiet = False, as_json: given.AsJson = False
) -> None:
    """Sign the present head of a ledger with your key, beside whoever signed it in that file before."""
    out = Terminal(quiet, as_json)
    with _accusing(out), out.progress("reading the log") as watch:
        from privae import files
        from privae.custodian import leaves
        from privae.custody import heads, keys

        _check_output(output, (".json",), source)
        with files.owned(output):
            before = _heads_in([output]) if output.exists() else ()
            found = leaves.read(source, before)
            key = keys.signing_key()
            if key.created:
                watch.note(f"a signing key was created: {key.path} (keep it, and keep it secret)")
            if found.roster and key.public not in found.roster:
                raise UsageError(
                    f"the key {key.path} is no site's of this study; name the site's in {keys.PLACE}"
                )
            head = _same(found, before) or found.log.head()
            every = heads.joined([*before, heads.signed(head, key)])
            files.write_atomically(output, lambda file: file.write(heads.dumps(every)))
    count = len(next(one for one in every if one.head == head).signatures)
    fields = {"heads": output, **head.model_dump(), "signatures": count, "fingerprint": key.fingerprint}
    text = (
        f"signed {head.size} entries, root {head.root}, as {key.fingerprint}\nwrote {output}: {count} signed"
    )
    out.report(text, fields)


@ledgers.command(
    "export",
    epilog=examples(
        "privae ledger export hospital.ledger -o log.jsonl",
        "privae ledger export results/ledger --heads heads.json -o log.jsonl      (with the heads that were signed)",
    ),
)
def export(
    source: Source,
    output: given.Output,
    heads: HeadFiles = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Write all entries and signatures to one file that anybody can verify, with no data and no server."""
    out = Terminal(quiet, as_json)
    with _accusing(out), out.progress("reading the log"):
        from privae import files
        from privae.custodian import leaves
        from privae.custody import logs

        _check_output(output, (".jsonl",), source, *heads or ())
        found = leaves.read(source, _heads_in(heads))
        if output.exists():  # it may be somebody's replica: it may grow, and nothing else
            before = logs.parse(_bytes_of(output), str(output))
            if logs.extended(before, found.log).size > found.log.size:
                raise UsageError(f"{output} holds more entries than what is exported; name another file")
        files.write_atomically(output, lambda file: file.write(found.log.dumps()))
    text = f"wrote {output}: {found.log.size} entries, root {found.log.root()}; anyone can check it with:\n"
    out.report(f"{text}  privae ledger verify {output}", {"output": output, **found.fields()})


@ledgers.command(
    "import",
    epilog=examples(
        "privae ledger import log.jsonl my-replica.jsonl",
        "privae ledger import log.jsonl my-replica.jsonl --key 3f2a90c1d4e5b677      (if that key signed all of it)",
    ),
)
def import_log(
    source: LogFile,
    replica: Replica,
    heads: HeadFiles = None,
    key: Pins = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Keep a log, or extend your replica of it. Exit code 6, and nothing changed, if it does not go on from yours."""
    out = Terminal(quiet, as_json)
    with _accusing(out), out.progress("reading the log"):
        from privae import files
        from privae.custodian import leaves
        from privae.custody import logs

        _check_output(replica, (".jsonl",), source, *heads or ())
        replica = (
            replica.resolve() if replica.exists() else replica
        )  # a link would be replaced, not what it leads to
        with files.owned(replica):
            found = leaves.read(source, _heads_in(heads))
            found.require(key or ())
            theirs = found.log
            content = _bytes_of(replica) if replica.exists() else None
            mine = None if content is None else logs.parse(content, str(replica))
            # the longer one's entries are checked: those of the file here, those of the replica when they were let in
            kept = theirs if mine is None else leaves.checked(logs.extended(mine, theirs)).log
            if kept.dumps() != content:
                files.write_atomically(replica, lambda file: file.write(kept.dumps()))
    new = kept.size - (mine.size if mine else 0)
    fields = {"replica": replica, "log": kept.name, "size": kept.size, "root": kept.root(), "new": new}
    out.report(f"{replica}: {kept.size} entries, {new} of them new; root {kept.root()}", fields)


@ledgers.command(
    "prove",
    epilog=examples(
        "privae ledger prove hospital.ledger --entry 3 -o proof.json",
        "privae ledger prove log.jsonl --since 12 -o proof.json",
        "privae ledger verify proof.json --heads heads.json",
    ),
)
def prove(  # noqa: PLR0913  one parameter an option
    source: Source,
    output: given.Output,
    entry: EntryNumber = None,
    since: Since = None,
    size: Size = None,
    heads: HeadFiles = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Write a short proof that one entry is in the log, or that the log goes on from an earlier state of it."""
    out = Terminal(quiet, as_json)
    if (entry is None) == (since is None):
        raise UsageError("say what to prove: --entry K, or else --since M")
    with _accusing(out), out.progress("reading the log"):
        from privae import files
        from privae.custodian import leaves
        from privae.custody.heads import canonical

        _check_output(output, (".json",), source, *heads or ())
        log = leaves.read(source, _heads_in(heads)).log
        proof = log.consistency(since, size) if since is not None else log.inclusion(entry or 0, size)
        files.write_atomically(output, lambda file: file.write(canonical(proof)))
    what = f"goes on from its first {since}" if since is not None else f"has entry {entry}"
    text = f"wrote {output}: the log of {proof.size} entries, root {proof.root}, {what}"
    out.report(text, {"output": output, **proof.model_dump(mode="json")})


@ledgers.command(
    "verify",
    epilog=examples(
        "privae ledger verify results/ledger",
        "privae ledger verify log.jsonl --key 3f2a90c1d4e5b677 --key 90aa12bc77d1e002",
        "privae ledger verify hospital.ledger --heads heads.json",
        "privae ledger verify heads-of-oslo.json --heads heads-of-bern.json",
    ),
)
def verify(
    what: Anything,
    heads: HeadFiles = None,
    key: Pins = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Check a ledger, a study, a log, heads or a proof, from files alone: hashes, epsilon, the tree, signatures."""
    out = Terminal(quiet, as_json)
    with _accusing(out), out.progress("reading the log"):
        text, fields = verified(what, heads or (), key or ())
    out.answer("".join(c if c.isprintable() or c == "\n" else "?" for c in text), fields)


def verified(what: str, heads: Sequence[Path] = (), pins: Sequence[str] = ()) -> Told:
    """What `privae ledger verify` says: for a person, and as fields. Errors: as of the whole library."""
    from privae.custodian import leaves
    from privae.custody import keys
    from privae.custody.heads import format_of

    pins = [keys.pinned(pin) for pin in pins]
    content, more = leaves.content_of(Path(what)), _heads_in(heads)
    special = _SPECIAL.get(format_of(content))
    if special is not None:
        return special((content, what), more, pins)
    found = leaves.read(what, more)
    found.require(pins)
    return "\n".join(found.lines()), found.fields()


def _verified_heads(given_: tuple[bytes, str], more: Sequence["SignedHead"], pins: Sequence[str]) -> Told:
    """Heads alone: signatures, and whether two of one size exclude each other."""
    from privae.custody import heads

    every = heads.joined([*heads.read(*given_), *more])
    if len({one.head.log for one in every}) > 1:
        raise ArtifactError("these are heads of several logs; keep those of each log in a file of their own")
    for one in every:
        for other in every:
            evidence = heads.compare(one, other) if one.head.size == other.head.size else None
            if evidence is not None:
                raise heads.Equivocation(evidence)
    last = every[-1].head.size
    signers = {key for one in every if one.head.size == last for key in one.signers}
    _require(pins, signers, f"a head of {last} entries")
    lines = [_line_of(one) for one in every]
    text = [
        f"log {every[0].head.log}",
        *lines,
        "not checked: that the larger ones go on from the smaller ones",
    ]
    return "\n".join(text if len(every) > 1 else text[:-1]), {
        "log": every[0].head.log,
        "heads": [one.model_dump(mode="json") for one in every],
    }


def _verified_proof(given_: tuple[bytes, str], more: Sequence["SignedHead"], pins: Sequence[str]) -> Told:
    from privae.custody import heads
    from privae.custody.logs import Proof

    proof = heads.parsed(Proof, *given_)
    found = proof.held(more)
    whole = [one for one in found if one.head.size == proof.size]
    _require(pins, {key for one in whole for key in one.signers}, "a head that the proof is about")
    if proof.kind == "inclusion":
        first = f"entry {proof.first} of log {proof.log} is\n  {proof.what.strip()}"
    else:
        first = f"log {proof.log} goes on from its first {proof.first} entries, root {proof.what}"
    lines = [first, f"in {proof.size} entries, root {proof.root}", *map(_line_of, found)]
    if not whole:
        lines.append("NOT SIGNED by anybody here: hold the root against signed heads (--heads)")
    signed = [key for one in whole for key in one.signers]
    return "\n".join(lines), {**proof.model_dump(mode="json", exclude={"heads"}), "signed": signed}


def _verified_evidence(given_: tuple[bytes, str], more: Sequence["SignedHead"], pins: Sequence[str]) -> Told:
    from privae.custody import heads

    evidence = heads.parsed(heads.Evidence, *given_).held()
    if more:
        raise UsageError("evidence stands by itself; leave out --heads")
    _require(pins, {*evidence.signers}, "both versions")
    return f"proved: {evidence.sentence()}", evidence.to_dict()


_SPECIAL = {
    "privae-heads/1": _verified_heads,
    "privae-proof/1": _verified_proof,
    "privae-equivocation/1": _verified_evidence,
}


@contextlib.contextmanager
def _accusing(out: Terminal) -> Iterator[None]:
    """Print the evidence of an equivocation with --json; else its line alone, as of any error."""
    from privae.custody.heads import Equivocation

    try:
        yield
    except Equivocation as error:
        if not out.as_json:
            raise
        fields = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        out.answer("", {"error": fields, "evidence": error.evidence.model_dump(mode="json")})
        typer.echo(f"privae: {error}", err=True)  # as `fail` does, which would print a second object
        raise typer.Exit(error.exit_code) from None


def _heads_in(paths: Sequence[Path] | None) -> tuple["SignedHead", ...]:
    from privae.custody import heads

    return tuple(one for path in paths or () for one in heads.read(_bytes_of(path), str(path)))


def _bytes_of(path: Path) -> bytes:
    from privae import files
    from privae.custody import logs

    try:
        with files.opened(path) as file:
            return file.read(logs.MOST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown').lower()}") from None


def _same(found: "Checked", before: Sequence["SignedHead"]) -> Any:  # noqa: ANN401  a head or None
    """The present head as others signed it, so that all sign one day's; None if nobody did."""
    from privae.custody.heads import today

    size = found.log.size
    same = [one.head for one in before if one.head.size == size and one.head.date <= today()]
    return same[-1] if same else None


def _require(pins: Sequence[str], signers: set[str], what: str) -> None:
    from privae.custody import keys

    for pin in pins:
        if not any(keys.matches(pin, key) for key in signers):
            raise ArtifactError(f"the key {pin[:16]} did not sign {what}; ask its holder")


def _line_of(one: "SignedHead") -> str:
    from privae.custody import keys

    names = ", ".join(keys.fingerprint(key) for key in one.signers)
    return f"  {one.head.size} entries, root {one.head.root}, of {one.head.date}, signed by: {names}"


def _check_output(output: Path, endings: tuple[str, ...], *inputs: str | Path) -> None:
    from privae.cli import request

    request.check_outputs(output, endings, [Path(one) for one in inputs])
