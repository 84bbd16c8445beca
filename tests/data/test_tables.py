import pandas as pd
import pytest

from privae.data.tables import read_header, read_table, write_table
from privae.errors import DataError, UsageError

CANARY = "canary"


def test_every_cell_of_a_csv_is_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfa, b\r\n01,"x\ny"\r\n,NA\r\n')
    assert read_header(path) == ("a", "b")
    assert read_table(path).to_dict("list") == {"a": ["01", ""], "b": ["x\ny", "NA"]}


@pytest.mark.parametrize("content", [b"a,b", b"a,b\n", b"a,b\r\n\r\n"])
def test_a_header_alone_is_a_table_without_records(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert read_table(path).shape == (0, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a;b\ncanary;2\n", "separated by semicolons"),
        (b"a\tb\n1\t2\n", "separated by tabs"),
        (b"a|b\n1|2\n", "separated by bars"),
        (b"a,b\n1,2\n1,2,canary\n", "line 3 has more fields"),
        (b'a,b\n1,"x\ny"\ncanary\n', "line 4 has fewer fields"),
        (b"a,a\n1,2\n", "two columns named 'a'"),
        (b",a\n0,1\n", "column 1 has no name"),
        (b"a,b\n1,canary\xff\n", "line 2 is not UTF-8"),
        (b"\xff,b\n1,2\n", "line 1 is not UTF-8"),
        (b"a,b\n1,2\ncanary,\x00\n", "line 3 holds a NUL byte"),
        ("a,b\n1,2\n".encode("utf-16"), "line 1"),
        (b'a,b\n1,"canary\n2,3\n', "a quote opened after line 1"),
        pytest.param(b'a,b\n1,"' + b"z" * 10_000_000 + b'"\n2,3\n', "does not read as CSV", id="a huge cell"),
    ],
)
def test_each_fault_of_a_csv_is_one_clear_line_without_a_value(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert words in str(caught.value)
    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lone_quote_inside_a_field_is_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n5" pipe,2\n')
    assert read_table(path)["a"].tolist() == ['5" pipe']


def test_a_path_that_cannot_be_read_is_a_usage_error(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, words in [("none.csv", "does not exist"), ("t.xlsx", "neither"), ("folder.csv", "is a folder")]:
        with pytest.raises(UsageError, match=words):
            read_header(tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_comes_back_as_it_was_written(tmp_path, suffix):
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    path = tmp_path / f"t{suffix}"
    write_table(frame, path)
    back = read_table(path)
    assert read_header(path) == ("a", "b")
    assert back["a"].astype(int).tolist() == [1, 2]
    assert back["b"][0] == "x"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_not_written(tmp_path):
    with pytest.raises(UsageError, match="neither"):
        write_table(pd.DataFrame(), tmp_path / "t.txt")
    assert not list(tmp_path.iterdir())


def test_whole_numbers_in_parquet_stay_exact_beside_a_gap(tmp_path):
    frame = pd.DataFrame({"a": pd.array([2**53 + 1, None], dtype="Int64")}, index=["p", "q"])
    frame.to_parquet(tmp_path / "t.parquet")
    back = read_table(tmp_path / "t.parquet")
    assert back.columns.tolist() == ["a"]
    assert back["a"][0] == 2**53 + 1


def test_a_damaged_parquet_file_is_a_data_error(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": range(1000)}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(path)
    path.write_bytes(whole[:4] + b"\x07" * 200 + whole[204:])
    with pytest.raises(DataError, match="damaged"):
        read_table(path)
