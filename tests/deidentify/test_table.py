"""Tables de-identified: every action, each record by itself; what comes back; and what a fit refuses to learn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from privae.data.codec import Codec
from privae.data.schema import Schema
from privae.deidentify.table import check_learned, deidentified, needs_key, restored
from privae.errors import DataError, PrivacyRefused, UsageError

KEY = bytes(range(32))
TEXT = """
[table]
person = "id"
label = "ward"
quasi = ["age", "mail", "gone"]
sensitive = ["ward"]
[columns.id]
kind = "category"
action = "pseudonymize"
[columns.card]
kind = "category"
action = "pseudonymize"
rule = { reversible = true, domain = "card" }
[columns.mail]
kind = "category"
action = "mask"
rule = { first = 1, after = "@" }
[columns.gone]
kind = "category"
action = "drop"
[columns.seen]
kind = "category"
action = "shift"
rule = { days = 20 }
[columns.left]
kind = "category"
action = "shift"
rule = { days = 20, format = "%d.%m.%Y" }
[columns.age]
kind = "ordinal"
missing = true
action = "generalize"
rule = { width = 20, low = 0, high = 80 }
[columns.born]
kind = "numeric"
bounds = [1900, 2025]
integer = true
missing = true
action = "generalize"
rule = { date = "year" }
[columns.dose]
kind = "numeric"
bounds = [0, 10]
missing = true
action = "round"
rule = { to = 0.5 }
[columns.pay]
kind = "numeric"
bounds = [0, 100]
integer = true
missing = true
action = "code"
rule = { low = 0, high = 100 }
[columns.ward]
kind = "category"
action = "generalize"
rule = { groups = { inner = ["A", "B"], outer = ["C"] } }
other = "*"
[columns.note]
kind = "category"
categories = ["x", "y"]
other = "z"
"""
SCHEMA = Schema.loads(TEXT)
ROWS = pd.DataFrame(
    {
        "id": ["p1", "p2", "p1", "", None],
        "card": ["4111 1111", "5500 0000", "4111 1111", "", None],
        "mail": ["ann@x.org", "bob", "ann@x.org", None, ""],
        "gone": ["secret"] * 5,
        "seen": ["2024-01-31", "2024-02-29 10:00", "2024-03-01", "2024-05-05", "soon"],
        "left": ["1.2.2024", "01.03.2024", "NA", "5.5.2024", "6.5.2024"],
        "age": ["19", "93.5", "20-39", "?", "old"],
        "born": ["1980-02-03", "1950", "03.02.1980", "NA", ""],
        "dose": ["0.74", "9.76", "oops", "NA", "-0.1"],
        "pay": ["-5", "120", "55", "", "1e9"],
        "ward": ["A", "C", "inner", "Z", ""],
        "note": ["x", "unknown", None, "y", "x"],
    },
    dtype=object,
)


def test_every_action_is_done_in_one_pass():
    done, _ = deidentified(ROWS, SCHEMA, KEY)
    assert list(done) == [name for name in ROWS if name != "gone"]
    assert done["id"][0] == done["id"][2] != done["id"][1]
    assert done["id"].tolist()[3:] == ["", None]
    assert [text[4] for text in done["card"][:3]] == [" "] * 3
    assert done["mail"].tolist() == ["a***@x.org", "b***", "a***@x.org", None, ""]
    assert done["age"].tolist() == ["0-19", "80+", "20-39", "?", "*"]
    assert done["born"].tolist() == ["1980", "1950", "*", "NA", ""]
    assert done["dose"].tolist() == ["0.5", "10", "*", None, "0"]
    assert done["pay"].tolist() == ["0", "100", "55", None, "100"]
    assert done["ward"].tolist() == ["inner", "outer", "inner", "*", ""]
    assert done["note"].tolist() == ROWS["note"].tolist()
    days = pd.to_datetime(done["seen"][[0, 2]]) - pd.to_datetime(ROWS["seen"][[0, 2]])
    assert days.nunique() == 1
    assert 1 <= abs(days.iloc[0].days) <= 20
    assert done["seen"].tolist()[3:] == ["*", "*"]  # nobody's date, and what is none
    assert done["seen"][1].endswith(" 10:00")
    first = (pd.to_datetime(done["left"][0], dayfirst=True) - pd.Timestamp(2024, 2, 1)).days
    assert first == days.iloc[0].days
    assert done["left"].tolist()[2:] == ["NA", "*", "*"]
    assert not {"p1", "ann@x.org", "4111 1111", "secret"} & {str(v) for v in done.to_numpy().ravel()}


def test_the_new_schema_is_that_of_what_came_out():
    done, after = deidentified(ROWS, SCHEMA, KEY)
    assert {c.name: (c.action, c.rule) for c in after.columns if c.learned} == dict.fromkeys(
        ["age", "born", "dose", "pay", "ward", "note"], ("keep", None)
    )
    assert [c.name for c in after.columns if not c.learned] == ["id", "card", "mail", "seen", "left"]
    assert (after.person, after.label, after.quasi, after.sensitive) == (
        "id",
        "ward",
        ("age", "mail"),
        ("ward",),
    )
    after.check()
    assert Schema.loads(after.dumps()) == after
    # a fit of what came out reads what a fit of the raw rows would have
    np.testing.assert_array_equal(Codec(after).encode(done), Codec(SCHEMA).encode(ROWS))
    np.testing.assert_array_equal(Codec(SCHEMA).encode(done), Codec(SCHEMA).encode(ROWS))


def test_what_is_reversible_comes_back_with_the_key():
    done, _ = deidentified(ROWS, SCHEMA, KEY)
    back = restored(done, SCHEMA, KEY)
    assert back["card"].tolist() == ROWS["card"].tolist()
    assert back["id"].tolist() == done["id"].tolist()
    assert restored(done, SCHEMA, bytes(32))["card"].tolist() != ROWS["card"].tolist()
    plain = Schema.loads(TEXT.replace("reversible = true, ", ""))
    with pytest.raises(UsageError, match="reversible = true"):
        restored(done, plain, KEY)


def test_a_record_is_transformed_as_if_it_were_alone():
    whole = deidentified(ROWS, SCHEMA, KEY)[0]
    for place in range(len(ROWS)):
        alone = deidentified(ROWS.iloc[[place]], SCHEMA, KEY)[0]
        pd.testing.assert_frame_equal(alone, whole.iloc[[place]], check_dtype=False)


def test_typed_columns_come_back_typed():
    schema = Schema.loads(
        """
        [table]
        person = "who"
        [columns.who]
        kind = "category"
        action = "pseudonymize"
        [columns.at]
        kind = "category"
        action = "shift"
        rule = { days = 5 }
        [columns.there]
        kind = "category"
        action = "shift"
        rule = { days = 5 }
        [columns.n]
        kind = "numeric"
        bounds = [0, 100]
        action = "round"
        rule = { to = 10 }
        [columns.f]
        kind = "numeric"
        bounds = [0, 1]
        action = "round"
        rule = { to = 0.25 }
        [columns.on]
        kind = "category"
        categories = "bought"
        action = "generalize"
        rule = { date = "month" }
        """
    )
    times = pd.to_datetime(pd.Series(["2024-01-31 10:00", None, "2024-03-31 01:30"]))
    frame = pd.DataFrame(
        {
            "who": [1, 2, 1],
            "at": times,
            "there": times.dt.tz_localize("UTC").dt.tz_convert("Europe/Rome"),
            "n": [14, 15, 26],
            "f": np.array([0.3, np.nan, 0.9]),
            "on": times,
        }
    )
    done, _ = deidentified(frame, schema, KEY)
    assert done["at"].dtype.kind == "M"
    assert str(done["there"].dt.tz) == "Europe/Rome"
    assert done["at"].isna().tolist() == [False, True, False]
    assert (done["at"] - frame["at"]).dropna().nunique() == 1
    assert done["n"].tolist() == [10, 20, 30]
    assert str(done["n"].dtype) == "Int64"
    assert done["f"].tolist()[::2] == [0.25, 1.0]
    assert done["on"].tolist() == ["2024-01", None, "2024-03"]
    assert all(len(token) == 20 for token in done["who"])


def test_an_empty_table_stays_empty():
    done, _ = deidentified(ROWS.iloc[:0], SCHEMA, KEY)
    assert len(done) == 0
    assert "gone" not in done


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ('person = "id"\n', "", UsageError, "whose dates are moved"),
        ("days = 20, ", "days = 21, ", UsageError, "same days"),
        ('person = "id"', 'person = "who"', UsageError, "what is to become of the person"),
        ('quasi = ["age"', 'quasi = ["agee"', UsageError, "did you mean 'age'"),
        (
            '[columns.note]\nkind = "category"\n',
            '[columns.note]\nkind = "category"\nconfirmed = false\n',
            UsageError,
            "unconfirmed",
        ),
        ("[columns.note]", "[columns.other]", DataError, "column 'note' that the schema does not declare"),
        ('card" }', 'card", alphabet = "hex" }', DataError, "column 'card' holds values that FF1 cannot"),
        (
            'kind = "numeric"\nbounds = [0, 10]',
            'kind = "category"',
            UsageError,
            "is for numbers",
        ),
        (
            "{ groups = { inner",
            '{ hierarchy = "h.csv" }\n# { groups = { inner',
            UsageError,
            "load the schema from there",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_without_a_value(old, new, error, words):
    assert old in TEXT
    rows = ROWS.assign(card=["ABCD123456", "1", "2", "", None])
    with pytest.raises(error, match=words) as caught:
        deidentified(rows, Schema.loads(TEXT.replace(old, new, 1)), KEY)
    assert "ABCD" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_key_is_asked_for_where_an_action_needs_it():
    assert needs_key(SCHEMA)
    with pytest.raises(UsageError, match="need a key"):
        deidentified(ROWS, SCHEMA, None)
    plain = Schema(columns=(SCHEMA.columns[2],))
    assert not needs_key(plain)
    assert deidentified(ROWS[["mail"]], plain, None)[0]["mail"][0] == "a***@x.org"


def test_a_person_column_that_nothing_is_said_of_is_refused():
    schema = SCHEMA.model_copy(update={"columns": SCHEMA.columns[1:]})
    with pytest.raises(UsageError, match="what is to become of the person column 'id'"):
        deidentified(ROWS, schema, KEY)
    frame, lacking = ROWS.drop(columns="id"), SCHEMA.columns
    with pytest.raises(DataError, match="no column 'id', by which the dates of 'seen'"):
        deidentified(frame, SCHEMA.model_copy(update={"columns": lacking}), KEY)


def test_free_text_is_masked_by_the_function_that_is_given():
    schema = Schema.loads('[columns.t]\nkind = "category"\naction = "mask"\nrule = { text = true }\n')
    frame = pd.DataFrame({"t": ["call 555", "", "call 555"]})
    done, _ = deidentified(
        frame, schema, None, lambda texts: [text.replace("555", "<phone>") for text in texts]
    )
    assert done["t"].tolist() == ["call <phone>", "", "call <phone>"]
    with pytest.raises(UsageError, match="free text is masked by"):
        deidentified(frame, schema, None)


@pytest.fixture
def detector(monkeypatch):
    """A stand-in for what detects: it knows a name, and values with an "@"."""
    asked = []

    def identifiers(frame, names):
        asked.append((list(names), len(frame)))
        return {
            name: "e-mail addresses"
            for name in names
            if name == "mail" or frame[name].astype(str).str.contains("@").any()
        }

    monkeypatch.setattr("privae.deidentify.table.detect", SimpleNamespace(identifiers=identifiers))
    return asked


LEARNED = (
    '[columns.{0}]\nkind = "category"\ncategories = {1}\nother = "other"\n[columns.b]\nkind = "boolean"\n'
)


def test_a_learned_column_that_names_people_is_refused_unless_overridden(detector):
    frame = pd.DataFrame({"c": ["x", "ann@x.org"], "b": [True, False]})
    schema = Schema.loads(LEARNED.format("c", ["x", "y"]))
    with pytest.raises(
        PrivacyRefused, match=r"column 'c' looks like e-mail addresses; .*--identifier-ok c \(a site: "
    ) as caught:
        check_learned(frame, schema)
    assert "ann" not in str(caught.value)
    check_learned(frame, schema, ["c"])
    check_learned(frame.assign(c="x"), schema)
    with pytest.raises(UsageError, match="no learned column 'd'"):
        check_learned(frame, schema, ["d"])


def test_public_facts_are_asked_first_and_read_no_cell(detector):
    for name, categories in (("mail", ["x"]), ("c", ["a@b.org"])):
        detector.clear()
        with pytest.raises(PrivacyRefused, match=f"'{name}'"):
            check_learned(
                pd.DataFrame({name: ["x"] * 9, "b": [True] * 9}),
                Schema.loads(LEARNED.format(name, categories)),
            )
        assert max(length for _, length in detector) < 9


def test_what_an_action_leaves_is_what_is_looked_at(detector):
    text = '[columns.{0}]\nkind = "category"\n{1}\n[columns.b]\nkind = "boolean"\n'
    acted = 'action = "generalize"\nrule = { prefix = 1 }\ncategories = ["a*"]'
    frame = pd.DataFrame({"mail": ["ann@x.org"], "b": [True]})
    check_learned(frame, Schema.loads(text.format("mail", acted)))
    check_learned(frame, Schema.loads(text.format("mail", 'action = "mask"')))
    check_learned(np.zeros((1, 2, 2)), "no schema of a table")
