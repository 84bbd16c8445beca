"""The verbs of preferences: a schema, a fit, recommendations by file and by item; mistakes are one line."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from privae.cli import main
from privae.data.ratings import RatingSchema

NAMED = ("--person", "who", "--item", "what")
BOUGHT = ("--schema", "bought.toml", "--epsilon", "3")
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def room(tmp_path_factory, plays, tiny):
    """A folder with ratings, their schema and a model."""
    folder, before = tmp_path_factory.mktemp("plays"), Path.cwd()
    os.chdir(folder)
    plays(3000).to_csv("plays.csv", index=False)
    (folder / "items.txt").write_text("\ufeff" + "\n".join(plays.schema.items) + "\n\n")
    named = ["--person", "who", "--item", "what", "--value", "stars", "--like", "4", "--rows", "3000"]
    assert main(["ratings", "plays.csv", *named, "--items", "items.txt", "-o", "s.toml", "-q"]) == 0
    assert main(["ratings", "plays.csv", *named, "-o", "bought.toml", "-q"]) == 0
    assert main(["fit", "plays.csv", "--schema", "s.toml", "--epsilon", "3", "-o", "m.privae", "-q"]) == 0
    pd.DataFrame({"what": ["x0", "x1", "unknown"]}).to_csv("mine.csv", index=False)
    yield folder
    os.chdir(before)


def said(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_a_schema_is_written_from_names_and_a_catalogue_without_reading_a_row(room, plays, capsys, tmp_path):
    assert RatingSchema.load("s.toml") == plays.schema.model_copy(update={"rows": 3000})
    (tmp_path / "broken.csv").write_text("who,what\nthis,is,no,row\n")
    out = said(
        capsys,
        "ratings",
        tmp_path / "broken.csv",
        "--person",
        "who",
        "--item",
        "what",
        "-o",
        tmp_path / "b.toml",
    )
    assert "privae plan" in out.out
    assert RatingSchema.load(tmp_path / "b.toml").items == "bought"


def test_a_plan_speaks_of_persons(room, capsys):
    text = said(capsys, "plan", "plays.csv", "--schema", "s.toml", "--epsilon", "1").out
    assert "persons about 3,000" in text
    assert "removing one person" in text
    assert (
        "popularity will recommend"
        in said(capsys, "plan", "plays.csv", "--schema", "s.toml", "--epsilon", "0.05").out
    )


def test_one_persons_items_are_enough_and_items_have_neighbors(room, capsys):
    found = json.loads(
        said(capsys, "recommend", "m.privae", "--profile", "mine.csv", "-n", "3", "--json").out
    )["items"]
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert {row["what"][0] for row in found} == {"x"}
    assert "x0" in said(capsys, "recommend", "m.privae", "--profile", "mine.csv", "--seen", "-n", "12").out
    pd.DataFrame({"who": ["a", "b"], "what": ["x0", "y0"]}).to_csv("named.csv", index=False)
    said(capsys, "recommend", "m.privae", "--profile", "named.csv", "-n", "1", "-o", "named.out.csv")
    assert pd.read_csv("named.out.csv")["what"].str[0].tolist() == ["x", "y"]
    alike = json.loads(said(capsys, "recommend", "m.privae", "--like-item", "y0", "-n", "5", "--json").out)[
        "items"
    ]
    assert {row["what"][0] for row in alike} == {"y"}


def test_many_persons_go_to_a_file_and_scores_and_codes_name_them(room, capsys):
    said(capsys, "recommend", "m.privae", "--profile", "plays.csv", "-n", "2", "-o", "r.parquet")
    found = pd.read_parquet("r.parquet")
    assert found.columns.tolist() == ["who", "rank", "what", "score"]
    assert found.groupby("who").size().eq(2).all()
    said(capsys, "score", "m.privae", "plays.csv", "-o", "scores.csv")
    said(capsys, "encode", "m.privae", "plays.csv", "-o", "codes.csv")
    persons = found["who"].unique().tolist()
    assert pd.read_csv("scores.csv")["who"].astype(str).tolist() == persons
    assert pd.read_csv("codes.csv").columns[0] == "who"
    said(capsys, "sample", "m.privae", "-n", "50", "-o", "made.csv")
    assert pd.read_csv("made.csv").columns.tolist() == ["who", "what", "stars"]


def test_what_a_model_is_and_claims_is_told_and_certified(room, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert (
        "preferences among 12 items; it recommends by what a person likes"
        in said(capsys, "inspect", "m.privae").out
    )
    said(capsys, "certificate", "m.privae", "-o", "c.json")
    assert "one person" in said(capsys, "verify", "c.json", "m.privae").out
    again = ["fit", "plays.csv", "--schema", "s.toml", "--epsilon", "3", "-o", "again.privae"]
    assert "audit (quick): passed" in said(capsys, *again).out


def test_canary_persons_are_planted_and_a_model_is_audited(room, capsys):
    fit = ("fit", "plays.csv", "--schema", "s.toml", "--epsilon", "3", "-o", "k.privae")
    assert "audit (standard): passed" in said(capsys, *fit, "--audit", "standard").out
    found = said(capsys, "audit", "k.privae", "--data", "plays.csv").out
    assert "Membership by the model's likelihood" in found
    assert "Canaries told by the model's score" in found
    kept = json.loads((room / "k.privae.audit.json").read_text())
    assert "canary reading" in {one["attack"] for one in kept["findings"]}
    for name in ("k.privae", "k.privae.audit.json", "k.privae.coins"):
        (room / name).unlink()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("recommend", "m.privae"), 2, "either --profile"),
        (("recommend", "m.privae", "--profile", "mine.csv", "--like-item", "x0"), 2, "either --profile"),
        (("recommend", "m.privae", "--profile", "none.csv"), 2, "does not exist"),
        (("recommend", "m.privae", "--profile", "items.txt"), 2, "neither .csv nor .parquet"),
        (("recommend", "m.privae", "--profile", "mine.csv", "-n", "0"), 2, "at least 1"),
        (("recommend", "m.privae", "--profile", "mine.csv", "-o", "mine.csv"), 2, "is what is read"),
        (("recommend", "m.privae", "--like-item", "unknown"), 2, "not among the items"),
        (("recommend", "plays.csv", "--profile", "mine.csv"), 6, "plays.csv"),
        (("ratings", "plays.csv", "--person", "who", "--item", "film", "-o", "t.toml"), 3, "no column 'film'"),
        (("ratings", "plays.csv", *NAMED, "--like", "3", "-o", "t.toml"), 2, "go together"),
        (("ratings", "plays.csv", *NAMED, "-o", "s.toml"), 2, "exists"),
        (("report", "m.privae", "-o", "r.html"), 2, "no page for models of ratings"),
        (("encrypted", "inspect", "m.privae"), 2, "not computed on ciphertexts"),
        (("fit", "plays.csv", *BOUGHT, "--audit", "standard", "-o", "n.privae"), 2, "declared catalogue"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(room, capsys, arguments, code, says):
    before = {path.name for path in room.iterdir()}
    lines = [
        text for text in said(capsys, *arguments, code=code).err.splitlines() if text.startswith("privae: ")
    ]
    assert len(lines) == 1
    assert says in lines[0]
    assert {path.name for path in room.iterdir()} == before


def test_a_study_takes_no_ratings_and_says_so(room, tmp_path, capsys):
    said(capsys, "plan", "s.toml", "--epsilon", "3", "-o", "plan.toml")
    terms = 'name = "t"\nplan = "plan.toml"\nschema = "s.toml"\ncolluders = 0\nmin_sites = 2\n[sites]\na = ""\nb = ""\n'
    (room / "study.toml").write_text(terms)
    text = said(capsys, "federated", "plan", "study.toml", code=2).err
    assert "fitted at one place so far" in text
