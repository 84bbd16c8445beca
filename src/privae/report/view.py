"""What the report page is made of: markup that is always escaped, numbers that are always written down, and words.

Every number of the page goes through `Figures.number`, and every text that is not the page's own through
`Figures.text`: both are written into the page's JSON under a key, and the element that shows one names its key in
`data-f`. So whoever holds the page can check that what is read is what is in the JSON.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from typing import Any, Literal

from privae.attacks.finding import CHANNELS, Finding, Language
from privae.plan import Plan
from privae.privacy.guarantee import Guarantee, rounded_up
from privae.privacy.ledger import Ledger
from privae.report.words import HOUSE, WORDS

Form = Literal["bound", "figure", "up", "down", "share", "up share", "down share", "sure", "small", "count"]
"""How a number is shown: a bound rounded up to 4 digits; 3 digits, rounded to the nearest, up or down; a percentage,
likewise; a confidence, down to 6 digits; a power of ten as in 1e-5; a whole number."""

FORMAT = "privae-report/1"
_VOID = {"meta", "br", "img", "rect", "line", "path", "circle", "polyline", "polygon"}
_ROUNDING = {
    "up": (ROUND_CEILING, 1 - 1e-14),  # the last unit of a float64 is not counted
    "up share": (ROUND_CEILING, 1 - 1e-14),
    "down": (ROUND_FLOOR, 1 + 1e-14),
    "down share": (ROUND_FLOOR, 1 + 1e-14),
    "sure": (ROUND_FLOOR, 1 + 1e-14),
}


class Html(str):
    """Text that is markup already; any other text is escaped where it meets markup."""

    __slots__ = ()


@dataclass(frozen=True)
class Contents:
    """What a report is about: what is public, and after it what was computed on real data, if it was.

    facts: the schema as JSON (`Schema.to_dict()`, or the dump of an ImageSchema). canaries: public findings that
    travel in the model. audit, utility: JSON, for the data holder only. pictures: PNG bytes by name ("real",
    "synthetic", "nearest"), for the data holder only. command: the lines that make this page again.
    """

    plan: Plan
    guarantee: Guarantee
    ledger: Ledger
    facts: dict[str, Any]
    kind: Literal["table", "image", "series"]
    audit: dict[str, Any] | None = None
    canaries: Sequence[Finding] = ()
    utility: dict[str, Any] | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    command: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def published(self) -> "Contents":
        """The same without anything that was computed on real data (guarantees.md rule 22)."""
        # privacy: nothing below this line of the page's making ever holds what a publishable page must not show
        open_ones = [finding for finding in self.canaries if finding.public is True]
        return Contents(
            self.plan,
            self.guarantee,
            self.ledger,
            self.facts,
            self.kind,
            canaries=[*open_ones, *(one for one in _new(self.audit, open_ones) if one.public is True)],
            command=[f"{' '.join(line.split()[:3])} -o report.html --public" for line in self.command[:1]],
            versions=self.versions,
        )


def _new(audit: Mapping[str, Any] | None, known: Sequence[Finding]) -> list[Finding]:
    """Findings of an audit that are not among the known ones."""
    written = [finding.to_dict() for finding in known]
    found = [Finding.from_dict(one) for one in (audit or {}).get("findings", [])]
    return [finding for finding in found if finding.to_dict() not in written]


class Figures:
    """Everything that the page shows and did not make up: numbers, texts and curves, by key."""

    def __init__(self) -> None:
        self.numbers: dict[str, dict[str, Any]] = {}
        self.texts: dict[str, str] = {}
        self.curves: dict[str, Any] = {}

    def number(self, key: str, value: Any, form: Form = "figure") -> Html:  # noqa: ANN401  JSON: "inf", None
        """An element that shows a number, which is written down under its key."""
        entry = {"value": _json_number(value := _real(value)), "form": form, "shown": shown(value, form)}
        return tag("span", entry["shown"], class_="n", data_f=_kept(self.numbers, key, entry))

    def text(self, key: str, value: object) -> Html:
        """An element that shows a text of the model, its schema or its audit."""
        return tag("span", str(value), data_f=_kept(self.texts, key, str(value)))

    def dumps(self, **more: Any) -> str:  # noqa: ANN401  any JSON value
        """The JSON, so escaped that no text in it can end the element that it stands in."""
        every = {**more, "numbers": self.numbers, "texts": self.texts, "curves": self.curves}
        text = json.dumps(every, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))
        return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


@dataclass(frozen=True)
class View:
    """What every part of the page is made from: contents, language, and the figures shown so far."""

    contents: Contents
    language: Language
    public: bool
    figures: Figures = field(default_factory=Figures)

    def say(self, key: str, **values: Html) -> Html:
        """The page's own words for a key, with figures in the places of their names."""
        words = WORDS[key][0 if self.language == "en" else 1]
        return Html(str(escaped(words)).format(**values))

    def sentences(self, *parts: Html) -> Html:
        """Sentences one after the other, with a space between them where the language has one."""
        gap = " " if self.language == "en" else ""
        return join(*(piece for part in parts for piece in (gap, part)))

    def units(self) -> dict[str, Html]:
        """The words for whom the promise protects."""
        unit = self.contents.guarantee.unit
        if f"one {unit}" in WORDS:
            return {"unit": self.say(unit), "one": self.say(f"one {unit}")}
        named = self.text("guarantee.unit", unit)
        return {"unit": named, "one": named}

    def translated(self, key: str, text: str) -> Html:
        """A sentence of the house, in the page's language where we have it."""
        return self.figures.text(key, HOUSE.get(text, text) if self.language == "zh" else text)

    def channel(self, name: str) -> str:
        """Name of a leak channel."""
        return {key: text[self.language] for key, text in CHANNELS.items()}[name]  # type: ignore[index]

    def number(self, key: str, value: Any, form: Form = "figure") -> Html:  # noqa: ANN401
        """See `Figures.number`."""
        return self.figures.number(key, value, form)

    def text(self, key: str, value: object) -> Html:
        """See `Figures.text`."""
        return self.figures.text(key, value)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding that this page may show, those that travel in the model first."""
        known = self.contents.canaries
        return (*known, *_new(self.contents.audit, known))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; children and attributes are escaped unless they are `Html`, and None is left out.

    >>> tag("p", "a < b", class_="x", data_f=None)
    '<p class="x">a &lt; b</p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{given}>" if name in ("meta", "br", "img") else f"<{name}{given}/>")
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Markup one after the other; None is left out."""
    return Html("".join(escaped(child) for child in children if child is not None))


def escaped(value: object) -> Html:
    """A value as markup."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def table(head: Sequence[object], rows: Sequence[Sequence[object]], caption: object) -> Html:
    """A table that scrolls by itself where it is wider than the page; the first cell of a row names it."""
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    whole = tag("table", tag("caption", caption), top, tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="group", aria_label=plain(caption))


def tabbed(label: object, tabs: Sequence[tuple[str, object, Html]]) -> Html:
    """Tabs: (id, name, content). Without the page's script they are links to parts that stand one below the other."""
    links = [tag("a", name, href=f"#{key}", id=f"to-{key}") for key, name, _ in tabs]
    parts = [
        tag("section", tag("h2", name, class_="part"), content, id=key, aria_labelledby=f"to-{key}")
        for key, name, content in tabs
    ]
    return tag("div", tag("nav", *links, aria_label=plain(label)), *parts, class_="tabs")


def shown(value: float | None, form: Form) -> str:
    """A number as a person reads it.

    >>> shown(0.12345, "figure"), shown(2.0005, "bound"), shown(0.0123, "share"), shown(1e-5, "small")
    ('0.123', '2.001', '1.23 %', '1e-5')
    >>> shown(None, "figure"), shown(math.inf, "bound"), shown(12345, "count")
    ('–', 'inf', '12,345')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf"
    if form == "count":
        return f"{round(value):,}"
    if form == "bound":
        return rounded_up(value)
    if form == "small":
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e+")
    if form in ("share", "up share", "down share", "sure"):
        return f"{_digits(100 * value, form)} %"
    return _digits(value, form)


def _digits(value: float, form: Form) -> str:
    rounding, nudge = _ROUNDING.get(form, (ROUND_HALF_EVEN, 1.0))
    digits = 6 if form == "sure" else 3
    decimal = Context(prec=digits, rounding=rounding).create_decimal_from_float(value * nudge)
    if decimal == 0 or abs(decimal) < 1e-4:
        return "0" if decimal == 0 else f"{float(decimal):.3g}".replace("e-0", "e-")
    return f"{decimal.normalize():f}" if abs(value) < 1e6 else f"{value:.3g}"


def _real(value: Any) -> float | None:  # noqa: ANN401  a number, or how JSON tells one
    if value is None or isinstance(value, bool):
        return None
    number = float(value)
    return None if math.isnan(number) else number


def _json_number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else "inf" if value > 0 else "-inf"


def _kept(store: dict[str, Any], key: str, entry: Any) -> str:  # noqa: ANN401
    """Write an entry down; a key that holds something else already gets a number of its own."""
    name, count = key, 2
    while name in store and store[name] != entry:
        name, count = f"{key} ({count})", count + 1
    store[name] = entry
    return name


def plain(markup: object) -> str:
    """The text of markup, for a label."""
    parts = str(escaped(markup)).split("<")
    return html.unescape("".join([parts[0], *(part.partition(">")[2] for part in parts[1:])]))
