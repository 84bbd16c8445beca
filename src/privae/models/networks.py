"""The networks of every recipe: multilayer perceptrons that encode a record and decode a latent code."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from privae.errors import UsageError

Activation = Literal["relu", "silu", "square"]
Sizes = TypeVar("Sizes", bound=BaseModel)
LOG_VARIANCE_LIMIT = 10.0
RANGE, RANGE_WEIGHT = 3.0, 1.0  # public: what `Square` is trained to be given, and how much leaving it costs


class NetworkConfig(BaseModel):
    """Public sizes of a network; what a model file stores beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: int = Field(gt=0)
    latent: int = Field(gt=0)
    condition: int = Field(default=0, ge=0)
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False


@runtime_checkable
class Autoencoder(Protocol):
    """What the ELBO needs of a network: a posterior of each record and logits of each code.

    Every input has any number of leading batch dimensions, or none; condition is None for records without one.
    """

    def encode(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior.  Shapes: x [..., d] -> ([..., k], [..., k])."""
        ...

    def decode(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Logits of the record.  Shapes: z [..., k] -> [..., d]."""
        ...


class Square(nn.Module):
    """The activation u^2 / 4 + u / 2 = (u + 1)^2 / 4 - 1 / 4: a polynomial, so computable on ciphertexts.

    A polynomial grows without end, and ciphertexts hold numbers of a range fixed beforehand. So while the module is
    in training mode its backward pass adds, to the gradient of the loss, that of the penalty
    weight * sum max(|u| - bound, 0)^2 over its inputs u. Values stay the polynomial's, and in evaluation mode
    gradients do, too.
    The penalty is added whole, whatever weight the loss has: sum the losses of records, do not average them.
    privacy: the penalty is a function of one record and the weights, so it is a part of that record's gradient
    before this is clipped: the sensitivity of the clipped sum is what it is without.

    >>> Square()(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.2500,  0.0000,  2.0000])
    """

    def __init__(self, bound: float = RANGE, weight: float = RANGE_WEIGHT) -> None:
        super().__init__()
        self.bound = bound
        self.weight = weight

    def forward(self, u: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The polynomial of each number.  Shapes: u [..., d] -> [..., d]."""
        if not self.training:
            return _square(u)
        value: Tensor = _Penalized.apply(u, self.bound, self.weight)  # type: ignore[no-untyped-call]
        return value

    def extra_repr(self) -> str:
        """What is printed of it."""
        return f"bound={self.bound:g}, weight={self.weight:g}"


class _Penalized(torch.autograd.Function):
    """The polynomial of `Square`, its gradient and that of the penalty."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, bound: float, weight: float) -> Tensor:  # noqa: ARG004
        return _square(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:  # noqa: ANN401, ARG004
        u, ctx.bound, ctx.weight = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (u,) = ctx.saved_tensors
        outside = u - u.clamp(-ctx.bound, ctx.bound)
        return gradient * (0.5 * u + 0.5) + 2.0 * ctx.weight * outside, None, None


def _square(u: Tensor) -> Tensor:
    return u * (0.25 * u + 0.5)


_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "square": Square}


class Encoder(nn.Module):
    """Mean and log-variance of the posterior of a record's latent code."""

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        latent: int,
        *,
        activation: Activation = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body = perceptron(inputs, hidden, activation=activation, layer_norm=layer_norm)
        width = hidden[-1] if hidden else inputs
        self.mean = nn.Linear(width, latent)
        self.log_variance = nn.Linear(width, latent)

    def forward(
        self, x: Float[Tensor, "*batch d"]
    ) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """Posterior of each record, its log-variance held within +-LOG_VARIANCE_LIMIT.

        Shapes: x [..., d] -> (mean [..., k], log_variance [..., k]).
        """
        features = self.body(x)
        log_variance = self.log_variance(features).clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        return self.mean(features), log_variance


class Decoder(nn.Module):
    """Logits of a record from its latent code."""

    def __init__(
        self,
        latent: int,
        hidden: tuple[int, ...],
        outputs: int,
        *,
        activation: Activation = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body = perceptron(latent, hidden, activation=activation, layer_norm=layer_norm)
        self.logits = nn.Linear(hidden[-1] if hidden else latent, outputs)

    def forward(self, z: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch d"]:
        """Logits of each code's record.  Shapes: z [..., k] -> [..., d]."""
        logits: Tensor = self.logits(self.body(z))
        return logits


class Network(nn.Module):
    """An encoder and a decoder that both see the condition (a one-hot label, say), if there is one.

    >>> Network(NetworkConfig(inputs=3, latent=2, hidden=())).decode(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        style: dict[str, Any] = {"activation": config.activation, "layer_norm": config.layer_norm}
        self.encoder = Encoder(config.inputs + config.condition, config.hidden, config.latent, **style)
        outward = tuple(reversed(config.hidden))
        self.decoder = Decoder(config.latent + config.condition, outward, config.inputs, **style)

    def encode(
        self, x: Float[Tensor, "*batch d"], condition: Float[Tensor, "*batch c"] | None = None
    ) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """Posterior (mean, log-variance) of each record.

        Shapes: x [..., d], condition [..., c] -> ([..., k], [..., k]).
        """
        posterior: tuple[Tensor, Tensor] = self.encoder(_beside(x, condition))
        return posterior

    def decode(
        self, z: Float[Tensor, "*batch k"], condition: Float[Tensor, "*batch c"] | None = None
    ) -> Float[Tensor, "*batch d"]:
        """Logits of each code.  Shapes: z [..., k], condition [..., c] -> [..., d]."""
        logits: Tensor = self.decoder(_beside(z, condition))
        return logits

    def to_config(self) -> dict[str, Any]:
        """The public sizes as JSON-ready values; `from_config` builds the same network."""
        return self.config.model_dump(mode="json")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], generator: torch.Generator | None = None) -> "Network":
        """A network of these sizes; its first weights come from `generator`, if one is given.

        Errors: UsageError for a size that is missing, unknown or not positive, or what `perceptron` refuses.
        """
        network = cls(validated(NetworkConfig, config))
        if generator is not None:
            initialize(network, generator)
        return network


def validated(kind: type[Sizes], config: Mapping[str, Any]) -> Sizes:
    """Stored sizes as a config. Errors: UsageError for one that is missing, unknown or not positive."""
    try:
        return kind.model_validate(dict(config))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(f"network sizes: {place or 'config'} is not valid; see {kind.__name__}") from None


def perceptron(
    inputs: int, hidden: tuple[int, ...], *, activation: Activation = "relu", layer_norm: bool = False
) -> nn.Sequential:
    """Hidden layers: Linear, LayerNorm if wanted, activation; no hidden sizes give the identity.

    BatchNorm is not offered: it mixes records, so that no record's influence would be bounded.
    Errors: UsageError for LayerNorm between squares: it divides by a root, so that no polynomial would be left.
    """
    if layer_norm and activation == "square":
        raise UsageError('layer_norm is no polynomial; leave it out with activation="square"')
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip((inputs, *hidden), hidden, strict=False):
        layers.append(nn.Linear(fan_in, fan_out))
        if layer_norm:
            layers.append(nn.LayerNorm(fan_out))
        layers.append(_ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def restored(build: Callable[[], nn.Module], layers: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """A module with stored weights, ready to evaluate.

    It is built without memory: sizes in a file cost nothing before the file's own weights bear them out.
    Errors: ValueError for more hidden layers than weights; RuntimeError for other weights than the module has.
    """
    if layers > len(weights):
        raise ValueError("a network of more layers than it has weights")
    with torch.device("meta"):
        module = build()
    wanted = module.state_dict()
    kept = {
        name: weight.to(wanted[name].dtype, copy=True) if name in wanted else weight
        for name, weight in weights.items()
    }
    module.load_state_dict(kept, assign=True)
    return module.eval()


def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every Linear, convolution and recurrent layer by `generator` from torch's own law.

    That is U(-1, 1) / sqrt(fan_in), or the root of the units of a recurrent layer.
    The global random state is neither read nor moved, so that a seed names the first weights.
    """
    for layer in module.modules():
        size = _fan_in(layer)
        if size is not None:
            bound = 1.0 / math.sqrt(size)
            for parameter in layer.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def _fan_in(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.RNNBase):
        return layer.hidden_size
    return layer.weight[0].numel() if isinstance(layer, nn.modules.conv._ConvNd) else None


def _beside(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat((x, condition), dim=-1)
