import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.deidentify.measures import NOT_A_GUARANTEE, measured, report
from privae.errors import DataError, UsageError

STORED = json.loads(Path(__file__).with_name("pycanon.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "stored", STORED["tables"], ids=lambda stored: f"{len(stored['columns']['age'])} rows"
)
def test_pycanon_measures_the_same(stored):
    found = measured(pd.DataFrame(stored["columns"]), stored["quasi"], list(stored["sensitive"]))
    assert found.k == stored["k"]
    for name, theirs in stored["sensitive"].items():
        ours = found.sensitive[name]
        assert ours.distinct == theirs["l"]
        # pycanon cuts it to a whole number, 1.9999999999999998 to 1
        assert theirs["entropy_l"] in (int(ours.entropy - 1e-9), int(ours.entropy + 1e-9))
        assert ours.closeness == pytest.approx(theirs["t"], abs=1e-12)
    assert STORED["pycanon"]


def by_hand(frame, name):
    values = sorted(frame[name].unique())
    whole = frame[name].value_counts(normalize=True).reindex(values).to_numpy()
    far, fewest, entropy = [], [], []
    for _, group in frame.groupby("q"):
        share = group[name].value_counts(normalize=True).reindex(values).fillna(0).to_numpy()
        moved = np.abs(np.cumsum(share - whole)).sum() / max(1, len(values) - 1)
        far.append(moved if name == "n" else np.abs(share - whole).sum() / 2)
        fewest.append((share > 0).sum())
        entropy.append(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
    return min(fewest), min(entropy), max(far)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(-3, 9), st.sampled_from("abc")), min_size=1, max_size=30
    )
)
def test_figures_are_those_that_a_loop_over_classes_finds(rows):
    frame = pd.DataFrame(rows, columns=["q", "n", "c"])
    found = measured(frame, ["q"], ["n", "c"])
    sizes = frame.groupby("q").size()
    assert (found.k, found.classes, found.rows) == (sizes.min(), len(sizes), len(frame))
    assert found.unique == pytest.approx((sizes == 1).sum() / len(frame))
    for name, of in found.sensitive.items():
        assert (of.distinct, of.entropy, of.closeness) == pytest.approx(by_hand(frame, name), abs=1e-9)
        assert of.ordered == (name == "n")


def test_a_gap_is_a_value_of_its_own_and_text_says_the_same_as_types():
    typed = pd.DataFrame({"q": [1.0, 1.0, None, None], "s": [1, 2, 10, None]})
    text = pd.DataFrame({"q": ["1", "1.0", "", "NA"], "s": ["1", "2.0", "10", "?"]})
    found = measured(typed, ["q"], ["s"])
    assert (found.k, found.classes, found.sensitive["s"].distinct) == (2, 2, 2)
    assert found.sensitive["s"].ordered
    ours = measured(text.assign(q=["1", "1", "", "NA"]), ["q"], ["s"])
    assert ours == found
    assert measured(pd.DataFrame({"q": ["a"], "s": [None]}), ["q"], ["s"]).sensitive["s"].closeness == 0


def test_many_columns_with_many_values_do_not_overflow():
    frame = pd.DataFrame({f"q{i}": np.arange(500) for i in range(12)})
    found = measured(frame, list(frame.columns))
    assert (found.k, found.classes, found.unique) == (1, 500, 1.0)


def test_before_and_after_are_shown_with_the_sentence():
    before = measured(pd.DataFrame({"zip": list("1234"), "ill": list("abab")}), ["zip"], ["ill"])
    after = measured(pd.DataFrame({"zip": list("1111"), "ill": list("abab")}), ["zip"], ["ill"])
    text = report(before, after)
    assert text.endswith(NOT_A_GUARANTEE)
    assert text.splitlines()[1].split()[-2:] == ["1", "4"]
    assert "100 %" in text
    assert before.lines()[-1] == NOT_A_GUARANTEE
    fields = json.loads(json.dumps(after.to_dict()))
    assert (fields["k"], fields["note"], fields["sensitive"]["ill"]["closeness"]) == (4, NOT_A_GUARANTEE, 0.0)
    gone = measured(pd.DataFrame({"x": list("1234")}), [])
    assert (gone.k, gone.classes) == (4, 1)
    assert [line.split()[-1] for line in report(before, gone).splitlines()[4:7]] == ["-"] * 3


@pytest.mark.parametrize(
    ("columns", "quasi", "sensitive", "error", "said"),
    [
        ({"a": [1]}, ["b"], [], UsageError, "no column 'b'"),
        ({"a": [1]}, ["a"], ["a"], UsageError, "name it once"),
        ({"a": []}, ["a"], [], DataError, "no rows"),
    ],
)
def test_what_cannot_be_measured_is_said(columns, quasi, sensitive, error, said):
    with pytest.raises(error, match=said):
        measured(pd.DataFrame(columns), quasi, sensitive)
