"""Rules of convolutions: every place of a record adds the product of a number's gradient and a patch of the image.

A transposed convolution is the same with input and gradient in each other's part. Patches take many times the
memory of the image, so they are cut out for a few records at a time, in the order that copies the longest runs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, final

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from privae.layers.records import Memo, squares
from privae.layers.rule import Rule, Spot, only_input, trains
from privae.layers.term import KEPT, Outer, Rows, Term, Weights

_Pair = tuple[int, int]
_Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
_PIECE: Final = 2**19  # numbers of patches or gradients at a time: they stay in the cache


class ConvolutionRule:
    """Conv1d, Conv2d, ConvTranspose1d and ConvTranspose2d with any stride, dilation, groups and zero padding."""

    def covers(self, layer: _Convolution) -> bool:
        """Padding by zeros only."""
        return layer.padding_mode == "zeros"

    def spots(
        self, layer: _Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> tuple[Tensor, list[Spot]]:
        """One spot: the output. An input without a row axis counts as one row."""
        source = _planes(only_input(args, kwargs), layer)

        def terms(gradient: Tensor) -> dict[str, Term]:
            gradient = _planes(gradient, layer)
            found: dict[str, Term] = {}
            if trains(layer, "weight"):
                found["weight"] = _weight_term(layer, source, gradient)
            if trains(layer, "bias"):
                found["bias"] = Rows(gradient.sum((2, 3)))
            return found

        return output, [Spot(output, terms)]


RULES: Final[dict[type[nn.Module], Rule]] = dict.fromkeys(
    (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d), ConvolutionRule()
)


@dataclass(frozen=True)
class Window:
    """Where a kernel looks: its size, step, spread, the zeros before the first row and column, and how often."""

    kernel: _Pair
    stride: _Pair
    dilation: _Pair
    padding: _Pair
    places: _Pair

    @property
    def count(self) -> int:
        """Number of places."""
        return math.prod(self.places)

    @property
    def needs(self) -> list[int]:
        """Height and width of the padded image."""
        sizes = zip(self.places, self.stride, self.dilation, self.kernel, strict=True)
        return [(count - 1) * stride + spread * (kernel - 1) + 1 for count, stride, spread, kernel in sizes]


def patches(
    image: Float[Tensor, "n groups c height width"], window: Window, *, last: bool
) -> Float[Tensor, "n groups places q"]:
    """What the kernel sees at each place, in one copy besides that of the padded image.

    Shapes: image [n, G, c, H, W] -> [n, G, L, q] of L places and q = kernel height * kernel width * c numbers,
    in this order if channels come `last`, else c first. Channels last copy runs of kernel width * c numbers,
    channels first runs of a row of places.
    """
    n, groups, channels, *_ = image.shape
    padded = _padded(image.permute(0, 1, 3, 4, 2) if last else image, window, 2 if last else 3)
    group, row, column, channel = (padded.stride(axis) for axis in ((1, 2, 3, 4) if last else (1, 3, 4, 2)))
    position = [(window.places[0], row * window.stride[0]), (window.places[1], column * window.stride[1])]
    offset = [(window.kernel[0], row * window.dilation[0]), (window.kernel[1], column * window.dilation[1])]
    depth = [(channels, channel)]
    axes = position + offset + depth if last else depth + offset + position
    sizes, steps = zip((n, padded.stride(0)), (groups, group), *axes, strict=True)
    seen = padded.as_strided(sizes, steps)
    size = channels * math.prod(window.kernel)
    if last:
        return seen.reshape(n, groups, window.count, size)
    return seen.reshape(n, groups, size, window.count).mT


def _padded(image: Tensor, window: Window, axis: int) -> Tensor:
    """The image, contiguous, with zeros around its height and width: `axis` and the next."""
    size = image.shape[axis : axis + 2]
    # strides that skip the last rows, and output padding, leave an image larger than needed
    sizes = zip(window.needs, window.padding, size, strict=True)
    whole = [max(needed, before + own) for needed, before, own in sizes]
    if whole == list(size):
        return image.contiguous()
    padded = image.new_zeros(*image.shape[:axis], *whole, *image.shape[axis + 2 :])
    inner = padded.narrow(axis, window.padding[0], size[0]).narrow(axis + 1, window.padding[1], size[1])
    inner.copy_(image)
    return padded


@final
@dataclass(eq=False)
class Patched(Term):
    """Gradients of a kernel of many places: sum over places t of left[i, t]' patch[i, t], formed outright.

    Shapes: left [rows, G, L, p], image [rows, G, c, H, W], L the places of the window; `shape` is the weight's.
    A unit is `each` consecutive rows. Up to `KEPT` numbers are kept between norms and sum, else formed again.
    """

    left: Float[Tensor, "rows groups places p"]
    image: Float[Tensor, "rows groups c height width"]
    window: Window
    shape: tuple[int, ...]
    each: int = 1
    _kept: list[Tensor] = field(default_factory=list, init=False, repr=False)

    @property
    def n(self) -> int:
        """Number of units."""
        return len(self.left) // self.each

    @property
    def size(self) -> int:
        """Numbers in one gradient."""
        return math.prod(self.shape)

    def grouped(self, rows: int) -> "Patched":
        """The same for units of `rows` times as many rows."""
        return replace(self, each=self.each * rows)

    def rows(self, part: slice) -> Tensor:
        """Gradients of these units: [b, *shape]."""
        return self._arranged(self._products(part))

    def squared_norms(self, memo: Memo | None = None) -> Float64[Tensor, "n"]:  # noqa: ARG002
        """Squared norm of each unit's gradient, [n]."""
        keep = self.n * self.size <= KEPT
        self._kept.clear()
        found = []
        for part in self._parts():
            products = self._products(part)
            found.append(squares(products))
            if keep:
                self._kept.append(products)
        return torch.cat(found)

    def add_to(self, total: Tensor, weights: Weights) -> None:
        """Add the sum of factor * gradient to `total`; units of factor 0 are left out."""
        found: Tensor | None = None
        for place, part in enumerate(self._parts()):
            products = self._kept[place] if self._kept else self._products(part)
            found = total.new_zeros(products.shape[1:]) if found is None else found
            Rows(products).add_to(found, weights.part(part))
        if found is not None:
            total.add_(self._arranged(found))

    def _parts(self) -> Iterator[slice]:
        _, _, count, p = self.left.shape
        numbers = max(self.size, self.each * self.size // p * count)
        step = max(1, _PIECE // numbers)
        return (slice(start, min(start + step, self.n)) for start in range(0, self.n, step))

    def _products(self, part: slice) -> Tensor:
        """[b, G, p, q]."""
        start, stop, _ = part.indices(self.n)
        rows = slice(start * self.each, stop * self.each)
        products = self.left[rows].mT @ patches(self.image[rows], self.window, last=self._last)
        return products if self.each == 1 else torch.unflatten(products, 0, (stop - start, self.each)).sum(1)

    @property
    def _last(self) -> bool:
        width = self.window.kernel[1] if self.window.dilation[1] == 1 else 1
        return width * self.image.shape[2] >= self.window.places[1]

    def _arranged(self, products: Tensor) -> Tensor:
        return _arranged(products, 3, self.window.kernel if self._last else None, self.shape)


def _weight_term(layer: _Convolution, source: Tensor, gradient: Tensor) -> Outer | Patched:
    pair = (source, gradient) if layer.transposed else (gradient, source)
    small, image = (torch.unflatten(tensor, 1, (layer.groups, -1)) for tensor in pair)
    left, window = small.flatten(3).mT, _window(layer, (small.shape[3], small.shape[4]))
    size = image.shape[2] * math.prod(window.kernel)
    if layer.groups > 1 or Outer(left[:0, 0], left.new_empty(0, window.count, size)).way == "outright":
        return Patched(left, image, window, tuple(layer.weight.shape))
    # calls on images of other sizes must give products of the same order
    right = patches(image, window, last=True)
    arrange = partial(_arranged, axes=2, kernel=window.kernel, shape=tuple(layer.weight.shape))
    return Outer(left[:, 0], right[:, 0], arrange)


def _arranged(products: Tensor, axes: int, kernel: _Pair | None, shape: tuple[int, ...]) -> Tensor:
    """[*lead, (G,) p, q] -> [*lead, *shape]; kernel: its size if channels come last in q."""
    lead = products.shape[: products.ndim - axes]
    if kernel is not None:
        products = torch.unflatten(products, -1, (*kernel, -1)).movedim(-1, -3)
    return products.reshape(*lead, *shape)


def _window(layer: _Convolution, places: _Pair) -> Window:
    kernel, stride, dilation = (_pair(size, 1) for size in (layer.kernel_size, layer.stride, layer.dilation))
    if layer.padding == "valid":
        before = (0, 0)
    elif layer.padding == "same":
        before = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    else:
        before = _pair(layer.padding, 0)
    return Window(kernel, stride, dilation, before, places)


def _pair(size: Any, above: int) -> _Pair:  # noqa: ANN401
    """(height, width) of an option of a layer; a signal has height 1."""
    return (size[0], size[1]) if len(size) == 2 else (above, size[0])


def _planes(tensor: Tensor, layer: _Convolution) -> Tensor:
    """[n, c, h, w], with height 1 for signals."""
    flat = len(layer.kernel_size) == 1
    tensor = tensor if tensor.ndim == 4 - flat else tensor[None]
    return tensor.unsqueeze(2) if flat else tensor
