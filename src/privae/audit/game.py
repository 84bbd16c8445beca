"""Games against the code that ran: gradient canaries in the shipped training loop, and neighboring tables.

Both use made-up records only, so what they find is no secret of anybody (guarantees.md rule 22). They test the code
and the noise of this machine, at the settings of a plan; the proof of the guarantee is elsewhere.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privae.attacks.bounds import game_bound, scores_bound
from privae.attacks.finding import Attack, Finding
from privae.plan import Phase
from privae.privacy import accountant
from privae.privacy.gradients import Loss, Summation
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson, Sampling
from privae.recipes.phases import quantile_of
from privae.training.bound import Rule
from privae.training.loop import Objective, Release, Schedule, train
from privae.training.state import State

Floats = NDArray[np.float64]

GRADIENTS = Attack(
    "gradient canaries",
    "parameters",
    "epsilon lower bound",
    {"en": "Gradient canaries in the training loop", "zh": "训练循环中的梯度金丝雀"},
    {
        "en": "The training loop ran with made-up records that each push one weight as far as clipping lets them: of "
        "{guesses} guesses which of them took part, {right} were right, which shows epsilon at least {value} where "
        "{epsilon} is accounted; at most {power} could have been shown ({confidence} sure).",
        "zh": "训练循环使用虚构记录运行，每条记录在裁剪允许的范围内推动一个权重：{guesses} 次猜测中 {right} 次正确，"
        "表明 epsilon 至少为 {value}（记账值为 {epsilon}）；最多可表明 {power}（置信度 {confidence}）。",
    },
    "arXiv:2305.08846; gradient canaries: Nasr et al. 2023, arXiv:2302.07956",
    public=True,
)
NEIGHBORS = Attack(
    "neighboring tables",
    "parameters",
    "epsilon lower bound",
    {
        "en": "Neighboring tables: what is written with and without one record",
        "zh": "邻接表博弈：有无某一记录时写出的内容",
    },
    {
        "en": "In {runs} runs with one made-up record and as many without it, what was written told them apart {right} "
        "times out of {tested}, which shows epsilon at least {value}; at most {power} could have been shown "
        "({confidence} sure).",
        "zh": "在包含某条虚构记录的 {runs} 次运行与同样多次不包含它的运行中，"
        "写出的内容在 {tested} 次中 {right} 次可被区分，表明 epsilon 至少为 {value}；"
        "最多可表明 {power}（置信度 {confidence}）。",
    },
    "Jagielski et al. 2020, arXiv:2006.07709; exact intervals: Clopper and Pearson 1934",
    public=True,
)

REPLAYED = Attack(
    "replayed neighbors",
    "parameters",
    "parts that differ",
    {
        "en": "One more record, the same releases: what else is written",
        "zh": "多一条记录而发布内容不变：其余写出内容是否改变",
    },
    {
        "en": "The plan was fitted to generated records, and again with one more far from them and every release "
        "replaced by the first fit's: {differing} of {parts} written parts differ ({named}). Any difference would have "
        "been taken from the data past the noise.",
        "zh": "先以生成数据执行该方案，再加入一条远离它们的记录并以首次的发布内容代替所有发布：{parts} 个写出部分中有 "
        "{differing} 个不同（{named}）。任何差异都意味着有内容绕过噪声取自数据。",
    },
    "guarantees.md, 'nothing reads the data outside a mechanism'; tests/laws",
    public=True,
)

_FIRST = 512  # bytes and numbers of an artefact that are looked at one by one
_BLOCK = 64  # records that gradients are summed of at once
_LOUD = 100.0  # how many clip norms a canary pushes with, before it is clipped


def pull(network: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    """The loss of a gradient canary: its gradient is the record itself, whatever the weights."""
    pulled: Tensor = network(parts[0]).sum(-1)
    return pulled


@dataclass(frozen=True)
class Loop:
    """The training loop under test, and the parts that a planted bug may exchange; the shipped ones by default."""

    train: Callable[..., None] = train
    sampling: Callable[[float], Sampling] = Poisson
    mechanism: Callable[[Mechanism], Mechanism] = lambda planned: planned
    loss: Loss = pull

    def weights(self, phase: Phase, records: Tensor, rows: float, noise: NoiseSource) -> Floats:
        """Minus the weights after a gradient phase at rate 1 from zero: the sum of all releases over `rows`, [p]."""
        model = nn.Linear(records.shape[1], 1, bias=False)
        nn.init.zeros_(model.weight)
        planned = self.mechanism(phase.mechanism())
        expected = phase.sampling_rate * rows
        rule = Rule(phase.clipping, quantile_of(phase, expected))
        release = Release(self.sampling(phase.sampling_rate), planned, noise, lambda _: None, rule)
        summation = Summation("by rule", phase.precision, _BLOCK, phase.bfloat16)
        objective = Objective(self.loss, summation=summation)
        schedule = Schedule(phase.steps, expected, learning_rate=1.0, optimizer="sgd")
        self.train(model, objective, (records,), release, schedule)
        found: Floats = -model.weight.detach().double().numpy().ravel()
        return found


_SHIPPED = Loop()


def gradient_canaries(  # a plan's phase, how many canaries, how sure
    phase: Phase, canaries: int, delta: float, confidence: float, noise: NoiseSource, loop: Loop = _SHIPPED
) -> Finding:
    """One run of a gradient phase on canaries alone, each planted by a fair coin, each on a weight of its own.

    Guarantee: above the accounted epsilon of the phase with probability at most 1 - confidence, if the loop does
    what was accounted. Nearly tight: canaries do not disturb each other, and the attacker sees the noise alone.
    """
    planted = noise.bernoulli(canaries, 0.5)
    width = max(canaries, 1)
    everyone = torch.eye(width)[:canaries] * (_LOUD * phase.sensitivity)
    scores = loop.weights(phase, everyone[torch.from_numpy(planted)], float(canaries), noise)[:canaries]
    bound, power, right, guesses = scores_bound(scores, planted, delta, confidence)
    epsilon = accountant.epsilon([phase.event()], delta)
    details = {
        "right": right,
        "guesses": guesses,
        "canaries": canaries,
        "epsilon": epsilon,
        "phase": phase.name,
    }
    return GRADIENTS.found(
        bound, (bound, math.inf), confidence, power=power, failed=bound > epsilon, **details
    )


def neighboring_tables(
    written: Callable[[bool], Floats], runs: int, claim: tuple[float, float], confidence: float, of: str
) -> Finding:
    """What is written with a record and without it, told apart by the number in it that differs most.

    written(with_it): numbers that describe one run's artefact, [k], with fresh coins at every call. Half of the runs
    choose the number, its direction and a threshold; the other half is judged by them, so the bound is honest.
    claim: (epsilon, delta). of: what was written, for the report.
    """
    sides = [np.stack([written(present) for _ in range(runs)]) for present in (True, False)]
    half = runs // 2
    learned, judged = [side[:half] for side in sides], [side[half:] for side in sides]
    tell = _tell(*learned)
    hits = [int(tell(side).sum()) for side in judged]
    epsilon, delta = claim
    tested = runs - half
    bound = game_bound((hits[0], tested), (hits[1], tested), delta, confidence)
    power = game_bound((tested, tested), (0, tested), delta, confidence)
    right = hits[0] + tested - hits[1]
    details = {"runs": runs, "right": right, "tested": 2 * tested, "epsilon": epsilon, "of": of}
    return NEIGHBORS.found(
        bound, (bound, math.inf), confidence, power=power, failed=bound > epsilon, **details
    )


def _tell(with_it: Floats, without: Floats) -> Callable[[Floats], NDArray[np.bool_]]:
    """Whether runs look as if the record were there, by the number that differs most between the learning runs."""
    means = with_it.mean(0), without.mean(0)
    spread = np.sqrt((with_it.var(0) + without.var(0)) / 2)
    scale = np.maximum(spread, 1e-12 * (1 + np.abs(means[1])))
    place = int(np.argmax(np.abs(means[0] - means[1]) / scale)) if with_it.shape[1] else 0
    middle = (means[0][place] + means[1][place]) / 2
    upward = means[0][place] > means[1][place]

    def told(runs: Floats) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = runs[:, place] > middle if upward else runs[:, place] < middle
        return found

    return told


@dataclass
class Tape:
    """A keeper of what a fit released and told, and, once it plays, the keeper of another fit, which releases the same.

    privacy: it is used on generated records only. See `training.state.Keeper`.
    """

    released: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    told: list[tuple[str, ...]] = field(default_factory=list)
    plays: bool = False

    def restore(self, phase: str) -> State | None:
        """The end of a gradient phase, when it plays."""
        return self.states.get(phase) if self.plays else None

    def save(self, phase: str, state: State) -> None:
        """Keep where a gradient phase stands."""
        self.states[phase] = state

    def recall(self, phase: str) -> list[NDArray[Any]] | None:
        """What a statistics phase released, when it plays."""
        return self.released.get(phase) if self.plays else None

    def remember(self, phase: str, released: list[NDArray[Any]]) -> None:
        """Keep what a statistics phase released."""
        self.released[phase] = released

    def phase(self, name: str, total: int) -> None:
        """A line of the log."""
        self.told.append(("phase", name, str(total)))

    def advance(self, count: int, epsilon: float | None = None) -> None:
        """Steps are not run again, so they are not compared."""

    def note(self, text: str) -> None:
        """A line of the log."""
        self.told.append(("note", text))

    def aside(self, text: str) -> None:
        """For the data holder's own eyes: no part of what is written."""


def replayed(write: Callable[[Tape, bool], Mapping[str, bytes]], confidence: float) -> Finding:
    """What a fit writes with and without one record, if both release the same: any part that differs is a leak.

    write(tape, with_it): fits with the tape as keeper and watch, and returns what it wrote, by name. No chance is
    involved, so one pair of fits is enough; what only differs between other records is not seen.
    """
    first = Tape()
    without = {**write(first, False), "log": repr(first.told).encode()}
    second = Tape(first.released, first.states, plays=True)
    with_it = {**write(second, True), "log": repr(second.told).encode()}
    names = sorted(without.keys() | with_it.keys())
    differing = [name for name in names if without.get(name) != with_it.get(name)]
    count = float(len(differing))
    details: dict[str, Any] = {
        "parts": len(names),
        "differing": len(differing),
        "named": ", ".join(differing) or "-",
    }
    return REPLAYED.found(count, (count, count), confidence, failed=bool(differing), **details)


def described(content: bytes, numbers: Floats | None = None) -> Floats:
    """Numbers that describe an artefact: its length, how often each byte occurs, its first bytes, and its numbers.

    >>> described(b"ab").shape
    (769,)
    """
    read = np.frombuffer(content, np.uint8)
    first = np.zeros(_FIRST)
    first[: min(len(read), _FIRST)] = read[:_FIRST]
    parts = [np.array([float(len(content))]), np.bincount(read, minlength=256).astype(np.float64), first]
    if numbers is not None and len(numbers):
        spread = float(np.log(numbers.std() + 1e-300))
        parts.append(np.array([numbers.mean(), spread, numbers.min(), numbers.max()]))
        parts.append(numbers[:_FIRST])
    return np.concatenate(parts)
