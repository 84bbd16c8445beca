"""A fitted table: DataFrames in and out."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae.data.codec import Codec
from privae.data.schema import Schema
from privae.fitted.tensors import Floats, array, arrays, no_labels
from privae.models.latent import LatentModel
from privae.models.likelihoods import Categorical
from privae.models.table import TableModel


@dataclass(frozen=True)
class FittedTable:
    """A table's model: DataFrames in and out."""

    schema: Schema
    model: TableModel | LatentModel
    kind: str = "table"

    @property
    def codec(self) -> Codec:
        """The codec of the final schema."""
        return Codec(self.schema)

    def sample(self, count: int, seed: int) -> pd.DataFrame:
        """`count` new rows: the schema's columns, order and dtypes."""
        return self.codec.decode(self._codes(count, seed), np.random.default_rng(seed))

    def score(self, data: pd.DataFrame) -> Floats:
        """Log-likelihood bound of every row, [n]."""
        return self.score_codes(self.codec.encode(data))

    def embed(self, data: pd.DataFrame) -> Floats:
        """Latent codes of every row, [n, k]; the label is not used."""
        codes = self.codec.encode(data)
        if self.codec.label is not None:
            codes[:, self.codec.label] = -1
        if isinstance(self.model, TableModel):
            return array(self.model.embed(torch.from_numpy(codes.astype(np.int64))))
        return array(self.model.embed(self.codec.onehot(codes), no_labels(len(codes))))

    def parts(self, data: pd.DataFrame) -> dict[str, Floats]:
        """What a network's bound of every row is made of, [n] each; see `LatentModel.parts`."""
        codes, vae = self.codec.encode(data), self.model
        if isinstance(vae, TableModel):
            likelihood, size = Categorical(vae.sizes), vae.network.config.latent
            vae = LatentModel(vae.network, likelihood, torch.ones(1, dtype=torch.float64), size)
        return arrays(vae.parts(self.codec.onehot(codes), no_labels(len(codes))))

    def sampled_scores(self, count: int, data: pd.DataFrame) -> Floats:
        """Scores of the model's own samples, without a label if `data` has none."""
        codes = self._codes(count, 0)
        label = self.codec.label
        if label is not None and self.schema.label not in data.columns:
            codes[:, label] = -1
        return self.score_codes(codes)

    def score_codes(self, codes: NDArray[np.int32]) -> Floats:
        """`score` of encoded rows, int32 [n, m] -> [n]; a label of -1 is not given."""
        if isinstance(self.model, TableModel):
            return array(self.model.log_likelihood(torch.from_numpy(codes.astype(np.int64))))
        return array(self.model.log_likelihood(self.codec.onehot(codes), no_labels(len(codes))))

    def _codes(self, count: int, seed: int) -> NDArray[np.int32]:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.model, TableModel):
            return self.model.sample(count, generator).numpy().astype(np.int32)
        onehot, _ = self.model.sample(count, generator)
        blocks = torch.split(onehot, self.codec.sizes.tolist(), 1)
        return torch.stack([block.argmax(1) for block in blocks], 1).numpy().astype(np.int32)
