"""Residues: products with plain matrices, sums and bytes are exact, number by number, for primes of every size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.ckks import residues
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import primes_of

PRIMES = primes_of(Parameters(8192, (50, 38, 30, 22, 50)))


def drawn(seed, *shape, primes=PRIMES):
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, prime, shape, dtype=np.uint64) for prime in primes]
    for column, prime in zip(columns, primes, strict=True):
        column.flat[:3] = [0, 1, prime - 1]
    return np.stack(columns, -2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.integers(0, 34))
def test_a_product_is_that_of_integers(seed, outputs, inputs, bits):
    rng = np.random.default_rng(seed)
    values = drawn(seed, inputs, 2, 64)  # [inputs, parts, primes, N]
    weights = rng.integers(-(2**bits), 2**bits + 1, (outputs, inputs)).astype(np.float64)
    added = [int(number) for number in rng.integers(-(2**60), 2**60, outputs)]

    found = residues.product(list(values), weights, PRIMES, added)

    whole = np.tensordot(weights.astype(np.int64).astype(object), values.astype(object), 1)
    whole[:, 0] += np.array(added, dtype=object)[:, None, None]
    for i, prime in enumerate(PRIMES):
        assert (found[:, :, i] == whole[:, :, i] % prime).all()


def test_all_residues_at_their_largest_are_exact_at_the_widest_layer():
    values = np.stack([np.full((2, 64), prime - 1, np.uint64) for prime in PRIMES], 1)
    weights = np.full((3, 784), 2.0**30)
    found = residues.product([values] * 784, weights, PRIMES)
    for i, prime in enumerate(PRIMES):
        assert (found[:, :, i] == 784 * 2**30 * (prime - 1) % prime).all()


def test_weights_that_no_limb_makes_exact_are_refused():
    with pytest.raises(OverflowError, match="weights too large"):
        residues.product([drawn(0, 2, 64)], np.full((1, 1), 2.0**53), PRIMES)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_products_sums_and_differences_are_those_of_integers(seed):
    left, right = drawn(seed, 64), drawn(seed + 1, 64)
    for i, prime in enumerate(PRIMES):
        a, b = left[i], right[i]
        whole = a.astype(object), b.astype(object)
        assert (residues.multiplied(a, b, prime) == whole[0] * whole[1] % prime).all()
        assert (residues.plus(a, b, prime) == (whole[0] + whole[1]) % prime).all()
        assert (residues.minus(a, b, prime) == (whole[0] - whole[1]) % prime).all()


def test_bytes_are_as_few_as_the_primes_allow_and_come_back():
    values = drawn(3, 2, 64)
    written = residues.written(values, PRIMES)
    assert len(written) == residues.written_size(2, 64, PRIMES) == 2 * 64 * (7 + 5 + 4 + 3)
    assert (residues.read(written, 2, 64, PRIMES) == values).all()


def test_bytes_of_another_size_or_beyond_a_prime_are_refused():
    written = bytearray(residues.written(drawn(3, 2, 64), PRIMES))
    for wrong in (bytes(written[:-1]), bytes(written) + b"\0", b""):
        with pytest.raises(ValueError, match="another size"):
            residues.read(wrong, 2, 64, PRIMES)
    written[7 - 1] = 0xFF  # the highest byte of the first residue of 50 bits
    with pytest.raises(ValueError, match="no residues"):
        residues.read(bytes(written), 2, 64, PRIMES)
