"""Rules of tables: a record's gradient fills the rows of the tokens that it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from privae.errors import PrivacyRefused
from privae.layers.records import Memo, squares
from privae.layers.rule import Rule, Spot, only_input, trains
from privae.layers.term import Term, Tokens, Weights

_Table = nn.Embedding | nn.EmbeddingBag


class EmbeddingRule:
    """Embedding: each token's row gets the gradient at its place."""

    def covers(self, layer: nn.Embedding) -> bool:
        """Plain tables only; padding_idx is covered."""
        return _is_plain(layer)

    def spots(
        self, layer: nn.Embedding, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> tuple[Tensor, list[Spot]]:
        """One spot: the output. A token without a row axis is one row."""
        source = only_input(args, kwargs)
        tokens = source.flatten(1) if source.ndim > 1 else source.reshape(-1, 1)

        def terms(gradient: Tensor) -> dict[str, Term]:
            if not trains(layer, "weight"):
                return {}
            record, token = _records(tokens), tokens.flatten().long()
            rows = gradient.reshape(-1, layer.embedding_dim)
            if layer.padding_idx is not None:
                live = token != layer.padding_idx
                record, token, rows = record[live], token[live], rows[live]
            return {"weight": Tokens(record, token, rows, len(tokens), layer.num_embeddings)}

        return output, [Spot(output, terms)]


class EmbeddingBagRule:
    """EmbeddingBag of tokens [n, t]: each token's row gets the record's gradient times the token's share."""

    def covers(self, layer: nn.EmbeddingBag) -> bool:
        """Sums and means of plain tables; padding_idx and weights of a sum are covered."""
        return _is_plain(layer) and layer.mode in {"sum", "mean"} and not layer.include_last_offset

    def spots(
        self, layer: nn.EmbeddingBag, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> tuple[Tensor, list[Spot]]:
        """One spot: the output.

        Errors: PrivacyRefused for a flat list of tokens with offsets: it does not say which record's they are.
        """
        tokens = only_input(args, kwargs)
        if tokens.ndim != 2:
            raise PrivacyRefused(
                "EmbeddingBag is called with offsets, which do not keep one row a record; give it tokens [n, t]"
            )
        weights = args[2] if len(args) > 2 else kwargs.get("per_sample_weights")
        shares = _shares(layer, tokens, None if weights is None else weights.detach())

        def terms(gradient: Tensor) -> dict[str, Term]:
            bags = Bags(tokens.long(), shares, gradient, layer.num_embeddings)
            return {"weight": bags} if trains(layer, "weight") else {}

        return output, [Spot(output, terms)]


RULES: Final[dict[type[nn.Module], Rule]] = {
    nn.Embedding: EmbeddingRule(),
    nn.EmbeddingBag: EmbeddingBagRule(),
}


@final
@dataclass(eq=False)
class Bags(Term):
    """Gradients of a table whose rows are added in bags: row token[i, j] gets share[i, j] * gradient[i].

    Shapes: tokens, shares [n, t], gradient [n, d], for a table [count, d]. Equal tokens of a record are added
    first. Nothing of the size [n, t, d] is formed, unless bags of several rows or calls are put together.
    """

    tokens: Int64[Tensor, "n t"]
    shares: Float64[Tensor, "n t"]
    gradient: Float[Tensor, "n d"]
    count: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.tokens)

    @property
    def size(self) -> int:
        """Numbers in one gradient, were it formed."""
        return self.count * self.gradient.shape[1]

    def grouped(self, rows: int) -> Tokens:
        """The tokens of all rows of a unit are the unit's."""
        return self._as_tokens().grouped(rows)

    def joined(self, others: Sequence[Term], *, alike: bool) -> Term:
        """Tokens of all."""
        plain = [term._as_tokens() if isinstance(term, Bags) else term for term in others]
        return self._as_tokens().joined(plain, alike=alike)

    def rows(self, part: slice) -> Tensor:
        """Gradients of these records as tables: [b, count, d]."""
        return self._as_tokens().rows(part)

    def squared_norms(self, memo: Memo | None = None) -> Float64[Tensor, "n"]:  # noqa: ARG002
        """Squared norm of each record's gradient, [n]."""
        record, _, share = self._pairs
        return share.new_zeros(self.n).index_add(0, record, share.square()) * squares(self.gradient)

    def add_to(self, total: Tensor, weights: Weights) -> None:
        """Add the sum of factor * gradient to the table `total` [count, d], as a product with a sparse matrix."""
        record, token, share = self._pairs
        factors = weights.factors[record]
        values = torch.where(factors > 0, share * factors, 0.0).to(total.dtype)
        places = torch.stack([token, record])
        matrix = torch.sparse_coo_tensor(places, values, (self.count, self.n), check_invariants=False)
        total.view(self.count, -1).addmm_(matrix, weights.cleared(self.gradient).to(total.dtype))

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(record, token, share in float64) of the distinct pairs."""
        keys = _records(self.tokens) * self.count + self.tokens.flatten()
        pairs, place = torch.unique(keys, return_inverse=True)
        share = self.shares.new_zeros(len(pairs)).index_add(0, place, self.shares.flatten())
        return pairs // self.count, pairs % self.count, share

    def _as_tokens(self) -> Tokens:
        record, token, share = self._pairs
        rows = self.gradient[record] * share[:, None].to(self.gradient.dtype)
        return Tokens(record, token, rows, self.n, self.count)


def _is_plain(layer: _Table) -> bool:
    # privacy: max_norm rewrites weights by the tokens seen; scale_grad_by_freq divides by batch counts
    return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse


def _records(tokens: Tensor) -> Tensor:
    """The record of each token, flat."""
    return torch.arange(len(tokens), device=tokens.device).repeat_interleave(tokens.shape[1])


def _shares(layer: nn.EmbeddingBag, tokens: Tensor, weights: Tensor | None) -> Tensor:
    """What a token counts in its bag, [n, t] float64: its weight, or 1, or one part in the tokens; padding 0."""
    live = torch.ones_like(tokens) > 0 if layer.padding_idx is None else tokens != layer.padding_idx
    shares = live.double() if weights is None else weights.double()
    if layer.mode == "mean":
        shares = shares / live.sum(1, keepdim=True)
    return torch.where(live, shares, 0.0)
