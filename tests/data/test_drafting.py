import numpy as np
import pandas as pd
import pytest

from privae.data.codec import Codec
from privae.data.drafting import draft, draft_toml
from privae.data.schema import Schema
from privae.errors import DataError, UsageError

ROWS = 60


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "patient_id": np.arange(ROWS),
            "name": [f"canary{i}" for i in range(ROWS)],
            "age": rng.integers(20, 80, ROWS),
            "grade": rng.integers(1, 5, ROWS).astype(np.int8),
            "cost": np.where(rng.random(ROWS) < 0.5, 0, rng.random(ROWS).round(2) * 1000),
            "weight": rng.normal(size=ROWS),
            "ward": rng.choice(["A", "B"], ROWS),
            "zip": rng.choice(["01234", "99999"], ROWS),
            "seen": pd.date_range("2020", periods=ROWS),
            "smokes": rng.random(ROWS) < 0.5,
            "gap": [None, 1.0] * (ROWS // 2),
            "empty": [None] * ROWS,
            "constant": 7,
        }
    )


def kinds(schema):
    return {column.name: column.kind if column.action == "keep" else "drop" for column in schema.columns}


EXPECTED = {
    **dict.fromkeys(["patient_id", "name", "seen", "empty"], "drop"),
    **dict.fromkeys(["age", "grade", "cost", "weight", "gap", "constant"], "numeric"),
    **dict.fromkeys(["ward", "zip"], "category"),
    "smokes": "boolean",
}


def test_kinds_come_from_types_and_from_text_alike(frame):
    text = frame.astype(str).where(frame.notna(), "")
    assert kinds(draft(frame)) == EXPECTED
    assert kinds(draft(text)) == EXPECTED


def test_a_draft_of_private_data_declares_nothing_and_is_refused(frame):
    drafted = draft(frame)
    assert all(c.bounds is None and c.edges is None and c.categories is None for c in drafted.columns)
    assert not any(column.confirmed for column in drafted.columns)
    with pytest.raises(UsageError, match="'patient_id' is unconfirmed"):
        Schema.loads(draft_toml(drafted)).check()
    with pytest.raises(UsageError, match="declare bounds"):
        Schema.loads(draft_toml(draft(frame[["age"]]))).check()
    assert "canary" not in draft_toml(drafted)


def test_every_guess_of_a_private_draft_is_refused_until_a_person_confirms_it(frame):
    text = draft_toml(draft(frame))
    assert text.count("\nconfirmed = false        # guessed from the cells: delete") == len(frame.columns)
    assert "confirmed" not in draft_toml(draft(frame, public=True))
    lines = text.replace("# bounds", "bounds").replace("# categories", "categories").splitlines()
    open_ = [place for place, line in enumerate(lines) if line.startswith("confirmed = false")]
    for place in open_:  # each alone, as if the person had overlooked this one
        rest = [line for at, line in enumerate(lines) if at == place or at not in open_]
        with pytest.raises(UsageError, match="unconfirmed: it was guessed from the cells"):
            Schema.loads("\n".join(rest)).check()
    Schema.loads("\n".join(line for at, line in enumerate(lines) if at not in open_)).check()


def test_a_draft_says_the_same_of_data_with_other_values(frame):
    other = frame.assign(
        age=frame["age"] + 1000, ward=frame["ward"].map({"A": "X", "B": "Y"}), cost=frame["cost"] * 3
    )
    assert draft_toml(draft(frame)) == draft_toml(draft(other))


def test_a_person_can_fill_a_draft_in():
    frame = pd.DataFrame({"age": [1, 2], "ward": ["a", None], "ok": [True, False]})
    text = draft_toml(draft(frame))
    with pytest.raises(UsageError, match="'age'"):
        Schema.loads(text).check()
    text = (
        text.replace("# bounds", "bounds")
        .replace("# categories", "categories")
        .replace("confirmed = false", "")
    )
    schema = Schema.loads(text)
    schema.check()
    assert [column.missing for column in schema.columns] == [False, True, False]


def test_public_data_give_a_whole_schema_that_says_so(frame):
    drafted = draft(frame, public=True)
    assert drafted.origin == "public"
    assert Schema.loads(draft_toml(drafted)) == drafted
    assert kinds(drafted) == EXPECTED
    codec = Codec(drafted)
    codes = codec.encode(frame, strict=True)
    back = codec.decode(codes, np.random.default_rng(0))
    assert (codec.encode(back) == codes).all()
    assert (back.dtypes == frame[back.columns].dtypes).all()
    assert (back["cost"][frame["cost"] == 0] == 0).all()
    assert back["constant"].eq(7).all()


def test_public_text_gives_the_same_bins_as_public_types(frame):
    text = frame.astype(str).where(frame.notna(), "")
    drop = {"dtype", "integer"}
    typed = [column.model_dump(exclude=drop) for column in draft(frame, public=True).columns]
    assert typed == [column.model_dump(exclude=drop) for column in draft(text, public=True).columns]


def test_ordered_categories_are_ordinal():
    frame = pd.DataFrame({"x": pd.Categorical(["lo", "hi", "lo"], categories=["lo", "hi"], ordered=True)})
    column = draft(frame, public=True).columns[0]
    assert (column.kind, column.categories, column.dtype) == ("ordinal", ("lo", "hi"), "category")
    assert "from the lowest to the highest" in draft_toml(draft(frame))


def test_a_table_without_columns_or_with_double_ones_is_refused():
    with pytest.raises(DataError, match="no columns"):
        draft(pd.DataFrame())
    with pytest.raises(DataError, match="two columns named 'a'"):
        draft(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_header_alone_can_be_drafted():
    assert kinds(draft(pd.DataFrame({"a": []}, dtype="str"))) == {"a": "drop"}
