"""Parameters: nothing below 128 bits of security is made, read, or chosen."""

import pytest

from privae.ckks.parameters import LIMITS, Parameters, fitting
from privae.ckks.scheme import context, library, primes_of
from privae.errors import ArtifactError, UsageError


@pytest.mark.parametrize(
    ("degree", "bits", "says"),
    [
        (8192, (50, 40, 40, 40, 49), "largest"),
        (8192, (50, 40, 40, 40, 50), "less than 128 bits"),
        (2048, (27, 27), "ring degree"),
        (8192, (55, 60), "20 to 50 bits"),
        (8192, (40, 19, 40), "20 to 50 bits"),
        (8192, (40,), "switching keys"),
        (8192, (40, 61), "at most 60"),
    ],
)
def test_weak_or_inexact_parameters_are_refused(degree, bits, says):
    with pytest.raises(UsageError, match=says):
        Parameters(degree, bits)
    with pytest.raises(ArtifactError, match="refused"):
        Parameters.from_dict({"degree": degree, "bits": list(bits), "base": 1})


@pytest.mark.parametrize("stored", [{}, {"degree": "x"}, {"degree": 8192, "bits": 3, "base": 1}])
def test_parameters_that_do_not_read_are_refused(stored):
    with pytest.raises(ArtifactError, match="do not read"):
        Parameters.from_dict(stored)


def test_the_limits_are_those_of_the_library():
    for degree, bits in LIMITS.items():
        assert library().CoeffModulus.MaxBitCount(degree, library().sec_level_type.tc128) == bits


def test_the_smallest_ring_that_holds_a_circuit_is_chosen():
    assert fitting((30,) * 2, 40).degree == 8192
    assert fitting((), 40).degree == 4096
    assert fitting((30,) * 7, 76).degree == 16384
    assert fitting((30,) * 7, 76).base == 2
    with pytest.raises(UsageError, match="128 bits of security"):
        fitting((40,) * 30, 40)


def test_a_round_trip_and_the_library_agrees():
    made = fitting((30,) * 3, 52)
    assert Parameters.from_dict(made.to_dict()) == made
    assert made.levels == 3
    assert made.total <= LIMITS[made.degree]
    assert len(primes_of(made)) == made.base + made.levels
    assert [prime.bit_length() for prime in primes_of(made)] == list(made.bits[:-1])
    assert context(made).parameters_set()


def test_primes_that_do_not_exist_are_refused_in_one_line():
    with pytest.raises(UsageError, match="not enough primes"):
        context(Parameters(16384, (20,) * 10))
