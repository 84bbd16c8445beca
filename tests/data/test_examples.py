import numpy as np

from privae.data.codec import Codec
from privae.data.examples import load_digits, load_table


def test_the_table_fits_its_schema_and_comes_back_as_it_went_in():
    frame, schema = load_table()
    codec = Codec(schema)
    codes = codec.encode(frame, strict=True)
    assert frame.shape == (32_561, 15)
    assert codec.offsets[-1] == 218
    assert (codes >= 0).all()
    back = codec.decode(codes, np.random.default_rng(0))
    assert (codec.encode(back) == codes).all()
    assert (back.dtypes == frame.dtypes).all()
    assert back.columns.tolist() == frame.columns.tolist()


def test_the_digits_fill_the_range_of_a_byte():
    x, y, schema = load_digits()
    assert (x.shape, x.dtype, x.max()) == ((1797, 8, 8), np.uint8, 255)
    assert (schema.height, schema.width, set(y)) == (8, 8, set(schema.classes))
