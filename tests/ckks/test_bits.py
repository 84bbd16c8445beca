"""Numbers in exactly as many bits as they need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privae.ckks.bits import packed, packed_size, unpacked


@st.composite
def numbers(draw):
    """Some numbers below 2^width, and the width."""
    width = draw(st.integers(1, 64))
    found = draw(st.lists(st.integers(0, 2**width - 1), max_size=200))
    return np.array(found, np.uint64), width


@given(numbers())
def test_what_is_packed_is_one_long_integer_and_reads_as_it_was(made) -> None:
    found, width = made
    raw = packed(found, width)
    assert len(raw) == packed_size(len(found), width) == -(-len(found) * width // 8)
    assert int.from_bytes(raw, "little") == sum(int(one) << width * i for i, one in enumerate(found))
    assert unpacked(raw, len(found), width).tolist() == found.tolist()


@given(numbers(), st.integers(-9, 9).filter(bool))
def test_another_size_is_refused(made, more) -> None:
    found, width = made
    raw = packed(found, width)
    other = raw[:more] if more < 0 else raw + bytes(more)
    if len(other) != len(raw):
        with pytest.raises(ValueError, match="size"):
            unpacked(other, len(found), width)


def test_bits_behind_the_last_number_are_refused() -> None:
    raw = packed(np.array([5], np.uint64), 5)
    with pytest.raises(ValueError, match="behind"):
        unpacked(bytes([raw[0] | 32]), 1, 5)
