"""Terms: norms and sums are those of the gradients that they stand for, also where terms cancel or are not finite."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.layers import term
from privae.layers.records import squares
from privae.layers.term import Outer, Rows, Together, Tokens, Weights

FACTORS = torch.tensor([0.5, 0.0, 1.0, 0.25], dtype=torch.float64)


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def formed(outer):
    """The gradients that the products stand for, record by record and place by place."""
    product = outer.left.unsqueeze(-1) * outer.right.unsqueeze(-2)
    return product.sum(-3)


def check(found, rows, factors=FACTORS):
    """Norms and the weighted sum of a term against gradients given outright."""
    total = torch.zeros_like(rows[0])
    assert torch.allclose(found.squared_norms(), rows.flatten(1).square().sum(1), rtol=1e-10, atol=1e-14)
    found.add_to(total, Weights(factors))
    assert torch.allclose(total, torch.einsum("n,n...->...", factors, rows), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("places", "p", "q", "way"), [(1, 3, 5, "factored"), (3, 40, 50, "Gram"), (9, 2, 3, "outright")]
)
def test_products_give_the_norms_and_sums_of_their_gradients_in_every_way(places, p, q, way):
    outer = Outer(randoms(4, places, p), randoms(4, places, q, seed=1))
    assert outer.way == way
    check(outer, formed(outer))


def test_groups_of_products_are_formed_outright_and_arranged():
    outer = Outer(randoms(4, 2, 6, 3), randoms(4, 2, 6, 5, seed=1), lambda x: x.transpose(-1, -2))
    assert outer.way == "outright"
    check(outer, formed(outer).transpose(-1, -2))


def test_an_arrangement_is_applied_to_sums_and_rows_alike():
    outer = Outer(randoms(4, 1, 3), randoms(4, 1, 4, seed=1), lambda x: x.unflatten(-1, (2, 2)))
    check(outer, formed(outer).view(4, 3, 2, 2))
    assert torch.equal(outer.rows(slice(1, 3)), formed(outer)[1:3].view(2, 3, 2, 2))


@pytest.mark.parametrize("kept", [0, 2**22])
def test_gradients_that_are_not_kept_are_formed_again(monkeypatch, kept):
    monkeypatch.setattr(term, "KEPT", kept)
    monkeypatch.setattr(term, "CHUNK", 7)
    outer = Outer(randoms(4, 9, 2), randoms(4, 9, 3, seed=1))
    check(outer, formed(outer))


def test_a_record_built_to_cancel_is_formed_outright_and_not_believed():
    left = torch.zeros(4, 2, 40, dtype=torch.float64)
    left[:, 0, 0] = 1.0
    right = randoms(4, 2, 50) * 1e-9
    right[0, :, 0] = 1e9
    left[0, 1, 0] = -1.0
    outer = Outer(left, right)
    assert outer.way == "Gram"
    exact = formed(outer)
    naive = ((left @ left.mT) * (right @ right.mT)).sum((1, 2))
    truth = exact.flatten(1).square().sum(1)
    assert not torch.allclose(naive, truth, rtol=0.5, atol=0.0)
    assert torch.allclose(outer.squared_norms(), truth, rtol=1e-10, atol=0.0)
    check(outer, exact)


def test_rows_of_factor_zero_are_left_out_whatever_they_hold():
    left, right = randoms(4, 1, 3), randoms(4, 1, 5, seed=1)
    left[1], right[1] = torch.nan, torch.inf
    for outer in (Outer(left, right), Outer(left.expand(4, 3, 3), right.expand(4, 3, 5))):
        total = torch.zeros(3, 5, dtype=torch.float64)
        outer.squared_norms()
        outer.add_to(total, Weights(FACTORS))
        assert total.isfinite().all()
        assert not outer.squared_norms()[1].isfinite()
    values = Rows(left.squeeze(1))
    total = torch.zeros(3, dtype=torch.float64)
    values.add_to(total, Weights(FACTORS))
    assert torch.allclose(total, FACTORS[[0, 2, 3]] @ values.values[[0, 2, 3]])


def test_gram_rows_of_factor_zero_are_left_out_whatever_they_hold():
    left, right = randoms(4, 3, 40), randoms(4, 3, 50, seed=1)
    left[1, 0, 0] = torch.nan
    outer, total = Outer(left, right), torch.zeros(40, 50, dtype=torch.float64)
    assert outer.way == "Gram"
    assert not outer.squared_norms()[1].isfinite()
    outer.add_to(total, Weights(FACTORS))
    assert torch.allclose(total, torch.einsum("n,nij->ij", FACTORS[[0, 2, 3]], formed(outer)[[0, 2, 3]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_has_the_precision_of_its_total(dtype):
    outer = Outer(randoms(4, 1, 3).float(), randoms(4, 1, 5, seed=1).float())
    total = torch.zeros(3, 5, dtype=dtype)
    outer.add_to(total, Weights(FACTORS))
    exact = torch.einsum("n,nij->ij", FACTORS, formed(outer).double())
    assert torch.allclose(total.double(), exact, atol=1e-6)


def test_values_given_outright_are_their_own_rows():
    check(Rows(randoms(4, 2, 3)), randoms(4, 2, 3))


def test_equal_tokens_of_a_record_are_added_before_norms_are_taken():
    record, token = torch.tensor([0, 0, 3, 3, 3]), torch.tensor([1, 1, 0, 2, 0])
    rows = torch.tensor([[1.0, 2.0], [3.0, -2.0], [1.0, 0.0], [5.0, 5.0], [0.0, 1.0]])
    tokens = Tokens(record, token, rows, records=4, count=3)
    table = torch.zeros(4, 3, 2, dtype=torch.float64)
    table[0, 1] = torch.tensor([4.0, 0.0])
    table[3, 0] = torch.tensor([1.0, 1.0])
    table[3, 2] = torch.tensor([5.0, 5.0])
    check(tokens, table)
    assert torch.equal(tokens.rows(slice(1, 4)), table[1:4])
    assert tokens.squared_norms()[0] == 16.0


def test_tokens_of_a_record_that_is_left_out_leave_no_nan():
    rows = torch.tensor([[torch.nan], [1.0]])
    tokens = Tokens(torch.tensor([1, 2]), torch.tensor([0, 0]), rows, records=4, count=1)
    total = torch.zeros(1, 1, dtype=torch.float64)
    tokens.add_to(total, Weights(FACTORS))
    assert total.item() == 1.0


def terms(seed):
    outer = Outer(randoms(4, 2, 3, seed=seed), randoms(4, 2, 2, seed=seed + 1))
    tokens = Tokens(torch.tensor([0, 2, 2]), torch.tensor([1, 1, 0]), randoms(3, 2, seed=seed), 4, 3)
    return {"products": outer, "values": Rows(randoms(4, 3, 2, seed=seed)), "tokens": tokens}


@pytest.mark.parametrize("first", ["products", "values", "tokens"])
@pytest.mark.parametrize("second", ["products", "values", "tokens"])
def test_a_parameter_used_twice_has_the_sum_of_both_gradients(first, second):
    one, other = terms(0)[first], terms(5)[second]
    both = one.joined([other], alike=True)
    check(both, one.rows(slice(None)) + other.rows(slice(None)))
    assert isinstance(both, Together) == (first != second)


def test_products_arranged_otherwise_are_not_joined_as_products():
    one = terms(0)["products"]
    turned = Outer(one.right, one.left, lambda x: x.transpose(-1, -2))
    both = one.joined([turned], alike=False)
    assert isinstance(both, Together)
    check(both, 2 * one.rows(slice(None)))


@given(st.sampled_from(["products", "values", "tokens", "together"]))
@settings(max_examples=8, deadline=None)
def test_the_rows_of_a_unit_are_added_before_norms_are_taken(kind):
    parts = terms(0)
    found = Together((parts["products"], parts["tokens"])) if kind == "together" else parts[kind]
    rows = found.rows(slice(None))
    check(found.grouped(2), rows.view(2, 2, *rows.shape[1:]).sum(1), FACTORS[[0, 1]])


def test_groups_of_places_are_regrouped_by_unit():
    outer = Outer(randoms(4, 2, 6, 3), randoms(4, 2, 6, 5, seed=1))
    check(outer.grouped(2), formed(outer).view(2, 2, 2, 3, 5).sum(1), FACTORS[[0, 1]])


def test_norms_are_remembered_only_for_the_same_numbers():
    shared, memo = randoms(4, 1, 3), {}
    first, second = Outer(shared, randoms(4, 1, 5)), Outer(shared, randoms(4, 1, 2, seed=1))
    assert torch.allclose(first.squared_norms(memo), first.squared_norms())
    assert torch.allclose(second.squared_norms(memo), second.squared_norms())
    assert len(memo) == 3
    turned = Rows(randoms(3, 4).T)
    assert torch.allclose(turned.squared_norms(memo), turned.squared_norms())
    assert torch.allclose(Rows(shared[:, :, :2]).squared_norms(memo), squares(shared[:, :, :2]))


@pytest.mark.parametrize("width", [1, 3, 300, 784, 6 * 784, 4099, 10**6])
def test_squares_of_float32_rows_lose_at_most_what_is_charged(width):
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 1e4
    exact = rows.double().square().sum(1)
    assert ((squares(rows) / exact).sqrt() > 1 - 2**-15).all()
    assert torch.allclose(squares(rows), exact, rtol=2**-14)
    assert squares(rows.double()).tolist() == pytest.approx(exact.tolist(), rel=1e-10)


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e-25, 1e-20, 0.0, 1e-16])
def test_squares_that_underflow_are_never_taken_for_less(size):
    rows = torch.full((1, 784), size)
    assert squares(rows) >= rows.double().square().sum(1) * (1 - 2**-14)
    assert squares(rows) < 1e-28


def test_squares_that_overflow_are_infinite_and_no_rows_have_none():
    assert squares(torch.full((1, 4), 1e30)).isinf().all()
    assert squares(torch.zeros(0, 3)).shape == (0,)


def test_factors_whose_products_cancel_between_places_are_not_rounded():
    """Rounded to bfloat16, where the processor multiplies those, this record's sum was 1.09 of its norm."""
    left, right = torch.zeros(64, 2, 64), torch.zeros(64, 2, 64)
    left[0], right[0, 0], right[0, 1] = 1.0, 1 + 1.001 * 2.0**-8, -0.93944
    outer, total = Outer(left, right), torch.zeros(64, 64)
    norms = outer.squared_norms().sqrt()
    assert outer.way == "Gram"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        outer.add_to(total, Weights(1 / norms.clamp(min=1e-3)))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert abs(float(total.double().norm()) - 1) < 2.0**-14
