"""The code of a page that says that it is one program runs as it stands, and the names that it lists are there."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-own-model.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in TEXT.split("| Opacus |")[1].splitlines() if line.startswith("| `")]
HOMES = ["privae.privacy", "privae.training.promise", "privae.training.group", "privae.training.loop"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the page's program prints, and its names."""
    import contextlib
    import io

    names, out = {"__name__": "__page__"}, io.StringIO()
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 5
    with contextlib.redirect_stdout(out), contextlib.chdir(tmp_path_factory.mktemp("page")):
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
    return out.getvalue(), names


def test_the_program_of_the_page_prints_a_guarantee_that_holds_what_was_asked(told):
    text, names = told
    assert text.count("changes the probability of any outcome") == 2
    assert "not covered:" in text
    first, both = (float(found) for found in re.findall(r"at most a factor e\^([\d.]+) plus 1e-06 ", text))
    assert 2.9 < first <= 3.0
    assert both > first
    assert sum(event.steps for event in names["ledger"].events) == 2 * names["steps"]


def test_the_program_of_the_page_trains_the_model(told):
    # chance is 10 %, and both loops together reach about 80 %; the noise of the two runs moves that by a few
    names = told[1]
    right = (names["model"](names["x"]).argmax(1) == names["y"]).float().mean().item()
    assert right > 0.4
    assert all(parameter.grad is None for parameter in names["model"].parameters())


def test_the_loop_of_the_page_is_about_fifteen_lines():
    block = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[3]
    assert len([line for line in block.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][3:20])
def test_what_the_table_names_is_there(row):
    homes = [importlib.import_module(home) for home in HOMES]
    for name in re.findall(r"`([A-Za-z_]\w*)[^`]*`", row[1]):
        assert name == "torch" or any(hasattr(home, name) for home in homes), name
