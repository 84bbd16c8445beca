"""The verbs of a study, as a person types them."""

import json

import numpy as np
import pytest

from privae import VAE
from privae.cli import main
from privae.errors import ArtifactError, UsageError

STUDY = """name = "ward"
plan = "plan.toml"
schema = "images.toml"
min_sites = 2
[sites]
oslo = ""
lyon = ""
bern = ""
"""


@pytest.fixture
def desk(tmp_path, digits, monkeypatch, capsys):
    """A folder with a study of images; `run(*words)` is (exit code, what was printed on stdout)."""
    monkeypatch.chdir(tmp_path)
    x, y = digits(900)
    np.savez(tmp_path / "all.npz", x=x, y=y.astype(np.int64))
    (tmp_path / "images.toml").write_text("height = 6\nwidth = 6\nclasses = 3\n")
    (tmp_path / "study.toml").write_text(STUDY)

    def run(*words):
        code = main([*map(str, words)])
        return code, capsys.readouterr()

    return run


PLAN = (
    "plan",
    "images.toml",
    "--epsilon",
    5,
    "--delta",
    1e-5,
    "--rows",
    900,
    "--no-fidelity",
    "-o",
    "plan.toml",
)


def test_a_study_is_planned_without_data_simulated_verified_and_shown(desk, tmp_path) -> None:
    code, said = desk(*PLAN, "--quiet")
    assert code == 0
    code, said = desk("federated", "plan", "study.toml", "--json")
    facts = json.loads(said.out)
    assert (code, facts["noise_over_central"]) == (0, pytest.approx(np.sqrt(1.5)))
    assert float(facts["epsilon_against_coalitions"]["1"]) <= 5.001
    code, said = desk(
        "federated", "simulate", "study.toml", "--data", "all.npz", "--split", "label", "-o", "out"
    )
    assert (code, "3 sites (oslo, lyon, bern)" in said.out) == (0, True)
    code, said = desk("ledger", "verify", "out/ledger")
    assert (code, "signed by 3 of 3 sites" in said.out) == (0, True)
    code, said = desk("inspect", "out/model.privae")
    assert "a person with records at several sites" in said.out
    model = VAE.load(tmp_path / "out" / "model.privae")
    model.save(tmp_path / "again.privae")
    assert VAE.load(tmp_path / "again.privae").federation_ == model.federation_ != {}
    code, said = desk("federated", "simulate", "study.toml", "--data", "all.npz", "-o", "out")
    assert (code, "never overwritten" in said.err) == (UsageError.exit_code, True)
    book = tmp_path / "out" / "ledger" / "ledger.jsonl"
    book.write_bytes(book.read_bytes().replace(b'"phase":"norms"', b'"phase":"norm"'))
    assert desk("ledger", "verify", "out/ledger")[0] == ArtifactError.exit_code


@pytest.mark.parametrize(
    ("study", "words", "code", "reason"),
    [
        (STUDY.replace("min_sites = 2", "min_sites = 4"), (), UsageError.exit_code, "min_sites"),
        (STUDY.replace("[sites]", "sights = 1\n[sites]"), (), UsageError.exit_code, "sights"),
        (STUDY.replace("plan.toml", "no.toml"), (), UsageError.exit_code, "cannot be read"),
        (STUDY, ("--split", "ward"), UsageError.exit_code, "evenly, or by their labels"),
        (STUDY.replace('bern = ""', ""), (), UsageError.exit_code, "colluders"),
    ],
)
def test_what_cannot_be_meant_is_one_line(desk, tmp_path, study, words, code, reason) -> None:
    desk(*PLAN)
    (tmp_path / "study.toml").write_text(study.replace("min_sites = 2", "min_sites = 2\ndropouts = 1"))
    found, said = desk("federated", "simulate", "study.toml", "--data", "all.npz", *words, "-o", "out")
    lines = [line for line in said.err.splitlines() if line.startswith("privae:")]
    assert (found, len(lines)) == (code, 1)
    assert reason in lines[0]
    assert not (tmp_path / "out").exists()
