"""What a person asks for on the command line, as the library understands it: files to data, options to a plan."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from privae import files
from privae.data.images import read_images
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.data.tables import read_header, read_table
from privae.errors import DataError, PrivaeError, ResourceError, UsageError
from privae.evaluate import released
from privae.federated.study import declared
from privae.fitted.ratings import FittedRatings
from privae.fitted.units import Units
from privae.models.networks import Activation
from privae.plan import Plan
from privae.recipes.gradients import Training
from privae.recipes.modality import Facts, image_schema, name_of
from privae.series.schema import SeriesSchema, read_schema
from privae.training.books import check_checkpoint
from privae.training.launch import place
from privae.training.loop import Local
from privae.training.watch import Watch
from privae.vae import DEFAULT_DELTA, VAE

TABLES, IMAGES = (".csv", ".parquet"), (".npz",)


@dataclass(frozen=True)
class Request:
    """The options of `plan` and `fit`. None: not given."""

    source: Path
    schema: Path | None = None
    epsilon: float | None = None
    delta: float | None = None
    rows: int | None = None
    classes: str | None = None
    recipe: str | None = None
    fidelity: bool | None = None
    strict: bool = False
    activation: str | None = None
    between: tuple[str | None, int | None] = (None, None)  # of several sites: what is shared, and local steps

    def facts(self) -> Facts:
        """The public facts of the data, reading no record: a declared schema, or the shape of the images."""
        if files.inner(self.source).suffix.lower() == ".toml":
            if self.schema is not None or self.classes is not None:
                raise UsageError("a schema says everything about its data; leave out --schema and --classes")
            return declared(self.source)
        if is_images(self.source):
            if self.schema is not None:
                raise UsageError(
                    "images need no --schema; declare their labels with --classes, if they have any"
                )
            shape, labelled = image_shape(self.source)
            if self.classes is not None and not labelled:
                raise UsageError(f"{self.source.name} has no labels y; leave out --classes")
            return image_schema(shape, parsed_classes(self.classes), labelled=labelled)
        if self.classes is not None:
            raise UsageError("--classes is for images; a table declares its categories in the schema")
        header = read_header(self.source)
        if self.schema is None:
            draft = files.inner(self.source).with_suffix(".schema.toml")
            raise UsageError(
                f"a table needs --schema; draft one with: privae schema {self.source} -o {draft} "
                "and declare its bounds and categories"
            )
        return read_schema(self.schema).ordered(header, self.source.name)

    def made(self, plan: Path | None, watch: Watch) -> tuple[Facts, VAE, Plan]:
        """The facts of the data, the model to fit, and its plan: the one in a file, or from the options."""
        facts = self.facts()
        model, agreed = self.followed(facts, plan) if plan else self.planned(facts, watch)
        return facts, model, agreed

    def plan(self, watch: Watch) -> Plan:
        """The plan that the options ask for: of a fit, or, where the source is a model, of its evaluation."""
        if files.inner(self.source).suffix.lower() != ".privae":
            return self.planned(self.facts(), watch)[1]
        options = ("schema", "classes", "recipe", "fidelity", "activation")
        given = {name: getattr(self, name) for name in options} | {"strict": self.strict or None}
        given |= dict(zip(("share", "local-steps"), self.between, strict=True))
        wrong = next((name for name, value in given.items() if value is not None), None)
        if wrong is not None:
            raise UsageError(f"a model says everything about its records; leave out --{wrong}")
        return released.planned(self.source, _stated(self.epsilon), delta_of(self.delta), self.rows)

    def planned(self, facts: Facts, watch: Watch) -> tuple[VAE, Plan]:
        """The model to fit and its plan, from the options. Errors: UsageError without an epsilon."""
        model = VAE(
            _stated(self.epsilon),
            delta_of(self.delta),
            self.rows,
            self.recipe or "auto",
            facts,
            fidelity=self.fidelity,
            strict=self.strict,
            training=_training(self.activation, *self.between),
        )
        watch.phase("choosing the noise", 1)
        return model, model.plan(facts)

    def followed(self, facts: Facts, path: Path) -> tuple[VAE, Plan]:
        """The model to fit and the plan in a file. Errors: UsageError for options that the plan has fixed."""
        named = ("epsilon", "delta", "rows", "recipe", "fidelity")
        double = [name for name in named if getattr(self, name) is not None]
        if double or self.strict:
            raise UsageError(f"--{(double or ['strict'])[0]} is fixed by the plan; plan again to change it")
        plan = Plan.load(path)
        try:
            training = Training.of(plan)
        except (KeyError, ValueError):
            raise UsageError(f"{path.name}: the settings of the gradients do not read; plan again") from None
        if training.local is not None:
            raise UsageError("local steps are between the sums of several sites; fit with: privae federated")
        model = VAE(
            plan.epsilon,
            plan.delta,
            plan.rows,
            name_of(plan),
            facts,
            fidelity=bool(plan.settings["fidelity"]) if "fidelity" in plan.settings else None,
            strict=plan.strict,
            training=training,
        )
        return model, plan


def _stated(epsilon: float | None) -> float:
    if epsilon is None:
        raise UsageError(
            "--epsilon has no default: privacy is decided. 1 is strong, 10 weak, inf none at all"
        )
    return epsilon


def _training(activation: str | None, share: str | None, local_steps: int | None) -> Training | None:
    if activation is None and share is None and local_steps is None:
        return None
    local = None if local_steps is None else Local(local_steps)
    style = cast("Activation", str(activation or "relu"))
    return Training(share="decoder" if share == "decoder" else "all", local=local, activation=style)


def is_images(path: Path) -> bool:
    """Whether a file holds images, by its name."""
    return files.inner(path).suffix.lower() in IMAGES


def read(path: Path) -> tuple[Any, Any]:
    """The records in a file and their labels: (DataFrame, None), or (uint8 [n, h, w], labels [n] or None)."""
    return read_images(path) if is_images(path) else (read_table(path), None)


def read_alike(path: Path | None, other: Path, facts: Facts | None = None) -> Any:  # noqa: ANN401
    """A hold-out in the form that `VAE.audit` takes: a DataFrame, images, or images with labels; None without a file.

    Errors: UsageError if it is of another kind; DataError if it does not fit the facts.
    """
    if path is None:
        return None
    if is_images(path) != is_images(other):
        raise UsageError(f"{path.name} and {other.name} are not of one kind: tables, or images in .npz files")
    x, y = read(path)
    if isinstance(facts, Schema | RatingSchema | SeriesSchema):
        facts.ordered([str(name) for name in x.columns], path.name)
    elif facts is not None and x.shape[1:] != (facts.height, facts.width):
        raise DataError(
            f"{path.name}: images must be of {facts.height} x {facts.width} pixels, as the data are"
        )
    return x if y is None else (x, y)


def parsed_classes(text: str | None) -> int | tuple[str, ...] | None:
    """A number of classes, or their names between commas.

    >>> parsed_classes("10"), parsed_classes("cat, dog")
    (10, ('cat', 'dog'))
    """
    if text is None:
        return None
    if text.strip().isdecimal():
        return int(text)
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(names) < 2:
        raise UsageError(
            "--classes is a number (10 means the labels 0 to 9), or names between commas: cat,dog"
        )
    return names


def image_shape(path: Path) -> tuple[tuple[int, int], bool]:
    """Height and width of the images in an npz file, and whether it has labels; no pixel is read."""
    try:
        with files.opened(path) as file, zipfile.ZipFile(file) as archive, archive.open("x.npy") as member:
            version = np.lib.format.read_magic(member)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, labelled = header(member)[0], "y.npy" in archive.namelist()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise UsageError(f"{path} does not exist; check the path") from None
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown reason').lower()}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError):
        read_images(path)  # says what is wrong with it
        raise DataError(f"{path.name} does not read as an npz file; write it with numpy.savez") from None
    if len(shape) != 3:
        raise DataError(
            f"{path.name}: x must have the shape [n, height, width]; color and other layouts are not read"
        )
    return (int(shape[1]), int(shape[2])), labelled


def check_outputs(
    path: Path | None, endings: tuple[str, ...], sources: Sequence[Path | None], *, replace: bool = True
) -> None:
    """Raise now if an output could not be written at the end, or would replace what it must not; None: no output.

    Errors: UsageError for another ending, the name of an input, a device, a folder that cannot be written, or,
        with replace=False, a file that is there.
    """
    if path is None:
        return
    files.check_writable(path)
    if endings and files.inner(path).suffix.lower() not in endings:
        raise UsageError(f"{path.name} must end in {' or '.join(endings)}")
    if not path.exists():
        return
    if not replace:
        raise UsageError(f"{path} exists and may hold what you declared; name another file, or remove it")
    if any(source is not None and source.exists() and path.samefile(source) for source in sources):
        raise UsageError(f"{path} is what is read; name another output")


def checkpoint_of(model: Path, *, resume: bool) -> Path:
    """Where a fit is kept until its model is in place: beside it. UsageError where it may not begin, or resume."""
    path = model.with_name(model.name + ".checkpoint")
    if place().first:
        files.check_writable(path)
        check_checkpoint(path, resume=resume)
    return path


@contextmanager
def resumable(checkpoint: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Where a fit is cut off and can go on, say how."""
    try:
        yield
    except BaseException as error:
        cut_off = isinstance(error, ResourceError) or not isinstance(error, PrivaeError)
        if cut_off and checkpoint.exists():
            note(
                "the fit can go on from its last block, and is not charged again: repeat the command with --resume"
            )
        raise


def save(model: VAE, path: Path, watch: Watch) -> None:
    """Write the model file, in the first process of a job."""
    if place().first:
        watch.phase(f"writing {path.name}", 1)
        model.save(path)


def load(path: Path) -> VAE:
    """A fitted model; its hashes, ledger and guarantee are checked."""
    return VAE.load(path)


def names_of(model: VAE, data: Any) -> dict[str, Any]:  # noqa: ANN401  records
    """How records are named, by column: rows by their number from 1, persons and windows as the table names them."""
    fitted = model.fitted_
    if isinstance(fitted, FittedRatings):
        return {fitted.schema.person: fitted.persons(data)}
    if isinstance(fitted, Units):
        return {str(name): column for name, column in fitted.names(data).items()}
    return {"row": range(1, len(data) + 1)}


def check_kind(model: VAE, path: Path, does: str) -> None:
    """Raise UsageError where a file is no table, or no images, but the model is of such."""
    if is_images(path) != (model.fitted_.kind == "image"):
        endings = "images: .npz" if model.fitted_.kind == "image" else "a table: .csv or .parquet"
        raise UsageError(f"{path.name} does not fit the model, which {does} {endings}")


def named_bounds(text: str, option: str) -> tuple[str, tuple[float, float]]:
    """A name and its public bounds, as options have them.

    >>> named_bounds("power=0:5", "--bounds")
    ('power', (0.0, 5.0))
    """
    name, _, pair = text.rpartition("=")
    low, _, high = pair.partition(":")
    try:
        limits = float(low), float(high)
    except ValueError:
        raise UsageError(f"{option} {text}: write it as NAME=LOW:HIGH, like power=0:5") from None
    if not name.strip():
        raise UsageError(f"{option} {text}: each number has a name of its own")
    return name.strip(), limits


def delta_of(given: float | None) -> float:
    """The delta given, or the default one."""
    return DEFAULT_DELTA if given is None else given


def claim_of(epsilon: float | None, delta: float | None) -> tuple[float | None, float]:
    """What another tool claims, or (None, 0.0). Errors: UsageError for what cannot be meant."""
    if epsilon is None:
        if delta is not None:
            raise UsageError("--delta is part of a claim: give its --epsilon, too")
        return None, 0.0
    if not epsilon > 0:
        raise UsageError(
            "the epsilon that a tool claims must be greater than 0; leave it out if it claims none"
        )
    if not 0 <= delta_of(delta) < 1:
        raise UsageError("the delta that a tool claims must lie between 0 and 1")
    return epsilon, delta_of(delta)


def target_of(output: Path | None, source: Path, others: Sequence[Path | None]) -> Path:
    """Where a fit writes its model: the output named, or beside the data. Errors: those of `check_outputs`."""
    target = output or _default_model(source)
    check_outputs(target, (".privae",), [source, *others])
    return target


def _default_model(source: Path) -> Path:
    """The name of a model file when none is given: never one that is there, for its budget was spent."""
    path = files.inner(source).with_suffix(".privae")
    files.check_writable(path)
    if path.exists():
        raise UsageError(f"{path} exists, and its budget was spent; name an output with -o")
    return path
