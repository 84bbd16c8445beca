"""Images: closed-form phases (norms, moments, class moments) and, for fidelity, a residual decoder by gradients.

pixels -> public 2-D DCT -> [released brightness and norms] -> center, clip -> [released moments] -> PCA encoder ->
whitened codes -> clip -> [released class moments] -> class-conditional Gaussian prior -> optional decoder.
Every encoding is exact in integers and a function of one record and of releases (guarantees.md rules 1, 7, 13).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privae.errors import DataError, PrivacyRefused, ResourceError
from privae.models.image import ImageModel, LinearCodes, ResidualDecoder, conditioned
from privae.models.networks import initialize
from privae.models.priors import GaussianClasses
from privae.plan import Phase
from privae.privacy.clipping import clip_to_grid
from privae.privacy.gradients import Loss
from privae.recipes.gradients import PROBES, Training, checked, drafted, train_phase
from privae.recipes.phases import Budget, Draft, Released, Run, statistics
from privae.sums import moments, spectrum
from privae.sums.moments import BOUND, Array, Integers
from privae.training.loop import Objective

NORMS, AXES, CLASSES, DECODER = "norms", "axes", "class prior", "residual decoder"
_NORM_BINS = 64
_SHIFT = 12  # DCT codes are held in 1/256 of a pixel step: 2^20 basis units / 2^12
_CODE_UNIT = 255.0 * 256.0  # integer units of a code that is 1 when a pixel runs from 0 to 1
_HIDDEN = (200,)
_LATENT_NOISE = 0.15
_DECODER_STEPS = 350
_CERTAIN = 5.0
_LINEAR = ("mean", "axes", "spread")
_LEAST = 1e-3 * BOUND  # spread of an axis
_NEARLY = 1 + 1e-9
_MOST_IMAGES = 2**22  # times BOUND^2 = 2^40, still below 2^62


@dataclass(frozen=True)
class Sizes:
    """Public sizes, chosen from epsilon and the shape alone.

    Tuned on 10,000 of MNIST's training rows (benchmarks/main.py); public constants for every other data set.
    basis: DCT frequencies kept. latent: codes. radius: clip norm of whitened codes over sqrt(latent).
    quantile: of the norms, becomes their bound. floor: least eigenvalue of a class, as a share of the mean one.
    """

    basis: int
    latent: int
    radius: float
    quantile: float
    floor: float


@dataclass(frozen=True)
class Ball:
    """Where most images lie, in code units: a zeroth frequency, and a distance from the gray image that has it."""

    center: int
    radius: float


def sizes_for(epsilon: float, pixels: int) -> Sizes:
    """The public sizes of a fit."""
    if epsilon < 0.5:
        basis, latent, radius, floor = 80, 24, 0.6, 0.2
    elif epsilon < 3:
        basis, latent, radius, floor = 100, 30, 0.8, 0.1
    else:
        basis, latent, radius, floor = 200, 50, 0.8, 0.03
    return Sizes(min(basis, pixels), min(latent, max(pixels // 4, 1)), radius, 0.9, floor)


def draft(shape: tuple[int, int], classes: int, budget: Budget) -> Draft:
    """The phases of a fit to images of a shape, before their noise is known."""
    sizes = sizes_for(budget.epsilon, shape[0] * shape[1])
    wanted = budget.fidelity if budget.fidelity is not None else budget.epsilon > 1
    fidelity = wanted and budget.rows is not None
    phases = _phases(sizes, classes, _shares(budget.epsilon, fidelity))
    if fidelity and budget.rows is not None:
        share = 1.0 - sum(phase.share for phase in phases)
        phases.append(_decoder_phase(budget.rows, sizes.latent + classes, shape, share))
    rows, pixels = budget.rows or 60_000, shape[0] * shape[1]
    note = "no residual decoder: its gradients need a public divisor; declare --rows to train one"
    return Draft(
        recipe="image",
        phases=tuple(phases),
        settings={"basis": sizes.basis, "latent": sizes.latent, "fidelity": fidelity},
        rows_needed=lambda noisy: 4 * classes * noisy[2].mechanism().std * sizes.latent,
        seconds=5.0 + 1e-7 * rows * pixels + (0.15 * _DECODER_STEPS if fidelity else 0.0),
        megabytes=500 + 3e-5 * rows * pixels,
        notes=(note,) if wanted and not fidelity else (),
    )


def _shares(epsilon: float, fidelity: bool) -> tuple[float, float, float]:
    """Shares of mu^2 for norms, axes and class prior; the decoder gets the rest."""
    if not fidelity:
        return 0.02, 0.18, 0.80
    return (0.02, 0.13, 0.45) if epsilon <= 3 else (0.02, 0.08, 0.20)


def _phases(sizes: Sizes, classes: int, shares: tuple[float, float, float]) -> list[Phase]:
    numbers = [len(moments.weights(size)[0]) for size in (sizes.basis, sizes.latent)]
    bounds = (moments.SENSITIVITY, moments.REPLACE_RATIO)
    return [
        statistics(NORMS, shares[0], math.sqrt(2), math.sqrt(2), size=2 * _NORM_BINS),
        statistics(AXES, shares[1], *bounds, size=numbers[0]),
        statistics(CLASSES, shares[2], *bounds, size=classes * numbers[1]),
    ]


def fit(run: Run, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> ImageModel:
    """The linear VAE of images and, if the plan has the phase, its residual decoder.

    Shapes: images [n, h, w], labels [n] (codes; -1 takes no part in the class prior).
    Errors: DataError when the *released* count says that there is next to nothing to learn from.
    """
    if len(images) > _MOST_IMAGES:
        raise ResourceError("more images than integer sums of 64 bits can hold; fit a part of them")
    height, width = images.shape[1:]
    sizes = sizes_for(run.plan.epsilon, height * width)
    basis = moments.low_pass_basis(height, width, sizes.basis)
    raw = frequencies(images, sizes)
    ball = _ball(run, raw, height * width, sizes.quantile)
    coded = bounded(raw, ball)
    mean, axes, spread = _axes(run, coded, (height, width))
    latent = latent_codes(coded, mean, axes, spread, sizes)
    to_unit = ball.radius / BOUND / _CODE_UNIT
    middle = mean * to_unit + np.eye(1, len(mean))[0] * (ball.center / _CODE_UNIT)
    real = [torch.tensor(a) for a in (basis / 2.0**20, middle, axes, spread * to_unit)]
    prior = _prior(run, latent, labels, classes, sizes)
    model = ImageModel(height, width, LinearCodes(*real), prior)
    if run.plan.phase(DECODER) is None:
        return model
    return _with_decoder(run, model, torch.from_numpy(images), torch.from_numpy(labels))


def frequencies(images: NDArray[np.uint8], sizes: Sizes) -> Integers:
    """Low-pass coefficients of images [n, h, w], exact integers: [n, basis]."""
    height, width = images.shape[1:]
    basis = moments.low_pass_basis(height, width, sizes.basis)
    return moments.project(images.reshape(len(images), height * width).astype(np.int64), basis, _SHIFT)


def bounded(raw: Integers, ball: Ball) -> Integers:
    """Coefficients from the released center in units of the released radius, clipped: rows of norm at most BOUND."""
    centered = raw - ball.center * np.eye(1, raw.shape[1], dtype=np.int64)
    return _clipped(np.trunc(centered * (BOUND / ball.radius)).astype(np.int64))


def latent_codes(coded: Integers, mean: Array, axes: Array, spread: Array, sizes: Sizes) -> Integers:
    """Whitened codes under released axes, clipped: rows of L2 norm at most BOUND."""
    center, encoder = np.rint(mean).astype(np.int64), _encoder(axes, spread, sizes)
    return _clipped(moments.project(coded - center, encoder, 20))


def _clipped(codes: Integers) -> Integers:
    """Rows of L2 norm at most BOUND, in exact integers (guarantees.md rule 1)."""
    return clip_to_grid(codes, BOUND).astype(np.int64, copy=False)


def _ball(run: Run, codes: Integers, pixels: int, quantile: float) -> Ball:
    """Where most codes lie, by released counts, in code units; their range is a function of the shape."""
    run.watch.phase(NORMS, 1)
    counts = run.release(NORMS, [(ball_counts(codes, pixels), 1.0)])[0]
    run.watch.advance(1)
    # each image counts twice, so half of the sum has the noise of half as many bins
    if counts.sum() / 2 <= max(_CERTAIN * run.deviation(NORMS) * math.sqrt(_NORM_BINS / 2), 1.0):
        raise DataError(
            "the released number of images cannot be told from none at this epsilon; "
            "give more images or a larger epsilon"
        )
    return ball_of(counts, pixels, quantile)


def ball_counts(codes: Integers, pixels: int) -> Integers:
    """How many codes [n, d] have a brightness, and how many a contrast, in each bin of ranges by the shape: [2 bins].

    Brightness is the zeroth frequency; contrast the norm of all others, at most half of the whole range.
    """
    top = _CODE_UNIT * math.sqrt(pixels)
    norms = np.sqrt(np.einsum("ij,ij->i", codes[:, 1:], codes[:, 1:]).astype(np.float64))
    shares = np.stack([codes[:, 0] / top, norms / (top / 2)])
    places = np.clip(shares * _NORM_BINS, 0, _NORM_BINS - 1).astype(np.int64)
    return np.concatenate([np.bincount(each, minlength=_NORM_BINS) for each in places]).astype(np.int64)


def ball_of(counts: Array, pixels: int, quantile: float) -> Ball:
    """Center and radius from released counts: the median brightness, and a quantile of each distance from there."""
    if counts.shape != (2 * _NORM_BINS,):
        raise PrivacyRefused("the released counts of images are none; do not trust the key holder")
    top = _CODE_UNIT * math.sqrt(pixels)
    brightness, contrast = np.cumsum(counts.reshape(2, _NORM_BINS), 1)

    def reached(sums: Array, share: float) -> int:
        return int(np.argmax(sums >= share * sums[-1]))

    middle = reached(brightness, 0.5) + 0.5
    lower, upper = (reached(brightness, 0.5 + side * quantile / 2) for side in (-1, 1))
    apart = max(upper + 1 - middle, middle - lower) * top
    away = (reached(contrast, quantile) + 1) * top / 2
    # a root, which is rounded alike on every machine: places read the same counts, each by itself
    return Ball(int(middle / _NORM_BINS * top), math.sqrt(apart**2 + away**2) / _NORM_BINS)


def _axes(run: Run, codes: Integers, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Released mean [d], principal axes [d, d] and spreads [d] of bounded codes, in code units."""
    run.watch.phase(AXES, 1)
    released = _released_moments(run, AXES, [codes], codes.shape[1])[0]
    run.watch.advance(1)

    def made() -> dict[str, Tensor]:
        found = axes_of(released, run.deviation(AXES), shape)
        return dict(zip(_LINEAR, map(torch.from_numpy, found), strict=True))

    agreed = run.agreed(AXES, made)
    return checked_axes(agreed, codes.shape[1])


def checked_axes(agreed: dict[str, Tensor], size: int) -> tuple[Array, Array, Array]:
    """What `axes_of` gives, from whoever made it. Errors: PrivacyRefused for numbers that it never gives.

    privacy: with wilder ones the integers of a record's code would wrap round, and its norm would not be bounded.
    """
    shapes = {"mean": (size,), "axes": (size, size), "spread": (size,)}
    for name, shape in shapes.items():
        part = agreed.get(name)
        if part is None or part.shape != shape or part.dtype != torch.float64 or not part.isfinite().all():
            raise PrivacyRefused(
                f"the agreed {name} of the images' codes is none; do not trust the coordinator"
            )
    mean, axes, spread = (agreed[name].numpy() for name in _LINEAR)
    if (
        np.linalg.norm(mean) > BOUND * _NEARLY
        or np.abs(axes).max() > _NEARLY
        or spread.min() * _NEARLY < _LEAST
    ):
        raise PrivacyRefused(
            "the agreed axes of the images' codes are out of range; do not trust the coordinator"
        )
    return mean, axes, spread


def axes_of(
    released: moments.Moments, deviation: float, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Mean [d], principal axes [d, d] and spreads [d] that follow from released moments and their known noise."""
    shares = spectrum.profile(*shape, len(released.first))
    mean, values, axes = spectrum.principal(released, deviation * BOUND**2 / math.sqrt(2), shares)
    # privacy: codes have norm at most BOUND, and products with a wilder center would no longer be exact integers
    mean = mean * min(1.0, BOUND / max(float(np.linalg.norm(mean)), 1e-300))
    return mean, axes, np.sqrt(np.maximum(values, _LEAST**2))


def _encoder(axes: Array, spread: Array, sizes: Sizes) -> Integers:
    """Integer map to whitened codes whose clip norm, radius * sqrt(k), is BOUND."""
    scale = BOUND / (sizes.radius * math.sqrt(sizes.latent))
    return moments.as_map(axes[:, : sizes.latent] / spread[: sizes.latent] * scale)


def _prior(
    run: Run, codes: Integers, labels: NDArray[np.int64], classes: int, sizes: Sizes
) -> GaussianClasses:
    """Released class-conditional Gaussians of whitened codes, their overall amplitude restored.

    Clipping shortens codes. Whitened codes have a second moment of k by construction, so the prior is scaled
    until it has it again: a function of releases only.
    """
    run.watch.phase(CLASSES, 1)
    groups = _released_moments(run, CLASSES, [codes[labels == c] for c in range(classes)], sizes.latent)
    run.watch.advance(1)
    deviation = run.deviation(CLASSES) * BOUND**2 / math.sqrt(2)
    if not moments.told_apart(groups, deviation).any():
        raise DataError(
            "the released number of images of every class cannot be told from none; "
            "check the classes against the labels, or give more images"
        )
    means, covariances = moments.shrunk(groups, deviation, sizes.floor)
    counts = np.maximum([group.count for group in groups], 1.0)
    shares = counts / counts.sum()
    power = float(shares @ (np.trace(covariances, axis1=1, axis2=2) + (means**2).sum(1)))
    scale = math.sqrt(sizes.latent / max(power, 1e-300))
    factors = np.linalg.cholesky(covariances * scale**2)
    return GaussianClasses(torch.tensor(shares), torch.tensor(means * scale), torch.tensor(factors))


def _released_moments(run: Run, phase: str, groups: list[Integers], size: int) -> list[moments.Moments]:
    """Noisy moments of every group of one phase; a record is in one group, so they share one charge."""
    weight, _, _ = moments.weights(size)
    totals = np.stack([moments.sums(group) for group in groups])  # [groups, p]
    values, block = np.unique(weight, return_inverse=True)
    released = run.release(phase, [(totals[:, block == b], float(w)) for b, w in enumerate(values)])
    return unpacked(released, size)


def unpacked(released: Released, size: int) -> list[moments.Moments]:
    """Moments of every group from the released blocks of a phase, one block a weight."""
    weight, _, _ = moments.weights(size)
    _, block = np.unique(weight, return_inverse=True)
    noisy = np.empty((len(released[0]), len(weight)))
    for b, part in enumerate(released):
        noisy[:, block == b] = part
    return [moments.unpack(row, size) for row in noisy]


def _decoder_phase(rows: int, latent: int, shape: tuple[int, int], share: float) -> Phase:
    """Batches of the usual size for the declared rows."""
    outputs = shape[0] * shape[1]
    size = (latent + 1) * _HIDDEN[0] + (_HIDDEN[0] + 1) * outputs
    return Phase(
        name=DECODER,
        kind="gradients",
        share=share,
        sensitivity=1.0,
        replace_ratio=2.0,
        sampling_rate=Training().sampling_rate(rows),
        steps=_DECODER_STEPS,
        size=size,
        bfloat16=True,
    )


def _with_decoder(run: Run, model: ImageModel, images: Tensor, labels: Tensor) -> ImageModel:
    """The model with its residual decoder trained by noisy clipped gradients; the encoder is released already."""
    codes = model.embed(images)
    base = model.codes.decode(
        torch.cat([codes, codes.new_zeros(len(codes), model.codes.spread.shape[0] - codes.shape[1])], 1)
    ).float()
    parts = (conditioned(codes, labels, len(model.prior.weights)), base, images.flatten(1).float() / 255.0)
    decoder = ResidualDecoder(parts[0].shape[1], _HIDDEN, parts[2].shape[1])
    initialize(decoder.decoder.body, torch.Generator().manual_seed(0))
    latent = codes.shape[1]
    loss = decoder_loss(latent)
    # privacy: random records that are nobody's, of the parts' widths, which are functions of shape and sizes
    public = torch.Generator().manual_seed(1)
    widths = [part.shape[1] for part in parts] + [latent]
    probe = tuple(torch.rand(PROBES, width, generator=public) for width in widths)
    summation = checked(decoder, loss, probe, drafted(run, DECODER), run.device)
    train_phase(run, DECODER, decoder, Objective(loss, latent, summation), parts)
    return ImageModel(model.height, model.width, model.codes, model.prior, decoder.eval())


def decoder_loss(latent: int) -> Loss:
    """The loss of a residual decoder, of (codes and classes, linear reconstruction, pixels, noise [latent])."""

    def loss(network: nn.Module, record: tuple[Tensor, ...]) -> Tensor:
        z, linear, x, noise = record
        moved = torch.cat([z[..., :latent] + _LATENT_NOISE * noise, z[..., latent:]], -1)
        logits = network(moved, linear)
        return nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    return loss
