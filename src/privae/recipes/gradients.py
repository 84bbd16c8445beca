"""The whole VAE by noisy clipped gradients, as in the literature; and the warm start of a VAE on released samples."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privae.errors import DataError, UsageError
from privae.models.latent import LatentModel, elbo
from privae.models.likelihoods import Bernoulli, Categorical, Likelihood
from privae.models.networks import Activation, Autoencoder, Network, NetworkConfig
from privae.models.windows import WindowNetwork
from privae.plan import MICRO_BATCH, Phase, Plan, Setting
from privae.privacy.clipping import Kind
from privae.privacy.gradients import (
    Loss,
    Precision,
    Summation,
    refuse_mixing,
    refuse_mixing_in_blocks,
    supported,
)
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.recipes.phases import Budget, Draft, Run, quantile_of, statistics
from privae.training.bound import Rule
from privae.training.loop import Local, Objective, Release, Schedule, local_rounds, train
from privae.training.optimizers import Name
from privae.training.state import block_of
from privae.training.watch import Watch

GRADIENTS, LABELS = "gradients", "label counts"
_LABEL_SHARE = 0.02
_CERTAIN = 5.0
PROBES = 6  # made-up records
_CPU = torch.device("cpu")
Form = Literal["perceptron", "convolution", "recurrent"]
_UNFOLDED = (nn.modules.conv._ConvNd,)
WARM_ROWS = 20_000  # samples that an encoder is warm-started on
_WARM_STEPS, _WARM_BATCH = 400, 256


@dataclass(frozen=True)
class Training:
    """Public choices of a gradient phase, with defaults for tens of thousands of records.

    batch: expected records a step (the sampling rate is batch / rows); None = 5 % of the rows, 30 to 3,000.
    clip_norm, clipping, clip_quantile: see `Clipping` and `Quantile`; with a quantile, clip_norm is the first one.
    precision, bfloat16: see `Summation`; bfloat16 has no effect where the processor cannot multiply such numbers.
    share: what gradients train: "all" of the network, or its "decoder" alone, after an encoder that follows from
    releases (guarantees.md rule 13). local: steps that a site takes by itself between two sums, of several sites only
    (see `Local`); then each site is one unit, and `rows` is how many sites there are.
    activation: of privae's own network. With "square" it is a polynomial (see `Square`), so that codes, and what images
    are decoded to, can be computed on ciphertexts: images are Gaussian then, since no polynomial is a sigmoid.
    network: its form; only series take others than perceptrons (see `models.windows`), and `latent` is a window's then.
    """

    latent: int = 16
    hidden: tuple[int, ...] = (256,)
    steps: int = 300
    batch: int | None = None
    clip_norm: float = 1.0
    learning_rate: float = 2e-3
    optimizer: Literal["sgd", "adam", "adam corrected"] = "adam"
    clipping: Kind = "flat"
    clip_quantile: float | None = None
    precision: Precision = "proved"
    bfloat16: bool = True
    share: Literal["all", "decoder"] = "all"
    local: Local | None = None
    activation: Activation = "relu"
    network: Form = "perceptron"

    @classmethod
    def of(cls, plan: Plan) -> "Training":
        """The choices that a plan was made with; the default ones where it trains nothing."""
        phase, settings = plan.phase(GRADIENTS), plan.settings
        activation = cast("Activation", settings.get("activation") or "relu")
        form = cast("Form", settings.get("network") or "perceptron")
        if phase is None or plan.rows is None:
            return cls(activation=activation, network=form)
        return cls(
            latent=int(settings["latent"] or 0),
            hidden=tuple(int(size) for size in str(settings["hidden"]).split("-") if size),
            steps=phase.steps,
            batch=round(phase.sampling_rate * plan.rows),
            clip_norm=phase.sensitivity,
            learning_rate=float(settings["learning_rate"] or 0),
            optimizer=cast("Name", settings["optimizer"]),
            clipping=phase.clipping,
            clip_quantile=phase.quantile,
            precision=phase.precision,
            bfloat16=phase.bfloat16,
            share="decoder" if settings.get("share") == "decoder" else "all",
            local=Local.of(settings),
            activation=activation,
            network=form,
        )

    def sampling_rate(self, rows: int) -> float:
        """Expected batch over declared rows, at most 1."""
        if self.local is not None:
            return 1.0
        batch = min(max(rows // 20, 30), 3000) if self.batch is None else self.batch
        return min(1.0, batch / rows)


def draft(inputs: int, classes: int, network: nn.Module, training: Training, budget: Budget) -> Draft:
    """One gradient phase, after a small release of label counts where there are labels.

    Errors: UsageError without declared rows: the divisor of gradients is public, never the number of records.
    """
    if budget.rows is None:
        raise UsageError("gradients need a public divisor: declare --rows, about how many records there are")
    _check(training, classes)
    size = trained_size(network, training.share)
    share = _LABEL_SHARE if classes > 1 else 0.0
    phase = Phase(
        name=GRADIENTS,
        kind="gradients",
        share=1.0 - share,
        sensitivity=training.clip_norm,
        replace_ratio=2.0,
        sampling_rate=training.sampling_rate(budget.rows),
        steps=training.steps,
        size=size,
        precision=training.precision,
        bfloat16=training.bfloat16,
        clipping=training.clipping,
        quantile=training.clip_quantile,
    )
    counts = [statistics(LABELS, share, 1.0, math.sqrt(2), size=classes)] if classes > 1 else []
    batch = phase.sampling_rate * budget.rows
    places = network.config.places if isinstance(network, WindowNetwork) else 1
    return Draft(
        recipe="gradients",
        phases=(*counts, phase),
        settings={
            "latent": training.latent,
            "hidden": "-".join(map(str, training.hidden)),
            "learning_rate": training.learning_rate,
            "optimizer": training.optimizer,
            "inputs": inputs,
            **({"share": training.share} if training.share != "all" else {}),
            **(training.local.settings() if training.local else {}),
            **styled(training),
        },
        rows_needed=lambda noisy: noisy[-1].noise_multiplier * math.sqrt(size) / phase.sampling_rate / 2,
        seconds=3.0 + training.steps * (4e-8 * size + 8e-10 * size * batch * places),
        megabytes=500 + 4e-6 * (budget.rows * inputs * 4 + 6 * batch * inputs),
    )


def _check(training: Training, classes: int) -> None:
    if training.local and classes > 1:
        raise UsageError("local steps are for records without classes; leave the labels out")
    if training.local and training.activation == "square":
        # these steps follow the mean loss of a batch, beside which a penalty added whole would be too heavy
        raise UsageError('activation="square" is not combined with local steps; leave one of them out')
    if training.network != "perceptron" and training.activation != "relu":
        raise UsageError("activations are for perceptrons; leave out the other network, or the activation")


def styled(training: Training) -> dict[str, Setting]:
    """What a plan says of the activation and the form: nothing of the default ones, so that plans stay as they were."""
    found: dict[str, Setting] = {} if training.activation == "relu" else {"activation": training.activation}
    return found | ({} if training.network == "perceptron" else {"network": training.network})


def check_plain(training: Training) -> None:
    """Refuse a network of windows where records are none. Errors: UsageError."""
    if training.network != "perceptron":
        raise UsageError("convolution and recurrent networks are for series")


def default_network(inputs: int, classes: int, training: Training) -> Network:
    """A multilayer-perceptron VAE; its first weights come from a fixed public seed."""
    config = NetworkConfig(
        inputs=inputs,
        latent=training.latent,
        condition=classes if classes > 1 else 0,
        hidden=training.hidden,
        activation=training.activation,
    )
    return Network.from_config(config.model_dump(), torch.Generator().manual_seed(0))


def fit(
    run: Run,
    records: tuple[Tensor, NDArray[np.int64]],
    likelihood: Likelihood,
    classes: int,
    network: nn.Module,
    beta: float = 1.0,
) -> LatentModel:
    """Train the VAE on records (x [n, d] float32, class codes [n], -1 for none); beta: as of `elbo`.

    Errors: PrivacyRefused for a network or loss that mixes records, before anything is released.
    """
    x, labels = records
    latent = int(run.plan.settings["latent"] or 0)
    if isinstance(network, WindowNetwork):
        latent = network.config.codes
    empty = LatentModel(
        network, likelihood, torch.full((classes,), 1.0 / classes, dtype=torch.float64), latent
    )
    probe = _probe(likelihood, classes, latent)
    trained = replace(likelihood, slope_only=True) if isinstance(likelihood, Bernoulli) else likelihood
    loss = negative_elbo(trained, classes, beta)
    summation = checked(network, loss, probe, drafted(run, GRADIENTS), run.device)
    weights = _label_shares(run, labels, classes) if classes > 1 else empty.weights
    condition = empty.condition(torch.from_numpy(labels))
    parts = (x,) if condition is None else (x, condition)
    train_phase(run, GRADIENTS, network, Objective(loss, latent, summation), parts)
    return LatentModel(network.eval(), likelihood, weights, latent)


def train_phase(
    run: Run, name: str, network: nn.Module, objective: Objective, parts: tuple[Tensor, ...]
) -> None:
    """Run the gradient phase of that name in the plan."""
    phase = run.plan.phase(name)
    assert phase is not None
    assert run.plan.rows is not None
    run.check_size(name, sum(p.numel() for p in network.parameters() if p.requires_grad))
    run.watch.phase(name, phase.steps)
    schedule = Schedule(
        phase.steps,
        phase.sampling_rate * run.plan.rows,
        learning_rate=float(run.plan.settings.get("learning_rate") or 2e-3),
        optimizer=cast("Name", run.plan.settings.get("optimizer") or "adam"),
        warm_up=10,
        cosine=True,
        average=0.97,
        block=block_of(phase.steps),
    )
    release = Release(
        Poisson(phase.sampling_rate),
        run.mechanism(name),
        run.noise,
        lambda event: run.charge(name, event),
        Rule(phase.clipping, quantile_of(phase, schedule.expected_batch_size)),
    )
    local = Local.of(run.plan.settings)
    if local is not None:
        local_rounds(network, objective, parts, release, (phase.steps, run.plan.rows, local), run.hands(name))
        return
    if objective.summation.path == "vmap":
        run.watch.note("a layer of this network has no rule: gradients are formed one by one, which is slow")
    train(network, objective, parts, release, schedule, run.watch, run.hands(name))
    network.cpu()


def checked(
    network: nn.Module, loss: Loss, probe: tuple[Tensor, ...], planned: Summation, device: torch.device = _CPU
) -> Summation:
    """The summation for this network, moved to its device, after refusing one that mixes the probe's records.

    In full blocks, too. planned: precision, and a block for the expected batch. What a probe cannot see (see
    `refuse_mixing`) is trusted: the code and the first weights of one's own network.
    """
    # the arithmetic that is probed is the one that runs
    network.to(device)
    probe = tuple(part.to(device) for part in probe)
    refuse_mixing(network, loss, probe)
    path = supported(network, loss, probe)
    # small blocks keep unfolded images and the gradients of single records in the cache
    unfolded = any(isinstance(layer, _UNFOLDED) for layer in network.modules())
    size = MICRO_BATCH[0] if unfolded or path == "vmap" else planned.micro_batch
    # short products gain nothing from bfloat16 and pay for its rounding
    short = unfolded or any(isinstance(layer, nn.RNNBase) for layer in network.modules())
    summation = replace(planned, path=path, micro_batch=size, bfloat16=planned.bfloat16 and not short)
    refuse_mixing_in_blocks(network, loss, probe, summation)
    return summation


def drafted(run: Run, name: str) -> Summation:
    """The planned precision of a gradient phase, and a block for its expected batch."""
    phase = run.plan.phase(name)
    assert phase is not None
    assert run.plan.rows is not None
    expected = phase.sampling_rate * run.plan.rows / run.group.size
    return Summation("by rule", phase.precision, _block(expected), phase.bfloat16)


def _block(expected: float) -> int:
    """Records of a block: nearly every drawn batch fits in one, or in several full ones."""
    least, most = MICRO_BATCH
    return min(max(64 * math.ceil((expected + 2 * math.sqrt(expected)) / 64), least), most)


def trained_size(network: nn.Module, share: Literal["all", "decoder"]) -> int:
    """Numbers that gradients train. Errors: UsageError where there is no encoder to leave out."""
    trained: nn.Module = network
    if share == "decoder":
        if not isinstance(network, Network):
            raise UsageError(
                'share = "decoder" is for privae\'s own network, which has an encoder to leave out'
            )
        trained = network.decoder
    return sum(p.numel() for p in trained.parameters() if p.requires_grad)


def refine(
    run: Run, network: Network, cells: Tensor, likelihood: Categorical, share: Literal["all", "decoder"]
) -> None:
    """Go on training a warm-started network on real records, by the plan's gradient phase."""
    latent = network.config.latent
    if share == "decoder":
        network.encoder.requires_grad_(requires_grad=False)
    loss = negative_elbo(likelihood, 1)
    summation = checked(
        network.train(), loss, _probe(likelihood, 1, latent), drafted(run, GRADIENTS), run.device
    )
    train_phase(run, GRADIENTS, network, Objective(loss, latent, summation), (cells,))
    network.requires_grad_().eval()


def warm_start(
    network: Network, cells: Tensor, sizes: tuple[int, ...], label: int | None, watch: Watch
) -> Network:
    """A VAE trained on *released* samples, one-hot [n, cells]: post-processing, so no noise and no charge.

    The block of the label is hidden in half of the records, so that codes do not need it.
    """
    likelihood = Categorical(sizes)
    if label is not None:
        start = sum(sizes[:label])
        cells = cells.clone()
        cells[::2, start : start + sizes[label]] = 0.0
    watch.phase("warm start of the encoder on released samples", _WARM_STEPS)
    rate = min(1.0, _WARM_BATCH / len(cells))
    release = Release(Poisson(rate), Mechanism(), NoiseSource(b"\0" * 32), lambda _: None)
    schedule = Schedule(_WARM_STEPS, rate * len(cells), learning_rate=2e-3, warm_up=10, cosine=True)
    objective = Objective(
        negative_elbo(likelihood, 1), network.config.latent, Summation("by rule", "float32", _WARM_BATCH)
    )
    with _one_thread():
        train(network, objective, (cells,), release, schedule, watch)
    return network.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small products gain nothing from threads, and lose an order of magnitude when other programs hold the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def negative_elbo(likelihood: Likelihood, classes: int, beta: float = 1.0) -> Loss:
    """The loss of a VAE, of (x, [condition,] noise): with two classes or more there is a condition."""

    def loss(network: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
        condition = parts[1] if classes > 1 else None
        return -elbo(cast("Autoencoder", network), likelihood, parts[0], condition, parts[-1], beta)

    return loss


def _probe(likelihood: Likelihood, classes: int, latent: int) -> tuple[Tensor, ...]:
    """Random records that are nobody's: drawn from the likelihood's own domain by a public seed."""
    generator = torch.Generator().manual_seed(1)
    x = likelihood.sample(torch.randn(PROBES, likelihood.size, generator=generator), generator)
    noise = torch.randn(PROBES, latent, generator=generator)
    if classes == 1:
        return (x, noise)
    return (x, torch.eye(classes)[torch.arange(PROBES) % classes], noise)


def _label_shares(run: Run, labels: NDArray[np.int64], classes: int) -> Tensor:
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64)
    noisy = run.release(LABELS, [(counts, 1.0)])[0]
    if noisy.sum() <= max(_CERTAIN * run.deviation(LABELS) * math.sqrt(classes), 1.0):
        raise DataError(
            "the released number of records cannot be told from none at this epsilon; "
            "give more records or a larger epsilon"
        )
    shares = np.maximum(noisy, 1.0)
    return torch.tensor(shares / shares.sum())
