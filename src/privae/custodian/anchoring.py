"""The verbs that anchor a ledger on a blockchain: store its head in a contract, and check it against heads there."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privae.cli import examples, ledgers
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from privae.custody.anchor import Anchored, Chain, Receipt, Terms
    from privae.custody.blinded import Anchors
    from privae.training.watch import Watch

NODE = "PRIVAE_EVM_RPC"
"""The environment variable that holds the address of a node, where --rpc is not given."""

LedgerName = Annotated[str, given.argument("LEDGER", "The ledger of a data set.")]
Rpc = Annotated[
    str | None,
    given.option(
        "--rpc",
        text=f"The address of a node of the chain, http or https. Default: {NODE}, for one with a token.",
    ),
]
Contract = Annotated[str | None, given.option("--contract", text="The address of the contract: 0x...")]
Contracted = Annotated[str, given.option("--contract", text="The address of the contract: 0x...")]
Deploy = Annotated[
    bool, given.option("--deploy", text="Make a contract, print its address, and anchor nothing yet.")
]
Writers = Annotated[
    list[str] | None,
    given.option(
        "--writer", text="Of --deploy: who may anchor, for ever; once an account. Default: the one that pays."
    ),
]
Whose = Annotated[
    list[str] | None,
    given.option("--writer", text="Whose heads to check. Default: the accounts that the anchors file names."),
]
KeyFile = Annotated[
    Path | None,
    given.option(
        "--key-file",
        text="The account's private key, 64 hexadecimal digits, mode 0600. Default: PRIVAE_EVM_KEY.",
    ),
]
Confirmations = Annotated[
    int,
    given.option("--confirmations", text="Wait until so many blocks hold it, its own included. Default: 1."),
]
ChainId = Annotated[
    int | None,
    given.option("--chain-id", text="Refuse another chain than this. Default: the one of earlier anchors."),
]
AnchorsFile = Annotated[
    Path | None,
    given.option(
        "--anchors", text="The file with the salt of the ledger's anchors. Default: LEDGER.anchors."
    ),
]
MostFee = Annotated[
    float, given.option("--max-fee", text="Coins of the chain that a transaction may cost. Default: 0.05.")
]


@dataclass(frozen=True)
class _Read:
    """A ledger as anchoring needs it. first: the hash of its first entry; lines: its entries, the Merkle leaves."""

    first: bytes
    lines: tuple[bytes, ...]

    def root(self, size: int) -> bytes:
        """The Merkle root of the first entries."""
        from privae.log.tree import root_of

        return root_of(self.lines[:size])


@ledgers.command(
    "anchor",
    epilog=examples(
        "privae ledger anchor hospital.ledger --rpc http://localhost:8545 --deploy --key-file account.key",
        "privae ledger anchor hospital.ledger --rpc http://localhost:8545 --contract 0x5FbD... --key-file account.key",
        "PRIVAE_EVM_RPC=https://... privae ledger anchor hospital.ledger --contract 0x5FbD... --confirmations 12",
    ),
)
def anchor(  # noqa: PLR0913  one parameter an option
    ledger: LedgerName,
    rpc: Rpc = None,
    contract: Contract = None,
    deploy: Deploy = False,
    writer: Writers = None,
    key_file: KeyFile = None,
    confirmations: Confirmations = 1,
    chain_id: ChainId = None,
    anchors: AnchorsFile = None,
    max_fee: MostFee = 0.05,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Store the head of a ledger on a blockchain, with a public time: size and root, blinded, and nothing else."""
    out = Terminal(quiet, as_json)
    if deploy == (contract is not None) or (writer and not deploy):
        raise UsageError(
            "give --contract, to anchor in it, or --deploy, to make one; --writer goes with --deploy"
        )
    with out.progress("reading the ledger") as watch:
        from privae.custody.anchor import Terms

        terms, read, shown = Terms(confirmations, _coins(max_fee)), _loaded(ledger), _shown(ledger)
        if contract is None:
            made = _deployed(_node(rpc), chain_id, key_file, writer, terms)
        else:
            kept = _anchors_file(ledger, anchors)
            done = _anchored(_Call(_node(rpc), contract, chain_id, kept, read), key_file, terms, watch)
    if contract is None:
        next_one = f"privae ledger anchor {shown} --contract {made.contract} --rpc ..."
        text = (
            f"made the contract {made.contract}, for {made.cost:.4g} coins; anchor in it with:\n  {next_one}"
        )
        out.answer(text, _fields(made))
    else:
        out.report(*_told(shown, read, kept, done))


@ledgers.command(
    "anchored",
    epilog=examples(
        "privae ledger anchored hospital.ledger --rpc http://localhost:8545 --contract 0x5FbD...",
        "privae ledger anchored copy.ledger --anchors my.anchors --rpc http://localhost:8545 --contract 0x5FbD...",
    ),
)
def anchored(  # noqa: PLR0913  one parameter an option
    ledger: LedgerName,
    contract: Contracted,
    rpc: Rpc = None,
    writer: Whose = None,
    chain_id: ChainId = None,
    anchors: AnchorsFile = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Check a ledger against its heads on a blockchain. Exit code 6: it was rewritten since one of them."""
    out = Terminal(quiet, as_json)
    with out.progress("reading the ledger") as watch:
        read, kept = _loaded(ledger), _anchors_file(ledger, anchors)
        found = _found(_Call(_node(rpc), contract, chain_id, kept, read), writer or [], watch)
    held = all(holds for _, _, holds in found)
    fields = {
        "ledger": _shown(ledger),
        "entries": len(read.lines),
        "holds": held,
        "heads": [_head_fields(*f) for f in found],
    }
    _conclude(out, _shown(ledger), _table(found, len(read.lines)), fields)


@dataclass(frozen=True)
class _Call:
    """Where heads of a ledger are kept: node, contract, pinned chain; the file with the salt; and the ledger."""

    rpc: str
    contract: str
    chain_id: int | None
    file: Path
    read: _Read


def _deployed(
    rpc: str, chain_id: int | None, key_file: Path | None, writers: list[str] | None, terms: "Terms"
) -> "Receipt":
    from privae.custody import accounts, anchor

    key = accounts.private_key(key_file)
    on = anchor.chain(rpc, chain_id)
    by = anchor.account(on, key)
    return anchor.deploy(on, by, writers or [by.address], terms)


def _anchored(call: _Call, key_file: Path | None, terms: "Terms", watch: "Watch") -> "Receipt | None":
    """Anchor the ledger as it is now, if it still is what was anchored before."""
    from privae import files
    from privae.custody import accounts, anchor, blinded

    key = accounts.private_key(key_file)
    with files.owned(call.file):
        known = blinded.Anchors.load(call.file) if call.file.exists() else blinded.Anchors.fresh()
        on = _chain(call, known)
        by, contract = anchor.account(on, key), anchor.address_of(call.contract)
        last = anchor.newest(on, contract, by.address, known.log(call.read.first))
        if last is not None and not _held(call.read, known, [last])[0]:
            raise ArtifactError(
                "the ledger was rewritten since it was anchored; nothing was sent. See: privae ledger anchored"
            )
        # privacy: the salt is on the disk before anything that it hides is on the chain, or nobody could ever show it
        known.save(call.file)
        watch.phase("waiting for the chain", 1)
        head = known.head(call.read.first, len(call.read.lines), call.read.root)
        done = anchor.anchor(on, by, contract, head, terms)
        known.at(blinded.Place(chain=on.id, contract=contract, writer=by.address)).save(call.file)
    return done


def _found(call: _Call, writers: Sequence[str], watch: "Watch") -> "list[tuple[str, Anchored, bool]]":
    """All heads of the ledger, each with its writer and whether the ledger still has it."""
    from privae.custody import anchor, blinded

    known = blinded.Anchors.load(call.file)
    on, contract = _chain(call, known), anchor.address_of(call.contract)
    here = [place.writer for place in known.places if (place.chain, place.contract) == (on.id, contract)]
    named = [anchor.address_of(writer) for writer in dict.fromkeys(writers)] or here
    if not named:
        raise UsageError(
            f"{call.file} names no account that anchored there; say whose heads to check with --writer"
        )
    watch.phase("reading the chain", 1)
    found = []
    for writer in named:
        heads = tuple(anchor.anchored(on, contract, writer, known.log(call.read.first)))
        if not heads:
            raise ArtifactError(
                f"{contract} has no head of this ledger by {writer}: its first entry or its salt is another one, "
                "or it was never anchored there"
            )
        found += [
            (writer, head, holds) for head, holds in zip(heads, _held(call.read, known, heads), strict=True)
        ]
    return found


def _chain(call: _Call, known: "Anchors") -> "Chain":
    """The chain that was asked for, or that earlier heads in this contract are on."""
    from privae.custody import anchor

    contract = anchor.address_of(call.contract)
    before = {place.chain for place in known.places if place.contract == contract}
    pinned = call.chain_id if call.chain_id is not None or len(before) != 1 else before.pop()
    return anchor.chain(call.rpc, pinned)


def _held(read: _Read, known: "Anchors", heads: "Sequence[Anchored]") -> tuple[bool, ...]:
    from privae.custody import blinded

    return blinded.check(heads, known, len(read.lines), read.root)


def _loaded(ledger: str) -> _Read:
    """A ledger, verified. Errors: UsageError, ArtifactError."""
    from privae.privacy.ledger import Ledger

    entries = Ledger.load(ledger).entries
    return _Read(bytes.fromhex(entries[0].hash), tuple(entry.line() for entry in entries))


def _shown(ledger: str) -> str:
    """What a ledger is called: as it was given, without the password of a URL."""
    from privae.log import store

    return store.shown(ledger)


def _node(rpc: str | None) -> str:
    found = os.environ.get(NODE, "") if rpc is None else rpc
    if not found:
        raise UsageError(f"name a node of the chain with --rpc, or in the environment variable {NODE}")
    return found


def _coins(most: float) -> Any:  # noqa: ANN401  a Decimal
    from decimal import Decimal

    return Decimal(str(most))


def _anchors_file(ledger: str, named: Path | None) -> Path:
    if named is None and "://" in ledger:
        raise UsageError(
            "a ledger in a database has no file beside it; name that of its anchors with --anchors"
        )
    return Path(f"{ledger}.anchors") if named is None else named


def _fields(done: "Receipt") -> dict[str, Any]:
    said = {"contract": done.contract, "transaction": done.transaction, "block": done.block}
    return {**said, "cost": str(done.cost)}


def _told(ledger: str, read: _Read, kept: Path, done: "Receipt | None") -> tuple[str, dict[str, Any]]:
    size = len(read.lines)
    facts = {"ledger": ledger, "entries": size, "anchors": kept, "new": done is not None}
    if done is None:
        return f"{ledger} is anchored already as it is: {size} entries; nothing was sent", facts
    text = f"anchored {size} entries of {ledger} in block {done.block}, for {done.cost:.4g} coins"
    return f"{text}\nkeep {kept}, and give it to those who check: no head can be recognized without it", {
        **facts,
        **_fields(done),
    }


def _table(found: "Sequence[tuple[str, Anchored, bool]]", entries: int) -> str:
    rows = [
        (
            str(head.size),
            _time(head),
            str(head.block),
            writer,
            "ok" if holds else "NO: the ledger was rewritten",
        )
        for writer, head, holds in found
    ]
    most = max((head.size for _, head, holds in found if holds), default=0)
    rest = f"of {entries} entries, the first {most} are as they were anchored"
    return f"{aligned([('entries', 'anchored at', 'block', 'by', 'in the ledger'), *rows])}\n\n{rest}"


def _head_fields(writer: str, head: "Anchored", holds: bool) -> dict[str, Any]:
    where = {"block": head.block, "transaction": head.transaction, "confirmations": head.confirmations}
    return {"entries": head.size, "time": _time(head), "writer": writer, "holds": holds, **where}


def _time(head: "Anchored") -> str:
    return datetime.fromtimestamp(head.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conclude(out: Terminal, ledger: str, text: str, fields: dict[str, Any]) -> None:
    """Print what was found, and end with exit code 6 if a head does not hold."""
    if fields["holds"]:
        out.answer(text, fields)
        return
    error = ArtifactError(
        f"{ledger} was rewritten after it was anchored: a head on the chain is not one of its own"
    )
    said = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    out.answer(text, {**fields, "error": said})
    if not out.as_json:
        raise error
    typer.echo(f"privae: {error}", err=True)  # as `fail` does, which would print a second object
    raise typer.Exit(error.exit_code)
