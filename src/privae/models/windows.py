"""Networks of windows of time series: convolutions that keep windows apart, or gated recurrent units over one."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from privae.errors import UsageError
from privae.layers.normalization import Affine
from privae.models.networks import LOG_VARIANCE_LIMIT, initialize, restored, validated

Kind = Literal["convolution", "recurrent"]
HIDDEN: Final[dict[str, tuple[int, ...]]] = {"convolution": (16, 32), "recurrent": (48,)}
_MOST_LAYERS = 6  # each halves the steps, so that weights bear out how many there are, up to a factor of 64
_WIDTH = 5  # steps that a kernel sees
_EXPANDED = 8  # numbers a step that a recurrent decoder reads


class WindowConfig(BaseModel):
    """Public sizes of a network of windows; what a model file stores beside the weights.

    A record is one unit of `windows` windows of `steps` steps of `channels` channels: m values scaled to [-1, 1], in
    this order and 0 in gaps, then m marks, 1 for a value that is known. latent: codes of one window.
    hidden: channels of the convolutions, each of which halves the steps, or units of the recurrent layers; without
    it those of `HIDDEN`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: PositiveInt
    steps: PositiveInt
    channels: PositiveInt = 1
    latent: PositiveInt = 4
    kind: Kind = "convolution"
    hidden: tuple[PositiveInt, ...] = Field(default=(), min_length=1, max_length=_MOST_LAYERS)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"hidden": HIDDEN.get(given.get("kind", "convolution"), ()), **given}

    @property
    def inputs(self) -> int:
        """Numbers in a record, 2 m."""
        return 2 * self.windows * self.steps * self.channels

    @property
    def codes(self) -> int:
        """Codes of a record."""
        return self.windows * self.latent

    @property
    def places(self) -> float:
        """About how often a record uses a weight: for estimates of time."""
        return self.windows * self.steps / 2

    @property
    def lengths(self) -> list[int]:
        """Steps before the first convolution and after each one."""
        found = [self.steps]
        for _ in self.hidden:
            found.append((found[-1] + 1) // 2)
        return found


class ConvolutionEncoder(nn.Module):
    """Posterior of each window by itself: kernels of height 1 over a plane of one row a window.

    Tanh, which is bounded, learns from noisy sums where rectifiers stay at the mean record.
    Source: Papernot et al. 2021, arXiv:2007.14191.
    """

    def __init__(self, config: WindowConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, narrow in pairwise((2 * config.channels, *config.hidden)):
            layers.append(nn.Conv2d(wide, narrow, (1, _WIDTH), stride=(1, 2), padding=(0, _WIDTH // 2)))
            layers.append(nn.Tanh())
        self.body = nn.Sequential(*layers)
        features = config.hidden[-1] * config.lengths[-1]
        self.mean = nn.Linear(features, config.latent)
        self.log_variance = nn.Linear(features, config.latent)

    def forward(
        self, planes: Float[Tensor, "n c w t"]
    ) -> tuple[Float[Tensor, "n w k"], Float[Tensor, "n w k"]]:
        """Mean and log-variance of each window.  Shapes: [n, 2 channels, w, t] -> ([n, w, k], [n, w, k])."""
        features = self.body(planes).transpose(1, 2).flatten(2)
        return self.mean(features), self.log_variance(features)


class ConvolutionDecoder(nn.Module):
    """The mirror of the encoder, after a scale and an offset of codes that each window of a record has for itself."""

    def __init__(self, config: WindowConfig) -> None:
        super().__init__()
        self.config = config
        # windows differ by their place (a Sunday, say), though all share the kernels
        self.place = Affine(config.codes)
        self.expand = nn.Linear(config.latent, config.hidden[-1] * config.lengths[-1])
        layers: list[nn.Module] = []
        widths = (*reversed(config.hidden), 2 * config.channels)
        for sizes, (short, long) in zip(pairwise(widths), pairwise(reversed(config.lengths)), strict=True):
            options: dict[str, Any] = {"stride": (1, 2), "padding": (0, _WIDTH // 2)}
            more = (0, long - 2 * short + 1)
            layers.append(nn.Tanh())
            layers.append(nn.ConvTranspose2d(*sizes, (1, _WIDTH), output_padding=more, **options))
        self.body = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "n k"]) -> Float[Tensor, "n c w t"]:
        """Logits of each code.  Shapes: [n, w k] -> [n, 2 channels, w, t]."""
        config = self.config
        codes = self.place(z).reshape(-1, config.windows, config.latent)
        features = self.expand(codes).unflatten(-1, (config.hidden[-1], config.lengths[-1]))
        logits: Tensor = self.body(features.transpose(1, 2))
        return logits


class RecurrentEncoder(nn.Module):
    """Posterior of the one window of a record, read out of the last state."""

    def __init__(self, config: WindowConfig) -> None:
        super().__init__()
        self.layers = _recurrences(2 * config.channels, config.hidden)
        self.mean = nn.Linear(config.hidden[-1], config.latent)
        self.log_variance = nn.Linear(config.hidden[-1], config.latent)

    def forward(
        self, planes: Float[Tensor, "n c w t"]
    ) -> tuple[Float[Tensor, "n w k"], Float[Tensor, "n w k"]]:
        """Mean and log-variance.  Shapes: [n, 2 channels, 1, t] -> ([n, 1, k], [n, 1, k])."""
        states = planes.squeeze(2).transpose(1, 2)
        for layer in self.layers:
            states, _ = layer(states)
        last = states[:, -1:]
        return self.mean(last), self.log_variance(last)


class RecurrentDecoder(nn.Module):
    """A code expanded to a few numbers a step, which recurrent layers read."""

    def __init__(self, config: WindowConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.latent, config.steps * _EXPANDED)
        self.layers = _recurrences(_EXPANDED, tuple(reversed(config.hidden)))
        self.logits = nn.Linear(config.hidden[0], 2 * config.channels)

    def forward(self, z: Float[Tensor, "n k"]) -> Float[Tensor, "n c w t"]:
        """Logits of each code.  Shapes: [n, k] -> [n, 2 channels, 1, t]."""
        states = self.expand(z).unflatten(-1, (-1, _EXPANDED))
        for layer in self.layers:
            states, _ = layer(states)
        logits: Tensor = self.logits(states).transpose(1, 2)
        return logits.unsqueeze(2)


class WindowNetwork(nn.Module):
    """An encoder and a decoder of records that are windows of a series; see `WindowConfig` for what a record is.

    privacy: no layer reads more than one record, and every layer has a rule (`layers.capture.RULES`).
    Errors: UsageError for recurrent layers over several windows.

    >>> WindowNetwork(WindowConfig(windows=7, steps=24)).decode(torch.zeros(5, 28)).shape
    torch.Size([5, 336])
    """

    def __init__(self, config: WindowConfig) -> None:
        super().__init__()
        if config.kind == "recurrent" and config.windows != 1:
            raise UsageError(
                "a recurrent network reads one window a record; choose a convolution for several"
            )
        self.config = config
        pair = _KINDS[config.kind]
        self.encoder, self.decoder = (part(config) for part in pair)

    def encode(
        self, x: Float[Tensor, "*batch d"], condition: Tensor | None = None
    ) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """Posterior (mean, log-variance) of each record, its log-variance held within +-LOG_VARIANCE_LIMIT.

        Values in gaps are not read.  Shapes: x [..., 2 m] -> ([..., windows * latent], [..., windows * latent]).
        """
        _refuse(condition)
        mean, log_variance = self.encoder(self._planes(x))
        log_variance = log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        shape = (*x.shape[:-1], self.config.codes)
        return mean.reshape(shape), log_variance.reshape(shape)

    def decode(
        self, z: Float[Tensor, "*batch k"], condition: Tensor | None = None
    ) -> Float[Tensor, "*batch d"]:
        """Logits of each code.  Shapes: z [..., windows * latent] -> [..., 2 m]."""
        _refuse(condition)
        planes: Tensor = self.decoder(z.reshape(-1, self.config.codes))
        halves = torch.unflatten(planes, 1, (2, self.config.channels)).permute(0, 1, 3, 4, 2)
        return halves.reshape(*z.shape[:-1], self.config.inputs)

    def to_config(self) -> dict[str, Any]:
        """The public sizes as JSON-ready values; `from_config` builds the same network."""
        return self.config.model_dump(mode="json")

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> "WindowNetwork":
        """A network of these sizes; its first weights come from `generator`, if one is given.

        Errors: UsageError for a size that is missing, unknown or not positive, or for what the class refuses.
        """
        network = cls(validated(WindowConfig, config))
        if generator is not None:
            initialize(network, generator)
        return network

    def _planes(self, x: Tensor) -> Tensor:
        """Values, zeros in gaps, and marks: [n, 2 channels, windows, steps]."""
        config = self.config
        halves = x.reshape(-1, 2, config.windows, config.steps, config.channels)
        values, marks = halves.permute(0, 1, 4, 2, 3).unbind(1)
        return torch.cat((values * marks, marks), 1)


def loaded_windows(
    config: dict[str, Any], state: dict[str, Tensor], prefix: str = "network."
) -> WindowNetwork:
    """A network of these sizes with the weights stored under a prefix, ready to evaluate."""
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    made = restored(lambda: WindowNetwork.from_config(config), len(config["hidden"]), weights)
    assert isinstance(made, WindowNetwork)
    return made


def _recurrences(inputs: int, hidden: tuple[int, ...]) -> nn.ModuleList:
    return nn.ModuleList(
        nn.GRU(wide, narrow, batch_first=True) for wide, narrow in pairwise((inputs, *hidden))
    )


def _refuse(condition: Tensor | None) -> None:
    if condition is not None:
        raise UsageError("a network of windows takes no condition; leave the labels out")


_KINDS: Final[dict[Kind, tuple[type[nn.Module], type[nn.Module]]]] = {
    "convolution": (ConvolutionEncoder, ConvolutionDecoder),
    "recurrent": (RecurrentEncoder, RecurrentDecoder),
}
