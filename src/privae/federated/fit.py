"""A recipe that runs at several places at once: it asks for sums, and is told them.

Every place, the coordinator's included, runs the same recipe: sites on their records, the coordinator on none. Where
a recipe would release a sum, it asks: a site brings its integers, the coordinator zeros, and all are told the noisy
sum of them. So what follows is at every place what a central fit would have done with that sum, and the model is the
one that a central fit on the union of the records would have given (guarantees.md rule 24).
A recipe runs in a thread of its own, for it is one function from records to model; `Talk` is the two ends of a rope.
"""

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privae.ckks.summation import Gathering
from privae.errors import PrivacyRefused, ProtocolError
from privae.evaluate.released import Evaluated
from privae.federated.masking import derive
from privae.federated.round import Round, Word
from privae.federated.study import Recipe, Study
from privae.fitted.kinds import Fitted
from privae.plan import Plan
from privae.privacy.mechanism import Event, Joint, Mechanism
from privae.privacy.noise import NoiseSource
from privae.recipes.phases import CATEGORIES, Released, Run
from privae.training.loop import Hands
from privae.training.watch import Silent, Watch

Made = Fitted | Evaluated
Forming = Round | Gathering
Integers = NDArray[np.int64]
_LEAST_STEPS = 4.0  # grid steps of a site's noise share
_COARSE, _FIXED = 0.01, 2.0**-28  # what a coarser grid may cost; the grid of numbers without noise
_HEADROOM = 4.0  # of a word over what the declared rows make likely
_CERTAIN = 10.0  # standard deviations


@dataclass(frozen=True)
class Wire:
    """How the integers of one block of a sum travel: multiplied by `scale`, with noise of `std` (in integers)."""

    count: int
    std: float
    scale: int = 1

    @classmethod
    def of(cls, count: int, std: float, study: Study) -> "Wire":
        """The wire of integers whose noise has `std` in all, of which each site of a study adds its share."""
        share = min(study.shared(circle, 1.0) for circle in study.circles(0))
        fine = math.ceil(math.log2(_LEAST_STEPS / (std * share))) if std else 0
        scale = 2 ** max(fine, 0)
        return cls(count, std * scale, scale)


@dataclass(frozen=True)
class Sum:
    """A sum is needed: this place's integers without noise [p], and how they travel, block by block."""

    phase: str
    step: int
    wires: tuple[Wire, ...]
    word: Word
    values: Integers = field(repr=False)
    kind: Literal["sum"] = "sum"


@dataclass(frozen=True)
class Texts:
    """The texts that this place released by itself, column by column; the union over all places is needed."""

    phase: str
    texts: list[list[str]] = field(repr=False)
    drawn: int = 0  # noise numbers
    step: int = 0
    kind: Literal["texts"] = "texts"


@dataclass(frozen=True)
class Agreed:
    """What follows from releases, as the coordinator made it; `made` is None at a site."""

    phase: str
    made: dict[str, Tensor] | None = field(repr=False)
    step: int = 0
    kind: Literal["agreed"] = "agreed"


Ask = Sum | Texts | Agreed


def wired(mechanism: Mechanism, size: int, expected: float) -> tuple[Mechanism, Word]:
    """A gradient mechanism on the grid on which its sum fits a word, and the word; its event is the same.

    expected: records of a batch as declared. Four bytes where a grid that costs at most 1 % of the clip norm lets the
    sum of 4 times such a batch and 10 standard deviations fit (guarantees.md rule 23), else eight. A sum beyond that
    wraps round: wrong, not less private, for what wraps is the noisy sum.
    """
    if not mechanism.noise_multiplier:
        return Mechanism(mechanism.clip_norm, grid=_FIXED, slack=mechanism.slack), 8
    coarsest = 2.0 ** math.floor(math.log2(_COARSE * mechanism.clip_norm / math.sqrt(size)))
    batch = _HEADROOM * (expected + _CERTAIN * math.sqrt(expected)) + _CERTAIN * mechanism.noise_multiplier
    grid = mechanism.grid
    while grid <= coarsest:
        if batch * mechanism.clip_norm < 2.0**31 * grid:
            return replace(mechanism, grid=grid, rounding=grid * math.sqrt(size)), 4
        grid *= 2
    return mechanism, 8


@dataclass(frozen=True)
class Place:
    """Where a recipe runs: its records, and the secret that its coins follow from; the coordinator has neither.

    charge: is told each event before it is asked for anything of it.
    """

    charge: Callable[[str, Event], None] = field(repr=False)
    secret: bytes = field(repr=False)
    site: bool = True
    watch: Watch = field(default_factory=Silent, repr=False)

    def coins(self, phase: str, step: int) -> NoiseSource:
        """Secret coins of a step: the same ones, if it is run again."""
        return NoiseSource(derive(self.secret, "coins", phase, step))


@dataclass(frozen=True)
class Asking(Run):
    """A run whose sums are formed by asking."""

    study: Study = field(kw_only=True)
    place: Place = field(kw_only=True, repr=False)
    ask: Callable[[Ask], Any] = field(kw_only=True, repr=False)

    def release(
        self,
        name: str,
        totals: Sequence[tuple[NDArray[np.int64], float]],
        leaves: Callable[[Released], Released] | None = None,
    ) -> Released:
        """The noisy sums of all places; see `Run.release`. Texts are released by each place, with all of the noise.

        Counts of texts cannot be summed under masks, for no place knows the others' texts (guarantees.md rule 25); a
        record is at one place, so the union of what the places release costs what one release does.
        """
        phase = self._phase(name)
        self.charge(name, phase.event())
        mechanisms = [self._mechanism(phase, weight) for _, weight in totals]
        if leaves is not None or name == CATEGORIES:
            assert leaves is not None
            coins = self.place.coins(name, 0)
            noisy = [m.release(total, coins) for m, (total, _) in zip(mechanisms, totals, strict=True)]
            texts = json.loads(leaves(noisy)[0].tobytes())
            union = self.ask(Texts(name, texts, coins.numbers_drawn))
            return [np.frombuffer(json.dumps(union).encode(), np.uint8)]
        wires = tuple(
            Wire.of(t.size, m.std, self.study) for m, (t, _) in zip(mechanisms, totals, strict=True)
        )
        values = np.concatenate([total.ravel() for total, _ in totals])
        summed = self.ask(Sum(name, 0, wires, 8, values))
        parts = np.split(summed, np.cumsum([wire.count for wire in wires])[:-1])
        return [
            (part / wire.scale).reshape(total.shape)
            for part, wire, (total, _) in zip(parts, wires, totals, strict=True)
        ]

    def agreed(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What the coordinator made of the releases; a site is told it."""
        told: dict[str, Tensor] = self.ask(Agreed(name, None if self.place.site else make()))
        return told

    def mechanism(self, name: str) -> Mechanism:
        """The planned mechanism, on a grid that travels, with its sum formed by asking."""
        phase = self._phase(name)
        expected = phase.sampling_rate * (self.plan.rows or 1)
        found, word = wired(phase.mechanism(), phase.size, expected)
        wire = Wire(phase.size, found.std / found.grid)
        step = iter(range(phase.steps))
        return Joint(**found.__dict__, add=lambda mine: self.ask(Sum(name, next(step), (wire,), word, mine)))

    def deviation(self, name: str) -> float:
        """Standard deviation of the noise that a sum of all sites has, in weighted units."""
        return super().deviation(name) * self.study.cost

    def hands(self, name: str) -> Hands:
        """One process, whose coins of a step are the same whenever it is run."""
        return Hands(phase=name, device=self.device, coins=lambda step: self.place.coins(name, step))

    def finish(self) -> None:
        """Nothing: noise is drawn, and counted, where a site answers."""


class Over(BaseException):
    """Ends the thread of a recipe whose model nobody waits for."""


class Talk:
    """A recipe under way. `asked` waits for what it needs next; `tell` lets it go on; at its end there is a model."""

    def __init__(self, work: Callable[[Callable[[Ask], Any]], Made]) -> None:
        self._work = work
        self._asks: SimpleQueue[Ask | Made | BaseException] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._held: Ask | Made | BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="privae recipe", daemon=True)
        self._thread.start()

    def asked(self) -> Ask | Made:
        """What the recipe asks for, until it is told; in the end, what it made. Errors: what the recipe raises."""
        if self._closed:
            raise ProtocolError("the study is over")
        if self._held is None:
            self._held = self._asks.get()
        if isinstance(self._held, BaseException):
            raise self._held
        return self._held

    def tell(self, answer: Any) -> None:  # noqa: ANN401  a sum, a union of texts, or tensors
        """Let the recipe go on."""
        self._held = None
        self._answers.put(answer)

    def close(self) -> None:
        """End a recipe that is not at its end."""
        self._closed = True
        if self._thread.is_alive():
            self._answers.put(Over())
            self._thread.join()

    def _run(self) -> None:
        torch.get_num_threads()  # torch gives a thread its number when first asked
        try:
            self._asks.put(self._work(self._ask))
        except Over:
            return
        except BaseException as error:  # noqa: BLE001  raised where the model is waited for
            self._asks.put(error)

    def _ask(self, ask: Ask) -> Any:  # noqa: ANN401
        self._asks.put(ask)
        answer = self._answers.get()
        if isinstance(answer, Over):
            raise answer
        return answer


def begin(recipe: Recipe, plan: Plan, study: Study, place: Place, records: tuple[Any, Any]) -> Talk:
    """The recipe of a plan under way at a place, on its records (x, y).

    Errors: from `Talk.asked`: those of the recipe. `Study.check` holds the plan against the recipe before.
    """

    def work(ask: Callable[[Ask], Any]) -> Made:
        told = (plan, place.charge, NoiseSource(derive(place.secret, "unused")), place.watch)
        return recipe.fit(Asking(*told, study=study, place=place, ask=ask), *records)

    return Talk(work)


def rounds_of(ask: Ask, study: Study, query: int) -> list[Forming]:
    """How what is asked for is formed: one round a circle, under masks, on ciphertexts, or seen site by site."""
    circles = study.circles(query)
    if not isinstance(ask, Sum):
        return [Round(circle, 0, 8, masked=False) for circle in circles]
    if study.encrypted:
        return [Gathering(circle, len(ask.values), ask.word) for circle in circles]
    return [Round(circle, len(ask.values), ask.word, study.masking) for circle in circles]


def noised(ask: Sum, share: float, coins: NoiseSource) -> Integers:
    """A site's integers as they travel: scaled, with its share of the noise, [p].

    share: of the standard deviation. Integers beyond their word wrap round: wrong, not less private, for it is the
    noisy sum that wraps; refusing would tell of the exact one. Errors: PrivacyRefused for a share too small for its
    grid (rule 23), which is public.
    """
    scales = np.repeat([wire.scale for wire in ask.wires], [wire.count for wire in ask.wires])
    drawn = []
    for wire in ask.wires:
        std = wire.std * share
        if std and std < 3.999:
            raise PrivacyRefused(
                "a site's share of the noise is too small for its grid; agree on fewer sites"
            )
        drawn.append(coins.gaussian_integers(wire.count, std))
    made: Integers = ask.values * scales + np.concatenate(drawn)
    return made
