"""Lines of a stream: one row each, and never more of one in memory than a row can have."""

import io

import pytest

from privae.errors import DataError
from privae.service import scoring


class Endless(io.TextIOBase):
    """A line that never ends; it counts what was read of it."""

    read_so_far = 0

    def readline(self, size=-1):
        assert size > 0, "all of an endless line"
        self.read_so_far += size
        return "a" * size


def test_lines_are_rows_of_cells_and_blank_ones_are_none():
    lines = io.StringIO('id,time\n\n"a,b",2026-01-01\nlast,')
    assert list(scoring._rows(lines)) == [["id", "time"], ["a,b", "2026-01-01"], ["last", ""]]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory():
    lines = Endless()
    with pytest.raises(DataError, match="too long"):
        next(scoring._rows(lines))
    assert lines.read_so_far <= scoring._LONGEST + 1
