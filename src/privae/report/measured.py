"""The parts of the report that were measured: the audit's findings by leak channel, and how useful the samples are."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from privae.attacks.finding import CHANNELS, Finding
from privae.report.charts import LOWEST, Axes, Line, Part, bar_row, curves, cut, heat, legend, panel
from privae.report.overview import State, chip, holder, least_misses, verdict
from privae.report.view import Html, View, join, plain, tabbed, table, tag

_WORST = 8  # pairs that are listed
_LONGEST = 30
_RATES = (0.001, 0.01)
_DISTANCES = (
    ("marginals", "mean"),
    ("marginals", "worst"),
    ("pairs", "mean"),
    ("pairs", "worst"),
    ("correlation", "mean_difference"),
    ("frechet", "value"),
    ("detection", "logistic"),
    ("detection", "boosting"),
)


def audit(view: View) -> Html:
    """Verdict, bounds beside the accounted epsilon, all findings, and one tab a channel."""
    state, word, why = verdict(view)
    tabs = [(f"channel-{name}", view.channel(name), _channel(view, name)) for name in CHANNELS]
    return join(
        tag("p", chip(state, word), tag("span", why), class_="verdict"),
        tag("p", view.say("audit why"), class_="quiet"),
        _facts(view),
        _bounds(view),
        _overview(view) if view.findings else None,
        tag("h3", view.say("channels")),
        tabbed(view.say("channels"), tabs),
    )


def utility(view: View) -> Html:
    """Marginals, pairs, training on synthetic data, images; for the data holder only."""
    given = view.contents.utility or {}
    compared = (given.get("rows") or {}).get("compared")
    rows = None if compared is None else view.number("utility.rows.compared", compared, "count")
    return join(
        tag("p", holder(view), " ", view.say("utility why")),
        None if rows is None else tag("p", view.say("compared", compared=rows), class_="quiet"),
        _training(view, given.get("train_on_synthetic")),
        _distances(view, given),
        _marginals(view, given.get("columns") or []),
        _pairs(view, given.get("pairs")),
        _images(view),
    )


def _facts(view: View) -> Html | None:
    made = view.contents.audit
    if made is None:
        return None
    level, holdout = str(made.get("level")), str(made.get("holdout") or "none")
    named = view.say(level) if level in ("quick", "standard", "deep") else view.text("audit.level", level)
    kept = {"given": "holdout given", "split": "holdout split"}.get(holdout, "holdout none")
    facts = view.say(
        "audit facts",
        level=named,
        confidence=view.number("audit.confidence", made.get("confidence"), "sure"),
        seconds=view.number("audit.seconds", made.get("seconds")),
        date=view.text("audit.created", made.get("created") or "–"),
        holdout=view.say(kept),
    )
    other = made.get("plan_hash") not in (None, view.contents.plan.hash)
    warning = tag("p", view.say("other model"), class_="alert") if other else None
    return join(warning, tag("p", facts, " ", holder(view), class_="quiet"))


def _bound_of(finding: Finding) -> float | None:
    """The epsilon that a finding shows at least, if it shows one."""
    if finding.measure == "epsilon lower bound":
        return finding.value
    given = finding.details
    found = given.get("epsilon_lower_bound", None if finding.power is None else given.get("bound"))
    return float(found) if isinstance(found, int | float) else None


def _bounds(view: View) -> Html | None:
    shown = [(finding, bound) for finding in view.findings if (bound := _bound_of(finding)) is not None]
    if not shown:
        return None
    epsilon = view.contents.guarantee.epsilon
    every = [value for finding, bound in shown for value in (bound, finding.power or 0.0)]
    top = max([*(value for value in (*every, epsilon) if math.isfinite(value)), 1e-9]) * 1.02
    accounted = Part(0, min(epsilon / top, 1.0), "whole")
    figure = view.number("guarantee.epsilon", epsilon, "bound")
    rows = [bar_row(tag("b", view.say("accounted")), tag("b", figure), [accounted])]
    rows += [_bound_row(view, finding, bound, top) for finding, bound in shown]
    names = {
        "whole": view.say("accounted"),
        "accent": view.say("lower bound"),
        "mark": view.say("power mark"),
    }
    figures = tag("p", view.say("bounds figures"), class_="quiet")
    chart = tag("figure", tag("div", *rows, class_="bars"), legend(names), figures)
    return join(tag("h3", view.say("bounds chart")), chart)


def _bound_row(view: View, finding: Finding, bound: float, top: float) -> Html:
    key = f"findings.{finding.attack}"
    figure = view.number(f"{key}.bound", bound, "down")
    if finding.power is not None:
        figure = join(figure, " / ", view.number(f"{key}.power", finding.power, "down"))
    mark = None if finding.power is None else finding.power / top
    kind = "bad" if finding.failed else "accent"
    return bar_row(_title(view, finding), figure, [Part(0, bound / top, kind)], mark)


def _title(view: View, finding: Finding) -> Html:
    return view.text(f"findings.{finding.attack}.title", finding.title[view.language])


def _outcome(view: View, finding: Finding) -> Html:
    state: State = "bad" if finding.failed else "good"
    return chip(state, view.say("failed" if finding.failed else "passed"))


def _overview(view: View) -> Html:
    head = [view.say(key) for key in ("attack", "result", "measure", "value", "interval", "power", "channel")]
    rows = [
        (
            _title(view, finding),
            _outcome(view, finding),
            *_measured(view, finding),
            _power(view, finding),
            view.channel(finding.channel),
        )
        for finding in view.findings
    ]
    return join(tag("h3", view.say("all findings")), table(head, rows, view.say("all findings")))


def _measured(view: View, finding: Finding) -> tuple[Html, Html, Html]:
    key = f"findings.{finding.attack}"
    low, high = view.number(f"{key}.low", finding.low, "down"), view.number(f"{key}.high", finding.high, "up")
    measure = view.translated(f"{key}.measure", finding.measure)
    return measure, view.number(f"{key}.value", finding.value), _between(low, high)


def _between(low: Html, high: Html) -> Html:
    return tag("span", "[", low, ", ", high, "]", class_="line-end")


def _power(view: View, finding: Finding) -> Html:
    if finding.power is None:
        return view.say("no power")
    return view.say(
        "power shown", power=view.number(f"findings.{finding.attack}.power", finding.power, "down")
    )


def _channel(view: View, name: str) -> Html:
    found = [finding for finding in view.findings if finding.channel == name]
    skipped = [one for one in (view.contents.audit or {}).get("skipped", []) if one.get("channel") == name]
    nothing = view.say("no attack public why" if view.public else "no attack why")
    return join(
        tag("p", view.say(f"channel {name}")),
        *(_card(view, finding) for finding in found),
        None if found else tag("p", chip("none", view.say("no attack")), " ", nothing),
        _skipped(view, name, skipped) if skipped else None,
    )


def _skipped(view: View, name: str, skipped: Sequence[Mapping[str, Any]]) -> Html:
    head = (view.say("attack"), view.say("note"))
    rows = [
        (
            view.text(f"skipped.{name}.{i}.attack", one.get("attack")),
            view.text(f"skipped.{name}.{i}.reason", one.get("reason", {}).get(view.language, "–")),
        )
        for i, one in enumerate(skipped)
    ]
    return join(tag("h4", view.say("skipped"), " ", holder(view)), table(head, rows, view.say("skipped")))


def _card(view: View, finding: Finding) -> Html:
    key = f"findings.{finding.attack}"
    measure, value, interval = _measured(view, finding)
    facts = (
        (measure, tag("b", value)),
        (view.say("interval"), interval),
        (view.say("confidence"), view.number(f"{key}.confidence", finding.confidence, "sure")),
        (view.say("power"), _power(view, finding)),
    )
    listed = tag("dl", *(tag("div", tag("dt", name), tag("dd", fact)) for name, fact in facts))
    marks = None if finding.public else holder(view)
    said = (
        tag("header", tag("h4", _title(view, finding)), _outcome(view, finding), marks),
        tag("p", view.text(f"{key}.meaning", finding.meaning[view.language])),
        listed,
        _found_at(view, finding),
        tag("p", view.say("source", source=view.text(f"{key}.source", finding.source)), class_="quiet"),
    )
    words, chart = tag("div", *said), _roc(view, finding)
    return tag("article", words, chart, class_=f"finding {'bad' if finding.failed else ''}")


def _found_at(view: View, finding: Finding) -> Html | None:
    """Members found at 0.1 % and 1 % false alarms, in either form that attacks write them."""
    rows = []
    for rate, found in _rates(finding.details):
        key = f"findings.{finding.attack}.tpr_at.{rate}"
        low, high = (
            view.number(f"{key}.low", found.get("low"), "share"),
            view.number(f"{key}.high", found.get("high"), "share"),
        )
        alarms = view.number(f"{key}.fpr", float(rate), "share")
        value = view.number(f"{key}.value", found.get("value"), "share")
        rows.append((view.say("at false alarms", fpr=alarms), value, _between(low, high)))
    head = (view.say("measure"), view.say("value"), view.say("interval"))
    return table(head, rows, view.say("hits")) if rows else None


def _rates(details: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(at := details.get("tpr_at"), Mapping):
        return [(str(rate), found) for rate, found in at.items() if isinstance(found, Mapping)]
    listed = details.get("tpr")
    found = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    return [(f"{one['fpr']:g}", one) for one in found if "fpr" in one]


def _roc(view: View, finding: Finding) -> Html | None:
    points = finding.details.get("roc")
    if not isinstance(points, Mapping) or len(points.get("fpr", ())) != len(points.get("tpr", (0,))):
        return None
    promise, name = view.contents.guarantee, view.say("roc", attack=_title(view, finding))
    rates = [LOWEST ** (1 - place / 60) for place in range(61)]
    lines = [Line(rates, rates, "guess"), Line(points["fpr"], points["tpr"], "exact")]
    names = {"exact": view.say("attack curve"), "guess": view.say("curve guess")}
    if promise.holds:
        misses = least_misses(promise.epsilon, promise.delta, rates)
        lines.append(Line(rates, [1 - miss for miss in misses], "promise"))
        names["promise"] = view.say("allowed")
    view.figures.curves[f"findings.{finding.attack}.roc"] = {key: list(points[key]) for key in ("fpr", "tpr")}
    axes = Axes(plain(view.say("false alarms")), plain(view.say("hits")), "log")
    return tag("figure", curves(lines, axes, plain(name)), legend(names))


def _training(view: View, given: Mapping[str, Any] | None) -> Html | None:
    """How well each learner does, trained on synthetic or on real records."""
    if not given:
        return None
    heading = tag("h3", view.say("train on synthetic"), " ", holder(view))
    models = given.get("models")
    if not isinstance(models, Mapping):
        return join(heading, tag("p", view.say("not computed", reason=_reason(view, "train", given))))
    facts = view.say(
        "label of",
        label=view.text("utility.train.label", given.get("label")),
        measure=view.translated("utility.train.measure", str(given.get("measure"))),
        guess=view.number("utility.train.guess", given.get("guess")),
        tested=view.translated("utility.train.tested_on", str(given.get("tested_on"))),
    )
    rows = [
        (
            view.translated(f"utility.train.{name}", str(name)),
            *(view.number(f"utility.train.{name}.{key}", scores.get(key)) for key in ("synthetic", "real")),
        )
        for name, scores in models.items()
    ]
    head = [view.say(key) for key in ("learner", "trained on synthetic", "trained on real")]
    why = tag("p", view.sentences(view.say("train on synthetic why"), facts), class_="quiet")
    return join(heading, why, table(head, rows, view.say("train on synthetic")))


def _reason(view: View, key: str, section: Mapping[str, Any]) -> Html:
    zh = view.language == "zh"
    reason = section.get("reason_zh") if zh else section.get("reason")
    return view.text(f"utility.{key}.reason", reason or "–")


def _distances(view: View, given: Mapping[str, Any]) -> Html | None:
    """Every distance beside its baseline."""
    rows = [row for section, key in _DISTANCES if (row := _distance(view, given, section, key)) is not None]
    if not rows:
        return None
    head = [view.say(key) for key in ("figure", "value", "baseline")]
    return join(
        tag("h3", view.say("distances"), " ", holder(view)),
        tag("p", view.say("distances why"), class_="quiet"),
        table(head, rows, view.say("distances")),
    )


def _distance(view: View, given: Mapping[str, Any], section: str, key: str) -> tuple[Html, Html, Html] | None:
    found = given.get(section)
    if not isinstance(found, Mapping) or not isinstance(found.get(key), int | float):
        return None
    base, name = found.get("baseline"), f"utility.{section}.{key}"
    beside = base.get(key) if isinstance(base, Mapping) else base
    which = found.get("worst_name") or " × ".join(found.get("worst_names") or ()) if key == "worst" else None
    pixels = section == "marginals" and given.get("kind") == "image"
    said = view.say(f"{'pixels' if pixels else section} {key}")
    said = join(said, ": ", view.text(f"{name}.name", which)) if which else said
    return said, view.number(name, found[key]), view.number(f"{name}.baseline", beside)


def _marginals(view: View, columns: Sequence[Mapping[str, Any]]) -> Html | None:
    if not columns:
        return None
    drawn = [panel(view, place, column) for place, column in enumerate(columns)]
    names = {"real": view.say("real"), "synthetic": view.say("synthetic")}
    return join(
        tag("h3", view.say("marginals"), " ", holder(view)),
        tag("p", view.say("marginals why"), class_="quiet"),
        tag("figure", legend(names), tag("div", *drawn, class_="panels")),
    )


def _pairs(view: View, pairs: Mapping[str, Any] | None) -> Html | None:
    names = [str(name) for name in (pairs or {}).get("names") or ()]
    values = (pairs or {}).get("tv") or []
    if len(names) < 2 or len(values) != len(names):
        return None
    grid = [[math.nan if value is None else float(value) for value in row] for row in values]
    ranked = sorted(
        ((grid[i][j], i, j) for i in range(len(names)) for j in range(i) if not math.isnan(grid[i][j])),
        reverse=True,
    )[:_WORST]
    view.figures.curves["pairs"] = {"names": names, "tv": values}
    rows = [
        (
            view.text(f"pairs.{i}.{j}", f"{cut(names[i], _LONGEST)} × {cut(names[j], _LONGEST)}"),
            view.number(f"pairs.{i}.{j}.tv", value),
        )
        for value, i, j in ranked
    ]
    worst = table((view.say("pair"), view.say("total variation")), rows, view.say("worst pairs"))
    highest = ranked[0][0] if ranked else 0.0
    ramp = view.say("ramp", highest=view.number("pairs.highest", highest, "up"))
    caption = tag("figcaption", tag("i", class_="ramp"), " ", ramp, class_="quiet")
    chart = tag("figure", heat(names, grid, highest, plain(view.say("pairs why"))), caption)
    return join(
        tag("h3", view.say("pairs"), " ", holder(view)),
        tag("p", view.say("pairs why"), class_="quiet"),
        tag("div", chart, worst, class_="two"),
    )


def _images(view: View) -> Html | None:
    known = {"real", "synthetic", "nearest"}
    drawn = [
        tag("figure", _image(name, content), tag("figcaption", view.say(name) if name in known else name))
        for name, content in view.contents.pictures.items()
    ]
    return (
        join(tag("h3", view.say("images"), " ", holder(view)), tag("div", *drawn, class_="two"))
        if drawn
        else None
    )


def _image(name: str, content: bytes) -> Html:
    return tag(
        "img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=name, class_="pixels"
    )
