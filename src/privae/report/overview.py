"""The first two parts of the report: what was promised and how it held, and where the privacy budget went."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import norm

from privae.attacks.finding import CHANNELS, Finding
from privae.privacy import accountant
from privae.privacy.guarantee import Guarantee
from privae.report.charts import Axes, Line, Part, bar_row, curves, legend
from privae.report.view import Html, View, join, table, tag

State = Literal["good", "warn", "bad", "none"]

_SIGNS = {
    "good": '<circle cx="12" cy="12" r="11"/><path d="M6.5 12.5l3.7 3.7 7.3-8"/>',
    "warn": '<path class="body" d="M12 1.5L23.2 22H.8z"/><path d="M12 8.5v7M12 18.2v.6"/>',
    "bad": '<path class="body" d="M7.4 1h9.2L23 7.4v9.2L16.6 23H7.4L1 16.6V7.4z"/><path d="M8 8l8 8M16 8l-8 8"/>',
    "none": '<circle class="hollow" cx="12" cy="12" r="10"/><path d="M7.5 12h9"/>',
}
_MOST_ENTRIES = 60
_SHORT_HASH = 12
_POINTS = 101
_STRONG, _MODERATE = 1.0, 10.0  # epsilon up to which a promise is called so, after arXiv 2303.00654


def sign(state: State) -> Html:
    """A traffic light that is told by its shape as well: check, triangle, octagon, dash."""
    return tag("svg", Html(_SIGNS[state]), class_=f"sign {state}", viewBox="0 0 24 24", aria_hidden="true")


def chip(state: State, word: object) -> Html:
    """A light with its word."""
    return tag("span", sign(state), tag("b", word), class_=f"chip {state}")


def holder(view: View) -> Html:
    """The mark of what was computed on real data."""
    return tag("span", view.say("holder"), class_="holder")


def summary(view: View) -> Html:
    """What a data-protection officer reads: promise, verdict, three channels, and what is not covered."""
    lights = [_promise_light(view), _audit_light(view), *(_channel_light(view, name) for name in CHANNELS)]
    return join(
        _promise(view),
        tag("h3", view.say("at a glance")),
        tag("ul", *lights, class_="lights"),
        tag("h3", view.say("not covered")),
        tag("ul", *(_uncovered(view, i, text) for i, text in enumerate(view.contents.guarantee.not_covered))),
    )


def privacy(view: View) -> Html:
    """Budget by phase, both relations, the trade-off curve, and the ledger."""
    return join(
        tag("div", _both(view), _deltas(view), class_="two"),
        _waterfall(view),
        _trade_off(view),
        _events(view),
    )


def verdict(view: View) -> tuple[State, Html, Html]:
    """The light, word and reason of the audit, from what this page may show."""
    audit = view.contents.audit or {}
    state, word, why = _judged(view, "audit", view.findings, failed=audit.get("passed") is False)
    if state == "none":
        return (
            state,
            view.say("not run"),
            view.say("audit public none why" if view.public else "audit none why"),
        )
    tail = view.say("contradicted" if view.contents.guarantee.holds else "do not release")
    return state, word, view.sentences(why, tail) if state == "bad" else why


def _judged(
    view: View, key: str, found: Sequence[Finding], *, failed: bool = False
) -> tuple[State, Html, Html]:
    bad = sum(finding.failed for finding in found)
    if not found and not failed:
        return (
            "none",
            view.say("no attack"),
            view.say("no attack public why" if view.public else "no attack why"),
        )
    count = view.number(f"{key}.attacks", len(found), "count")
    if bad or failed:
        succeeded = view.number(f"{key}.failed", bad, "count")
        return "bad", view.say("failed"), view.say("attacks succeeded", bad=succeeded, count=count)
    if not view.contents.guarantee.holds:
        return "warn", view.say("none"), view.say("audit promise none", count=count)
    return "good", view.say("passed"), view.say("audit passed why", count=count)


def best_guess(guarantee: Guarantee) -> float:
    """Largest share of right guesses whether one unit was there, by the promise, at even odds.

    (e^epsilon + delta) / (1 + e^epsilon): the best test between two outcomes that are (epsilon, delta)-close.
    Source: Kairouz, Oh, Viswanath 2013, arXiv:1311.0776.
    """
    return 1 - (1 - guarantee.delta) / (1 + math.exp(min(guarantee.epsilon, 700.0)))


def least_misses(epsilon: float, delta: float, false_alarms: Sequence[float]) -> list[float]:
    """Least miss rate at each false-alarm rate of any test, at (epsilon, delta).

    Source: Kairouz, Oh, Viswanath 2013, arXiv:1311.0776; Dong, Roth, Su 2019, arXiv:1905.02383.
    """
    factor = math.exp(min(epsilon, 700.0))
    return [max(0.0, 1 - delta - factor * rate, (1 - delta - rate) / factor) for rate in false_alarms]


def _uncovered(view: View, place: int, text: str) -> Html:
    return tag("li", view.translated(f"guarantee.not_covered.{place}", text))


def _promise(view: View) -> Html:
    promise = view.contents.guarantee
    heading = tag("h3", view.say("promised"))
    if not promise.holds:
        return tag("div", heading, tag("p", view.say("not private why")), class_="pledge")
    epsilon = view.number("guarantee.epsilon", promise.epsilon, "bound")
    replaced = view.number("guarantee.epsilon_replace_one", promise.epsilon_replace_one, "bound")
    delta = view.number("guarantee.delta", promise.delta, "small")
    powers = {"epsilon": _power_of(epsilon), "replace": _power_of(replaced)}
    guess = tag("strong", view.number("guarantee.best_guess", best_guess(promise), "up share"))
    return tag(
        "div",
        heading,
        tag("p", view.say("sentence", delta=delta, **powers, **view.units()), class_="sentence"),
        tag("p", view.say("in plain words", guess=guess, **view.units())),
        tag("p", view.say("unit caution", **view.units()), class_="quiet"),
        class_="pledge",
    )


def _power_of(figure: Html) -> Html:
    """An exponent, with a caret for those who listen to the page or copy from it."""
    return tag("sup", tag("span", "^", class_="hidden"), figure)


def _light(state: State, name: object, word: object, why: object) -> Html:
    head = tag("div", tag("span", name, class_="light-name"), chip(state, word), class_="light-head")
    return tag("li", head, tag("p", why), class_=f"light {state}")


def _promise_light(view: View) -> Html:
    promise, rows = view.contents.guarantee, view.contents.plan.rows
    name = view.say("the promise")
    if not promise.holds:
        return _light("bad", name, view.say("not private"), view.say("not private why"))
    strength = _strength(promise.epsilon)
    epsilon = view.number("guarantee.epsilon", promise.epsilon, "bound")
    why = view.sentences(view.say(f"{strength} why", epsilon=epsilon), view.say("tiers"))
    state: State = "good" if strength == "strong" else "warn"
    if rows is None or promise.delta * rows < 1:
        return _light(state, name, view.say(strength), why)
    delta, declared = (
        view.number("guarantee.delta", promise.delta, "small"),
        view.number("plan.rows", rows, "count"),
    )
    why = view.sentences(view.say("delta large", delta=delta, rows=declared), why)
    return _light("bad", name, view.say("weak"), why)


def _strength(epsilon: float) -> str:
    return "strong" if epsilon <= _STRONG else "moderate" if epsilon <= _MODERATE else "weak"


def _audit_light(view: View) -> Html:
    state, word, why = verdict(view)
    marked = join(why, " ", holder(view)) if view.contents.audit is not None else why
    return _light(state, view.say("the audit"), word, marked)


def _channel_light(view: View, name: str) -> Html:
    found = [finding for finding in view.findings if finding.channel == name]
    state, word, why = _judged(view, f"audit.{name}", found)
    skipped = sum(one.get("channel") == name for one in (view.contents.audit or {}).get("skipped", []))
    left = (
        [view.say("skipped count", count=view.number(f"audit.skipped.{name}", skipped, "count"))]
        if skipped
        else []
    )
    return _light(state, view.channel(name), word, view.sentences(view.say(f"channel {name}"), why, *left))


def _both(view: View) -> Html:
    promise = view.contents.guarantee
    values = (
        ("add or remove", "guarantee.epsilon", promise.epsilon),
        ("replace", "guarantee.epsilon_replace_one", promise.epsilon_replace_one),
    )
    finite = [value for _, _, value in values if math.isfinite(value)]
    rows = [
        bar_row(view.say(name), view.number(key, value, "bound"), [Part(0, _over(value, finite), "accent")])
        for name, key, value in values
    ]
    why = tag("p", view.say("both why", **view.units()), class_="quiet")
    return tag("div", tag("h3", view.say("both relations")), tag("div", *rows, class_="bars"), why)


def _over(value: float, finite: Sequence[float]) -> float:
    return value / max([*finite, 1e-12]) if math.isfinite(value) else 1.0


def _deltas(view: View) -> Html:
    promise = view.contents.guarantee
    parts = {
        "accountant part": promise.delta_accountant,
        "threshold part": promise.delta_threshold,
        "sampler part": promise.delta_sampler,
        "total": promise.delta,
    }
    names = {"threshold part": view.say("threshold part", **view.units())}
    rows = [
        (names.get(key) or view.say(key), view.number(f"guarantee.delta.{key}", value, "small"))
        for key, value in parts.items()
    ]
    head = (view.say("part"), view.say("delta"))
    name = view.translated("guarantee.accountant", promise.accountant)
    method = tag("p", view.say("accountant is", name=name), class_="quiet")
    return tag("div", tag("h3", view.say("delta parts")), table(head, rows, view.say("delta parts")), method)


def _spent(view: View) -> list[float]:
    """Epsilon after each phase; the last is that of the guarantee."""
    promise, events = view.contents.guarantee, view.contents.plan.events
    if not promise.holds:
        return [math.inf for _ in events]
    first = [
        accountant.epsilon(events[:count], promise.delta_accountant, fine=False)
        for count in range(1, len(events))
    ]
    return [*(min(value, promise.epsilon) for value in first), promise.epsilon]


def _shares(view: View) -> list[float]:
    """The phases' shares of mu^2: as they are if all are Gaussian, else as planned."""
    plan = view.contents.plan
    squares = [accountant.mu_squared([event]) for event in plan.events]
    total = math.fsum(squares)
    exact = math.isfinite(total) and total > 0
    return [one / total for one in squares] if exact else [phase.share for phase in plan.phases]


def _waterfall(view: View) -> Html:
    plan, spent, total = view.contents.plan, _spent(view), view.contents.guarantee.epsilon
    bars: list[Html] = []
    for place, (phase, before, after) in enumerate(zip(plan.phases, [0.0, *spent], spent, strict=False)):
        figure = view.number(f"phases.{place}.epsilon_after", after, "bound")
        start = before / total if math.isfinite(total) and total else 0.0
        length = (after - before) / total if math.isfinite(total) and total else 1.0
        name = view.translated(f"phases.{place}.name", phase.name)
        bars.append(bar_row(name, figure, [Part(start, length, "accent")]))
    bars.append(
        bar_row(view.say("total"), view.number("guarantee.epsilon", total, "bound"), [Part(0, 1, "whole")])
    )
    return join(
        tag("h3", view.say("waterfall")),
        tag("p", view.say("waterfall why"), class_="quiet"),
        tag("div", *bars, class_="bars"),
        _phases(view),
    )


def _phases(view: View) -> Html:
    head = [
        view.say(key)
        for key in ("phase", "share of budget", "noise multiplier", "sampling rate", "steps", "numbers")
    ]
    rows = [
        (
            view.translated(f"phases.{i}.name", phase.name),
            view.number(f"phases.{i}.share", share, "share"),
            view.number(f"phases.{i}.noise_multiplier", phase.noise_multiplier),
            view.number(f"phases.{i}.sampling_rate", phase.sampling_rate),
            view.number(f"phases.{i}.steps", phase.steps, "count"),
            view.number(f"phases.{i}.size", phase.size, "count"),
        )
        for i, (phase, share) in enumerate(zip(view.contents.plan.phases, _shares(view), strict=True))
    ]
    return table(head, rows, view.say("waterfall"))


def _trade_off(view: View) -> Html:
    promise = view.contents.guarantee
    heading = tag("h3", view.say("trade-off"))
    if not promise.holds:
        return join(heading, tag("p", view.say("no curve")))
    rates = [(place / (_POINTS - 1)) ** 2 for place in range(_POINTS)]  # dense where the curves are steep
    lines = [
        Line(rates, [1 - rate for rate in rates], "guess"),
        Line(rates, least_misses(promise.epsilon, promise.delta, rates), "promise"),
    ]
    names = {"guess": view.say("curve guess"), "promise": view.say("curve promise")}
    mu = math.sqrt(accountant.mu_squared(view.contents.plan.events))
    if promise.accountant == "exact Gaussian" and math.isfinite(mu):
        lines.append(Line(rates, [float(norm.cdf(norm.isf(rate) - mu)) for rate in rates], "exact"))
        names["exact"] = view.say("curve gaussian", mu=view.number("guarantee.mu", mu))
    for line in lines:
        view.figures.curves[f"trade_off.{line.kind}"] = {"false_alarms": line.x, "misses": line.y}
    axes = Axes(view.say("false alarms"), view.say("misses"))
    chart = tag("figure", curves(lines, axes, view.say("trade-off")), legend(names))
    why = tag("p", view.say("trade-off why", **view.units()))
    return join(heading, tag("div", chart, tag("div", why, _examples(view, lines[1:])), class_="two"))


def _examples(view: View, lines: Sequence[Line]) -> Html:
    """What must be missed at least at a few false-alarm rates, by whichever curve says most."""
    rows = []
    for rate in (0.001, 0.01, 0.1):
        missed = max(float(np.interp(rate, line.x, line.y)) for line in lines)
        alarms = view.number(f"trade_off.{rate:g}.false_alarms", rate, "share")
        rows.append((alarms, view.number(f"trade_off.{rate:g}.misses", missed, "down share")))
    return table((view.say("false alarms"), view.say("at least missed")), rows, view.say("trade-off"))


def _events(view: View) -> Html:
    ledger, plan = view.contents.ledger, view.contents.plan
    charged = [entry for entry in ledger.entries if set(entry.event) >= {"noise_multiplier", "steps"}]
    head = [
        view.say(key)
        for key in ("entry", "date", "phase", "noise multiplier", "sampling rate", "steps", "so far", "hash")
    ]
    rows = [
        (
            view.number(f"ledger.{entry.index}.index", entry.index, "count"),
            tag("span", view.text(f"ledger.{entry.index}.time", entry.time), class_="line-end"),
            view.translated(f"ledger.{entry.index}.phase", entry.phase),
            view.number(f"ledger.{entry.index}.noise_multiplier", entry.event["noise_multiplier"]),
            view.number(f"ledger.{entry.index}.sampling_rate", entry.event["sampling_rate"]),
            view.number(f"ledger.{entry.index}.steps", entry.event["steps"], "count"),
            view.number(f"ledger.{entry.index}.epsilon", entry.epsilon, "bound"),
            tag("code", view.text(f"ledger.{entry.index}.hash", entry.hash[:_SHORT_HASH])),
        )
        for entry in charged[:_MOST_ENTRIES]
    ]
    others = any(entry.plan_hash != plan.hash for entry in charged)
    together = view.number("ledger.epsilon", ledger.epsilon, "bound") if others else Html("")
    return join(
        tag("h3", view.say("events")),
        tag("p", view.say("other plans", epsilon=together), class_="alert") if others else None,
        table(head, rows, view.say("events")),
        _cut_off(view, len(rows)) if len(charged) > len(rows) else None,
    )


def _cut_off(view: View, count: int) -> Html:
    return tag(
        "p", view.say("more entries", count=view.number("ledger.shown", count, "count")), class_="quiet"
    )
