"""`privae deidentify` as a person uses it: what it writes, what it says, and what it refuses in one line."""

import json

import pandas as pd
import pytest

from privae.cli import main

SCHEMA = """
[table]
quasi = ["age"]
[columns.id]
kind = "category"
action = "pseudonymize"
rule = { reversible = true }
[columns.age]
kind = "ordinal"
action = "generalize"
rule = { width = 10, low = 0, high = 90 }
[columns.ward]
kind = "category"
action = "generalize"
rule = { hierarchy = "wards.csv" }
[columns.mail]
kind = "category"
action = "drop"
"""
ROWS = "id,age,ward,mail\n1234567,44,A,ann@x.org\n2345678,97,C,bob@y.org\n"


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVAE_PSEUDONYM_KEY_FILE", str(tmp_path / "p.key"))
    (tmp_path / "s.toml").write_text(SCHEMA)
    (tmp_path / "wards.csv").write_text("A;inner\nB;inner\nC;outer\n")
    (tmp_path / "d.csv").write_text(ROWS)
    return tmp_path


def run(*more, table="d.csv", schema="s.toml", output="clean.csv"):
    return main(["deidentify", table, "--schema", schema, "-o", output, *more])


def test_a_table_is_written_with_its_schema_and_comes_back(room, capsys):
    assert run("--report", "figures.json") == 0
    told = capsys.readouterr().out
    for words in (
        "enciphered by FF1",
        "bands of 10",
        "dropped",
        "a new key was made",
        "smallest class (k-anonymity)",
        "no guarantee",
    ):
        assert words in told
    key = (room / "p.key").read_text().strip()
    assert not any(secret in told for secret in (key, "1234567", "ann@x"))
    clean = pd.read_csv("clean.csv", dtype=str)
    assert clean[["age", "ward"]].to_numpy().tolist() == [["40-49", "inner"], ["90+", "outer"]]
    assert "hierarchy" not in (room / "clean.schema.toml").read_text()
    figures = json.loads((room / "figures.json").read_text())
    assert [figures[when]["k"] for when in ("before", "after")] == [1, 1]
    assert (room / "figures.json").stat().st_mode & 0o777 == 0o600
    assert run("--reverse", table="clean.csv", output="back.csv") == 0
    assert pd.read_csv("back.csv", dtype=str)["id"].tolist() == ["1234567", "2345678"]
    assert "names people again" in capsys.readouterr().out


def test_the_schema_of_a_sealed_table_is_named_as_that_of_an_open_one(room):
    from privae.sealing import envelope, is_sealed

    assert run("--seal-to", envelope.public_of(envelope.fresh()), output="clean.csv.age") == 0
    assert is_sealed(room / "clean.schema.toml")
    assert not (room / "clean.csv.schema.toml").exists()


def test_json_says_the_same_once_and_parquet_gives_the_same(room, capsys):
    assert run("--json", output="clean.parquet") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["columns"]["mail"] == "dropped"
    assert (said["key_made"], said["measures"]["after"]["k"]) == (True, 1)
    (room / "clean.schema.toml").unlink()
    assert run("-q") == 0
    assert capsys.readouterr().out == ""
    pd.testing.assert_frame_equal(
        pd.read_parquet("clean.parquet"), pd.read_csv("clean.csv", dtype=str), check_dtype=False
    )


@pytest.mark.parametrize(
    ("change", "more", "code", "words"),
    [
        (
            {"s.toml": SCHEMA.replace("width = 10", "width = -1")},
            [],
            2,
            "[columns.age]: rule.width: input should be greater than",
        ),
        (
            {"s.toml": SCHEMA.replace("wards.csv", "../wards.csv")},
            [],
            2,
            "must lie in the folder of the schema",
        ),
        ({"s.toml": SCHEMA.replace('"generalize"', '"invent"', 1)}, [], 2, "[columns.age] action"),
        ({"wards.csv": "A;x\0\n"}, [], 2, "NUL byte"),
        ({"wards.csv": "A;inner\n"}, [], 0, ""),
        ({"s.toml": SCHEMA.replace('["age"]', "[]")}, ["--report", "f.json"], 2, "name them in the schema"),
        ({"d.csv": ROWS.replace("ward", "room")}, [], 3, "column 'room' that the schema does not declare"),
        ({"d.csv": ROWS.replace("1234567", "Ann")}, [], 3, "column 'id' holds values that FF1 cannot"),
        ({"d.csv": ROWS + "1,2\n"}, [], 3, "line 4 has fewer fields"),
        ({"d.csv": ""}, [], 3, "is empty"),
        ({"p.key": "half"}, [], 2, "others may read"),
        ({}, ["--reverse"], 2, "does not exist"),
        ({}, ["--reverse", "--report", "f.json"], 2, "leave it out with --reverse"),
        ({"clean.schema.toml": "mine"}, [], 2, "may hold what you declared"),
        ({}, ["-o", "d.csv"], 2, "is what is read"),
        ({}, ["-o", "x.txt"], 2, "must end in"),
    ],
)
def test_what_is_refused_is_refused_in_one_line_and_writes_nothing(room, capsys, change, more, code, words):
    for name, content in change.items():
        (room / name).write_text(content)
    before = {path.name: path.read_bytes() for path in room.iterdir()}
    assert run("-q", *more) == code
    err = capsys.readouterr().err
    assert words.casefold() in err.casefold()
    assert "Ann" not in err
    if code:
        assert err.count("\n") == 1
        after = {path.name: path.read_bytes() for path in room.iterdir() if path.name != "p.key"}
        assert {name: content for name, content in before.items() if name != "p.key"} == after


def test_a_full_run_leaves_no_value_of_a_dropped_column_in_any_file(room):
    assert run("--report", "figures.json") == 0
    for name in ("d.csv", "s.toml"):
        (room / name).unlink()
    for path in room.iterdir():
        assert not any(secret in path.read_bytes() for secret in (b"ann@x", b"1234567"))


def test_free_text_is_masked_and_what_is_not_found_there_is_said(room, capsys):
    (room / "t.toml").write_text(
        '[columns.note]\nkind = "category"\naction = "mask"\nrule = { text = true }\n'
    )
    (room / "t.csv").write_text("note\nmail ann@x.org or SSN 123456789\n")
    assert run(table="t.csv", schema="t.toml") == 0
    assert "names of people" in capsys.readouterr().out
    assert (room / "clean.csv").read_text() == "note\nmail <E-MAIL> or SSN 123456789\n"
    (room / "clean.schema.toml").unlink()
    assert run("--context", "en", table="t.csv", schema="t.toml") == 0
    assert (room / "clean.csv").read_text() == "note\nmail <E-MAIL> or SSN <SSN>\n"
    assert run("--context", "en", "-q", output="other.csv") == 2
    assert "no column is masked" in capsys.readouterr().err
