"""What an audit is about: the world that attacks see, and what stands around the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae.attacks.finding import Finding
from privae.attacks.world import Records, Vocabulary, World, pixels
from privae.audit.coins import Coins, canaries_for, contents
from privae.audit.game import Tape
from privae.data.codec import acted_table
from privae.data.schema import Schema
from privae.errors import DataError, UsageError
from privae.fitted.kinds import AnyFitted, Fitted
from privae.fitted.table import FittedTable
from privae.plan import Plan
from privae.privacy.noise import NoiseSource
from privae.recipes.modality import AnyRecipe, to_members
from privae.recipes.phases import Run
from privae.recipes.table import as_declared

Floats = NDArray[np.float64]
Origin = Literal["given", "split"]
Again = Callable[..., tuple[Fitted, list[Finding]]]
"""Fits the same plan to other data: (data, labels, coins) -> the fitted model and its canaries' findings."""

REHEARSAL = "rehearsal: "
_MOST_SAMPLES = 20_000
_REHEARSED = 5_000  # generated records of a rehearsal, where no number of records is declared


@dataclass(frozen=True)
class Own:
    """A model of ours: fitted, its plan and recipe, how to fit the same again (None where that cannot be done).

    fit: its name. federation: what the model file says of several sites that fitted it.
    """

    fitted: AnyFitted = field(repr=False)
    plan: Plan
    recipe: AnyRecipe = field(repr=False)
    again: Again | None = field(repr=False)
    fit: str = ""
    federation: Mapping[str, Any] = field(default_factory=dict)

    def written(self, tape: Tape, data: tuple[Any, Any]) -> dict[str, bytes]:
        """The parts of the model file that this plan writes of other data, as a tape plays."""
        run = Run(self.plan, lambda *_: None, NoiseSource(), tape, tape)
        members, state = to_members(self.recipe.fit(run, *data))
        tensors = {name: tensor.contiguous().numpy().tobytes() for name, tensor in state.items()}
        return members | tensors


@dataclass(frozen=True)
class Case:
    """own: None for another tool's synthetic data. labels: of the members, for images.

    rehearse: fits the plan to generated records with canaries among them, and gives their findings.
    origin of the hold-out: "given", "split" (by secret coins, before the fit) or None.
    """

    world: World
    own: Own | None = None
    labels: Any = field(default=None, repr=False)
    rehearse: Callable[[], list[Finding]] | None = field(default=None, repr=False)
    origin: Origin | None = None


def case_of(own: Own, data: tuple[Any, Any], holdout: Any, coins: Coins | None, seed: int) -> Case:  # noqa: ANN401
    """The case of a model of ours. data: (records, labels or None) as the fit was given; see `VAE.audit`.

    Records that coins kept out of the fit are no members, and are the hold-out where none is given.
    Errors: UsageError for a hold-out of another form than the data.
    """
    members, labels = data
    if not len(members):
        raise DataError("the data hold no records; give those that the model was fitted to")
    origin: Origin | None = None if holdout is None else "given"
    held, held_labels = holdout if isinstance(holdout, tuple) else (holdout, None)
    _check_alike(data, (held, held_labels))
    if coins is not None and coins.kept_out:
        present = coins.taking_part(members)
        given = None if labels is None else np.asarray(labels, dtype=object)
        if holdout is None:
            origin, held = "split", _at(members, ~present)
            held_labels = None if given is None else given[~present]
        members, labels = _at(members, present), None if given is None else given[present]
    if origin == "given":
        _check_unseen(members, held)
    count = min(len(members), _MOST_SAMPLES)
    promise = own.plan.guarantee()
    refit = None if own.again is None else partial(_refit, own.again)
    more: dict[str, Any] = {"epsilon": promise.epsilon, "delta": promise.delta, "seed": seed, "refit": refit}
    more["kept_out"] = coins.kept_out if coins is not None and origin == "split" else 0.0
    if isinstance(own.fitted, FittedTable):
        made = own.fitted.sample(count, seed)
        # a text that was bought is one that nobody declared
        world = of_table(
            as_declared(own.fitted.schema, own.plan), members, held, made, model=own.fitted, **more
        )
    else:
        known = labelled(members, labels)
        rest = None if held is None else labelled(held, held_labels)
        world = of_images(
            known,
            rest,
            np.asarray(own.fitted.sample(count, seed)[0], np.uint8),
            model=Unlabelled(own.fitted),
            **more,
        )
    rehearse = None if own.again is None else partial(_rehearsed, own, own.again, seed)
    return Case(world, own, labels, rehearse, origin)


class Attacked(Protocol):
    """A model of units that have several rows of data each, as attacks use it: a unit is a row of numbers."""

    def score(self, data: Any) -> Floats:  # noqa: ANN401
        """The score of every row, higher for a more ordinary one, [n]."""

    def embed(self, data: Any) -> Floats:  # noqa: ANN401
        """Codes of every row, [n, k]."""

    def records(self, data: Any) -> Records:  # noqa: ANN401
        """Rows as points."""


def case_of_units(
    own: Own, model: Attacked, rows: tuple[Any, Any, Any], split: float | None, seed: int
) -> Case:
    """The case of units, as rows: (members, made-up ones, others or None).

    split: the chance at which coins kept others out of the fit; None where others were given.
    """
    members, made, held = rows
    origin: Origin | None = None if held is None else "given" if split is None else "split"
    promise = own.plan.guarantee()
    world = World(
        members,
        made,
        model.records(members),
        model.records(made),
        held,
        None if held is None else model.records(held),
        model=model,
        epsilon=promise.epsilon,
        delta=promise.delta,
        kept_out=split or 0.0,
        seed=seed,
    )
    return Case(world, own, origin=origin)


def _check_alike(data: tuple[Any, Any], held: tuple[Any, Any]) -> None:
    """Refuse a hold-out that is of another form than the data, before an attack trips over it."""
    (x, y), (other, names) = data, held
    if other is None:
        return
    tables = [isinstance(one, pd.DataFrame) for one in (x, other)]
    if all(tables):
        return  # whether all columns are there is seen when they are read
    if any(tables) or x.shape[1:] != other.shape[1:]:
        raise UsageError("the hold-out must have the form of the data: a table, or images of the same size")
    if (y is None) != (names is None) or (names is not None and len(names) != len(other)):
        raise UsageError(
            "the hold-out must have labels y, one an image, where the data have them, and else none"
        )


def _check_unseen(members: Any, held: Any) -> None:  # noqa: ANN401
    """Refuse a hold-out of records that were used, where equal records are not the rule anyway."""
    inside, outside = contents(members), contents(held)
    repeated = 1 - len(np.unique(inside)) / len(inside)
    if len(outside) and np.isin(outside, inside).mean() > 0.5 and repeated < 0.25:
        raise UsageError(
            "the hold-out holds the records of the data again; give records that the fit never saw"
        )


def case_of_samples(
    schema: Schema,
    tables: tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame],
    claim: tuple[float | None, float],
) -> Case:
    """The case of another tool's synthetic table: (members, hold-out or None, synthetic), and what the tool claims."""
    members, holdout, synthetic = tables
    if not len(members) or not len(synthetic):
        raise DataError("there must be records in the data and in the synthetic table")
    if holdout is not None:
        _check_unseen(members, holdout)
    world = of_table(schema, members, holdout, synthetic, epsilon=claim[0], delta=claim[1])
    return Case(world, origin=None if holdout is None else "given")


def of_table(
    schema: Schema,
    members: pd.DataFrame,
    holdout: pd.DataFrame | None,
    synthetic: pd.DataFrame,
    **more: Any,  # noqa: ANN401
) -> World:
    """The world of a table. Errors: UsageError for a table without a column of the schema."""
    vocabulary = Vocabulary(schema)
    members, synthetic = acted_table(members, schema), acted_table(synthetic, schema)
    holdout = None if holdout is None else acted_table(holdout, schema)
    known = vocabulary.records(members)
    held = None if holdout is None else vocabulary.records(holdout)
    return World(members, synthetic, known, vocabulary.records(synthetic), holdout, held, schema, **more)


def of_images(
    members: NDArray[Any],
    holdout: NDArray[Any] | None,
    synthetic: NDArray[np.uint8],
    **more: Any,  # noqa: ANN401
) -> World:
    """The world of images, which may be those of `labelled`."""
    held = None if holdout is None else _pixels(holdout)
    return World(members, synthetic, _pixels(members), _pixels(synthetic), holdout, held, **more)


def labelled(images: NDArray[np.uint8], labels: NDArray[Any] | None) -> NDArray[Any]:
    """Images [n, h, w] and their labels as one array of records, fields "x" and "y"; without labels, the images."""
    if labels is None:
        return images
    made = np.empty(len(images), dtype=[("x", np.uint8, images.shape[1:]), ("y", object)])
    made["x"], made["y"] = images, np.asarray(labels, dtype=object)
    return made


def images_of(data: NDArray[Any]) -> NDArray[np.uint8]:
    """The images of records of `labelled`, or plain images."""
    return np.ascontiguousarray(data["x"]) if data.dtype.names else data


@dataclass(frozen=True)
class Unlabelled:
    """A model of images that is given records of `labelled`, too."""

    fitted: Any = field(repr=False)

    def score(self, data: NDArray[Any]) -> Floats:
        """Log-likelihood bound of every image, [n]."""
        scores: Floats = self.fitted.score(images_of(data))
        return scores

    def embed(self, data: NDArray[Any]) -> Floats:
        """Latent codes of every image, [n, k]."""
        codes: Floats = self.fitted.embed(images_of(data))
        return codes

    def parts(self, data: NDArray[Any]) -> dict[str, Floats]:
        """What the bound is made of, [n] each."""
        parts: dict[str, Floats] = self.fitted.parts(images_of(data))
        return parts


def _at(data: Any, mask: NDArray[np.bool_]) -> Any:  # noqa: ANN401
    return data.loc[mask] if isinstance(data, pd.DataFrame) else data[mask]


def _pixels(data: NDArray[Any]) -> Records:
    return pixels(images_of(data))


def _refit(again: Again, data: Any) -> Any:  # noqa: ANN401  a model, as attacks use it
    if isinstance(data, pd.DataFrame):
        return again(data, None)[0]
    labels = data["y"] if data.dtype.names else None
    return Unlabelled(again(images_of(data), labels)[0])


def odd_one_out(own: Own, count: int, rng: np.random.Generator) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Generated records (data, labels), and one more that is as far from them as the schema allows."""
    made = own.fitted.sample(count, int(rng.integers(2**31)))
    if isinstance(own.fitted, FittedTable):
        codec = own.fitted.codec
        return (made, None), (codec.decode((codec.sizes - 1)[None].astype(np.int64), rng), None)
    pixels_made, labels = made if isinstance(made, tuple) else (made, None)
    checkered = np.indices(pixels_made.shape[1:]).sum(0) % 2 * 255
    return (pixels_made, labels), (checkered[None].astype(np.uint8), None if labels is None else labels[:1])


def joined_to(data: tuple[Any, Any], odd: tuple[Any, Any]) -> tuple[Any, Any]:
    """Records, labels and one more of each."""
    (x, y), (one, label) = data, odd
    if isinstance(x, pd.DataFrame):
        return pd.concat([x, one], ignore_index=True), None
    return np.concatenate([x, one]), None if y is None else np.concatenate([y, label])


def _rehearsed(own: Own, again: Again, seed: int) -> list[Finding]:
    """Canaries among generated records, fitted by the same plan: the code and its noise are tried, and no data.

    privacy: generated records are nobody's, so even what the reader of all other records finds may be published.
    """
    count = min(own.plan.rows or _REHEARSED, _MOST_SAMPLES)
    made = own.fitted.sample(count, seed + 1)
    data, labels = made if isinstance(made, tuple) else (made, None)
    _, findings = again(data, labels, Coins(canaries_for(own.plan.rows)))
    head = {"en": "Rehearsal on generated records: ", "zh": "在生成数据上的演练："}
    return [
        replace(
            finding,
            attack=REHEARSAL + finding.attack,
            public=True,
            title={language: head[language] + text for language, text in finding.title.items()},
        )
        for finding in findings
    ]
