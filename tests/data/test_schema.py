import pytest

from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import DataError, UsageError

TEXT = """
[table]
rows = 20000
person = "patient_id"
max_rows = 5
label = "outcome"
[columns.age]   # a comment
kind = "numeric"
bounds = [0, 120]
unit = 1
bins = 20
missing = true
[columns.ward]
kind = "category"
categories = ["A", "B", "C"]
other = "other"
[columns.outcome]
kind = "category"
categories = [0, 1]
[columns."a note"]
kind = "category"
action = "drop"
"""


def one(**facts):
    return Schema(columns=(Column(name="x", **facts),))


def test_a_schema_reads_as_the_design_page_writes_it():
    schema = Schema.loads(TEXT)
    schema.check()
    assert [column.name for column in schema.kept] == ["age", "ward", "outcome"]
    assert (schema.rows, schema.person, schema.max_rows, schema.label) == (20000, "patient_id", 5, "outcome")
    assert [column.size for column in schema.kept] == [21, 4, 2]
    assert str(schema.kept[2].returned) == "int64"


def test_writing_and_reading_gives_the_same_schema_and_hash(tmp_path):
    schema = Schema.loads(TEXT)
    schema.save(tmp_path / "s.toml")
    again = Schema.load(tmp_path / "s.toml")
    assert again == schema
    assert again.hash == schema.hash
    assert '[columns."a note"]' in schema.dumps()


def test_the_hash_follows_every_fact_and_the_order_of_columns():
    schema = Schema.loads(TEXT)
    moved = schema.ordered(["ward", "age", "outcome", "a note"])
    assert len({schema.hash, moved.hash, Schema.loads(TEXT.replace("120", "110")).hash}) == 3


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("missing", "mising", "did you mean 'missing'"),
        ("[table]", "[tabel]", "did you mean 'table'"),
        ("max_rows", "maxrows", "did you mean 'max_rows'"),
        ('"numeric"', '"number"', "[columns.age] kind"),
        ("[0, 120]", '["a", 120]', "[columns.age] bounds"),
        ('["A", "B", "C"]', "[1.5]", "categories are strings"),
        ("[columns.age]", "[columns.age", "not valid TOML"),
    ],
)
def test_a_key_that_is_not_known_is_named_with_the_nearest_one(old, new, words):
    with pytest.raises(UsageError, match=r".") as caught:
        Schema.loads(TEXT.replace(old, new))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"kind": "numeric"}, "declare bounds"),
        ({"kind": "numeric", "bounds": (1, 1)}, "not below"),
        ({"kind": "numeric", "bounds": (float("nan"), 1)}, "not finite"),
        ({"kind": "numeric", "bounds": (0, float("inf"))}, "not finite"),
        ({"kind": "numeric", "edges": (0, float("nan"))}, "not finite"),
        ({"kind": "numeric", "edges": (0, 2, 1)}, "do not rise"),
        ({"kind": "numeric", "edges": (0,)}, "edges must hold"),
        ({"kind": "numeric", "edges": (0, 1), "bins": 2}, "not both"),
        ({"kind": "numeric", "edges": (0, 1), "bounds": (0, 2)}, "do not reach"),
        ({"kind": "numeric", "bounds": (0, 1), "bins": 0}, "bins must be"),
        ({"kind": "numeric", "bounds": (0, 10), "unit": 1, "bins": 40}, "holds no multiple"),
        ({"kind": "numeric", "bounds": (0, 1), "unit": -1}, "unit must be"),
        ({"kind": "numeric", "bounds": (0, 1), "unit": 1e-300}, "too small"),
        ({"kind": "numeric", "bounds": (0, 1), "unit": 0.25, "decimals": 1}, "more decimals"),
        ({"kind": "numeric", "bounds": (0, 1), "decimals": 99}, "decimals must be"),
        ({"kind": "numeric", "bounds": (0, 9), "unit": 0.5, "integer": True}, "whole unit"),
        ({"kind": "numeric", "bounds": (0, 300), "unit": 1, "dtype": "int8"}, "cannot hold its bounds"),
        ({"kind": "numeric", "bounds": (0, 1), "dtype": "int64"}, "does not go with"),
        ({"kind": "numeric", "bounds": (0, 1), "dtype": "float99"}, "pandas knows"),
        ({"kind": "numeric", "bounds": (0, 1), "categories": ("a",)}, "does not go with"),
        ({"kind": "category"}, "declare categories"),
        ({"kind": "category", "categories": ("a", " a ")}, "are the same"),
        ({"kind": "category", "categories": ("a",), "bins": 3}, "does not go with"),
        ({"kind": "category", "categories": ("a",), "dtype": "int64"}, "cannot hold its categories"),
        ({"kind": "category", "categories": ("1e300",), "dtype": "float64"}, "would change"),
        ({"kind": "category", "categories": ("2020-01-01",), "dtype": "datetime64[ns]"}, "cannot hold"),
        ({"kind": "ordinal", "categories": "bought"}, "cannot be bought"),
        ({"kind": "boolean", "categories": ("a", "b")}, "does not go with"),
        ({"kind": "boolean", "confirmed": False}, "unconfirmed"),
        ({"kind": "numeric", "bounds": (0, 1), "missing": True, "confirmed": False}, "unconfirmed"),
        ({"kind": "boolean", "action": "drop"}, "keeps no column"),
    ],
)
def test_what_is_undeclared_or_contradictory_is_refused_in_one_line(facts, words):
    with pytest.raises(UsageError) as caught:
        one(**facts).check()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"label": "z"}, "not a kept column"),
        ({"rows": 0}, "at least 1"),
        ({"max_rows": 2}, "needs person"),
        ({"person": "x"}, "not to be learned"),
        ({"label": "x"}, "give it bins"),
    ],
)
def test_the_table_section_is_checked_against_the_columns(table, words):
    column = Column(name="x", kind="numeric", bounds=(0, 100))
    with pytest.raises(UsageError, match=words):
        Schema(columns=(column,), **table).check()


def test_a_label_of_few_whole_numbers_needs_no_bins():
    Schema(columns=(Column(name="x", kind="numeric", bounds=(0, 1), unit=1),), label="x").check()


def test_a_dropped_column_needs_no_facts_but_must_be_confirmed():
    columns = [Column(name="x", kind="boolean"), Column(name="y", kind="category", action="drop")]
    Schema(columns=tuple(columns)).check()
    columns[1] = columns[1].model_copy(update={"confirmed": False})
    with pytest.raises(UsageError, match="'y' is unconfirmed"):
        Schema(columns=tuple(columns)).check()


def test_two_columns_of_one_name_are_refused():
    column = Column(name="x", kind="boolean")
    with pytest.raises(UsageError, match="twice"):
        Schema(columns=(column, column)).check()


def test_columns_take_the_order_of_the_file():
    schema = Schema.loads(TEXT).ordered(["outcome", "patient_id", "ward", "age"])
    assert [column.name for column in schema.columns] == ["outcome", "ward", "age", "a note"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            ["age", "ward", "outcome", "wrd"],
            "has a column 'wrd' that the schema does not declare (did you mean 'ward'?)",
        ),
        (["age", "ward"], "has no column 'outcome'"),
        (["age", "age", "ward", "outcome"], "has two columns named 'age'"),
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_refused_by_column_name(header, words):
    with pytest.raises(DataError) as caught:
        Schema.loads(TEXT).ordered(header, "patients.csv")
    assert str(caught.value).startswith("patients.csv " + words)


def test_bought_categories_are_filled_in_sorted_and_without_gaps():
    schema = one(kind="category", categories="bought")
    schema.check()
    assert schema.bought == ("x",)
    assert schema.with_categories("x", ["b", "a", "b"]).kept[0].categories == ("a", "b")
    assert schema.with_categories("x", ["b"]).bought == ()
    assert schema.with_categories("x", []).kept[0].texts == ("other",)
    with pytest.raises(UsageError, match="not to be bought"):
        schema.with_categories("y", ["a"])


def test_a_schema_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Schema.load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        Schema.load(tmp_path / "latin.toml")
    (tmp_path / "bad.toml").write_text("columns = 3")
    with pytest.raises(UsageError, match=r"bad\.toml: 'columns' is not a section"):
        Schema.load(tmp_path / "bad.toml")


ACTED = """
[table]
quasi = ["zip"]
[columns.zip]
kind = "category"
action = "generalize"
rule = { hierarchy = "zip.csv", level = 2 }
other = "*"
[columns.age]
kind = "ordinal"
action = "generalize"
rule = { width = 30, low = 0, high = 90 }
[columns.pay]
kind = "numeric"
bounds = [0, 10]
action = "code"
rule = { high = 10 }
[columns.name]
kind = "category"
action = "surrogate"
rule = { provider = "name" }
"""


def test_schemas_without_actions_keep_their_hashes():
    """Plans, ledgers and studies name schemas by their hashes: this one is of a version before there were actions."""
    assert Schema.loads(TEXT).hash == "c7ebc712857b2791e03752541680d52dbd73c492dddb2a3a97cf72e4c8df3539"


def test_a_schema_with_actions_holds_its_hierarchies(tmp_path):
    (tmp_path / "zip.csv").write_text("10001,100,1\n10002,100,1\n20001,200,2\n")
    (tmp_path / "s.toml").write_text(ACTED)
    schema = Schema.load(tmp_path / "s.toml")
    schema.check()
    assert Schema.loads(schema.dumps()) == schema
    assert "zip.csv" not in schema.dumps()
    assert [column.texts for column in schema.kept[:2]] == [
        ("1", "2", "*"),
        ("<0", "0-29", "30-59", "60-89", "90+"),
    ]
    assert [column.name for column in schema.kept] == ["zip", "age", "pay"]
    (tmp_path / "zip.csv").write_text("10001,100,1\n10002,100,1\n20001,200,1\n")
    assert Schema.load(tmp_path / "s.toml").hash != schema.hash
    (tmp_path / "zip.csv").unlink()
    with pytest.raises(UsageError, match=r"s.toml: column 'zip': the hierarchy .*no such file"):
        Schema.load(tmp_path / "s.toml")
    with pytest.raises(UsageError, match="load the schema from there"):
        Schema.loads(ACTED).check()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"kind": "category", "action": "round", "rule": {"to": 5}}, "is for numbers"),
        (
            {
                "kind": "numeric",
                "bounds": (0, 9),
                "decimals": 1,
                "unit": 0.1,
                "action": "round",
                "rule": {"to": 5},
            },
            "no multiple",
        ),
        ({"kind": "numeric", "bounds": (0, 9), "action": "code", "rule": {"high": 5}}, "bounds pass"),
        (
            {"kind": "numeric", "bounds": (0, 2025), "action": "generalize", "rule": {"date": "year"}},
            "four digits",
        ),
        ({"kind": "numeric", "bounds": (0, 9), "action": "generalize", "rule": {"width": 5}}, "are groups"),
        ({"kind": "boolean", "action": "generalize", "rule": {"groups": {"a": ["b"]}}}, "are groups"),
        ({"kind": "category", "action": "generalize", "rule": {"prefix": 2}}, "declare categories"),
        ({"kind": "category", "action": "mask", "confirmed": False}, "unconfirmed"),
    ],
)
def test_actions_that_do_not_go_with_their_column_are_refused(facts, words):
    with pytest.raises(UsageError, match=words):
        Schema(columns=(Column(name="x", **facts), Column(name="b", kind="boolean"))).check()


def test_a_person_column_may_be_pseudonymized_but_not_learned():
    text = '[table]\nperson = "p"\n[columns.p]\nkind = "category"\naction = "{0}"\n[columns.b]\nkind = "boolean"\n'
    Schema.loads(text.format("pseudonymize")).check()
    with pytest.raises(UsageError, match="is not to be learned"):
        Schema.loads(text.format("keep")).check()
    with pytest.raises(UsageError, match="is not a kept column"):
        Schema.loads(text.format("mask").replace('person = "p"', 'label = "p"')).check()
