"""The verbs of sealed files: keys new and keys public, seal, unseal, and reseal for other keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from privae.sealing import Keys
    from privae.training.watch import Watch

    Work = Callable[[BinaryIO, BinaryIO, Callable[[int], object]], None]

_MEGABYTE = 10**6

keys = typer.Typer(
    rich_markup_mode=None, help="Keys of sealed files: a secret one that opens them, and its public one."
)
app.add_typer(keys, name="keys")

NewKey = Annotated[
    str, given.option("--output", "-o", text="The file of the secret key to make, or keyring:NAME.")
]
KeyFile = Annotated[str, given.argument("KEY", "A file of secret keys, or keyring:NAME.")]
File = Annotated[Path, given.argument("FILE", "Any file, of any size.")]
Sealed = Annotated[Path, given.argument("FILE", "A sealed file.")]
To = Annotated[
    list[str] | None,
    given.option("--to", text="A public key (age1...), or a file of such; each of them opens it. Repeat it."),
]
With = Annotated[
    str | None,
    given.option(
        "--key", "--identity", text="The secret key: a file, or keyring:NAME. Default: $PRIVAE_IDENTITY_FILE."
    ),
]
Words = Annotated[
    Path | None, given.option("--passphrase-file", text="A file with the passphrase, mode 0600.")
]


@keys.command("new", epilog=examples("privae keys new -o clinic.key", "privae keys new -o keyring:clinic"))
def new_key(output: NewKey, quiet: given.Quiet = False, as_json: given.AsJson = False) -> None:
    """Make a secret key (mode 0600, never over another), and print its public key, which is for everybody."""
    from privae import sealing

    out = Terminal(quiet, as_json)
    public = sealing.keep(sealing.fresh(), output)
    out.note(
        f"wrote {output}: keep it, and keep it secret; without it what is sealed is lost. Its public key seals:\n"
        f"  privae seal patients.csv --to {public} -o patients.csv.age"
    )
    out.answer(public, {"key": output, "public": public})


@keys.command("public", epilog=examples("privae keys public clinic.key > clinic.pub"))
def show_public(key: KeyFile, quiet: given.Quiet = False, as_json: given.AsJson = False) -> None:
    """Print the public keys of a file of secret keys, one a line."""
    from privae import sealing

    publics = sealing.from_place(key).publics
    Terminal(quiet, as_json).answer("\n".join(publics), {"key": key, "public": publics})


@app.command(
    "seal",
    epilog=examples(
        "privae seal patients.csv --to age1... -o patients.csv.age",
        "privae seal patients.csv --to clinic.pub --to archive.pub -o patients.csv.age",
        "privae seal patients.csv --passphrase-file words -o patients.csv.age",
    ),
)
def seal_file(
    file: File,
    output: given.Output,
    to: To = None,
    passphrase_file: Words = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Seal a file, so that only the holders of a key can read it: with privae, or with the standard tool age.

    Every verb reads sealed files, with --identity, and seals what it writes, with --seal-to. The file itself stays as
    it is: remove it when its sealed copy is where it belongs.
    """
    from privae import sealing
    from privae.sealing import identities

    out = Terminal(quiet, as_json)
    if file.is_file() and sealing.is_sealed(file):
        raise UsageError(f"{file} is sealed already; for other keys: privae reseal {file}")
    log = file.with_name(f"{file.name}-wal")  # of SQLite: the last charges of a ledger may still be in it
    if log.exists() and log.stat().st_size > 0:
        raise UsageError(
            f"{file} is in use, or was when a process ended; run privae ledger show {file}, then seal it"
        )
    publics = sealing.recipients(to or ())
    words = identities.passphrase_from(passphrase_file) if passphrase_file is not None else None
    if words is not None:
        identities.check_passphrase(words)
    if bool(publics) == (words is not None):
        raise UsageError("say who can open it: --to, for each public key, or else --passphrase-file")
    _converted(
        out,
        (file, output),
        "sealing",
        lambda reader, writer, told: sealing.seal(reader, writer, publics, words, told),
    )
    text = f"wrote {output}, sealed {'under a passphrase' if words else f'to {len(publics)} public keys'}"
    out.report(text.replace("1 public keys", "1 public key"), {"output": output, "to": publics})


@app.command("unseal", epilog=examples("privae unseal patients.csv.age --key clinic.key -o patients.csv"))
def unseal_file(
    file: Sealed,
    output: given.Output,
    key: With = None,
    passphrase_file: Words = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Open a sealed file into a new one, for your eyes alone (mode 0600): all of it, or nothing."""
    from privae import sealing

    out = Terminal(quiet, as_json)
    known = _keys(key, passphrase_file)
    _converted(
        out,
        (file, output),
        "unsealing",
        lambda reader, writer, told: sealing.unseal(reader, writer, known, str(file), told),
        secret=True,
    )
    out.report(f"wrote {output}, which is not sealed; only you may read it", {"output": output})


@app.command(
    "reseal",
    epilog=examples(
        "privae reseal model.privae --key old.key --to age1... -o model.resealed.privae",
        "privae reseal data.csv.age --key old.key --to new.pub --to archive.pub -o data.csv.new.age",
    ),
)
def reseal_file(  # noqa: PLR0913  one parameter an option
    file: Sealed,
    output: given.Output,
    to: To = None,
    key: With = None,
    passphrase_file: Words = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Seal a sealed file to other keys: its beginning is written anew, and the data stay as they are.

    Who could open the file before may have kept a copy, or what opens this one: after a theft, unseal and seal again.
    """
    from privae import sealing

    out = Terminal(quiet, as_json)
    publics, known = sealing.recipients(to or ()), _keys(key, passphrase_file)
    if not publics:
        raise UsageError("say who can open it from now on: --to, for each public key")
    _converted(
        out,
        (file, output),
        "resealing",
        lambda reader, writer, told: sealing.reseal(reader, writer, known, publics, str(file), told),
    )
    many = "1 public key" if len(publics) == 1 else f"{len(publics)} public keys"
    text = f"wrote {output}, sealed to {many}; {file} still opens with the old ones: remove it"
    out.report(text, {"output": output, "to": publics})


def _keys(key: str | None, passphrase_file: Path | None) -> "Keys":
    """The keys that are named, or else those of the environment."""
    from privae import sealing
    from privae.sealing.identities import passphrase_from

    if key is None and passphrase_file is None:
        return sealing.at_hand()
    secrets = () if key is None else sealing.from_place(key).secrets
    return sealing.Keys(secrets, passphrase_from(passphrase_file))


def _converted(
    out: Terminal, paths: tuple[Path, Path], doing: str, work: "Work", *, secret: bool = False
) -> None:
    """Write one file from another, whole or not at all, in constant memory."""
    from privae import files

    source, target = paths
    with out.progress(f"reading {source.name}") as watch:
        files.check_writable(target, sealed=False)
        with _read(source) as reader:
            if target.exists() and target.samefile(source):
                raise UsageError(f"{target} is what is read; name another output")
            size = source.stat().st_size
            watch.phase(f"{doing} {source.name} (MB)", max(1, -(-size // _MEGABYTE)))
            told = _Told(watch)
            files.write_atomically(
                target, lambda writer: work(reader, writer, told), secret=secret, sealed=False
            )


def _read(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file; name one")
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown reason').lower()}") from None


class _Told:
    """Tells a watch of whole megabytes."""

    def __init__(self, watch: "Watch") -> None:
        self._watch, self._bytes = watch, 0

    def __call__(self, more: int) -> None:
        before, self._bytes = self._bytes // _MEGABYTE, self._bytes + more
        if self._bytes // _MEGABYTE > before:
            self._watch.advance(self._bytes // _MEGABYTE - before)
