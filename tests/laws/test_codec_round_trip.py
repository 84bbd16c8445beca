"""Law: a decoded code encodes to itself, and a number moves by at most the width of its bin."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.data.codec import Codec
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import UsageError

finite = st.floats(-1e6, 1e6, allow_nan=False)
number_types = st.sampled_from([None, "float64", "float32", "Float64", "int64", "int16", "Int32"])
text_types = st.sampled_from([None, "object", "category", "float64", "int64", "string"])


@st.composite
def numeric_columns(draw):
    edges = sorted(draw(st.lists(finite, min_size=2, max_size=8, unique=True)))
    bounded = draw(st.booleans())
    return Column(
        name="column",
        kind="numeric",
        bounds=(edges[0], edges[-1]) if bounded else None,
        edges=None if bounded else tuple(edges),
        bins=draw(st.none() | st.integers(1, 40)) if bounded else None,
        unit=draw(st.none() | st.sampled_from([0.05, 0.1, 1.0, 3.0, 1 / 3])),
        integer=draw(st.none() | st.just(True)),
        decimals=draw(st.none() | st.integers(0, 3)),
        missing=draw(st.booleans()),
        dtype=draw(number_types),
    )


@st.composite
def category_columns(draw):
    texts = draw(
        st.lists(
            st.text(max_size=4) | st.integers(-9, 9) | st.sampled_from(["NA", "1.0", "True"]), max_size=6
        )
    )
    return Column(
        name="column",
        kind=draw(st.sampled_from(["category", "ordinal", "boolean"])),
        categories=tuple(texts) or None,
        other=draw(st.none() | st.sampled_from(["other", "1"])),
        missing=draw(st.booleans()),
        dtype=draw(text_types),
    )


def codec_or_none(column):
    try:
        return Codec(Schema(columns=(column,)))
    except UsageError:  # the schema is refused as a whole; what it accepts must obey the law
        return None


@settings(max_examples=200, deadline=None)
@given(numeric_columns() | category_columns(), st.integers(0, 2**32))
def test_encoding_a_decoded_record_gives_its_codes_back(column, seed):
    codec = codec_or_none(column)
    if codec is None:
        return
    codes = np.repeat(np.arange(codec.sizes[0]), 5)[:, None]
    frame = codec.decode(codes, np.random.default_rng(seed))
    assert (codec.encode(frame) == codes).all()
    assert (codec.encode(frame, strict=True) == codes).all()
    if (
        str(frame.dtypes.iloc[0]).lower() != "float32"
    ):  # pandas widens these to other numbers, 0.3499999940395355
        assert (codec.encode(frame.astype(object)) == codes).all()


@settings(max_examples=200, deadline=None)
@given(numeric_columns(), st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_a_number_comes_back_within_the_width_of_its_bin(column, numbers):
    codec = codec_or_none(column)
    if codec is None:
        return
    frame = pd.DataFrame({"column": numbers})
    codes = codec.encode(frame)
    back = codec.decode(codes, np.random.default_rng(0))["column"].to_numpy(float, na_value=np.nan)
    edges = column.numeric_bins.edges
    told = ~np.isnan(numbers)
    clipped = np.clip(np.array(numbers)[told], edges[0], edges[-1])
    widths = np.diff(edges)[codes[told, 0]]
    assert (np.abs(back[told] - clipped) <= widths * (1 + 1e-6) + np.abs(clipped) * 1e-6).all()


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.datetimes()
    | st.lists(st.integers())
    | st.sampled_from(["1", "1.0", 1, 1.0, True, "True", "NA", "inf", "\ud800", "a\0b", 10**5000])
)
mixed_schema = Schema(
    columns=(
        Column(name="number", kind="numeric", bounds=(0, 3), unit=1, missing=True),
        Column(name="bare", kind="numeric", edges=(0.0, 0.5, 3)),
        Column(name="category", kind="category", categories=("1", "a", "True"), other="other"),
        Column(name="code", kind="category", categories=(0, 1)),
        Column(name="boolean", kind="boolean", missing=True),
    )
)


@settings(max_examples=100, deadline=None)
@given(st.lists(anything, min_size=1, max_size=4))
def test_any_value_has_a_code_that_no_other_record_changes(values):
    codec = Codec(mixed_schema)
    cells = pd.Series(values, dtype=object)
    frame = pd.DataFrame(dict.fromkeys(codec.names, cells), dtype=object)
    together = codec.encode(frame)
    alone = np.concatenate([codec.encode(frame.iloc[[row]]) for row in range(len(frame))])
    assert (together == alone).all()
    assert ((together >= -1) & (together < codec.sizes)).all()
