from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from privae.errors import UsageError
from privae.report import picture

FRAME = pd.DataFrame(
    {
        "age": np.arange(60) + 0.5,
        "children": np.arange(60) % 3,
        "ward": ["A", "B", None] * 20,
        "smoker": [True, False] * 30,
        "empty": [np.nan] * 60,
    }
)


def test_a_table_becomes_one_readable_png(tmp_path: Path) -> None:
    picture.beside(FRAME, FRAME.sample(30, random_state=0), tmp_path / "p.png", "title", tuple(FRAME.columns))
    pixels = imread(tmp_path / "p.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05  # something is drawn
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_shares_of_ranges_and_of_texts_are_counted_by_hand() -> None:
    shares, names = picture._ranges(pd.Series([1, 1, 2]), pd.Series([2, 2, 9, 9]))
    assert names == ["1", "2"]
    assert np.allclose(shares[0], [2 / 3, 1 / 3])
    assert np.allclose(shares[1], [0, 1])  # beyond the last value counts to it
    shares, names = picture._texts(pd.Series(["b", "b", None]), pd.Series(["b", "x", "x", "x"]))
    assert names == ["b", "(missing)"]
    assert np.allclose(shares[1], [0.25, 0])


def test_whole_numbers_get_whole_ranges() -> None:
    _, names = picture._ranges(pd.Series(range(100)), pd.Series(range(100)))
    assert names[:3] == ["0", "5", "10"]


def test_images_are_laid_out_a_class_a_row() -> None:
    x = np.zeros((4, 2, 2), np.uint8)
    x[1:3] = 255
    mosaic = picture._mosaic(x, np.array(["0", "10", "2", "0"], dtype=object))
    assert mosaic.shape == (3 * 3 - 1, 10 * 3 - 1)
    assert mosaic[3:5, :2].min() == 255  # "2" comes before "10"
    assert mosaic[6:8, :2].min() == 255
    assert mosaic[:2].max() == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_images_become_a_png(tmp_path: Path, labelled: bool) -> None:
    x = np.random.default_rng(0).integers(0, 255, (25, 8, 8)).astype(np.uint8)
    given = (x, np.arange(25).astype(str).astype(object)) if labelled else (x, None)
    picture.beside_images(given, given, tmp_path / "p.png", "title")
    assert imread(tmp_path / "p.png").shape[1] > 1000


def test_nothing_to_draw_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'x'"):
        picture.beside(FRAME, FRAME, tmp_path / "p.png", "title", ("x",))
    with pytest.raises(UsageError, match="at least one"):
        picture.beside(FRAME, FRAME, tmp_path / "p.png", "title", ())
    none = (np.zeros((0, 8, 8), np.uint8), None)
    with pytest.raises(UsageError, match="no image"):
        picture.beside_images(none, none, tmp_path / "p.png", "title")
    with pytest.raises(UsageError, match="does not exist"):
        picture.beside(FRAME, FRAME, tmp_path / "no" / "p.png", "title", ("age",))
    assert list(tmp_path.iterdir()) == []


def read(png: bytes):
    return imread(BytesIO(png))[..., 0]


def test_a_grid_is_dark_on_light_and_enlarged() -> None:
    x = np.zeros((3, 8, 8), np.uint8)
    x[1] = 255
    pixels = read(picture.grid((x, None)))
    assert pixels.shape[1] >= 240
    assert pixels.shape[1] % (10 * 9 - 1) == 0  # ten images of 8 pixels, and gaps of one
    times = pixels.shape[1] // 89
    assert pixels[0, 0] == 1.0  # no ink
    assert pixels[0, 9 * times] == 0.0
    with pytest.raises(UsageError, match="no image"):
        picture.grid((x[:0], None))


def test_pairs_stand_together_in_order() -> None:
    """Three pairs; of the second alone, the generated image is black."""
    one, other = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
    one[1] = 255
    ink = 1 - read(picture.pairs(one, other))
    times = 480 // 26
    assert ink.shape == (17 * times, 26 * times)
    assert ink.sum() == 64 * times**2
    assert ink[: 8 * times, 9 * times : 17 * times].min() == 1.0
    for wrong in ((one[:0], other[:0]), (one, other[:2]), (one, other[:, :4])):
        with pytest.raises(UsageError, match="no pairs"):
            picture.pairs(*wrong)


def test_profiles_and_examples_of_windows_become_pngs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    real, made = rng.random((30, 24, 2)), rng.random((20, 24, 2))
    real[0, 3, 0] = np.nan
    picture.profiles(real, made, tmp_path / "p.png", ("heat", "light"), "title", "hour")
    picture.profiles(np.tile(real, (1, 7, 1)), np.tile(made, (1, 7, 1)), tmp_path / "w.png", ("a", "b"))
    picture.examples(real[:, :, 0], made[:5, :, 0], tmp_path / "e.png", "title")
    for name in ("p", "w", "e"):
        pixels = imread(tmp_path / f"{name}.png")
        assert pixels.shape[1] > 700
        assert pixels[..., :3].std() > 0.05
    with pytest.raises(UsageError, match="one name a channel"):
        picture.profiles(real, made, tmp_path / "x.png", ("one name",))
    with pytest.raises(UsageError, match="one shape"):
        picture.profiles(real, made[:, :5], tmp_path / "x.png", ("a", "b"))
    with pytest.raises(UsageError, match="no window"):
        picture.examples(real[:0, :, 0], made[:, :, 0], tmp_path / "x.png")
