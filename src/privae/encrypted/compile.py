"""From a fitted model to the circuit that a server computes of encrypted records, or to a refusal that says what to do.

Constants are folded: an activation 0.25 (u + 1)^2 - 0.25 costs one square, its factors go into the next weights. The
squared error of a reconstruction D h + b is |x|^2 - 2 b'x + b'b + h'(G h - 2 D'(x - b)) with G = D'D, so nothing as
wide as the record is computed; its holder sends |x|^2 along. The evidence of a linear model under class priors is a sum
of squares a class; the holder adds the classes up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor, nn

from privae.encrypted.circuit import Affine, Circuit, Inner, Square, Step
from privae.errors import UsageError
from privae.fitted.anomalies import FittedDetection, FittedImageDetection
from privae.fitted.kinds import Fitted
from privae.fitted.table import FittedTable
from privae.models.image import ImageModel
from privae.models.latent import LatentModel
from privae.models.likelihoods import Gaussian
from privae.models.networks import Network

Array = NDArray[np.float64]
Finish = Literal["as it is", "minus log of the sum"]

OUTPUTS = ("score", "codes", "reconstruction")
_SQUARE = "a network: privae plan ... --recipe gradients --activation square"
_LINEAR = f"a linear model (privae fit IMAGES --no-fidelity), or {_SQUARE}"


@dataclass(frozen=True)
class Compiled:
    """A model as a circuit. finish: what the holder does with the numbers of the score that it decrypts.

    norm: whether a record's squared norm is its last number.
    """

    circuit: Circuit
    finish: Finish
    norm: bool

    def evaluate(self, records: Array) -> dict[str, Array]:
        """What the circuit gives in the clear, finished: records [n, d] -> outputs, the score [n]."""
        found = self.circuit.evaluate(prepared(records, norm=self.norm))
        return {name: finished(name, values, self.finish) for name, values in found.items()}


def prepared(records: Array, *, norm: bool) -> Array:
    """Records as the circuit reads them: with their squared norm last, where it asks for it."""
    return np.hstack([records, (records**2).sum(1, keepdims=True)]) if norm else records


def finished(name: str, values: Array, finish: Finish) -> Array:
    """Decrypted numbers of an output [n, width], as users know it: a score is [n], higher is stranger."""
    if name != "score":
        return values
    scores: Array = -logsumexp(values, axis=1) if finish == "minus log of the sum" else values[:, 0]
    return scores


def compiled(fitted: Fitted, outputs: Sequence[str] = ("score",)) -> Compiled:
    """The circuit of a fitted model with these outputs, in the order of OUTPUTS, whichever order they are asked in.

    Errors: UsageError for a model that is no polynomial, naming the recipe whose models are; for an output that there
    is none of.
    """
    unknown = set(outputs) - set(OUTPUTS)
    if unknown or not outputs:
        raise UsageError(f"outputs are some of {', '.join(OUTPUTS)}")
    outputs = [name for name in OUTPUTS if name in outputs]
    if isinstance(fitted.model, ImageModel):
        return _linear(fitted.model, outputs)
    if isinstance(fitted.model, LatentModel):
        return _network(fitted, fitted.model, outputs)
    if isinstance(fitted, FittedDetection | FittedImageDetection):
        raise UsageError(
            "anomaly scores look values up, which is no polynomial, so they are not computed on ciphertexts: whoever "
            "has the model scores locally"
        )
    raise UsageError(
        "a mixture's posterior is no polynomial, so it is not computed on ciphertexts: "
        f"fit the table with {_SQUARE}"
    )


def _linear(model: ImageModel, outputs: Sequence[str]) -> Compiled:
    """Codes are one map of the pixels, the evidence sums of squares of one map of the pixels."""
    if "reconstruction" in outputs and model.decoder is not None:
        raise UsageError(f"the residual decoder is no polynomial; reconstructions need {_LINEAR}")
    codes, latent = model.codes, model.latent
    matrix = (codes.basis @ codes.axes / codes.spread).T.numpy()
    offset = -(codes.mean @ codes.axes / codes.spread).numpy()
    steps: list[Step] = []
    named = {}
    if "codes" in outputs or "reconstruction" in outputs:
        steps.append(Affine(((0, matrix[:latent]),), offset[:latent]))
        named["codes"] = 1
    if "reconstruction" in outputs:
        back = (codes.basis @ (codes.axes * codes.spread)[:, :latent]).numpy()
        steps.append(Affine(((1, back),), (codes.basis @ codes.mean).numpy()))
        named["reconstruction"] = 2
    if "score" in outputs:
        steps += _evidence(model, matrix, offset, len(steps))
        named["score"] = len(steps)
    pixels = model.height * model.width
    circuit = Circuit(
        np.zeros(pixels), np.ones(pixels), tuple(steps), {name: named[name] for name in outputs}
    )
    return Compiled(circuit, "minus log of the sum", norm=False)


def _evidence(model: ImageModel, matrix: Array, offset: Array, before: int) -> list[Step]:
    """Log of each class's joint density of the coefficients, as `ImageModel.log_likelihood` adds them up."""
    latent, others = model.latent, len(offset) - model.latent
    prior, classes = model.prior, len(model.prior.weights)
    inverses = np.linalg.inv(prior.factors.numpy())  # [c, k, k]
    maps = [inverse @ matrix[:latent] for inverse in inverses]
    shifts = [
        inverse @ (offset[:latent] - mean)
        for inverse, mean in zip(inverses, prior.means.numpy(), strict=True)
    ]
    white = Affine(((0, np.vstack([*maps, matrix[latent:]])),), np.concatenate([*shifts, offset[latent:]]))
    sums = np.hstack([np.kron(np.eye(classes), np.ones(latent)), np.ones((classes, others))])
    determinants = np.log(np.diagonal(prior.factors.numpy(), axis1=1, axis2=2)).sum(1)
    constant = float(model.codes.spread.log().sum()) + 0.5 * (latent + others) * math.log(2 * math.pi)
    bias = prior.weights.log().numpy() - determinants - constant
    return [white, Square(before + 1), Affine(((before + 2, -0.5 * sums),), bias)]


def _network(fitted: Fitted, model: LatentModel, outputs: Sequence[str]) -> Compiled:
    """Layers of a polynomial network, up to what the outputs need."""
    network = model.network
    if not isinstance(network, Network) or network.config.activation != "square":
        raise UsageError(f"this network's activations are no polynomials; fit {_LINEAR}")
    scored = "score" in outputs
    if scored and not isinstance(model.likelihood, Gaussian):
        raise UsageError(
            "a table's score is no polynomial; ask for --outputs codes or reconstruction (logits)"
        )
    inputs = network.config.inputs
    steps: list[Step] = []
    named = {"codes": _layers(steps, 0, network.encoder.body, network.encoder.mean, (inputs, scored))}
    if scored or "reconstruction" in outputs:
        wide = (network.config.latent, False)
        _layers(steps, named["codes"], network.decoder.body, network.decoder.logits, wide)
        drawn = steps.pop()
        assert isinstance(drawn, Affine)
        if scored:
            named["score"] = _squared_error(steps, drawn)
        if "reconstruction" in outputs:
            steps.append(drawn)
            named["reconstruction"] = len(steps)
    high = np.append(np.ones(inputs), float(inputs)) if scored else np.ones(inputs)
    if isinstance(fitted, FittedTable) and scored:
        high[-1] = len(fitted.codec.sizes)
    circuit = Circuit(np.zeros_like(high), high, tuple(steps), {name: named[name] for name in outputs})
    return Compiled(circuit, "as it is", norm=scored)


def _layers(
    steps: list[Step], source: int, body: nn.Module, head: nn.Linear, inputs: tuple[int, bool]
) -> int:
    """Append hidden layers and their head; which value the head is.

    inputs: how many numbers the first layer reads (those of a class that is not given are zero), and whether a number
    follows that it does not read.
    """
    linear = [layer for layer in [*body.modules(), head] if isinstance(layer, nn.Linear)]
    width, extended = inputs
    folded = False
    for layer in linear:
        weight, bias = _array(layer.weight)[:, :width], _array(layer.bias)
        if folded:
            weight, bias = 0.25 * weight, bias - 0.25 * weight.sum(1)
        if extended:
            weight, extended = np.hstack([weight, np.zeros((len(weight), 1))]), False
        hidden = layer is not head
        steps.append(Affine(((source, weight),), bias + 1.0 if hidden else bias))
        if hidden:
            steps.append(Square(len(steps)))
        source, width, folded = len(steps), len(bias), hidden
    return source


def _squared_error(steps: list[Step], drawn: Affine) -> int:
    """Append |x - D h - b|^2 in its Gram form; the input ends in |x|^2. Which value it is."""
    ((hidden, decoder),), bias = drawn.terms, drawn.bias
    gram = decoder.T @ decoder
    back = np.hstack([-2.0 * decoder.T, np.zeros((len(gram), 1))])
    steps.append(Affine(((hidden, gram), (0, back)), 2.0 * decoder.T @ bias))
    rest = np.append(-2.0 * bias, 1.0)
    steps.append(Inner(len(steps), hidden, (0, rest), float(bias @ bias)))
    return len(steps)


def _array(values: Tensor) -> Array:
    return values.detach().double().numpy()
