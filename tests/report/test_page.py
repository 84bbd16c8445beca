import base64
import hashlib
import json
import math
import re
import string
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest

from privae.attacks import bounds
from privae.attacks.finding import Attack, Skipped
from privae.plan import Phase, Plan, calibrated
from privae.privacy.ledger import Charge, Ledger
from privae.report.overview import best_guess, least_misses
from privae.report.page import Contents, render
from privae.report.view import Figures, Html, escaped, shown, tag
from privae.report.words import HOUSE, WORDS

LANGUAGES = ("en", "zh")
NASTY = '</script><script>alert("x")</script> & \u2028'
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Elements, the texts that stand in elements with data-f, and all other texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.kept, self.loose, self.raw = [], [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        found = dict(attributes)
        self.elements.append((name, found))
        if name not in VOID:
            self.open.append((name, found))
            if "data-f" in found:
                self.kept.append([found["data-f"], ""])

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop()[0] == name

    def handle_data(self, text):
        names = [name for name, _ in self.open]
        if names and names[-1] in ("script", "style"):
            self.raw.setdefault(names[-1], []).append(text)
        elif any("data-f" in found for _, found in self.open):
            self.kept[-1][1] += text
        elif "svg" not in names:
            self.loose.append(text)

    @property
    def figures(self):
        return json.loads(self.raw["script"][0])


def attack(name, channel, public, measure="AUC"):
    meaning = {"en": "It is right {value} of the time.", "zh": "正确率为 {value}。"}
    return Attack(
        name, channel, measure, {"en": f"{name} en", "zh": f"{name} 中"}, meaning, "arXiv:1", public
    )


def members(failed=False):
    rng = np.random.default_rng(0)
    scores = rng.normal(0.1, 1, 300), rng.normal(0, 1, 300)
    rates = [{"fpr": rate, "value": 0.0437, "low": 0.01, "high": 0.1} for rate in (0.001, 0.01)]
    made = attack("membership", "parameters", public=False)
    more = {"roc": bounds.roc(*scores), "tpr": rates, "bound": 0.3217}
    return made.found(0.5219, (0.4713, 0.5727), 0.9999, power=3.0129, failed=failed, **more)


def canary(failed=False):
    made = attack("canary", "data", public=True, measure="epsilon lower bound")
    return made.found(0.4, (0.4, math.inf), 0.9999, power=2.6, failed=failed)


def audited(*findings, passed=True):
    skipped = Skipped("lira", "parameters", {"en": "no models of 7 rows", "zh": "没有 7 行的模型"})
    return {
        "format": "privae-audit/1",
        "level": "quick",
        "confidence": 0.999,
        "passed": passed,
        "seconds": 987.6,
        "findings": [json.loads(json.dumps(one.to_dict())) for one in findings],
        "skipped": [skipped.to_dict()],
        "holdout": "split",
        "plan_hash": None,
        "created": "2026-11-22",
    }


def useful(names=("age", "job")):
    apart = {"mean": 0.0312, "worst": 0.0625, "baseline": {"mean": 0.01, "worst": 0.02}}
    square = [[0.1 * abs(i - j) for i in range(len(names))] for j in range(len(names))]
    columns = [
        {"name": name, "labels": [str(i) for i in range(3 + 9 * (place % 2))], "tv": 0.0123}
        for place, name in enumerate(names)
    ]
    for column in columns:
        column["real"] = column["synthetic"] = [1 / len(column["labels"])] * len(column["labels"])
    models = {"logistic": {"synthetic": 0.8123, "real": 0.8456}, "boosting": {"synthetic": 0.8, "real": 0.85}}
    return {
        "kind": "table",
        "rows": {"real": 200, "synthetic": 200, "test": None, "compared": 100},
        "marginals": {**apart, "worst_name": names[0]},
        "pairs": {**apart, "names": list(names), "tv": square, "worst_names": list(names[:2])},
        "correlation": {"value": None, "reason": "alone", "reason_zh": "仅一列"},
        "frechet": {"value": 0.2, "baseline": 0.1},
        "detection": {"logistic": 0.6, "boosting": 0.7, "baseline": {"logistic": 0.5, "boosting": 0.5}},
        "train_on_synthetic": {"label": "job", "measure": "AUC", "guess": 0.5, "models": models},
        "columns": columns,
    }


def made(epsilon=1.0, columns=("age", "job"), gradients=False, **more):
    phases = [
        Phase(name="pair tables", share=0.3 if gradients else 1.0, sensitivity=1, replace_ratio=1.4, size=40)
    ]
    if gradients:
        more_of = {"sampling_rate": 0.1, "steps": 20, "size": 50}
        phases.append(
            Phase(name="gradients", kind="gradients", share=0.7, sensitivity=1, replace_ratio=2, **more_of)
        )
    plan = Plan(
        recipe="table",
        epsilon=epsilon,
        delta=1e-5,
        rows=1000,
        phases=calibrated(phases, epsilon, 9e-6),
        schema_hash="ab" * 32,
        rows_needed=10,
        seconds=1,
        megabytes=1,
        code_version="0.1",
    )
    ledger = Ledger.fresh(1e-5)
    ledger.spend(
        [Charge(plan.hash, plan.schema_hash, phase.name, phase.event()) for phase in phases_of(plan)]
    )
    kinds = {name: {"kind": "numeric", "bounds": [0, 90], "bins": 9} for name in columns}
    facts = {"table": {"label": columns[-1]}, "columns": kinds}
    return Contents(plan, plan.guarantee(), ledger, facts, "table", **more)


def phases_of(plan):
    return plan.phases


def full(**more):
    given = {
        "audit": audited(canary(), members()),
        "canaries": [canary()],
        "utility": useful(),
        "pictures": {"real": b"\x89PNG real", "nearest": b"\x89PNG nearest"},
        "command": ["privae fit a.csv"],
        "versions": {"privae": "0.1"},
    }
    return made(**{**given, **more})


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("public", [False, True])
def test_every_figure_shown_equals_the_json(language, public):
    page = Page(render(full(), language, public))
    figures = page.figures
    assert len(page.kept) > 40
    for key, text in page.kept:
        if key in figures["texts"] and figures["texts"][key] == text:
            continue
        entry = figures["numbers"][key]
        value = math.inf if entry["value"] == "inf" else entry["value"]
        assert text == entry["shown"] == shown(value, entry["form"]), key
    seen = {key for key, _ in page.kept}
    assert seen == {*figures["numbers"], *figures["texts"]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_figure_is_shown_past_the_json(language):
    page = Page(render(full(), language, public=False))
    words = [pair[LANGUAGES.index(language)] for pair in WORDS.values()]
    fixed = {piece for text in words for piece, *_ in string.Formatter().parse(text)} | {"SHA-256"}
    rest = "\n".join(page.loose)
    for piece in sorted(filter(None, fixed), key=len, reverse=True):
        rest = rest.replace(piece, "")
    assert not re.search(r"\d", rest)


def test_the_curves_of_the_charts_are_in_the_json():
    curves = Page(render(full(), "en", public=False)).figures["curves"]
    assert curves["findings.membership.roc"]["fpr"] == members().details["roc"]["fpr"]
    assert curves["pairs"]["tv"] == useful()["pairs"]["tv"]
    assert curves["columns.0"]["real"] == useful()["columns"][0]["real"]
    assert {"trade_off.promise", "trade_off.exact", "trade_off.guess"} <= set(curves)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_public_page_is_the_same_whatever_was_computed_on_real_data(language):
    bare = {"audit": None, "utility": None, "pictures": {}}
    failed = {"audit": audited(canary(), members(failed=True), passed=False)}
    assert (
        render(full(), language, public=True)
        == render(full(**bare), language, public=True)
        == render(full(**failed), language, public=True)
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_public_page_keeps_canaries_and_nothing_that_is_private(language):
    page = render(full(audit=audited(canary(), members())), language, public=True)
    word = LANGUAGES.index(language)
    assert canary().title[language] in page
    assert WORDS["public banner"][word] in page
    secrets = [
        "membership",
        "0.521",
        "0.522",
        "3.01",
        "lira",
        "0.8123",
        WORDS["holder"][word],
        "data:image/png",
        "987.6",
    ]
    assert [secret for secret in secrets if secret in page] == []
    whole = render(full(), language, public=False)
    assert all(secret in whole for secret in ["membership", "0.522", "lira", "0.812", WORDS["holder"][word]])


def test_public_findings_of_an_audit_are_published_and_those_of_a_model_that_are_not_public_never():
    page = render(made(audit=audited(canary()), canaries=[members()]), "en", public=True)
    assert "canary en" in page
    assert "membership" not in page


@pytest.mark.parametrize("public", [False, True])
def test_names_and_texts_cannot_break_out_of_the_page(public):
    names = (NASTY, "job")
    given = {"columns": names, "utility": useful(names), "command": [NASTY], "versions": {NASTY: NASTY}}
    text = render(full(**given), "en", public)
    page = Page(text)
    assert [name for name, _ in page.elements].count("script") == 2
    assert NASTY not in text
    assert NASTY in page.figures["texts"].values()
    assert page.open == []


def test_the_page_asks_the_network_for_nothing_and_runs_its_own_script_only():
    page = Page(render(full(), "en", public=False))
    policy = next(of["content"] for name, of in page.elements if of.get("http-equiv"))
    script = page.raw["script"][1]
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{known}'" in policy
    places = [of[key] for _, of in page.elements for key in ("src", "href") if key in of]
    assert all(place.startswith(("data:image/png;base64,", "#")) for place in places)
    assert not [of for _, of in page.elements if any(key.startswith("on") for key in of)]
    assert "url(" not in page.raw["style"][0]
    assert "@import" not in page.raw["style"][0]


@pytest.mark.parametrize(("language", "word"), [("en", "NOT PRIVATE"), ("zh", "无隐私保护")])
def test_no_privacy_is_shouted(language, word):
    text = render(made(math.inf, audit=audited(members(failed=True), passed=False)), language, public=False)
    page = Page(text)
    shout = next(of for name, of in page.elements if of.get("class") == "shout")
    assert shout["role"] == "alert"
    assert text.count(word) >= 2
    assert WORDS["no curve"][LANGUAGES.index(language)] in text
    assert not [key for key in page.figures["curves"] if key.startswith("trade_off")]


def test_a_model_without_a_promise_is_never_called_passed():
    text = render(made(math.inf, audit=audited(members())), "en", public=False)
    summary = text[text.index('id="summary"') : text.index('id="privacy"')]
    assert "Passed" not in summary
    assert "nothing is promised" in summary


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_failed_audit_is_said_in_words(language):
    word = LANGUAGES.index(language)
    failed = audited(canary(), members(failed=True), passed=False)
    text = render(full(audit=failed), language, public=False)
    assert WORDS["failed"][word] in text
    assert WORDS["contradicted"][word] in text
    assert WORDS["contradicted"][word] not in render(full(), language, public=False)


def test_an_audit_that_says_that_it_failed_is_believed_whatever_its_findings_say():
    assert WORDS["contradicted"][0] in render(full(audit=audited(canary(), passed=False)), "en", public=False)


def test_an_audit_of_another_model_is_called_one():
    other = audited(members()) | {"plan_hash": "00" * 32}
    own = audited(members()) | {"plan_hash": made().plan.hash}
    assert WORDS["other model"][0] in render(made(audit=other), "en", public=False)
    assert WORDS["other model"][0] not in render(made(audit=own), "en", public=False)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("public", [False, True])
def test_a_page_of_a_fit_alone_says_what_did_not_run(language, public):
    word = LANGUAGES.index(language)
    text = render(made(), language, public)
    assert WORDS["audit public none why" if public else "audit none why"][word] in text
    assert WORDS["not run"][word] in text
    assert 'id="utility"' not in text
    assert WORDS["holder banner"][word].split("{")[0] not in text


@pytest.mark.parametrize("section", sorted(useful()))
def test_any_part_of_the_utility_may_be_missing(section):
    left = {key: value for key, value in useful().items() if key != section}
    assert Page(render(made(utility=left), "en", public=False)).open == []


def test_sections_that_could_not_be_computed_say_why():
    absent = {"value": None, "reason": "too few", "reason_zh": "太少"}
    given = {
        "kind": "table",
        "train_on_synthetic": absent,
        "pairs": absent,
        "marginals": absent,
        "columns": [],
    }
    assert "too few" in render(made(utility=given), "en", public=False)
    assert "太少" in render(made(utility=given), "zh", public=False)


def test_findings_need_no_details_and_may_be_infinite_or_no_number():
    bare = attack("odd", "samples", public=False).found(math.nan, (-math.inf, math.inf), 0.99)
    old = {
        "roc": {"fpr": [0, 1], "tpr": [0]},
        "tpr_at": {"0.01": {"value": None}},
        "epsilon_lower_bound": 1.5,
    }
    other = attack("older", "samples", public=False).found(0.5, (0.4, 0.6), 0.99, **old)
    page = Page(render(made(audit=audited(bare, other)), "en", public=False))
    numbers = page.figures["numbers"]
    assert numbers["findings.odd.value"]["shown"] == "–"
    assert numbers["findings.odd.high"]["shown"] == "inf"
    assert numbers["findings.older.bound"]["value"] == 1.5


def test_images_show_their_size_and_pictures():
    base = made()
    facts = {"height": 8, "width": 9, "classes": [str(i) for i in range(20)]}
    picture = {"real": b"\x89PNG"}
    given = Contents(base.plan, base.guarantee, base.ledger, facts, "image", pictures=picture)
    page = Page(render(given, "en", public=False))
    numbers = page.figures["numbers"]
    assert (numbers["facts.height"]["value"], numbers["facts.width"]["value"]) == (8, 9)
    assert all(of["alt"] for name, of in page.elements if name == "img")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_can_be_read_by_ear(language):
    names = tuple(f"a_column_with_a_long_name_{i}" for i in range(60))
    page = Page(render(full(columns=names, utility=useful(names)), language, public=False))
    ids = [of["id"] for _, of in page.elements if "id" in of]
    assert len(ids) == len(set(ids))
    assert {of["href"][1:] for name, of in page.elements if name == "a"} <= set(ids)
    drawn = [of for name, of in page.elements if name == "svg"]
    assert all(of.get("aria-hidden") or (of["role"] == "img" and of["aria-label"]) for of in drawn)
    assert all(of.get("scope") in ("row", "col") for name, of in page.elements if name == "th")
    assert [of["lang"] for name, of in page.elements if name == "html"] == [
        "en" if language == "en" else "zh-Hans"
    ]
    tables = [name for name, _ in page.elements if name in ("table", "caption")]
    assert tables.count("table") == tables.count("caption")


def test_every_light_has_a_word_beside_its_color():
    text = render(full(), "en", public=False)
    chips = re.findall(r'class="chip (\w+)">(.*?)</span>', text)
    assert len(chips) > 5
    assert all(re.search(r"<b>[^<]*\w", inside) for _, inside in chips)


def test_epsilon_after_each_phase_grows_to_that_of_the_guarantee():
    contents = made(gradients=True)
    numbers = Page(render(contents, "en", public=True)).figures["numbers"]
    after = [numbers[f"phases.{place}.epsilon_after"]["value"] for place in (0, 1)]
    assert 0 < after[0] < after[1] == contents.guarantee.epsilon
    assert "trade_off.exact" not in Page(render(contents, "en", public=True)).figures["curves"]


def test_fits_of_other_plans_in_the_ledger_are_mentioned():
    contents = made()
    assert WORDS["other plans"][0].split("{")[0] not in render(contents, "en", public=True)
    contents.ledger.spend([Charge("other", "schema", "moments", contents.plan.events[0])])
    numbers = Page(text := render(contents, "en", public=True)).figures["numbers"]
    assert WORDS["other plans"][0].split("{")[0] in text
    assert numbers["ledger.epsilon"]["value"] > contents.guarantee.epsilon


def test_a_delta_that_is_not_below_one_over_the_rows_is_a_weak_promise():
    contents = made()
    many = contents.plan.model_copy(update={"rows": 200_000})
    other = Contents(many, contents.guarantee, contents.ledger, contents.facts, "table")
    assert "is not below 1 / rows" in render(other, "en", public=True)
    assert "is not below 1 / rows" not in render(contents, "en", public=True)


def test_the_best_guess_and_the_least_misses_are_those_computed_by_hand():
    promise = made().guarantee
    guess = best_guess(type(promise)(**{**promise.__dict__, "epsilon": math.log(3), "delta": 0.0}))
    assert guess == pytest.approx(0.75)
    assert least_misses(math.log(2), 0.0, [0.0, 0.25, 0.5, 1.0]) == pytest.approx([1.0, 0.5, 0.25, 0.0])
    assert least_misses(math.log(2), 0.1, [0.0]) == pytest.approx([0.9])


def test_both_languages_have_the_same_figures_in_their_words():
    def names(text):
        return {name for _, name, _, _ in string.Formatter().parse(text) if name} - {"unit", "one"}

    assert [key for key, (en, zh) in WORDS.items() if names(en) != names(zh)] == []


def test_what_is_not_covered_is_said_in_chinese():
    plan = made(gradients=True).plan
    odd = plan.model_copy(update={"strict": True, "settings": {"own_network": True}})
    assert [text for text in odd.guarantee().not_covered if text not in HOUSE] == []


def colors(style):
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    read = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in (light, dark)]
    return read[0], read[0] | read[1]


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_text_has_a_contrast_of_at_least_four_and_a_half(mode):
    style = (resources.files("privae.report") / "page.css").read_text(encoding="utf-8")
    of = colors(style)[mode]
    texts = [(ink, ground) for ink in ("ink", "quiet", "accent") for ground in ("paper", "card", "ground")]
    texts += [(state, f"{state}-bg") for state in ("good", "warn", "bad", "none")]
    texts += [("ink", f"{state}-bg") for state in ("good", "warn", "bad")] + [("on-bad", "bad")]
    assert [pair for pair in texts if contrast(of[pair[0]], of[pair[1]]) < 4.5] == []
    shapes = [(bar, "ground") for bar in ("accent", "whole", "bad")] + [
        ("real", "card"),
        ("synthetic", "card"),
    ]
    assert [pair for pair in shapes if contrast(of[pair[0]], of[pair[1]]) < 3] == []


def test_numbers_are_rounded_to_the_side_that_does_not_flatter():
    assert [shown(0.42, form) for form in ("figure", "up", "down")] == ["0.42"] * 3
    assert (shown(0.12345, "down"), shown(0.12345, "up"), shown(0.12341, "bound")) == (
        "0.123",
        "0.124",
        "0.1235",
    )
    assert (shown(0.99995, "sure"), shown(0.999999999, "sure")) == ("99.995 %", "99.9999 %")
    assert (shown(0.0, "share"), shown(-math.inf, "down"), shown(1.5e-7, "figure")) == (
        "0 %",
        "-inf",
        "1.5e-7",
    )


def test_a_key_that_holds_something_else_gets_a_name_of_its_own():
    figures = Figures()
    first, again, other = (figures.number("x", value) for value in (1.0, 1.0, 2.0))
    assert first == again
    assert 'data-f="x (2)"' in other
    assert {key: entry["value"] for key, entry in figures.numbers.items()} == {"x": 1.0, "x (2)": 2.0}


def test_markup_escapes_everything_that_is_not_markup():
    assert tag("p", "<b>", Html("<i>x</i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i>x</i></p>'
    assert escaped(3) == "3"
