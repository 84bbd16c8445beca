"""The report: one HTML file that a data-protection officer can read, with no network, in English or Chinese."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from privae.actions.rule import LEARNED
from privae.attacks.finding import Language
from privae.report.measured import audit, utility
from privae.report.overview import privacy, summary
from privae.report.view import FORMAT, Contents, Html, View, join, tabbed, table, tag

__all__ = ["Contents", "render"]

_LISTED = 12  # categories of a column that are named


def render(contents: Contents, language: Language, public: bool) -> str:
    """The page, as HTML that needs nothing else.

    Guarantee: with public=True, nothing that was computed on real data is on the page or in its JSON: findings that
        are not public, what the audit's verdict owes to them, what was skipped and why, utility and pictures.
    Edges: whatever was not computed is left out, or said not to have run; an infinite epsilon is shouted.
    """
    # privacy: what may not be published is dropped before anything is drawn, not while drawing
    view = View(contents.published() if public else contents, language, public)
    parts = [
        ("summary", summary(view)),
        ("privacy", privacy(view)),
        ("audit", audit(view)),
        *([("utility", utility(view))] if _has_utility(view.contents) else []),
        ("data", _data(view)),
        ("reproduce", _reproduce(view)),
    ]
    top = _top(view)
    tabs = tabbed(view.say("sections"), [(key, view.say(key), part) for key, part in parts])
    foot = tag("footer", view.say("json note"))
    return str(
        _document(view, join(top, tag("main", tabs, class_="wrap main"), tag("div", foot, class_="wrap")))
    )


def _has_utility(contents: Contents) -> bool:
    return contents.utility is not None or bool(contents.pictures)


def _document(view: View, body: Html) -> Html:
    style, script = _file("page.css"), _file("page.js")
    figures = view.figures.dumps(format=FORMAT, language=view.language, public=view.public)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", view.say("title")),
        tag("style", Html(style)),
    )
    data = tag("script", Html(figures), type="application/json", id="figures")
    code = "zh-Hans" if view.language == "zh" else "en"
    return join(
        Html("<!doctype html>\n"),
        tag("html", head, tag("body", body, data, tag("script", Html(script))), lang=code),
    )


def _policy(script: str) -> str:
    """Nothing is fetched, and no other script than ours runs."""
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{known}'"
    )


@cache
def _file(name: str) -> str:
    return (resources.files("privae.report") / name).read_text(encoding="utf-8")


def _top(view: View) -> Html:
    contents = view.contents
    what = view.say("of image") if contents.kind == "image" else _what(view)
    entries = contents.ledger.entries
    date = view.text("ledger.date", entries[-1].time if entries else "–")
    version = view.text("plan.code_version", contents.plan.code_version)
    return tag(
        "header",
        tag("p", what, class_="kicker"),
        tag("h1", view.say("title")),
        tag("p", view.say("fitted", date=date, version=version), class_="kicker"),
        _promise_figures(view) if contents.guarantee.holds else _shout(view),
        _banner(view),
        class_="wrap top",
    )


def _what(view: View) -> Html:
    columns = view.contents.facts.get("columns", {}).values()
    kept = sum(of.get("action", "keep") in LEARNED for of in columns)
    return view.say(f"of {view.contents.kind}", count=view.number("facts.columns", kept, "count"))


def _promise_figures(view: View) -> Html:
    promise = view.contents.guarantee
    figures = (
        ("epsilon", view.number("guarantee.epsilon", promise.epsilon, "bound"), view.say("add or remove")),
        (
            "epsilon",
            view.number("guarantee.epsilon_replace_one", promise.epsilon_replace_one, "bound"),
            view.say("replace"),
        ),
        ("delta", view.number("guarantee.delta", promise.delta, "small"), view.say("chance")),
    )
    return tag(
        "dl",
        *(
            tag("div", tag("dt", view.say(name)), tag("dd", figure, tag("small", what)))
            for name, figure, what in figures
        ),
        class_="promise-figures",
    )


def _shout(view: View) -> Html:
    return tag(
        "div",
        tag("strong", view.say("not private")),
        view.say("not private why"),
        class_="shout",
        role="alert",
    )


def _banner(view: View) -> Html | None:
    if view.public:
        return tag("p", view.say("public banner"), class_="banner open")
    flag = tag("code", "--public", class_="line-end")
    real = view.contents.audit is not None or _has_utility(view.contents)
    return tag("p", view.say("holder banner", flag=flag), class_="banner") if real else None


def _data(view: View) -> Html:
    facts, rows = view.contents.facts, view.contents.plan.rows
    bought = [view.say("bought why")] if view.contents.plan.phase("categories") else []
    declared = view.say("not declared") if rows is None else view.number("plan.rows", rows, "count")
    head = (view.say("fact"), view.say("value"))
    first = [(view.say("rows"), declared)]
    if view.contents.kind == "image":
        first += [
            (view.say("size"), _size(view)),
            (view.say("classes"), _texts(view, "classes", facts.get("classes"))),
        ]
    why = tag("p", view.sentences(view.say("data why"), *bought), class_="quiet")
    columns = None if view.contents.kind == "image" else _columns(view)
    return join(why, table(head, first, view.say("fact")), columns)


def _size(view: View) -> Html:
    sizes = [
        view.number(f"facts.{key}", view.contents.facts.get(key), "count") for key in ("height", "width")
    ]
    return join(sizes[0], " × ", sizes[1])


def _columns(view: View) -> Html:
    facts = view.contents.facts
    label = facts.get("table", {}).get("label")
    head = [view.say(key) for key in ("column", "kind", "values", "gaps", "note")]
    rows = [_column(view, name, of, is_label=name == label) for name, of in facts.get("columns", {}).items()]
    return table(head, rows, view.say("schema"))


def _column(view: View, name: str, of: Mapping[str, Any], *, is_label: bool) -> tuple[object, ...]:
    kind = str(of.get("kind"))
    known = kind in ("numeric", "category", "ordinal", "boolean")
    remarks = [
        *([view.say("label")] if is_label else []),
        *([view.say("dropped")] if of.get("action", "keep") not in LEARNED else []),
    ]
    return (
        view.text(f"facts.{name}", name),
        view.say(kind) if known else view.text(f"facts.{name}.kind", kind),
        tag("div", *_values(view, name, of), class_="wide"),
        view.say("yes" if of.get("missing") else "no"),
        join(*(piece for remark in remarks for piece in (remark, " "))),
    )


def _values(view: View, name: str, of: Mapping[str, Any]) -> list[object]:
    """What a column may hold: its bounds and bins, or its categories."""
    said: list[object] = []
    for key in ("bounds", "unit", "bins", "edges", "integer", "decimals", "other"):
        if of.get(key) is not None:
            value = (
                of[key]
                if isinstance(of[key], list)
                else [str(of[key]).lower() if of[key] is True else of[key]]
            )
            said.append(tag("div", key, ": ", _texts(view, f"{name}.{key}", value)))
    if of.get("categories") is not None:
        said.append(_texts(view, f"{name}.categories", of["categories"]))
    return said


def _texts(view: View, key: str, values: Any) -> Html:  # noqa: ANN401  a list, "bought" or nothing
    if values is None:
        return view.say("none")
    if values == "bought":
        return view.say("bought")
    listed = view.text(f"facts.{key}", ", ".join(map(str, values[:_LISTED])))
    if len(values) <= _LISTED:
        return listed
    more = view.number(f"facts.{key}.more", len(values) - _LISTED, "count")
    return join(listed, ", ", view.say("and more", count=more))


def _reproduce(view: View) -> Html:
    contents = view.contents
    hashes = {
        "plan": contents.plan.hash,
        "schema": contents.plan.schema_hash,
        "ledger head": contents.ledger.head,
    }
    versions = [
        (view.text(f"versions.{k}", k), view.text(f"versions.{k}.is", v))
        for k, v in contents.versions.items()
    ]
    named = [(view.say(key), tag("code", view.text(f"hash.{key}", value))) for key, value in hashes.items()]
    lines = "\n".join(contents.command)
    return join(
        tag("h3", view.say("commands")),
        tag("pre", tag("code", view.text("command", lines)), tabindex="0") if lines else None,
        tag("p", view.say("commands why"), class_="quiet"),
        tag("h3", view.say("hashes")),
        table((view.say("of what"), "SHA-256"), named, view.say("hashes")),
        tag("h3", view.say("versions")) if versions else None,
        table((view.say("name"), view.say("version")), versions, view.say("versions")) if versions else None,
        tag(
            "details",
            tag("summary", view.say("plan text")),
            tag("pre", tag("code", view.text("plan.toml", contents.plan.dumps())), tabindex="0"),
        ),
    )
