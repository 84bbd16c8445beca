"""The suite: which attacks run, why others do not, how sure all findings are together, and the verdict."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from privae import VAE, Training
from privae.attacks.bounds import CONFIDENCE
from privae.attacks.finding import Attack, Finding, Skipped
from privae.audit import canaries, suite
from privae.audit.case import Case, case_of_samples
from privae.audit.coins import Coins
from privae.audit.suite import FORMAT, LEVELS, Audit, audit
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import DataError, UsageError
from privae.recipes import image

pytestmark = pytest.mark.usefixtures("tiny")
KEY = bytes(range(32))
SMALL = Training(latent=2, hidden=(8,), steps=5, batch=60)
NUMBERS = Schema(
    columns=tuple(Column(name=f"n{i}", kind="numeric", bounds=(0.0, 100.0), bins=10) for i in range(4))
)
TOLD = Attack(
    "told", "samples", "share", {"en": "Told", "zh": "告知"}, {"en": "{value}", "zh": "{value}"}, "by hand"
)


def numbers(count, seed=0):
    drawn = np.random.default_rng(seed).uniform(0, 100, (count, 4))
    return pd.DataFrame(drawn, columns=[column.name for column in NUMBERS.kept])


def texts(y):
    return y.astype(str).astype(object)


def errors(done: Audit) -> float:
    """The chance that any finding of an audit is wrong, at most."""
    return sum(1 - finding.confidence for finding in done.findings)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Matching gradients takes most of an audit's time, and has tests of its own; so have processes, which would fit
    their reference models without what `tiny` patches.
    """
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 1)
    for name, value in {"BATCHES": 2, "_STARTS": 1, "_ROUNDS": 1, "_PARTS": 1}.items():
        monkeypatch.setattr(suite.inversion, name, value)
    monkeypatch.setattr(suite, "_PLAYED", 300)


@pytest.fixture(scope="module")
def fitted(tiny, people, facts):
    frame, coins = people(600), Coins(40, 0.1, KEY)
    return frame, coins, VAE(math.inf, rows=600).fit(frame, schema=facts, coins=coins)


@pytest.fixture(scope="module")
def refined(tiny, people, facts):
    frame = people(300)
    vae = VAE(math.inf, rows=300, recipe="gradients", training=SMALL)
    return frame, vae.fit(frame, schema=facts)


# --- levels -----------------------------------------------------------------------------------------------


def test_a_level_runs_what_lower_levels_run_and_more(fitted):
    frame, coins, vae = fitted
    done = [vae.audit(frame, coins=coins, level=level) for level in LEVELS]
    for lower, higher in pairwise(done):
        one, other = ({found.attack for found in (*each.findings, *each.skipped)} for each in (lower, higher))
        assert one < other
    assert [each.level for each in done] == list(LEVELS)
    assert {"LiRA", "RMIA"} & {f.attack for f in done[2].findings} or any(
        "reference" in f.attack or "lira" in f.attack.lower() for f in done[2].findings
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("planted", [True, False])
def test_all_findings_together_err_as_rarely_as_said(fitted, people, facts, level, planted):
    """Bonferroni, whatever the level, with canaries of the fit or without: at most one audit in a thousand."""
    frame, coins, vae = fitted
    if not planted:
        vae = VAE(math.inf, rows=600).fit(frame, schema=facts)
    done = vae.audit(frame, holdout=people(60, 1), coins=coins if planted else None, level=level)
    assert 0 < errors(done) <= (1 - CONFIDENCE) * (1 + 1e-9)
    own = [f for f in done.findings if "canary" in f.attack]
    assert bool(own) == (planted or level != "quick")
    assert sum(1 - f.confidence for f in own) <= canaries.SHARE * (1 - CONFIDENCE) * (1 + 1e-9)


def test_gradients_are_attacked_by_what_needs_them(refined, people):
    frame, vae = refined
    done = vae.audit(frame, holdout=people(60, 1), level="standard")
    names = {found.attack for found in done.findings}
    assert {"gradient canaries", "replayed neighbors", "gradient inversion"} <= names
    assert errors(done) <= (1 - CONFIDENCE) * (1 + 1e-9)
    assert done.passed


def test_an_unknown_level_is_refused(fitted):
    frame, _, vae = fitted
    with pytest.raises(UsageError, match="quick, standard, deep"):
        vae.audit(frame, level="thorough")


def test_a_rehearsal_is_left_out_where_the_fit_planted_canaries(fitted, facts):
    frame, coins, vae = fitted
    done = vae.audit(frame, coins=coins, level="standard")
    assert not any(f.attack.startswith("rehearsal") for f in done.findings)
    assert done.findings[:3] == tuple(vae.canary_findings_)
    plain = VAE(math.inf, rows=600).fit(frame, schema=facts).audit(frame, level="standard")
    assert [f.attack for f in plain.findings if f.attack.startswith("rehearsal")] == [
        "rehearsal: canary reading",
        "rehearsal: canary release",
        "rehearsal: canary loss",
    ]


def test_where_noise_hides_generated_records_the_games_with_them_are_skipped(fitted, monkeypatch):
    """At small epsilon a fit to few generated records is refused: that is no fault of the data."""
    frame, _, vae = fitted
    vae = VAE.__new__(VAE)
    vae.__dict__.update(fitted[2].__dict__)
    vae.canary_findings_ = []

    def refused(*_):
        raise DataError("too few records")

    monkeypatch.setattr("privae.recipes.table.counted", refused)
    done = vae.audit(frame, level="standard")
    hidden = {s.attack for s in done.skipped if "noise of this plan" in s.reason["en"]}
    assert hidden == {"rehearsal", "replayed neighbors"}
    monkeypatch.setattr(suite.copies, "duplicates", refused)
    broken = suite._of(suite.copies.DUPLICATES, suite._seen(refused))
    with pytest.raises(DataError):
        list(suite._results(broken, Case(None), 0.99, suite._SILENT))


# --- what does not run ------------------------------------------------------------------------------------


def test_what_is_missing_is_said_in_both_languages(fitted, people, facts):
    frame, _, vae = fitted
    done = vae.audit(frame, level="deep")  # no hold-out
    reasons = {skipped.attack: skipped.reason for skipped in done.skipped}
    for name in ("membership-loss", "singling-out"):
        match = [reason for attack, reason in reasons.items() if name.split("-")[0] in attack.lower()]
        assert match
        assert all("--holdout" in reason["en"] for reason in match)
    assert all(set(reason) == {"en", "zh"} for reason in reasons.values())
    assert any("gradients" in reason["en"] for reason in reasons.values())
    few = vae.audit(frame, holdout=people(7, 1))
    assert {s.attack for s in few.skipped} == {s.attack for s in vae.audit(frame).skipped}


def test_every_need_has_its_reason(pictures, monkeypatch):
    """Images without a plan's gradients, a hold-out or a way to fit again: each attack says what it lacks."""
    x, y = pictures(200)
    vae = VAE(math.inf, classes=2, fidelity=False).fit(x, texts(y))
    done = vae.audit(x, texts(y), level="deep")
    said = {reason["en"].split(",")[0].split(";")[0] for reason in (s.reason for s in done.skipped)}
    assert any("tables" in reason for reason in said)
    assert any("kept out" in reason for reason in said)
    vae.plan_ = vae.plan_.model_copy(update={"settings": vae.plan_.settings | {"own_network": True}})
    more, names = pictures(20, 1)
    again = vae.audit(x, texts(y), holdout=(more, texts(names)), level="standard")
    assert any("does not allow" in s.reason["en"] for s in again.skipped)


# --- the verdict ------------------------------------------------------------------------------------------


def test_one_failed_finding_fails_the_audit():
    good = TOLD.found(0.1, (0.0, 0.2), 0.999)
    done = Audit("quick", (good, good), (), None, 1.0)
    assert done.passed
    assert not replace(done, findings=(good, replace(good, failed=True))).passed
    assert Audit("quick", (), (), None, 1.0).passed


def test_known_findings_count_for_the_verdict(people, facts):
    known = TOLD.found(9.0, (9.0, math.inf), 0.999, failed=True)
    case = case_of_samples(facts, (people(60), None, people(60, 1)), (1.0, 1e-6))
    assert audit(case).passed
    done = audit(case, known=[known])
    assert not done.passed
    assert done.findings[0] is known


def test_an_audit_is_json_and_its_findings_come_back(fitted):
    frame, coins, vae = fitted
    done = vae.audit(frame, coins=coins)
    fields = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert fields["format"] == FORMAT
    assert (fields["passed"], fields["epsilon"], fields["holdout"]) == (True, "inf", "split")
    assert fields["plan_hash"] == vae.plan_.hash
    assert len(fields["created"]) == len("2026-01-31")
    for stored, finding in zip(fields["findings"], done.findings, strict=True):
        assert Finding.from_dict(stored).to_dict() == stored == json.loads(json.dumps(finding.to_dict()))
    for stored, skipped in zip(fields["skipped"], done.skipped, strict=True):
        assert Skipped(**stored) == skipped


def test_an_audit_is_told_to_the_watch_attack_by_attack(fitted):
    frame, coins, vae = fitted
    told = []

    class Watch(suite.Silent):
        def phase(self, name, total):
            told.append([name, total, 0])

        def advance(self, count, epsilon=None):
            told[-1][2] += count

        def note(self, text):
            raise AssertionError("an audit has nothing to say in a log")

    vae.audit(frame, coins=coins, watch=Watch())
    assert [name for name, _, _ in told] == ["audit: quick"]
    assert told[0][1] == told[0][2]


# --- images and other tools -------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
def test_images_pass_at_every_level(pictures, monkeypatch, labelled):
    monkeypatch.setattr(image, "_DECODER_STEPS", 5)
    x, y = pictures(400)
    y = texts(y) if labelled else None
    coins = Coins(40, 0.1, KEY)
    vae = VAE(math.inf, rows=400, classes=2 if labelled else None, fidelity=True).fit(x, y, coins=coins)
    done = vae.audit(x, y, coins=coins, level="deep")
    assert done.passed
    assert done.holdout == "split"
    assert errors(done) <= (1 - CONFIDENCE) * (1 + 1e-9)
    assert {f.channel for f in done.findings} == {"data", "parameters", "samples"}


def test_a_copy_of_the_data_fails_whatever_the_tool_claims():
    members, holdout = numbers(400), numbers(200, 1)
    for claim in ((None, 0.0), (1.0, 1e-6), (8.0, 1e-6)):
        done = audit(case_of_samples(NUMBERS, (members, holdout, members), claim))
        assert not done.passed
        assert any("cop" in f.attack for f in done.findings if f.failed)
    assert not audit(
        case_of_samples(NUMBERS, (members, None, members.sample(frac=1.0, random_state=0)), (None, 0.0))
    ).passed


@pytest.mark.parametrize("seed", range(5))
def test_an_independent_sample_passes(seed):
    """Five audits at 99.9 %: one in 200 choices of seeds fails; these are fixed."""
    tables = tuple(numbers(300, 10 * seed + place) for place in range(3))
    done = audit(case_of_samples(NUMBERS, tables, (1.0, 1e-6)), "deep")
    assert done.passed
    assert done.plan_hash is None
    assert {s.attack for s in done.skipped} >= {"gradient canaries", "replayed neighbors"}
    assert errors(done) <= (1 - CONFIDENCE) * (1 + 1e-9)


def test_a_tool_without_a_claim_or_a_holdout_is_audited_too():
    done = audit(case_of_samples(NUMBERS, (numbers(300), None, numbers(300, 2)), (None, 0.0)))
    assert done.passed
    assert done.epsilon is None
    assert done.to_dict()["epsilon"] is None
