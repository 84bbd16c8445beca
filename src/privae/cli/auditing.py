"""Audits of files, and what a report shows of a model: findings, utility and pictures, if the data are there."""

import json
import platform
import shlex
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from privae import files
from privae.audit import canaries
from privae.audit.case import case_of_samples
from privae.audit.coins import KEPT_OUT, Coins, canaries_for
from privae.audit.suite import FORMAT, PUBLIC, Audit, Level
from privae.audit.suite import audit as run
from privae.cli import request
from privae.data.images import ImageSchema
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.errors import ArtifactError, PrivaeError, UsageError
from privae.series.schema import SeriesSchema
from privae.training.launch import place
from privae.training.watch import Watch
from privae.vae import VAE

if TYPE_CHECKING:
    from privae.report.page import Contents

_LIBRARIES = ("torch", "numpy", "dp-accounting")
_MOST = 20_000  # generated records that are compared with the data


@dataclass(frozen=True)
class Sources:
    """The files that a report is made from."""

    model: Path
    data: Path | None = None
    holdout: Path | None = None
    findings: Path | None = None

    @property
    def command(self) -> list[str]:
        """The line that makes the page again."""
        named = {"--data": self.data, "--holdout": self.holdout, "--findings": self.findings}
        parts = [f"{option} {shlex.quote(path.name)}" for option, path in named.items() if path is not None]
        return [" ".join(["privae report", shlex.quote(self.model.name), *parts, "-o report.html"])]


def of_model(model: VAE, paths: tuple[Path, Path, Path | None], level: Level, watch: Watch) -> Audit:
    """The audit of a model, whose file comes first, with those of its data and, perhaps, of a hold-out."""
    file, data, holdout = paths
    request.check_kind(model, data, "reads")
    watch.phase(f"reading {data.name}", 1)
    x, y = request.read(data)
    schema = model.fitted_.schema
    if isinstance(schema, Schema):
        schema.ordered([str(name) for name in x.columns], data.name)
    held = request.read_alike(holdout, data, schema)
    return model.audit(x, y, holdout=held, level=level, coins=coins_beside(file, model), watch=watch)


def of_samples(
    paths: tuple[Path, Path | None, Path | None, Path | None],
    claim: tuple[float | None, float],
    level: Level,
    watch: Watch,
) -> Audit:
    """The audit of another tool's synthetic table. Files: data, hold-out or None, synthetic rows, schema."""
    data, holdout, synthetic, schema = paths
    if synthetic is None:
        raise UsageError("name a model to audit, or --synthetic rows of another tool")
    if schema is None:
        raise UsageError("--synthetic needs --schema: what the columns are; draft one with: privae schema")
    if any(path is not None and request.is_images(path) for path in (data, holdout, synthetic)):
        raise UsageError("--synthetic audits tables; audit images with their model")
    known, made = request.read(data)[0], request.read(synthetic)[0]
    held = None if holdout is None else request.read(holdout)[0]
    return run(case_of_samples(Schema.load(schema), (known, held, made), claim), level, watch=watch)


def coins_for(rows: int | None, model: Path, *, planting: bool, split: bool, resume: bool) -> Coins | None:
    """The coins of a fit that plants canaries, kept beside its checkpoint until the model is in place.

    Errors: UsageError for a resumed fit that is to be audited in another way, and for several processes.
    """
    pending = _pending(model)
    if planting and place().size > 1:
        raise UsageError("canaries are planted by one process; choose --audit quick, or fit in one process")
    if resume:
        if planting != pending.exists():
            kind = "another --audit" if planting else "--audit standard"
            raise UsageError(f"the interrupted fit was begun with {kind}; repeat its command")
        return Coins.load(pending) if planting else None
    if not planting:
        if place().first:
            pending.unlink(missing_ok=True)
        return None
    coins = Coins(canaries_for(rows), KEPT_OUT if split else 0.0)
    coins.save(pending)
    return coins


def coins_text(coins: Coins, delta: float) -> str:
    """What canaries and coins cost a fit, and what they can show at most."""
    most = canaries.most(coins.canaries, delta)
    kept = (
        f"; about {coins.kept_out:.0%} of the records are kept out of the fit by secret coins"
        if coins.kept_out
        else ""
    )
    return (
        f"{coins.canaries} made-up records are drawn, half of which are planted: at this delta they can show epsilon "
        f"{most:.2g} at most{kept}"
    )


def after_fit(
    model: VAE,
    target: Path,
    data: tuple[Any, Any, Any],
    level: Level | None,
    coins: Coins | None,
    watch: Watch,
) -> Audit | None:
    """The audit that ends a fit, in the first process of a job; its findings lie beside the model, as do its coins.

    data: records, labels or None, and a hold-out or None, in the form that `VAE.audit` takes. level: None for none.
    An audit that cannot be finished is told, and takes nothing from the fit, whose budget was spent.
    """
    if not place().first:
        return None
    audit_file(target).unlink(missing_ok=True)
    if level is None:
        return None
    x, y, held = data
    try:
        done = model.audit(x, y, holdout=held, level=level, coins=coins, watch=watch)
    except Exception as error:  # noqa: BLE001  the model is there, and stays
        # privacy: the text of a foreign error may quote a cell
        why = str(error) if isinstance(error, PrivaeError) else type(error).__name__
        watch.note(f"the model is written, but its audit did not run ({why}); try: privae audit {target}")
        return None
    write(done, audit_file(target))
    return done


def save(model: VAE, target: Path, coins: Coins | None, watch: Watch) -> None:
    """Write the model file, and leave the coins of this fit beside it, and no others.

    The coins come first: killed in between, a fit finds them when it is resumed, and no other model takes them.
    """
    if coins is not None:
        replace(coins, fit=model.identity).save(_coins_of(target))
    request.save(model, target, watch)
    if coins is not None:
        _pending(target).unlink(missing_ok=True)
    elif place().first:
        _coins_of(target).unlink(missing_ok=True)


def audit_file(model: Path) -> Path:
    """Where a fit leaves the findings of its audit."""
    return model.with_name(f"{model.name}.audit.json")


def coins_beside(path: Path, model: VAE) -> Coins | None:
    """The coins of a model's fit, if it had any. Errors: ArtifactError for those of another fit."""
    if not _coins_of(path).exists():
        return None
    coins = Coins.load(_coins_of(path))
    if coins.fit != model.identity:
        raise ArtifactError(
            f"{_coins_of(path)} is of another fit than {path.name}; remove it, or restore its own"
        )
    return coins


def write(done: Audit, path: Path) -> None:
    """Write findings for their owner's eyes alone."""
    files.write_secretly(path, files.canonical_json(done.to_dict()) + b"\n")


def _coins_of(model: Path) -> Path:
    return model.with_name(f"{model.name}.coins")


def _pending(model: Path) -> Path:
    return model.with_name(f"{model.name}.checkpoint.coins")


def contents(model: VAE, sources: Sources, watch: Watch) -> "Contents":
    """Everything that the page is about. Errors: those of reading the files."""
    from privae.report.page import (
        Contents,
    )  # not at the top: an audit draws nothing, and should not wait for it

    schema = model.fitted_.schema
    if isinstance(schema, RatingSchema):
        raise UsageError(
            "there is no page for models of ratings yet; see: privae inspect, privae certificate"
        )
    facts = schema.model_dump() if isinstance(schema, ImageSchema) else schema.to_dict()
    found = None if sources.findings is None else findings(sources.findings, model)
    measured: dict[str, Any] | None = None
    pictures: dict[str, bytes] = {}
    if sources.data is not None:
        if found is None:
            found = of_model(model, (sources.model, sources.data, sources.holdout), "quick", watch).to_dict()
        if not isinstance(schema, SeriesSchema):  # the page has no figures of series yet
            measured, pictures = _on_data(model, sources, found, watch)
    return Contents(
        model.plan_,
        model.guarantee,
        model.ledger,
        facts,
        cast("Literal['table', 'image', 'series']", model.fitted_.kind),
        found,
        model.canary_findings_,
        measured,
        pictures,
        sources.command,
        versions(),
    )


def findings(path: Path, model: VAE) -> dict[str, Any]:
    """Findings of an earlier audit of this model. Errors: ArtifactError for another file, or another model's."""
    try:
        read: dict[str, Any] = json.loads(files.content(path))
        known = read["format"] == FORMAT and read["fit"] == model.identity
        known = known and {one["attack"] for one in read["findings"] if one["public"]} <= PUBLIC
    except OSError:
        raise UsageError(f"{path} cannot be read; write it with: privae audit ... -o {path.name}") from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path} holds no findings of an audit, or is damaged; audit again") from None
    if not known:
        raise ArtifactError(f"{path} is about another model, or of another version; audit again")
    return read


def versions() -> dict[str, str]:
    """Who computed this."""
    own = {"privae": files.code_version(), "python": platform.python_version()}
    return own | {name: version(name) for name in _LIBRARIES}


def _on_data(
    model: VAE, sources: Sources, found: dict[str, Any], watch: Watch
) -> tuple[dict[str, Any], dict[str, bytes]]:
    from privae.evaluate import utility
    from privae.report import picture

    assert sources.data is not None
    watch.phase("comparing with the data", 1)
    real = request.read(sources.data)
    held = None if sources.holdout is None else request.read(sources.holdout)
    schema = model.fitted_.schema
    if isinstance(schema, Schema):
        made = model.sample(min(len(real[0]), _MOST), seed=0)
        return utility.measured(real[0], None if held is None else held[0], made, schema, watch), {}
    assert isinstance(schema, ImageSchema)
    drawn = _images(model, min(len(real[0]), _MOST))
    pictures = {"real": picture.grid(real), "synthetic": picture.grid(drawn)} | _nearest(
        found, real[0], model, sources
    )
    return utility.measured(real, held, drawn, schema, watch), pictures


def _images(model: VAE, count: int) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    made = model.sample(count, seed=0)
    return made if isinstance(made, tuple) else (made, None)


def _nearest(
    found: dict[str, Any], real: NDArray[np.uint8], model: VAE, sources: Sources
) -> dict[str, bytes]:
    """Generated images beside the nearest real ones, where the audit told which."""
    from privae.report import picture

    coins = coins_beside(sources.model, model)
    if coins is not None:
        real = real[coins.taking_part(real)]
    made = _images(model, found["generated"])[0]
    places = [one["details"].get("places") or [] for one in found["findings"]]
    pairs = [pair for each in places for pair in each if pair[0] < len(real) and pair[1] < len(made)]
    if not pairs:
        return {}
    return {"nearest": picture.pairs(made[[p[1] for p in pairs]], real[[p[0] for p in pairs]])}
