"""The command line, `privae` or `python -m privae`: its verbs, the options before a verb, and its last stop."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from privae.cli.options import add_options, carried
from privae.cli.terminal import ending, fail
from privae.training.launch import keep_freed_memory

_ABOUT = (
    "Fit a variational autoencoder to data that must not leak, and keep a model with a printed guarantee."
)
_VERBS = (
    "privae.cli.verbs",
    "privae.cli.checks",
    "privae.cli.federating",
    "privae.service.series",
    "privae.service.scoring",
    "privae.service.recommending",
    "privae.service.continuing",
    "privae.service.serving",
    "privae.custodian.sealing",
    "privae.custodian.budgets",
    "privae.custodian.ledgers",
    "privae.custodian.deidentifying",
    "privae.custodian.images",
    "privae.custodian.anchoring",
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_ABOUT,
    epilog="Start with: privae demo. For a table of your own: schema, plan, fit; then sample, score, encode; "
    "and audit, report, certificate.",
)
ledgers = typer.Typer(
    rich_markup_mode=None, help="The ledger of a data set: what all of its fits together may spend."
)
app.add_typer(ledgers, name="ledger")
federated = typer.Typer(
    rich_markup_mode=None, help="Fit one model with several sites, whose data stay where they are."
)
app.add_typer(federated, name="federated")
streams = typer.Typer(
    rich_markup_mode=None,
    help="Release the means of a fleet, day after day, under one charge for all of them.",
)
app.add_typer(streams, name="stream")


def examples(*lines: str) -> str:
    """The examples that end a verb's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _print_version(wanted: bool) -> None:
    if wanted:
        from privae import files

        typer.echo(f"privae {files.code_version()}")
        raise typer.Exit


@app.callback(help=_ABOUT)
def top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options that come before a verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code (design.md section 8)."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    for module in _VERBS:
        import_module(module)
    # threads that spin while they wait made a fit on a busy machine 20 times slower; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    try:
        with warnings.catch_warnings(), ending(), carried():
            if argv is None and os.environ.get("PRIVAE_DEBUG") != "1":
                warnings.simplefilter("ignore")  # privacy: a warning of a library may quote a cell
            command = typer.main.get_command(app)
            add_options(command)
            with command.make_context("privae", arguments) as context:
                command.invoke(context)
    except typer.Exit as done:
        return int(done.exit_code)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last stop: one line, never a traceback
        return fail(error, as_json="--json" in arguments)
    return 0
