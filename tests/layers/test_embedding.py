"""Tables: by rule, each record's gradient is the one of the record alone, also where it holds a token twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privae.errors import PrivacyRefused
from privae.layers.capture import capture, covered
from privae.layers.term import Weights

TABLES = {
    "one token": (lambda: nn.Embedding(7, 3), ()),
    "tokens": (lambda: nn.Embedding(7, 3), (6,)),
    "tokens at places": (lambda: nn.Embedding(7, 3), (2, 4)),
    "padded": (lambda: nn.Embedding(7, 3, padding_idx=2), (2, 4)),
    "padded by the last": (lambda: nn.Embedding(7, 3, padding_idx=-1), (6,)),
    "sum": (lambda: nn.EmbeddingBag(7, 3, mode="sum"), (6,)),
    "sum, padded": (lambda: nn.EmbeddingBag(7, 3, mode="sum", padding_idx=-1), (6,)),
    "mean": (lambda: nn.EmbeddingBag(7, 3, mode="mean"), (6,)),
    "mean, padded": (lambda: nn.EmbeddingBag(7, 3, mode="mean", padding_idx=0), (6,)),
}


def tokens(*shape, seed=0):
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(seed))


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_each_record_the_gradient_of_the_record_alone(check, name, n):
    make, shape = TABLES[name]
    check(make().double(), tokens(n, *shape))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=4), st.data())
def test_any_tokens_are_exact_in_tables_and_bags(check, rows, data):
    padding = data.draw(st.sampled_from([None, 0, 3]))
    mode = data.draw(st.sampled_from(["sum", "mean"]))
    places = torch.tensor(rows)
    check(nn.Embedding(4, 2, padding_idx=padding).double(), places)
    check(nn.EmbeddingBag(4, 2, mode=mode, padding_idx=padding).double(), places)


def test_a_bag_of_padding_alone_has_no_gradient():
    bag = nn.EmbeddingBag(4, 2, mode="mean", padding_idx=1).double()
    terms = capture(bag, lambda model, parts: model(*parts).sum(1), (torch.tensor([[1, 1], [1, 3]]),))
    # the second record's bag is the row of token 3 alone, summed over two numbers
    assert terms[bag.weight].squared_norms().tolist() == pytest.approx([0.0, 2.0])


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("padding", [None, 2])
def test_weights_of_a_bag_scale_its_rows_and_get_their_own_gradient(check, padding, named):
    class Weighing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weigh, self.bag = nn.Linear(2, 6), nn.EmbeddingBag(7, 3, mode="sum", padding_idx=padding)

        def forward(self, places, x):
            weights = self.weigh(x)
            if named:
                return self.bag(input=places, per_sample_weights=weights)
            return self.bag(places, None, weights)

    check(
        Weighing().double(),
        tokens(5, 6),
        randoms(5, 2),
        loss=lambda model, parts: model(*parts).cos().sum(1),
    )


@pytest.mark.parametrize("name", TABLES)
def test_several_calls_and_several_rows_of_a_record_add_up(check, waves, name):
    make, shape = TABLES[name]

    def loss(model, parts):
        rows = parts[0].flatten(0, 1)
        found = waves(model, (rows,)) + waves(model, ((rows + 1) % 7,))
        return found.unflatten(0, (-1, 4)).sum(1).square()

    check(make().double(), tokens(3, 4, *shape), loss=loss)


@pytest.mark.parametrize("name", ["tokens", "padded", "sum", "mean, padded"])
def test_a_record_that_is_not_finite_leaves_the_others_alone(waves, name):
    def loss(model, parts):
        return waves(model, parts[:1]) * parts[1]

    make, shape = TABLES[name]
    table, places, scale = make().double(), tokens(4, *shape), torch.ones(4, dtype=torch.float64)
    clean = capture(table, loss, (places, scale))[table.weight]
    dirty = capture(table, loss, (places, torch.where(torch.arange(4) == 2, torch.nan, scale)))[table.weight]
    expected, found = clean.squared_norms(), dirty.squared_norms()
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])
    assert found[2].isnan()
    totals = [torch.zeros_like(table.weight, requires_grad=False) for _ in range(2)]
    for total, term in zip(totals, (clean, dirty), strict=True):
        term.add_to(total, Weights(found.isfinite().double()))
    assert torch.equal(*totals)


def test_a_token_without_a_row_axis_is_one_row(check):
    table = nn.Embedding(7, 3).double()
    check(table, tokens(1), loss=lambda model, parts: model(parts[0][0]).cos().sum()[None])
    with pytest.raises(PrivacyRefused, match="same number of rows"):
        capture(table, lambda model, parts: model(parts[0][0]).sum().expand(2), (tokens(2),))


def test_narrow_integers_are_tokens_too(check):
    check(nn.Embedding(7, 3).double(), tokens(3, 4).int())
    check(nn.EmbeddingBag(7, 3, mode="mean").double(), tokens(3, 4).int())


def test_a_frozen_table_has_no_terms(waves):
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    assert set(capture(model, waves, (tokens(4),))) == set(model[1].parameters())


def test_a_bag_with_offsets_is_refused():
    bag = nn.EmbeddingBag(7, 3, mode="sum")
    with pytest.raises(PrivacyRefused, match="offsets"):
        capture(bag, lambda model, parts: model(parts[0], torch.arange(4)).sum(1), (tokens(4),))


@pytest.mark.parametrize(
    "options",
    [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}, {"include_last_offset": True}],
)
def test_options_that_look_at_the_batch_are_not_covered(options):
    assert covered(nn.Embedding(7, 3, padding_idx=0))
    assert covered(nn.EmbeddingBag(7, 3, mode="sum", padding_idx=0))
    if "include_last_offset" not in options:
        assert not covered(nn.Embedding(7, 3, **options))
    assert not covered(nn.EmbeddingBag(7, 3, mode="sum", **options))
    assert not covered(nn.EmbeddingBag(7, 3, mode="max"))


@pytest.mark.parametrize("name", ["tokens", "mean, padded"])
def test_a_table_is_summed_by_rule_as_clipped_record_by_record(check_sum, name):
    def loss(model, parts):
        found = model(*parts)
        return (found - 0.3).square().flatten(found.ndim - (2 if name == "tokens" else 1)).sum(-1)

    make, shape = TABLES[name]
    model, parts = nn.Sequential(make(), nn.Linear(3, 2)).double(), (tokens(5, *shape),)
    check_sum(model, *parts, loss=loss)
