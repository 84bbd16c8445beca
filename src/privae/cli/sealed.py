"""The options of sealed files, --seal-to and --identity: given to every verb that writes or reads files, in one place.

They are carried by the environment, so that the processes which a verb starts keep to them, too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

SEAL_TO, PLACE = "PRIVAE_SEAL_TO", "PRIVAE_IDENTITY_FILE"  # of privae.sealing, which --help does not wait for
_OUTPUTS = {"output", "plot", "heat_map"}
_FOLDERS = {"stream open", "stream add"}
_NEITHER = {"keys new", "keys public", "seal", "unseal", "reseal"}
_NEVER_SEALED = {"federated init"}
"""Verbs whose files are for others to start from, or keys; see docs/adr/0026-sealed-files.md."""


def add_options(command: Any) -> None:  # noqa: ANN401  a group of typer's click
    """Give every verb of the whole tree those of the two options that it can keep to."""
    template = typer.Typer(add_completion=False)
    template.command()(_options)
    seal_to, identity = typer.main.get_command(template).params[:2]
    for path, verb in _verbs(command):
        named = {parameter.name for parameter in verb.params}
        writes = bool(named & _OUTPUTS) or path in _FOLDERS
        verb.params += [seal_to] * (writes and path not in _NEVER_SEALED)
        verb.params += [identity] * (path not in _NEITHER)


@contextmanager
def carried() -> Iterator[None]:
    """Check what the environment says of sealed files, before anything is spent; leave it as it was.

    Errors: UsageError for public keys that do not read.
    """
    before = {name: os.environ.get(name) for name in (SEAL_TO, PLACE)}
    try:
        _seal((before[SEAL_TO] or "").replace(",", " ").split())
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _verbs(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every verb below a command, after its words: "ledger open"."""
    for name, inside in command.commands.items():
        words = f"{path} {name}".strip()
        yield from _verbs(inside, words) if hasattr(inside, "commands") else [(words, inside)]


def _seal(given: list[str]) -> None:
    from privae.sealing import recipients

    if given:
        os.environ[SEAL_TO] = ",".join(recipients(given))


def _open_with(given: str | None) -> None:
    from privae.sealing import from_place

    if given:
        from_place(given)
        os.environ[PLACE] = given


def _options(
    seal_to: Annotated[
        list[str] | None,
        typer.Option(
            "--seal-to",
            metavar="PUBLIC",
            help="Seal all that is written to this public key (age1...), or those in a file; once for each.",
            callback=_seal,
            expose_value=False,
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="FILE",
            help="The key that opens sealed files, of: privae keys new. Default: $PRIVAE_IDENTITY_FILE.",
            callback=_open_with,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """What typer makes the two options from."""
