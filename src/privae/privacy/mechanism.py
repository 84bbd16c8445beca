"""The one way out: a clipped sum, rounded to a grid, plus Gaussian integers, and the event that it costs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.gaussian.pairs import compiled
from privae.privacy.noise import Drawn

Relation = Literal["add_or_remove", "replace_one"]
Total = TypeVar("Total", NDArray[Any], Tensor)

_LIMIT = 2.0**52  # of a real total in grid steps, as of its noise: float64 adds the two without rounding
_WHOLE = 2**62  # of an integer total, as of its noise: int64 adds the two
_MOST_STEPS = 2**53  # of an event; float64 holds every whole number below
_FINEST = 2.0**-1000  # grid, so that its inverse is a float64 as well
_DTYPES = ("float32", "float64", "int64")
_ROW = 2**10  # of them that BLAS multiplies at once, too few to wake its threads
_CHUNK = 2**15  # numbers at a time: they stay in the cache, and torch keeps to one thread
_GRID_SHARE = 0.001  # share of the clip norm that rounding a gradient total may cost


@runtime_checkable
class Noise(Protocol):
    """Where the noise of a release comes from."""

    @property
    def fixed(self) -> bool:
        """Whether the key was given by hand: whoever knows it can take the noise away."""

    @property
    def numbers_drawn(self) -> int:
        """How many numbers were drawn, each of which costs TV_PER_NUMBER."""

    def fill(self, out: Drawn, std: float) -> None:
        """Fill `out` with Gaussian integers of standard deviation std: exact, rounded half up."""


@dataclass(frozen=True)
class Event:
    """What a release costs, in numbers that say nothing about the data: what the ledger stores.

    `steps` releases, each of a sum over units drawn independently at `sampling_rate`, with Gaussian noise of
    noise_multiplier times the add-or-remove sensitivity; replacing one unit moves the sum by at most
    replace_ratio times that sensitivity (2 always holds; guarantees.md rule 10 lists better ones).
    Errors: UsageError for numbers that make no sense.

    >>> Event(2.0, steps=3).to_dict()
    {'noise_multiplier': 2.0, 'sampling_rate': 1.0, 'steps': 3, 'replace_ratio': 2.0}
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1
    replace_ratio: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise UsageError("a noise multiplier is finite and not negative")
        if not 0 <= self.sampling_rate <= 1:
            raise UsageError("a sampling rate lies between 0 and 1")
        if not 0 <= self.steps <= _MOST_STEPS:
            raise UsageError("a number of steps is not negative, and at most 2^53")
        if not 0 < self.replace_ratio <= 2:
            raise UsageError("a replace ratio lies between 0 and 2")

    def to_dict(self) -> dict[str, float | int]:
        """The four numbers, as JSON takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Event":
        """Inverse of `to_dict`; ArtifactError for anything else than these four numbers."""
        if set(fields) != {"noise_multiplier", "sampling_rate", "steps", "replace_ratio"}:
            raise ArtifactError(
                "an event has other fields than this privae knows; use the version that wrote it"
            )
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in fields.values()):
            raise ArtifactError("an event holds something that is not a number; restore a copy")
        if not isinstance(fields["steps"], int):
            raise ArtifactError("an event has a broken number of steps; restore a copy")
        try:
            return cls(
                float(fields["noise_multiplier"]),
                float(fields["sampling_rate"]),
                fields["steps"],
                float(fields["replace_ratio"]),
            )
        except OverflowError:
            raise ArtifactError("an event holds a number that is too large; restore a copy") from None
        except UsageError as error:
            raise ArtifactError(f"an event does not hold: {error}; restore a copy") from None


@dataclass(frozen=True)
class Mechanism:
    """The Gaussian mechanism on a grid, for a sum of contributions of L2 norm at most clip_norm.

    The default adds nothing and bounds nothing: its event costs epsilon = infinity.

    clip_norm: L2 bound of one unit's contribution (guarantees.md rules 6 to 9).
    noise_multiplier: std of the noise over the sensitivity.
    grid: spacing of the lattice, a power of two; 0 only without noise.
    slack: relative error that summing in floating point may add to the sensitivity (rule 2).
    rounding: what rounding the total adds to it: grid sqrt(d), or 0 for integer contributions (rule 1).
    unit, relation: whom the event protects, and against what change; words for the ledger.
    replace_ratio: how far replacing one unit moves the sum, over the sensitivity (rule 10).

    Guarantee: `release` is a post-processing of the ideal Gaussian mechanism whose noise multiplier is at
        least noise_multiplier. Proof: let R(S) be the total S rounded to the nearest grid point, N an ideal
        Gaussian with this `std`, and H rounding half up to the grid, so that H(g + x) = g + H(x) for every grid
        point g. The noise is H(N) (see `NoiseSource.fill`), and R(S) + H(N) = H(R(S) + N) surely: `release`
        applies H, which knows nothing of the data, to the Gaussian mechanism for the query R(S). Neighbors move
        S by at most clip_norm (1 + slack), and each coordinate of R(S) by at most one step more, so R(S) by at
        most sensitivity(). Nothing else touches the total before the noise: dividing by the grid is exact, a
        power of two (a quotient below the smallest normal number rounds to 0 either way), and the integers
        |R(S)| / grid < 2^52, checked, and |H(N)| / grid < 2^52 (see `fill`) are added in float64 below 2^53,
        where each integer is a number. Integer totals are added in int64, both below 2^62. What is rounded
        later, integer times grid / divisor to float64 or float32, comes after the noise.
    Errors: UsageError for parameters that bound nothing.
    """

    clip_norm: float = math.inf
    noise_multiplier: float = 0.0
    grid: float = 0.0
    slack: float = 0.0
    rounding: float = 0.0
    unit: str = "record"
    relation: Relation = "add_or_remove"
    replace_ratio: float = 2.0

    def __post_init__(self) -> None:
        Event(self.noise_multiplier, replace_ratio=self.replace_ratio)  # checks both
        if not self.clip_norm > 0:
            raise UsageError("a clip norm is positive")
        if not (0 <= self.slack < math.inf and 0 <= self.rounding < math.inf and 0 <= self.grid < math.inf):
            raise UsageError("grid, slack and rounding are finite and not negative")
        if self.grid and math.frexp(self.grid)[0] != 0.5:
            raise UsageError("a grid is a power of two, so that dividing by it is exact")
        if self.grid and not _FINEST <= self.grid <= 1 / _FINEST:
            raise UsageError("a grid lies between 2^-1000 and 2^1000; state the clip norm in other units")
        if self.noise_multiplier and not (self.grid and self.clip_norm < math.inf):
            raise UsageError("noise needs a finite clip norm and a grid")

    def sensitivity(self) -> float:
        """How far one unit, added or removed, can move the rounded total (L2)."""
        return self.clip_norm * (1 + self.slack) + self.rounding

    @property
    def std(self) -> float:
        """Standard deviation of the noise in the units of the total; 0 without noise.

        A relative 2^-48 on top pays for the float64 roundings of this product and of `sensitivity`.
        """
        return self.noise_multiplier * self.sensitivity() * (1 + 2.0**-48) if self.noise_multiplier else 0.0

    def release(self, total: Total, noise: Noise, divisor: float = 1.0, *, over: bool = False) -> Total:
        """The rounded total plus its noise, over a public divisor, in the shape of `total` (array or tensor).

        Returns: float64; float32 for a float32 tensor (rounded after the noise). On the device of `total`,
            though all is computed on the CPU, where the noise is. over: where it fits, the released numbers are
            written over the total, which nobody needs any more.
        Guarantee: that of the class; dividing is post-processing. Charge `event()` to the ledger before.
        Edges: no noise -> the total as it is, divided; an empty total -> empty.
        Errors: UsageError for another dtype than float32, float64 or int64, or a divisor that is not positive;
            PrivacyRefused for a total that is not finite or holds a number beyond 2^52 grid steps (2^62 for
            integers). Clipped sums are neither, whatever the data: it is a bug.
        """
        if not 0 < divisor < math.inf:
            raise UsageError("the divisor of a release is a positive public number")
        if str(total.dtype).removeprefix("torch.") not in _DTYPES:
            raise UsageError("a total is float32, float64 or int64, so that nothing is rounded unseen")
        if not isinstance(total, Tensor):
            return self._released(torch.from_numpy(np.array(total)), noise, divisor, torch.float64).numpy()
        kind = torch.float32 if total.dtype == torch.float32 else torch.float64
        place = total.detach().to("cpu")
        fits = over and place.is_contiguous() and place.dtype == kind
        return self._released(place, noise, divisor, kind, place if fits else None).to(total.device)

    def event(self, steps: int = 1, sampling_rate: float = 1.0) -> Event:
        """What `steps` releases cost, each over units drawn independently at `sampling_rate`."""
        return Event(self.noise_multiplier, sampling_rate, steps, self.replace_ratio)

    def _released(
        self, total: Tensor, noise: Noise, divisor: float, kind: torch.dtype, out: Tensor | None = None
    ) -> Tensor:
        if not self.noise_multiplier:
            return torch.div(total.to(kind), divisor, out=out)
        flat, steps = total.reshape(-1), (self.std / self.grid, self.grid / divisor)
        if total.dtype == torch.int64:
            released = _noisy_integers(flat, steps, self.grid, noise)
        else:
            released = torch.empty(flat.shape, dtype=kind, device="cpu") if out is None else out.view(-1)
            with np.errstate(all="ignore"):
                _write_noisy(flat.numpy(), steps, 1 / self.grid, noise, released.numpy())
        return released.view(total.shape)


@dataclass(frozen=True)
class Joint(Mechanism):
    """A mechanism whose sum is formed elsewhere: by several sites under masks, or on ciphertexts.

    add: takes this place's integers [p] (its total in grid steps, without noise) and returns the sum of all places'
    integers *with* noise of at least this `std`, however that sum was formed (see `federated.round`).
    Guarantee: that of `Mechanism`, if one unit changes the total of one place, and `add` adds that noise. The total
    of each place is rounded to the grid; a unit is in one of them, so rounding costs it what it costs one total.
    Without noise there may be a grid all the same: fixed-point numbers, whose sums are exact in any order.
    """

    add: Callable[[NDArray[np.int64]], NDArray[np.int64]] = field(kw_only=True, repr=False, compare=False)

    def release(self, total: Total, noise: Noise, divisor: float = 1.0, *, over: bool = False) -> Total:  # noqa: ARG002
        """The sum of all places, over a public divisor; `noise` is not drawn from, for `add` brings its own."""
        if not isinstance(total, Tensor):
            raise UsageError("the total of a place is a tensor")
        kind = torch.float32 if total.dtype == torch.float32 else torch.float64
        steps = torch.round(total.detach().to("cpu", torch.float64) / self.grid)
        _check(bool(steps.isfinite().all()))
        # privacy: clamping moves no two totals further apart, and keeps every total in the range of the sum
        whole = steps.clamp_(-_LIMIT, _LIMIT).to(torch.int64).reshape(-1).numpy()
        summed = torch.from_numpy(self.add(whole)).to(torch.float64) * (self.grid / divisor)
        return summed.view(total.shape).to(total.device, kind)


def _write_noisy(
    total: NDArray[Any], steps: tuple[float, float], inverse: float, noise: Noise, released: NDArray[Any]
) -> None:
    """Real totals, [p], rounded to their grid, plus noise; steps: the noise's std in grid steps, their worth."""
    loops = compiled(noise.numbers_drawn)
    for start in range(0, len(total), _CHUNK):
        part, place = total[start : start + _CHUNK], released[start : start + _CHUNK]
        if start == 0 or len(part) < _CHUNK:
            values, drawn = np.empty(len(part)), torch.empty(len(part), dtype=torch.float64, device="cpu")
        noise.fill(drawn, steps[0])
        if loops:
            _check(loops.noisy(part, inverse, drawn.numpy(), steps[1], _LIMIT, place))
        else:
            _write_part(part, inverse, (drawn.numpy(), values), steps[1], place)


def _write_part(
    total: NDArray[Any],
    inverse: float,
    room: tuple[NDArray[np.float64], NDArray[np.float64]],
    worth: float,
    released: NDArray[Any],
) -> None:
    """One part of `_write_noisy` by operations on whole arrays; room: the noise, and as much to work in."""
    added, values = room
    # privacy: float64 first, for a float32 quotient could overflow; the rounding is the one that was charged
    if total.dtype != values.dtype:
        np.copyto(values, total)
    np.multiply(total if total.dtype == values.dtype else values, inverse, out=values)
    np.rint(values, out=values)
    _check(_small(values))
    np.add(values, added, out=values)
    np.multiply(values, worth, out=released if released.dtype == values.dtype else values)
    if released.dtype != values.dtype:
        torch.from_numpy(released).copy_(torch.from_numpy(values))


def _small(values: NDArray[np.float64]) -> bool:
    """Whether all numbers are below the limit, of which a sum of squares below its square is proof; nan is not."""
    even = len(values) - len(values) % _ROW
    rows, rest = values[:even].reshape(-1, _ROW), values[even:]
    return bool((np.vecdot(rows, rows) < _LIMIT**2).all()) and bool((np.abs(rest) < _LIMIT).all())


def _noisy_integers(total: Tensor, steps: tuple[float, float], grid: float, noise: Noise) -> Tensor:
    """Integer totals, [p], plus noise."""
    if grid != 1:
        # privacy: int64 / grid would round in float64 before the rounding that was charged.
        raise UsageError("integer totals are released on grid 1; scale the mechanism, not the total")
    _check(bool(((total > -_WHOLE) & (total < _WHOLE)).all()))
    drawn = torch.empty_like(total)
    noise.fill(drawn, steps[0])
    return (total + drawn).to(torch.float64) * steps[1]


def _check(fits: bool) -> None:
    if not fits:
        raise PrivacyRefused("a total is not finite or too large for its grid; clip its contributions")


def for_sums(sensitivity: float, noise_multiplier: float, replace_ratio: float) -> Mechanism:
    """Mechanism for a sum of integer contributions: grid 1, so that rounding costs nothing (rule 1).

    >>> for_sums(3.0, 2.0, math.sqrt(2)).sensitivity()
    3.0
    """
    return Mechanism(sensitivity, noise_multiplier, grid=1.0, replace_ratio=replace_ratio)


def for_gradients(clip_norm: float, noise_multiplier: float, size: int, slack: float) -> Mechanism:
    """Mechanism for a clipped sum of `size` real coordinates: the grid follows from its charge (rule 3).

    Guarantee: rounding costs grid sqrt(size) <= clip_norm / 1000, and is part of the sensitivity.
    Edges: without noise there is no grid and nothing is rounded.
    Errors: UsageError for a size below 1, or noise with an infinite clip norm.
    """
    if size < 1:
        raise UsageError("a model without trainable parameters has no gradients to release")
    if noise_multiplier == 0 or not clip_norm < math.inf:
        return Mechanism(clip_norm, noise_multiplier, slack=slack)
    grid = 2.0 ** math.floor(math.log2(_GRID_SHARE * clip_norm / math.sqrt(size)))
    return Mechanism(clip_norm, noise_multiplier, grid=grid, slack=slack, rounding=grid * math.sqrt(size))
