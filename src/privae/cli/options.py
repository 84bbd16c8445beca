"""The options of the command line, each named and explained once; those of sealed files are given to every verb."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

SEAL_TO, PLACE = "PRIVAE_SEAL_TO", "PRIVAE_IDENTITY_FILE"  # of privae.sealing, which --help does not wait for
_OUTPUTS = {"output", "plot", "heat_map"}
_OTHERS = {"stream open", "stream add", "ledger import", "ledger anchor"}  # write what no -o names
_NEITHER = {"keys new", "keys public", "seal", "unseal", "reseal"}
_NEVER_SEALED = {"federated init", "encrypted keys"} | _NEITHER
"""Verbs whose files are for others to start from, or keys, or are sealed or opened as they themselves say; see
docs/adr/0026-sealed-files.md."""


class Example(StrEnum):
    """Packaged public data."""

    ADULT = "adult"
    DIGITS = "digits"


class Recipe(StrEnum):
    """How to fit: statistics first, the whole network by noisy gradients, or statistics for anomaly scores."""

    AUTO = "auto"
    GRADIENTS = "gradients"
    DETECTION = "detection"


class Score(StrEnum):
    """Anomaly scores of a model of recipe detection."""

    COMBINED = "combined"
    MAHALANOBIS = "mahalanobis"
    DIAGONAL = "diagonal"
    TAIL = "tail"


class Share(StrEnum):
    """What a gradient phase trains: all of the network, or its decoder after a released encoder."""

    ALL = "all"
    DECODER = "decoder"


class Activations(StrEnum):
    """What stands between the layers of a network."""

    RELU = "relu"
    SILU = "silu"
    SQUARE = "square"


class Unit(StrEnum):
    """Whom a ledger protects."""

    RECORD = "record"
    PERSON = "person"
    HOUSEHOLD = "household"
    DEVICE = "device"


class Composition(StrEnum):
    """How a ledger adds up plans that were chosen one after the other."""

    RENYI = "renyi"
    GAUSSIAN = "gaussian"


class AuditKind(StrEnum):
    """How a fit is audited."""

    NONE = "none"
    QUICK = "quick"
    STANDARD = "standard"


class AuditLevel(StrEnum):
    """How hard an audit tries."""

    QUICK = "quick"
    STANDARD = "standard"
    DEEP = "deep"


class Language(StrEnum):
    """The language of a page."""

    EN = "en"
    ZH = "zh"


def option(*names: str, text: str) -> Any:  # noqa: ANN401  typer's own type
    """An option whose text says its default, if it has one."""
    return typer.Option(*names, help=text, show_default=False)


def argument(name: str, text: str) -> Any:  # noqa: ANN401
    """A positional argument."""
    return typer.Argument(metavar=name, help=text, show_default=False)


Quiet = Annotated[bool, option("--quiet", "-q", text="Say nothing but errors and what was asked for.")]
AsJson = Annotated[bool, option("--json", text="Print one JSON object on stdout, and nothing else there.")]

Data = Annotated[
    Path, argument("DATA", "A table (.csv, .parquet), or images (.npz: x uint8 [n, h, w], perhaps y).")
]
Planned = Annotated[
    Path, argument("DATA", "A table, images, a schema alone (.toml), or a model to evaluate (.privae).")
]
Table = Annotated[Path, argument("TABLE", "A table (.csv or .parquet).")]
Model = Annotated[Path, argument("MODEL", "A model file (.privae).")]
LedgerPlace = Annotated[
    str,
    argument("LEDGER", "The ledger of a data set: a file, or postgresql://USER@HOST/DATABASE?ledger=NAME."),
]
Which = Annotated[
    Example, argument("[adult|digits]", "Which packaged data: people (the default), or digits.")
]

SchemaFile = Annotated[
    Path | None, option("--schema", text="The table's schema; draft one with: privae schema.")
]
Epsilon = Annotated[
    float | None, option("--epsilon", text="The promise: 1 is strong, 10 weak, inf none. No default.")
]
Delta = Annotated[
    float | None, option("--delta", text="Added to every probability: far below 1 / rows. Default: 1e-6.")
]
Rows = Annotated[
    int | None, option("--rows", text="Roughly how many records, as you would say it in public.")
]
Classes = Annotated[
    str | None, option("--classes", text="Labels of images: 10 means 0 to 9, or names: cat,dog.")
]
HowToFit = Annotated[
    Recipe | None,
    option(
        "--recipe",
        text="auto: statistics first. gradients: the whole network. detection: quantiles and moments, "
        "for `privae score`; a unit in the schema for each numeric column makes them finer.",
    ),
]
Fidelity = Annotated[
    bool | None,
    option(
        "--fidelity/--no-fidelity",
        text="Train on by gradients: images get a sharper decoder (default above epsilon 1), tables a finer encoder.",
    ),
]
Shared = Annotated[
    Share | None,
    option(
        "--share", text="What gradients train: all, or the decoder alone; studies of several sites want that."
    ),
]
LocalSteps = Annotated[
    int | None,
    option(
        "--local-steps",
        text="Of several sites: steps of each by itself between two sums; each site is one unit.",
    ),
]
Activated = Annotated[
    Activations | None,
    option(
        "--activation",
        text="Of the network: relu (default), silu. square: a polynomial network, whose codes and scores a server can "
        "compute on ciphertexts; images need --recipe gradients with it.",
    ),
]
Strict = Annotated[
    bool, option("--strict", text="Refuse values outside the schema; the guarantee then says so.")
]
PlanFile = Annotated[Path | None, option("--plan", text="Follow a plan written by: privae plan -o.")]
Resume = Annotated[
    bool,
    option(
        "--resume",
        text="Go on with an interrupted fit: the same command and the same data again (data are not checked).",
    ),
]
Device = Annotated[str, option("--device", text="Where gradients are computed: cpu (default), cuda, cuda:1.")]
Charged = Annotated[str | None, option("--ledger", text="Charge this ledger; refused past its cap.")]
Granted = Annotated[
    str,
    option("--grant", text="Charge this grant of the ledger: a share that was set aside for one analysis."),
]

Output = Annotated[Path, option("--output", "-o", text="The file to write.")]
MaybeOutput = Annotated[Path | None, option("--output", "-o", text="The file to write.")]
ModelOutput = Annotated[
    Path | None, option("--output", "-o", text="The model file. Default: DATA, ending in .privae.")
]
Folder = Annotated[Path, option("--output", "-o", text="The folder to write. Default: demo.")]

Public = Annotated[bool, option("--public", text="The rows are public: read bounds and categories, too.")]
Count = Annotated[
    int | None, option("-n", text="How many records. Default: the declared rows, or else 1000.")
]
Seed = Annotated[int | None, option("--seed", text="Repeat a sample. Default: a fresh one.")]
Top = Annotated[
    int | None,
    option(
        "--top",
        text="Only the strangest. Default: 20, or all of them with -o.",
    ),
]
ScoreBy = Annotated[
    Score | None,
    option(
        "--by",
        text="Of recipe detection: combined (default of tables), mahalanobis (that of images: what breaks how "
        "numbers move together), diagonal, or tail (records with rare values; it resists anomalies among the fitted "
        "records).",
    ),
]
HeatMap = Annotated[
    Path | None,
    option(
        "--heat-map",
        text="Of images, recipe detection: a PNG of the strangest, at most 48, and where they are strange.",
    ),
]
Cap = Annotated[float, option("--epsilon", text="What all fits together may spend.")]
HowToAdd = Annotated[
    Composition, option("--composition", text="renyi (default), or gaussian: plans without gradients only.")
]

Protected = Annotated[
    Unit, option("--unit", text="Whom the cap protects: a record (default), or a person: of ratings only.")
]

AuditOf = Annotated[
    AuditKind,
    option(
        "--audit",
        text="quick (default): attacks, in seconds. standard: canaries are planted, too, and 5 % of the rows kept out "
        "by secret coins, unless there is a --holdout. none.",
    ),
]
IdentifierOk = Annotated[
    list[str] | None,
    option(
        "--identifier-ok",
        text="A learned column that looks like an identifier, and is none; once a column.",
    ),
]
Holdout = Annotated[
    Path | None, option("--holdout", text="Records of the same population that the fit is not given.")
]
Level = Annotated[
    AuditLevel, option("--level", text="quick (default, seconds), standard (minutes), deep (fits 8 models).")
]
Members = Annotated[Path | None, option("--data", text="The data that the model was fitted to.")]
Synthetic = Annotated[
    Path | None, option("--synthetic", text="Synthetic rows of any tool, to be audited without its model.")
]
Claimed = Annotated[float | None, option("--epsilon", text="What the tool claims, for --synthetic.")]
AuditOutput = Annotated[
    Path | None, option("--output", "-o", text="Write the findings here (.json), for the data holder only.")
]
FindingsFile = Annotated[
    Path | None,
    option("--findings", text="Findings of an earlier audit (.json), instead of a quick one now."),
]
Lang = Annotated[Language, option("--lang", text="The language of the page: en (default) or zh.")]
Publishable = Annotated[
    bool, option("--public", text="Leave out everything that was computed on real data: a page to publish.")
]
CertificateFile = Annotated[Path, argument("CERTIFICATE", "A certificate (.json).")]
MaybeModel = Annotated[
    Path | None,
    argument("[MODEL]", "The model that it is about (.privae); without it, the certificate alone."),
]
Signer = Annotated[
    str | None, option("--key", text="Who must have signed: a public key, or its fingerprint.")
]


def add_options(command: Any) -> None:  # noqa: ANN401  a group of typer's click
    """Give every verb of the whole tree those of the two options that it can keep to."""
    template = typer.Typer(add_completion=False)
    template.command()(_options)
    seal_to, identity = typer.main.get_command(template).params[:2]
    for path, verb in _verbs(command):
        named = {parameter.name for parameter in verb.params}
        writes = bool(named & _OUTPUTS) or path in _OTHERS
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
    if given:
        from privae.sealing import recipients

        os.environ[SEAL_TO] = ",".join(recipients(given))


def _open_with(given: str | None) -> None:
    if given:
        from privae.sealing import from_place

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
