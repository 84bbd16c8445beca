"""The fitted model of a table: a product mixture to sample and score from, and a network to embed with."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from privae.models.networks import Network, restored
from privae.models.priors import ProductMixture

UNKNOWN = 1e-6  # probability given to a value that the schema has no cell for


@dataclass(frozen=True)
class TableModel:
    """Codes of all m columns in and out; the mixture may hold one of them, the label, as its classes.

    Shapes: sizes [m] cells of every column; label: place of the splitting label, or None.
    """

    mixture: ProductMixture
    network: Network
    sizes: tuple[int, ...]
    label: int | None

    @property
    def columns(self) -> list[int]:
        """Places of the columns inside the mixture."""
        return [i for i in range(len(self.sizes)) if i != self.label]

    def sample(self, count: int, generator: torch.Generator) -> Int[Tensor, "n m"]:
        """Codes of new records [count, m]."""
        codes, classes = self.mixture.sample(count, generator)
        result = torch.empty(count, len(self.sizes), dtype=torch.int64)
        result[:, self.columns] = codes
        if self.label is not None:
            result[:, self.label] = classes
        return result

    def log_likelihood(self, codes: Int[Tensor, "n m"]) -> Float[Tensor, "n"]:
        """Log-evidence of records under the mixture, an evidence lower bound whose gap is zero: [n, m] -> [n].

        Edges: a label that is not given (-1) is summed out; any other -1 counts as a value of probability 1e-6.
        """
        inside = codes[:, self.columns]
        joint = self.mixture.log_joint(onehot(inside, self.mixture.sizes))
        unknown = (inside < 0).sum(1) * torch.log(torch.tensor(UNKNOWN, dtype=torch.float64))
        if self.label is None:
            return torch.logsumexp(joint, 1) + unknown
        label = codes[:, self.label]
        given = joint.gather(1, label.clamp(min=0)[:, None])[:, 0]
        return torch.where(label >= 0, given, torch.logsumexp(joint, 1)) + unknown

    def embed(self, codes: Int[Tensor, "n m"]) -> Float[Tensor, "n k"]:
        """Latent codes, the means of the network's posterior: [n, m] -> [n, k]."""
        with torch.no_grad():
            mean, _ = self.network.encode(onehot(codes, torch.tensor(self.sizes)))
        return mean

    def state(self) -> dict[str, Tensor]:
        """Everything learned, by name."""
        weights = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return {"weights": self.mixture.weights, "log_cells": self.mixture.log_cells, **weights}

    def config(self) -> dict[str, Any]:
        """Everything public that `load` needs besides the state."""
        return {"sizes": list(self.sizes), "label": self.label, "network": self.network.to_config()}

    @classmethod
    def load(cls, config: dict[str, Any], state: dict[str, Tensor]) -> "TableModel":
        """Inverse of `config` and `state`."""
        sizes, label = tuple(config["sizes"]), config["label"]
        inside = torch.tensor([size for i, size in enumerate(sizes) if i != label])
        mixture = ProductMixture(state["weights"], state["log_cells"], inside)
        network, classes = loaded_network(config["network"], state), 1 if label is None else sizes[label]
        c, _, cells = mixture.log_cells.shape
        if (c, len(mixture.weights), cells) != (classes, classes, int(inside.sum())):
            raise ValueError("a mixture of other classes or cells than its table has")
        if network.config.inputs != sum(sizes):
            raise ValueError("a network of other inputs than its table has cells")
        return cls(mixture, network, sizes, label)


def onehot(codes: Int[Tensor, "n m"], sizes: Int[Tensor, "m"]) -> Float[Tensor, "n d"]:
    """One 1 a column at its cell, nothing for -1: [n, m] -> float32 [n, cells]."""
    starts, cells = sizes.cumsum(0) - sizes, int(sizes.sum())
    places = torch.where(codes >= 0, codes + starts, cells)
    return torch.zeros(len(codes), cells + 1).scatter_(1, places, 1.0)[:, :cells]


def loaded_network(config: dict[str, Any], state: dict[str, Tensor], prefix: str = "network.") -> Network:
    """A network of these sizes with the weights stored under a prefix, ready to evaluate."""
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    made = restored(lambda: Network.from_config(config), len(config["hidden"]), weights)
    assert isinstance(made, Network)
    return made
