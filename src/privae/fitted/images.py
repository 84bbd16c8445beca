"""Fitted images: arrays in and out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privae.data.images import ImageSchema
from privae.errors import UsageError
from privae.fitted.tensors import Floats, array, arrays, no_labels, unit
from privae.models.image import ImageModel
from privae.models.latent import LatentModel


@dataclass(frozen=True)
class FittedImages:
    """A model of images: arrays in and out. Scores and codes use no labels."""

    schema: ImageSchema
    model: ImageModel | LatentModel
    kind: str = "image"

    def sample(self, count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.object_] | None]:
        """`count` new images, uint8 [n, h, w], and their labels as texts, or None."""
        generator = torch.Generator().manual_seed(seed)
        pixels, classes = self.model.sample(count, generator)
        if isinstance(self.model, LatentModel):
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        x = pixels.view(-1, self.schema.height, self.schema.width).numpy()
        if not isinstance(self.schema.classes, tuple):
            return x, None
        return x, np.array(self.schema.classes, dtype=object)[classes.numpy()]

    def score(self, data: NDArray[np.uint8]) -> Floats:
        """Log-likelihood bound of every image, [n]."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return array(self.model.log_likelihood(unit(x), no_labels(len(x))))
        return array(self.model.log_likelihood(x, no_labels(len(x))))

    def embed(self, data: NDArray[np.uint8]) -> Floats:
        """Latent codes of every image, [n, k]."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return array(self.model.embed(unit(x), no_labels(len(x))))
        return array(self.model.embed(x))

    def parts(self, data: NDArray[np.uint8]) -> dict[str, Floats]:
        """What the bound of every image is made of, [n] each; see `LatentModel.parts` and `ImageModel.parts`."""
        x = torch.from_numpy(self._checked(data))
        if isinstance(self.model, LatentModel):
            return arrays(self.model.parts(unit(x), no_labels(len(x))))
        return arrays(self.model.parts(x))

    def sampled_scores(self, count: int, data: NDArray[np.uint8]) -> Floats:  # noqa: ARG002
        """Scores of the model's own samples."""
        return self.score(self.sample(count, 0)[0])

    def _checked(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shape = self.schema.height, self.schema.width
        if data.ndim != 3 or data.shape[1:] != shape or data.dtype != np.uint8:
            raise UsageError(f"images must be uint8 [n, {shape[0]}, {shape[1]}] as in the fit")
        return np.ascontiguousarray(data)
