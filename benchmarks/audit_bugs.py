"""Planted bugs, each in the shipped code, and the attack of the audit that must find it.

Every case runs one attack on the code as shipped, which must pass, and on the code with one bug in it, which must
fail. `tests/laws/test_the_audit_catches_planted_bugs.py` asserts it; `benchmarks/audit.py` reports the bounds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from privae import VAE
from privae.attacks.bounds import CONFIDENCE
from privae.attacks.finding import Finding
from privae.audit import canaries
from privae.audit.coins import Coins
from privae.audit.game import Loop, described, gradient_canaries, neighboring_tables, pull
from privae.data.column import Column
from privae.data.drafting import draft
from privae.data.schema import Schema
from privae.plan import Phase
from privae.privacy import accountant
from privae.privacy.clipping import Clipping
from privae.privacy.mechanism import Event, Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.recipes import table
from privae.training.loop import train

EPSILON, DELTA = 1.0, 1e-6
CANARIES, RUNS = 1000, 300
ROWS = 2_000
WIDTH = 20_000  # numbers whose scale tells a divisor


@dataclass(frozen=True)
class Case:
    """A bug, the attack that is to find it, and the attack run on the shipped code and on the code with the bug."""

    bug: str
    attack: str
    shipped: Callable[[], Finding]
    planted: Callable[[], Finding]


class Quiet(Mechanism):
    """Releases the sum without noise."""

    def release(self, total, noise, divisor=1.0, **options):  # noqa: ARG002, D102
        return total.double() / divisor if isinstance(total, Tensor) else total.astype(np.float64)


class Faster(Poisson):
    """Draws 30 times as often as its event says."""

    def batches(self, n, steps, noise):  # noqa: D102
        return Poisson(30 * self.rate).batches(n, steps, noise)


def quiet(mechanism: Mechanism) -> Mechanism:
    return Quiet(**asdict(mechanism))


def unclipped(*arguments) -> None:
    with patch.object(Clipping, "factors", lambda _, squared: torch.ones_like(squared)):
        train(*arguments)


def divided_by_the_length(model, objective, records, release, schedule) -> None:
    train(model, objective, records, release, replace(schedule, expected_batch_size=float(len(records[0]))))


def mean_of_the_batch(network: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    losses = pull(network, parts)
    return losses / parts[0].norm(dim=1).mean()


def phase(rate: float = 1.0, steps: int = 1, size: int = CANARIES) -> Phase:
    """A gradient phase that costs EPSILON at DELTA."""
    multiplier = accountant.calibrate(EPSILON, DELTA, lambda s: [Event(s, rate, steps)])
    terms = {"sensitivity": 1.0, "replace_ratio": 2.0, "sampling_rate": rate, "steps": steps, "size": size}
    return Phase(name="gradients", kind="gradients", share=1.0, noise_multiplier=multiplier, **terms)


def in_the_loop(loop: Loop, rate: float = 1.0, steps: int = 1) -> Finding:
    return gradient_canaries(phase(rate, steps), CANARIES, DELTA, CONFIDENCE, NoiseSource(), loop)


def beside_others(loop: Loop) -> Finding:
    """A hundred records that all push one way, and one that would push a thousand times as hard another way."""
    width = 4
    others = torch.zeros(100, width)
    others[:, 0] = 1.0
    loud = torch.zeros(1, width)
    loud[0, 1] = 1000.0
    planned = phase(size=width)

    def written(present: bool) -> np.ndarray:
        records = torch.cat([others, loud]) if present else others
        return loop.weights(planned, records, 1.0, NoiseSource())

    return neighboring_tables(written, RUNS, (EPSILON, DELTA), CONFIDENCE, "weights")


def scale_of_the_noise(loop: Loop) -> Finding:
    """Twenty records that push nowhere, or twenty-one: what is left is the noise, whose scale tells a divisor."""
    planned = phase(size=WIDTH)

    def written(present: bool) -> np.ndarray:
        found = loop.weights(planned, torch.zeros(20 + present, WIDTH), 1.0, NoiseSource())
        return described(b"", found)

    return neighboring_tables(written, RUNS, (EPSILON, DELTA), CONFIDENCE, "weights")


def schemas(facts: Callable[[pd.DataFrame], Schema]) -> Finding:
    """Fifty people, or one more who is the oldest: what is written of the schema."""
    rng = np.random.default_rng(0)
    others = pd.DataFrame({"age": rng.integers(20, 80, 50), "ill": rng.random(50) < 0.5})
    everyone = pd.concat([others, pd.DataFrame({"age": [97], "ill": [True]})], ignore_index=True)

    def written(present: bool) -> np.ndarray:
        schema = facts(everyone if present else others)
        return described(schema.dumps().encode())

    return neighboring_tables(written, RUNS, (EPSILON, DELTA), CONFIDENCE, "schema")


def declared(_: pd.DataFrame) -> Schema:
    age = Column(name="age", kind="numeric", bounds=(0, 120), integer=True)
    return Schema(columns=(age, Column(name="ill", kind="boolean")))


def read_off(frame: pd.DataFrame) -> Schema:
    """The bug: bounds are those of the rows."""
    return draft(frame, public=True)


def people(count: int) -> tuple[pd.DataFrame, Schema]:
    """A table of nine columns, one of which has undeclared categories."""
    rng = np.random.default_rng(1)
    measures = {f"measure {i}": rng.integers(0, 100, count) for i in range(8)}
    frame = pd.DataFrame({**measures, "job": rng.choice(["nurse", "cook", "clerk"], count)})
    columns = [Column(name=name, kind="numeric", bounds=(0, 100), bins=10, integer=True) for name in measures]
    job = Column(name="job", kind="category", categories="bought", other="else")
    return frame, Schema(columns=(*columns, job))


def fitted(attack: str, planted: Callable[[], Iterator[None]] | None = None) -> Finding:
    """A whole fit with canaries, and what one reader found of them."""
    frame, schema = people(ROWS)
    model = VAE(EPSILON, DELTA, rows=ROWS, schema=schema)
    if planted is None:
        model.fit(frame, coins=Coins(500))
    else:
        with planted():
            model.fit(frame, coins=Coins(500))
    return next(finding for finding in model.canary_findings_ if finding.attack == attack)


@contextmanager
def no_threshold() -> Iterator[None]:
    with patch.object(table, "threshold", lambda *_: 1.0), patch.object(Mechanism, "release", Quiet.release):
        yield


@contextmanager
def no_noise() -> Iterator[None]:
    with patch.object(Mechanism, "release", Quiet.release):
        yield


CASES = (
    Case(
        "noise off",
        "gradient canaries",
        lambda: in_the_loop(Loop()),
        lambda: in_the_loop(Loop(mechanism=quiet)),
    ),
    Case(
        "noise off in statistics",
        "canary reading",
        lambda: fitted(canaries.READING.name),
        lambda: fitted(canaries.READING.name, no_noise),
    ),
    Case(
        "clip off",
        "gradient canaries",
        lambda: in_the_loop(Loop()),
        lambda: in_the_loop(Loop(train=unclipped)),
    ),
    Case(
        "batch-mean loss",
        "neighboring tables",
        lambda: beside_others(Loop()),
        lambda: beside_others(Loop(loss=mean_of_the_batch)),
    ),
    Case(
        "wrong sampling rate",
        "gradient canaries",
        lambda: in_the_loop(Loop(), 0.02, 100),
        lambda: in_the_loop(Loop(sampling=Faster), 0.02, 100),
    ),
    Case("raw bounds", "neighboring tables", lambda: schemas(declared), lambda: schemas(read_off)),
    Case(
        "category leak",
        "canary categories",
        lambda: fitted(canaries.CATEGORIES.name),
        lambda: fitted(canaries.CATEGORIES.name, no_threshold),
    ),
    Case(
        "divisor from the data",
        "neighboring tables",
        lambda: scale_of_the_noise(Loop()),
        lambda: scale_of_the_noise(Loop(train=divided_by_the_length)),
    ),
)
