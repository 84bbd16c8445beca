"""Hierarchy files: read in both forms, and everything hostile refused in one line before it costs anything."""

import os

import pytest

from privae.actions.generalize import generalized
from privae.actions.hierarchy import embedded
from privae.actions.rule import Groups
from privae.errors import UsageError

TREE = "A;inner;all\nB;inner;all\nC;outer;all\n"


def read(folder, content, name="h.csv", **facts):
    (folder / "h.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return embedded(Groups(hierarchy=name, **facts), folder)


def test_a_level_of_a_file_becomes_groups_without_a_file(tmp_path):
    for text in (TREE, TREE.replace(";", ","), "\ufeff" + TREE.replace("\n", "\r\n"), TREE + "\n\n"):
        found = read(tmp_path, text)
        assert found == Groups(groups={"inner": ("A", "B"), "outer": ("C",)})
    assert read(tmp_path, TREE, level=2).groups == {"all": ("A", "B", "C")}
    assert generalized(found, ["A", "C", "inner", "Z"]) == ["inner", "outer", "inner", "*"]
    assert embedded(found, tmp_path / "nowhere") is found
    assert read(tmp_path, '"a, b",x\nc,x\n').groups == {"x": ("a, b", "c")}


def test_empty_groups_are_refused_or_suppressed_as_declared(tmp_path):
    with pytest.raises(UsageError, match="line 2 has an empty field"):
        read(tmp_path, "A,x\nB,\n")
    assert read(tmp_path, "A,x\nB,\n", empty="*").groups == {"x": ("A",), "*": ("B",)}
    with pytest.raises(UsageError, match="line 1 has an empty field"):
        read(tmp_path, ",x\nB,y\n", empty="*")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "a value and a group"),
        ("A\nB\n", "a value and a group"),
        ("A,x\nB\n", "line 2 has another number of fields"),
        ("A,x\n\nB,y\n", "line 2 has another number of fields"),
        ("A,x\nA,x\n", "in two groups, or twice"),
        ("A,B\nB,A\n", "value of another group"),
        ("A,x,1\nB,x,2\n", "line 2: a group of level 1 is in two of level 2"),
        ("A,x\0\n", "NUL byte"),
        (b"A,\xff\xfe\n", "not UTF-8"),
        ('A,"x\n', "check its quotes"),
        ("A" * 5000 + ",x\n", "more than 4096 characters"),
        ("A" * 300 + ",x\n", "more than 200 characters"),
        (b"1,x\n" * 100_001, "more than 100000 lines"),
        (b"a,b\n" * 2**22 + b"c", "larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_hierarchy_is_refused_in_one_line(tmp_path, content, words):
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_level_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has 2 levels"):
        read(tmp_path, TREE, level=3)


def test_only_a_regular_file_of_the_folder_is_read(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "out.csv").write_text(TREE)
    (inside / "link.csv").symlink_to(tmp_path / "out.csv")
    (inside / "near.csv").symlink_to(inside / "h.csv")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "loop.csv").symlink_to(inside / "loop.csv")
    os.mkfifo(inside / "pipe.csv")
    names = {
        "../out.csv": "must lie in the folder",
        str(tmp_path / "out.csv"): "must lie in the folder",
        "a\0b": "must lie in the folder",
        "link.csv": "leads out",
        "folder/out.csv": "leads out",
        "near.csv": "cannot be read beside the schema",
        "pipe.csv": "no regular file",
        "nothing.csv": "no such file",
        "loop.csv": "cannot be read beside the schema",
        ".": "is no regular file",
    }
    for name, words in names.items():
        with pytest.raises(UsageError, match=words) as caught:
            read(inside, TREE, name=name)
        assert "\n" not in str(caught.value)
