import numpy as np
import pytest

from privae.data.images import ImageSchema, label_codes, read_images, write_images
from privae.errors import DataError, UsageError

X = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_images_and_labels_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "i.npz"
    write_images(path, X, ["3", "1"])
    x, y = read_images(path)
    assert (x == X).all()
    assert y.tolist() == ["3", "1"]
    assert np.load(path)["y"].dtype == np.int64
    write_images(path, X, ["cat", "1"])
    assert np.load(path)["y"].tolist() == ["cat", "1"]
    write_images(path, X)
    assert read_images(path)[1] is None


def test_labels_of_any_type_are_text(tmp_path):
    for y, texts in [
        ([1.0, np.nan], ["1", None]),
        ([True, False], ["True", "False"]),
        (np.array(["a", " b"]), ["a", "b"]),
    ]:
        np.savez(tmp_path / "i.npz", x=X, y=np.array(y))
        assert read_images(tmp_path / "i.npz")[1].tolist() == texts


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": [1, 2]}, "no member x"),
        ({"x": X.astype(float)}, "uint8"),
        ({"x": X[0]}, "shape"),
        ({"x": X[:, :0]}, "shape"),
        ({"x": X, "y": [1]}, "one label an image"),
        ({"x": X, "y": [[1], [2]]}, "one label an image"),
        ({"x": X, "y": np.array([1, 2], dtype=complex)}, "whole numbers or text"),
        ({"x": X, "y": np.array([{}, None], dtype=object)}, "damaged"),
    ],
)
def test_each_fault_of_an_npz_is_one_clear_line(tmp_path, arrays, words):
    np.savez(tmp_path / "i.npz", **arrays)
    with pytest.raises(DataError, match=words):
        read_images(tmp_path / "i.npz")


def test_damaged_and_foreign_files_are_data_errors(tmp_path):
    path = tmp_path / "i.npz"
    write_images(path, np.random.default_rng(0).integers(0, 255, (50, 9, 9)).astype(np.uint8), ["1"] * 50)
    whole = path.read_bytes()
    np.save(tmp_path / "plain.npy", X)
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    for content in [
        whole[: len(whole) // 2],
        b"",
        b"text",
        bytes(flipped),
        (tmp_path / "plain.npy").read_bytes(),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            read_images(path)


def test_paths_that_cannot_be_used_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_images(tmp_path / "none.npz")
    with pytest.raises(UsageError, match="cannot be read"):
        read_images(tmp_path)
    with pytest.raises(UsageError, match="npz"):
        write_images(tmp_path / "i.csv", X)


def test_labels_outside_the_classes_have_no_code():
    assert label_codes(["1", "01", "7", None, "1.0"], ["0", "1"]).tolist() == [1, 1, -1, -1, 1]
    assert label_codes(np.array([1, 0]), ["0", "1"]).tolist() == [1, 0]


def test_an_image_schema_knows_its_classes_and_has_a_hash():
    schema = ImageSchema.with_class_count(28, 28, 10)
    schema.check()
    assert schema.classes == tuple("0123456789")
    assert ImageSchema(height=28, width=28, classes=list(range(10))).hash == schema.hash
    assert schema.with_classes(["10", "9", "b", "9"]).classes == ("9", "10", "b")
    for wrong in [{"height": 0}, {"classes": ()}, {"classes": ("a", "a")}]:
        with pytest.raises(UsageError):
            ImageSchema(**{"height": 1, "width": 1, **wrong}).check()
