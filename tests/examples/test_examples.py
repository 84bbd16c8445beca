"""Every example runs as it stands, in an empty folder, and prints its guarantee."""

import os
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

from privae.recipes import image

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def test_there_are_examples_and_each_is_short():
    assert EXAMPLES
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 80 for path in EXAMPLES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path, tmp_path, monkeypatch, capsys, tiny):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr(image, "_DECODER_STEPS", 10)
    with mock.patch.dict(os.environ):
        runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert "changes the probability of any outcome" in said
    assert "planted" not in said or "files: found in ['hospital.csv.age'], with the key" in said
