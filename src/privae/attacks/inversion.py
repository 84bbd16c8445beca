"""Gradient and update inversion: records read off what a gradient, a federated update or a noisy release shows.

Closed form first: a linear first layer's gradient of unit i is sum_r s_ri [x_r, 1] over the records r that switch
the unit on, so its weights' part over its bias's part is the record where only one does. Then gradient matching
from there, within the span of the first layer's gradient, which holds every record of a small batch.
Source: Zhu et al. 2019, arXiv:1906.08935; Geiping et al. 2020, arXiv:2003.14053; the span: Dimitrov et al. 2024,
arXiv:2403.03945; several local steps: Carletti et al. 2024, arXiv:2404.05403.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from privae.attacks import bounds
from privae.attacks.finding import Attack, Finding, Skipped
from privae.errors import UsageError
from privae.fitted.kinds import Fitted
from privae.plan import Phase, Plan
from privae.privacy.clipping import Clipping
from privae.privacy.gradients import Summation, clipped_gradient_sum, supported, trainable
from privae.privacy.noise import NoiseSource
from privae.recipes.target import Target, attacked, fresh, target_of

__all__ = [
    "ATTACKS",
    "Target",
    "View",
    "gradient_inversion",
    "inversion_of",
    "of_model",
    "released",
    "target_of",
]

Release = Callable[[Tensor], Tensor]
"""What noise and a mechanism make of a clipped sum [p]."""

BATCH, BATCHES = 4, 8  # of the audit: records of a batch, and batches, half of them for each network
STEPS, RATE = 5, 0.01  # local steps of an update, and their learning rate
_DIVERGING = 10.0  # growth of their gradients that is none of a descent
_LEAST_RATE = 1e-6
GUESSED = 0.01  # share of records that guessing is granted
_DECOYS = 400  # other records that candidates are held against
_CLOSE = 1e-3  # mean squared error of a pixel at a PSNR of 30 dB
_MATCHED = 8  # records of a batch up to which gradients are matched
_STARTS, _ROUNDS, _PARTS = 3, 20, 6  # of matching: places to start from, rounds of a part, parts
_OUTSIDE = 0.02  # how far from [0, 1] the numbers of a plausible candidate may lie
_EXACT, _HOPELESS = 1e-6, 0.9  # relative squared distances of gradients at which matching ends
_STUCK = 0.98  # and where a part has not made them this much smaller

PLAIN = Attack(
    name="gradient inversion",
    channel="data",
    measure="share of records recovered",
    title={"en": "Records read off a plain gradient", "zh": "从明文梯度还原记录"},
    meaning={
        "en": "From the gradients of {batch} records each, as plain federated training would send them, "
        "{recovered} of {records} records came back as good as exactly (between {low} and {high} of them); "
        "this model's own training sends no plain gradients, so it tells what would be lost without protection.",
        "zh": "若像普通联邦训练那样直接发送每 {batch} 条记录的梯度,{records} 条记录中有 {recovered} 条被几乎原样还原"
        "(比例在 {low} 与 {high} 之间);本模型的训练并不发送明文梯度,此项只说明没有保护时会泄露什么。",
    },
    source="arXiv:1906.08935, arXiv:2003.14053",
)
UPDATE = Attack(
    name="update inversion",
    channel="data",
    measure="share of records recovered",
    title={"en": "Records read off an update of several local steps", "zh": "从多步本地更新还原记录"},
    meaning={
        "en": "From the changes of weights after {steps} local steps on {batch} records each, as plain federated "
        "averaging would send them, {recovered} of {records} records came back as good as exactly (between "
        "{low} and {high} of them); this model's own training sends no such updates.",
        "zh": "若像普通联邦平均那样发送在每 {batch} 条记录上本地训练 {steps} 步后的权重变化,{records} 条记录中有 "
        "{recovered} 条被几乎原样还原(比例在 {low} 与 {high} 之间);本模型的训练并不发送这种更新。",
    },
    source="arXiv:2003.14053, arXiv:2404.05403",
)
RELEASED = Attack(
    name="released gradient inversion",
    channel="data",
    measure="share of records recovered",
    title={"en": "Records read off the released gradient", "zh": "从已发布的梯度还原记录"},
    meaning={
        "en": "From the gradients of {batch} records each as this plan releases them, clipped and with its noise "
        "unless epsilon is infinite, {recovered} of {records} records came back as good as exactly (between {low} and "
        "{high} of them; of {decoys} other records, {guessed} were matched by chance).",
        "zh": "从按本计划发布的每 {batch} 条记录的梯度(除非 epsilon 为无穷,均经裁剪并加噪)中,"
        "{records} 条记录里有 {recovered} 条被几乎原样还原"
        "(比例在 {low} 与 {high} 之间;{decoys} 条其他记录中有 {guessed} 条碰巧匹配)。",
    },
    source="arXiv:1906.08935, arXiv:2003.14053",
)
ATTACKS = (PLAIN, UPDATE, RELEASED)


@dataclass(frozen=True)
class View:
    """What of a batch leaves the data holder: how it is found under, and what a sum of gradients becomes.

    steps, rate: of local gradient descent by the batch's mean gradient, whose change of weights is sent, over
    rate and steps; 1: the gradient itself. clipping, release: of the shipped clipped sum, where there is one.
    epsilon: what it claims; inf: nothing.
    """

    attack: Attack = PLAIN
    steps: int = 1
    rate: float = RATE
    clipping: Clipping | None = None
    release: Release = field(default=lambda total: total, repr=False)
    epsilon: float = math.inf

    def of(self, target: Target, rows: Tensor, generator: torch.Generator) -> Tensor:
        """What is seen of rows [n, width + c]: [p], in units of a sum of gradients."""
        if self.clipping is not None:
            parts = target.batch(rows, generator)
            probe = tuple(torch.cat([part, part]) for part in parts)  # of at least two records
            path = supported(target.network, target.loss, probe)
            total = clipped_gradient_sum(
                target.network, target.loss, parts, self.clipping, Summation(path, micro_batch=64)
            )
            return self.release(total).float()
        if self.steps == 1:
            return self.release(target.gradient(target.batch(rows, generator)))
        return self.release(_update(target, rows, generator, (self.steps, self.rate)))


UPDATES = View(UPDATE, STEPS)
"""Several local steps on one batch."""


def released(clipping: Clipping, release: Release, epsilon: float) -> View:
    """The shipped clipped sum, released."""
    return View(RELEASED, clipping=clipping, release=release, epsilon=epsilon)


@dataclass(frozen=True)
class Tally:
    """Records recovered of how many, and decoys matched by chance of how many."""

    recovered: int = 0
    records: int = 0
    guessed: int = 0
    decoys: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(_numbers(self), _numbers(other), strict=True)))

    def finding(self, view: View, batch: int, confidence: float, **details: Any) -> Finding:  # noqa: ANN401
        """The share recovered. Failed: a finite epsilon is claimed, and surely more came back than by guessing."""
        found = bounds.share(self.recovered, self.records, confidence)
        chance = bounds.share(self.guessed, self.decoys, confidence).high if self.decoys else GUESSED
        failed = math.isfinite(view.epsilon) and found.low > max(GUESSED, chance)
        shown = {"batch": batch, "steps": view.steps, **self.__dict__, **details}
        return view.attack.found(found.value, (found.low, found.high), confidence, failed=failed, **shown)


def _numbers(tally: Tally) -> tuple[int, int, int, int]:
    return tally.recovered, tally.records, tally.guessed, tally.decoys


def gradient_inversion(
    target: Target, rows: Tensor, seen: Tensor, confidence: float, view: View = View()
) -> Finding:
    """How many of the records rows [n, width + c] come back from what was seen of them, [p].

    Edges: the interval takes records as independent of each other, which those of one batch are not quite.
    """
    return _tally(target, rows, seen, rows[:0], view.steps).finding(view, len(rows), confidence)


def inversion_of(
    target: Target, rows: Tensor, batch: int, view: View, confidence: float, *, seed: int = 0
) -> Finding:
    """The same for each full batch of rows [n, width + c] as `view` shows it: all batches count together.

    Records of other batches are decoys: what is found of them is chance.
    Errors: UsageError for a batch that holds no record, or more than there are.
    """
    if not 0 < batch <= len(rows):
        raise UsageError("a batch holds at least one record and at most all of them")
    pool = rows[: _DECOYS + batch]
    return _inverted(target, rows, pool, batch, view, seed).finding(view, batch, confidence)


def of_model(
    fitted: Fitted,
    data: Any,  # noqa: ANN401
    plan: Plan,
    confidence: float,
    *,
    labels: Any = None,  # noqa: ANN401
    seed: int = 0,
) -> tuple[Finding, ...] | Skipped:
    """Three findings about the model's own network, fresh and trained: plain gradient, update, the plan's release.

    data, labels: the data holder's records as in the fit; some are drawn by lot, half of them for each network, and
    each is tried once. Each finding is at `confidence`.
    Errors: what the codec says of data that are not the model's.
    """
    phase = next((phase for phase in plan.phases if phase.kind == "gradients"), None)
    if phase is None:
        return NO_GRADIENTS
    rng = np.random.default_rng(seed)
    if len(data) < 2 * BATCH:
        return TOO_FEW
    places = rng.permutation(len(data))[: BATCH * BATCHES + _DECOYS]
    target, pool = attacked(fitted, data, labels, places)
    half = min(len(pool), BATCH * BATCHES) // 2
    worlds = {"fresh": (fresh(target, seed), pool[:half]), "trained": (target, pool[half : 2 * half])}
    findings = []
    for view in (View(), UPDATES, _planned(phase, plan, rng)):
        tallies = {name: _inverted(*world, pool, BATCH, view, seed) for name, world in worlds.items()}
        both = sum(tallies.values(), Tally())
        shares = {name: tally.recovered / tally.records for name, tally in tallies.items()}
        findings.append(both.finding(view, BATCH, confidence, **shares))
    return tuple(findings)


NO_GRADIENTS = Skipped(
    "gradient inversion",
    "data",
    {
        "en": "no gradient of a record was formed: this model comes from released statistics alone",
        "zh": "训练中从未计算任何记录的梯度:该模型仅由已发布的统计量得到",
    },
)
TOO_FEW = Skipped(
    "gradient inversion",
    "data",
    {"en": "there are too few records for two batches", "zh": "记录太少,不足两个批次"},
)


def _planned(phase: Phase, plan: Plan, rng: np.random.Generator) -> View:
    """One step of the plan's gradient phase, as shipped."""
    mechanism, noise = phase.mechanism(), NoiseSource(rng.bytes(32))
    clipping = Clipping(mechanism.clip_norm, phase.clipping)
    return released(clipping, lambda total: mechanism.release(total, noise), plan.epsilon)


def _inverted(target: Target, rows: Tensor, pool: Tensor, batch: int, view: View, seed: int) -> Tally:
    """All full batches of rows; what of the pool is unlike all of a batch is its decoys."""
    generator = torch.Generator().manual_seed(seed)
    total = Tally()
    for mine in torch.split(rows[: len(rows) - len(rows) % batch], batch):
        others = pool[~(pool[:, None] == mine[None]).all(2).any(1)]
        total += _tally(target, mine, view.of(target, mine, generator), others, view.steps)
    return total


def _tally(target: Target, rows: Tensor, seen: Tensor, decoys: Tensor, steps: int = 1) -> Tally:
    candidates = _closed(target, seen)
    found = _hits(target, rows, candidates)
    if not found.all() and len(rows) <= _MATCHED:
        candidates = torch.cat([candidates, _matched(target, seen, (len(rows), steps), candidates)])
        found = _hits(target, rows, candidates)
    guessed = _hits(target, decoys, candidates)
    return Tally(int(found.sum()), len(rows), int(guessed.sum()), len(decoys))


def _hits(target: Target, rows: Tensor, candidates: Tensor) -> Tensor:
    """Which rows [n] some candidate [c] matches: a PSNR above 30 dB, or all columns right."""
    real, made = rows[:, : target.width], candidates[:, : target.width]
    if len(made) == 0:
        return torch.zeros(len(real), dtype=torch.bool)
    if target.sizes is None:
        distance = torch.cdist(real.double(), made.clamp(0, 1).double()).square() / target.width
        return (distance < _CLOSE).any(1)
    sizes = list(target.sizes)
    right = torch.ones(len(real), len(made), dtype=torch.bool)
    for block, guess in zip(torch.split(real, sizes, 1), torch.split(made, sizes, 1), strict=True):
        given = block.sum(1) > 0
        right &= (block.argmax(1)[:, None] == guess.argmax(1)[None]) | ~given[:, None]
    return right.any(1)


def _closed(target: Target, seen: Tensor) -> Tensor:
    """Candidates by closed form: rows [at most h, width + c]."""
    shown = target.first_layer(seen)
    if shown is None:
        return torch.zeros(0, target.width + target.condition)
    inputs = shown[0] / shown[1][:, None]
    inputs = inputs[inputs.isfinite().all(1)]
    return inputs if target.rows_of is None else target.rows_of(inputs)


def _matched(target: Target, seen: Tensor, sizes: tuple[int, int], candidates: Tensor) -> Tensor:
    """Candidates by gradient matching, [n, width + c]: the best of several starts. sizes: n and local steps."""
    count, steps = sizes
    generator = torch.Generator().manual_seed(0)
    span = _span(target, seen, count)
    first = _plausible(candidates, count)
    best, least = candidates[:0], math.inf
    for start in range(_STARTS):
        guess = torch.rand(count, span.shape[1], generator=generator)
        if start == 0:
            guess[: len(first)] = first
        noise = torch.randn(steps * count, target.noise_size, generator=generator)
        made, loss = _descended(target, seen, span, guess, noise)
        if loss < least:
            best, least = made, loss
        if not _EXACT < least < _HOPELESS:
            break
    return best


def _span(target: Target, seen: Tensor, count: int) -> Tensor:
    """Orthonormal rows [r, width + c] that span the records: of the first layer's gradient, if it reads them."""
    shown = target.first_layer(seen) if target.rows_of is None else None
    if shown is None:
        return torch.eye(target.width + target.condition)
    return cast("Tensor", torch.linalg.svd(shown[0], full_matrices=False)[2][:count])


def _plausible(candidates: Tensor, count: int) -> Tensor:
    """At most `count` candidates that look like records and unlike each other."""
    left = candidates[(candidates - candidates.clamp(0, 1)).abs().amax(1) < _OUTSIDE]
    chosen = [candidates[:0]]
    while len(left) and len(chosen) <= count:
        chosen.append(left[:1])
        left = left[(left - left[0]).square().mean(1) > _CLOSE]
    return torch.cat(chosen)


def _descended(
    target: Target, seen: Tensor, span: Tensor, start: Tensor, noise: Tensor
) -> tuple[Tensor, float]:
    """Rows in the span, and noise, whose gradient is nearest to what was seen; and how near."""
    place, steps = (start @ span.T).requires_grad_(), len(noise) // len(start)
    noise = noise.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [place, noise], max_iter=_ROUNDS, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        rows = place @ span
        again = rows.repeat(steps, 1)  # every local step draws other noise
        made = target.gradient((*target.parts(again), noise), graph=True) / steps
        outside = (rows - rows.clamp(0, 1)).square().mean()
        loss = (made - seen).square().sum() / seen.square().sum() + outside
        place.grad, noise.grad = torch.autograd.grad(loss, (place, noise), materialize_grads=True)
        return loss.detach()

    loss = math.inf
    for _ in range(_PARTS):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        loss, before = float(closure()), loss
        if not _EXACT < loss < min(_HOPELESS, _STUCK * before):
            break
    return (place @ span).detach(), loss


def _update(target: Target, rows: Tensor, generator: torch.Generator, local: tuple[int, float]) -> Tensor:
    """Change of the weights by local steps of gradient descent, in units of a sum of gradients.

    Steps that diverge, as they may on a polynomial network, are taken again at a tenth of the rate: nobody sends such.
    """
    steps, rate = local
    norms = []
    mine = replace(target, network=copy.deepcopy(target.network))
    parameters = trainable(mine.network)
    total = torch.zeros(())
    for _ in range(steps):
        gradient = mine.gradient(mine.batch(rows, generator))
        pieces = torch.split(gradient, [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data -= rate / len(rows) * piece.view_as(parameter)
        total = total + gradient
        norms.append(float(gradient.norm()))
    if rate > _LEAST_RATE and not all(norm <= _DIVERGING * norms[0] for norm in norms):
        return _update(target, rows, generator, (steps, rate / 10))
    return total / steps
