"""Records as the tensors that networks read, and back to arrays."""

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def unit(images: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1]: uint8 [n, h, w] -> float32 [n, h w]."""
    return images.flatten(1).float() / 255.0


def no_labels(count: int) -> torch.Tensor:
    """Labels that are not given: [n]."""
    return torch.full((count,), -1, dtype=torch.int64)


def arrays(parts: dict[str, torch.Tensor]) -> dict[str, Floats]:
    """`array` of each part."""
    return {name: array(part) for name, part in parts.items()}


def array(values: torch.Tensor) -> Floats:
    """A tensor as an array of float64."""
    return values.double().numpy()
