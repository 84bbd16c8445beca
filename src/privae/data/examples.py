"""Two small public data sets to try things on: a table of people (UCI Adult, CC BY 4.0) and digits."""

from importlib import resources
from io import BytesIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits as read_digits

from privae.data.images import ImageSchema
from privae.data.schema import Schema


def load_table() -> tuple[pd.DataFrame, Schema]:
    """The 32,561 training records of UCI Adult and their public schema; the label is `income`.

    Source: Becker and Kohavi 1996, doi:10.24432/C5XW20, CC BY 4.0; see ATTRIBUTION.md beside this file.
    """
    folder = resources.files("privae.data")
    frame = pd.read_parquet(BytesIO((folder / "adult.parquet").read_bytes()))
    return frame, Schema.loads((folder / "adult.schema.toml").read_text(encoding="utf-8"))


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.object_], ImageSchema]:
    """The 1,797 digits of scikit-learn, scaled to 0..255, their labels as text, and their schema.

    Shapes: uint8 [1797, 8, 8], labels [1797].
    """
    found = read_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
    return pixels, found.target.astype(str).astype(object), ImageSchema.with_class_count(8, 8, 10)
