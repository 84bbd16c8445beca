"""The holder's verbs of `privae encrypted`: keys, records to ciphertexts, and back; `serving` has the server's."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from privae.ckks.container import Container
    from privae.encrypted.keys import KeyRing
    from privae.encrypted.offer import Offer
    from privae.training.watch import Watch

_TABLES = (".csv", ".parquet")

encrypted = typer.Typer(
    rich_markup_mode=None, help="Have records scored by a server that sees nothing but ciphertexts."
)
app.add_typer(encrypted, name="encrypted")

OfferFile = Annotated[
    Path, given.argument("OFFER", "What a server offers (.json), from: encrypted inspect -o.")
]
Offered = Annotated[Path, given.option("--offer", text="What the server offers (.json).")]
Secret = Annotated[Path, given.option("--key", text="The secret key, of: privae encrypted keys.")]
Results = Annotated[Path, given.argument("RESULTS", "What the server computed (.pvhe).")]
Passphrase = Annotated[
    Path | None,
    given.option(
        "--passphrase-file", text="A file with the passphrase; else $PRIVAE_PASSPHRASE, or you are asked."
    ),
]
Batch = Annotated[bool, given.option("--batch", text="One ciphertext a feature, however few the records.")]
NoRotations = Annotated[
    bool,
    given.option("--batch", text="No keys for single records: much smaller, and each request is a batch."),
]
Share = Annotated[
    bool,
    given.option("--share", text="Scores that may leave you: with noise, rounded, and counted for the key."),
]


@encrypted.command(
    epilog=examples(
        "privae encrypted keys offer.json -o clinic.key",
        "# clinic.key stays with you; clinic.pvhe goes to the server",
    )
)
def keys(
    offer: OfferFile,
    output: given.Output,
    batch: NoRotations = False,
    passphrase_file: Passphrase = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Make a secret key, encrypted under a passphrase, and the public keys that a server needs."""
    out = Terminal(quiet, as_json)
    public = output.with_suffix(".pvhe")
    if output.suffix == ".pvhe":
        raise UsageError("-o names the secret key, such as clinic.key; the public keys go to clinic.pvhe")
    if output.exists() or public.exists():
        raise UsageError(f"{output} or {public} exists, and keys are never overwritten; name another file")
    words = _passphrase(passphrase_file, new=True)
    with out.progress(f"reading {offer.name}") as watch:
        from privae import files
        from privae.encrypted.keys import KeyRing, start_count
        from privae.encrypted.offer import Offer
        from privae.sealing.identities import check_passphrase

        check_passphrase(words)
        files.check_writable(output)
        known = Offer.read(offer)
        watch.phase("making keys", 1)
        steps = [] if batch else known.steps
        ring, made = KeyRing.made(known.parameters, steps)
        ring.write(output, words)
        start_count(_counted(output), ring)
        made.write(public)
        size = public.stat().st_size
    text = f"wrote {output} (secret, stays with you) and {public} ({size / 1e6:.0f} MB, for the server)"
    out.report(text, {"key": ring.name, "secret": output, "public": public, "bytes": size})


@encrypted.command(
    epilog=examples("privae encrypted pack new.npz --offer offer.json --key clinic.key -o records.pvhe")
)
def pack(  # noqa: PLR0913  one parameter an option
    data: given.Data,
    offer: Offered,
    key: Secret,
    output: given.Output,
    batch: Batch = False,
    passphrase_file: Passphrase = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Encrypt records for a server; it learns how many there are, and nothing else of them."""
    out = Terminal(quiet, as_json)
    words = _passphrase(passphrase_file)
    with out.progress(f"reading {data.name}") as watch:
        check_output(output, (".pvhe",), [data, offer, key, key.with_suffix(".pvhe")])
        known, ring = _known(offer), _ring(key, words)
        made = _packed(data, (known, ring), batch, watch)
        made.write(output)
        size = output.stat().st_size
    rows = made.about["rows"]
    text = f"wrote {output}: {rows} records in {size / 1e6:.1f} MB, {size / rows / 1e3:.1f} kB each"
    out.report(text, {"output": output, "records": rows, "bytes": size, "lanes": made.about["lanes"]})


@encrypted.command(
    epilog=examples("privae encrypted unpack results.pvhe --offer offer.json --key clinic.key -o scores.csv")
)
def unpack(  # noqa: PLR0913  one parameter an option
    results: Results,
    offer: Offered,
    key: Secret,
    output: given.Output,
    share: Share = False,
    passphrase_file: Passphrase = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Decrypt results. They are for your eyes, as your records are; --share makes scores that may leave you."""
    out = Terminal(quiet, as_json)
    words = _passphrase(passphrase_file)
    with out.progress(f"reading {results.name}"):
        from privae.ckks.container import load
        from privae.encrypted import scoring

        check_output(output, _TABLES, [results, offer, key])
        known, ring = _known(offer), _ring(key, words)
        found = scoring.unpack(known, ring, load(results, "results"))
        text, fields = _written(found, output, (known, ring, _counted(key)) if share else None)
    out.report(text, fields)


@encrypted.command(
    epilog=examples("privae encrypted ask http://localhost:8010 new.npz --key clinic.key -o scores.csv")
)
def ask(  # noqa: PLR0913  one parameter an option
    url: Annotated[str, given.argument("URL", "Where a service listens, of: privae encrypted serve.")],
    data: given.Data,
    key: Secret,
    output: given.Output,
    batch: Batch = False,
    passphrase_file: Passphrase = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Encrypt records, have a service score them, and decrypt: pack, score and unpack in one."""
    out = Terminal(quiet, as_json)
    words = _passphrase(passphrase_file)
    with out.progress(f"asking {url}") as watch:
        from privae.ckks.container import load
        from privae.ckks.scheme import library

        library()  # names the extra, if it is not there
        from privae.encrypted import scoring
        from privae.service import client

        check_output(output, _TABLES, [data, key, key.with_suffix(".pvhe")])
        known, ring = client.offered(url), _ring(key, words)
        public = load(key.with_suffix(".pvhe"), "keys")
        packed = _packed(data, (known, ring), batch, watch)
        watch.phase("waiting for the service", 1)
        found = scoring.unpack(known, ring, client.scored(url, public, packed))
        text, fields = _written(found, output, None)
    out.report(text, fields)


def check_output(path: Path, endings: tuple[str, ...], sources: list[Path]) -> None:
    """Raise now if an output could not be written, or would replace what is read, or keys, which nobody can remake."""
    from privae import files
    from privae.ckks.container import load
    from privae.cli import request

    request.check_outputs(path, endings, sources)
    if files.inner(path).suffix == ".pvhe" and path.exists():
        try:
            kind = load(path).kind
        except ArtifactError:
            return
        if kind == "keys":
            raise UsageError(f"{path} holds keys, which are never overwritten; name another output")


def _counted(key: Path) -> Path:
    """Where it is counted what a key has shared."""
    return key.with_name(key.name + ".shared")


def _known(path: Path) -> "Offer":
    from privae.encrypted.offer import Offer

    return Offer.read(path)


def _ring(path: Path, words: str) -> "KeyRing":
    from privae.encrypted.keys import KeyRing

    return KeyRing.read(path, words)


def _packed(data: Path, who: "tuple[Offer, KeyRing]", batch: bool, watch: "Watch") -> "Container":
    from privae.cli import request
    from privae.encrypted.scoring import pack as packed

    return packed(*who, request.read(data)[0], 0 if batch else None, watch)


def _passphrase(file: Path | None, *, new: bool = False) -> str:
    """From a file, the environment, or whoever sits there."""
    from privae.sealing.identities import PASSPHRASE, passphrase_from

    found = passphrase_from(file)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise UsageError(
            f"the key needs its passphrase: --passphrase-file, or {PASSPHRASE} in the environment"
        )
    typed = getpass.getpass("passphrase of the key: ")
    if new and getpass.getpass("once more: ") != typed:
        raise UsageError("the two passphrases differ; run it again")
    return typed


def _written(
    found: dict[str, Any], output: Path, sharing: "tuple[Offer, KeyRing, Path] | None"
) -> tuple[str, dict[str, Any]]:
    """Write every output to a file of its own; the first one to `output`."""
    import pandas as pd

    from privae.data.tables import write_table

    if sharing is not None:
        return _shared(found, output, sharing)
    lines, places = [], {}
    for i, (name, values) in enumerate(found.items()):
        path = output if i == 0 else _beside(output, name)
        columns = {name: values} if values.ndim == 1 else {f"{name[0]}{j}": v for j, v in enumerate(values.T)}
        write_table(pd.DataFrame({"row": range(1, len(values) + 1), **columns}), path)
        lines.append(
            f"wrote {path}: row (the first is 1) and {name}" + (" (higher = stranger)" * (name == "score"))
        )
        places[name] = path
    return "\n".join(lines), {"outputs": places, "shared": False}


def _beside(output: Path, name: str) -> Path:
    """The file of another output, beside the first one's."""
    from privae import files

    inner = files.inner(output)
    return output.with_name(f"{inner.stem}-{name}{output.name.removeprefix(inner.stem)}")


def _shared(
    found: dict[str, Any], output: Path, sharing: "tuple[Offer, KeyRing, Path]"
) -> tuple[str, dict[str, Any]]:
    import pandas as pd

    from privae.data.tables import write_table
    from privae.encrypted.keys import flood, shared

    offer, ring, counted = sharing
    if set(found) != {"score"}:
        raise UsageError("only scores are shared; ask for results without codes and reconstructions")
    scores = offer.outputs["score"]
    values, step = shared(found["score"], scores, ring, counted)
    added = flood(scores, ring)
    write_table(pd.DataFrame({"row": range(1, len(values) + 1), "score": values}), output)
    text = (
        f"wrote {output}: scores with noise of standard deviation {added:.2g}, in steps of {step:g}; "
        "these may leave you"
    )
    return text, {"outputs": {"score": output}, "shared": True, "deviation": added, "step": step}
