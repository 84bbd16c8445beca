"""Patterns of identifiers, English and Chinese, with checksums: whole values of a column, and places in a text.

No network, no model, no list of names. Expressions are written in what RE2 and Python share. Columns are matched by
RE2, in time linear in the text; in Python each expression starts at few places and reads a bounded piece, or to the
end of a run that it reads once.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from privae.deidentify import checksums
from privae.deidentify.checksums import Marks, Symbols

WIDEST = 34  # signs of the longest identifier with a checksum, an IBAN
_MANY = 100  # texts: for fewer, RE2 takes longer to read the expression than Python to search them
_SEPARATORS = re.compile(r"[^0-9A-Za-z]")
_NO_WORD_BEFORE = r"(?<![0-9A-Za-z])(?<!0\.)"  # Chinese characters end a word; \b would not see it
_NO_WORD_AFTER = r"(?![0-9A-Za-z])(?!\.[0-9])"


@dataclass(frozen=True)
class Recognizer:
    """One kind of identifier.

    forms: expressions of the whole value; source: who says that it looks like this; check: what the symbols of values
    [n, WIDEST] must fulfil; luck: of a million strings of as many digits, about how many pass at most; context: words
    that may stand before it in a text; before, after: what may not stand beside it there.
    """

    kind: str
    forms: tuple[str, ...]
    source: str
    check: Callable[[Symbols], Marks] | None = None
    luck: int = 0
    context: tuple[str, ...] = ()
    before: str = _NO_WORD_BEFORE
    after: str = _NO_WORD_AFTER

    @cached_property
    def form(self) -> str:
        """The expression of one value, in any of its forms."""
        return f"(?:{'|'.join(self.forms)})"

    @cached_property
    def searched(self) -> tuple[re.Pattern[str], ...]:
        """The expressions that find it in a text, beside Chinese characters too.

        Where a checksum decides, a place is looked at from every start, so that a wrong start hides no right one.
        """
        inside = "(?=({}){})" if self.check else "({}){}"
        return tuple(re.compile(self.before + inside.format(form, self.after)) for form in self.forms)

    def whole(self, texts: Sequence[str]) -> Marks:
        """Which texts are, as a whole, an identifier of this kind; they are taken to be folded.

        Shapes: [n] -> bool [n].
        """
        matched = pc.match_substring_regex(pa.array(texts, pa.large_string()), rf"\A{self.form}\z")
        marks: Marks = matched.to_numpy(zero_copy_only=False).astype(bool)
        places = np.flatnonzero(marks)
        marks[places] = self.passed([texts[place] for place in places.tolist()])
        return marks

    def passed(self, texts: Sequence[str]) -> Marks:
        """Which texts of the right form pass the check. Shapes: [n] -> bool [n]."""
        if self.check is None or not len(texts):
            return np.ones(len(texts), dtype=bool)
        return self.check(checksums.symbols([_SEPARATORS.sub("", text) for text in texts], WIDEST))

    def places(self, texts: Sequence[str]) -> list[tuple[int, int, int]]:
        """Where texts hold one: (which text, start, end), in no order; they are taken to be folded.

        Guarantee: each text is searched by itself. Edges: places of several forms may overlap.
        """
        found = [
            (place, *match.span(1))
            for place in self._picked(texts)
            for expression in self.searched
            for match in expression.finditer(texts[place])
        ]
        passed = self.passed([texts[place][start:end] for place, start, end in found])
        return [span for span, good in zip(found, passed.tolist(), strict=True) if good]

    def _picked(self, texts: Sequence[str]) -> Sequence[int]:
        """The texts that hold such a form at all, by RE2 where they are many."""
        if len(texts) < _MANY:
            return range(len(texts))
        holds = pc.match_substring_regex(pa.array(texts, pa.large_string()), self.form)
        return [int(place) for place in np.flatnonzero(holds.to_numpy(zero_copy_only=False))]


class _Folding(dict[int, str]):
    """What each character becomes before it is matched, worked out once."""

    def __missing__(self, code: int) -> str:
        self[code] = "".join(map(_folded_sign, unicodedata.normalize("NFKC", chr(code))))
        return self[code]


def _folded_sign(sign: str) -> str:
    kind = unicodedata.category(sign)
    if kind == "Nd":
        return str(unicodedata.decimal(sign))
    return "" if kind == "Cf" else "-" if kind == "Pd" or sign == "\u2212" else " " if kind == "Zs" else sign


_FOLDING = _Folding()


def folded(text: str) -> str:
    """The text in which identifiers are looked for: full-width and other digits as 0 to 9, one dash, no hidden signs.

    Source: Unicode NFKC, character by character.

    >>> folded("１３８\u200b—４")
    '138-4'
    """
    return text if text.isascii() else text.translate(_FOLDING)


def origins(text: str) -> list[int]:
    """For each character of the folded text, and for its end, the place in the text that it came from."""
    places = [place for place, sign in enumerate(text) for _ in _FOLDING[ord(sign)]]
    return [*places, len(text)]


# Source: SWIFT, IBAN Registry (ISO 13616): signs of an IBAN, by country
_IBAN = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
    32: "LC", 33: "RU",
}  # fmt: skip
# Source: ISO/IEC 7812 and the networks' own tables: first four digits from, to, and fewest and most digits
_ISSUERS = (
    (4000, 4999, 13, 19),  # Visa
    (5100, 5599, 16, 16), (2221, 2720, 16, 16),  # Mastercard
    (3400, 3499, 15, 15), (3700, 3799, 15, 15),  # American Express
    (3000, 3059, 14, 19), (3600, 3699, 14, 19), (3800, 3999, 14, 19),  # Diners
    (3528, 3589, 16, 19),  # JCB
    (6011, 6011, 16, 19), (6440, 6599, 16, 19),  # Discover
    (6200, 6299, 16, 19), (8100, 8199, 16, 19),  # UnionPay
    (2200, 2204, 16, 19),  # Mir
    (5018, 5018, 13, 19), (5020, 5020, 13, 19), (5038, 5038, 13, 19), (5800, 5899, 13, 19),  # Maestro
    (6304, 6304, 13, 19), (6759, 6759, 13, 19), (6761, 6763, 13, 19),
)  # fmt: skip
# Source: GB/T 2260: first two digits of a place, by province; 83 is of permits for residents from Taiwan
_PROVINCES = (
    11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46,
    50, 51, 52, 53, 54, 61, 62, 63, 64, 65, 71, 81, 82, 83,
)  # fmt: skip


def _card(values: Symbols) -> Marks:
    first, length = checksums.number(values, 0, 4), checksums.lengths(values)
    ranges = [(first >= a) & (first <= b) & (length >= c) & (length <= d) for a, b, c, d in _ISSUERS]
    return np.asarray(checksums.luhn(values) & np.any(ranges, axis=0))


def _resident(values: Symbols) -> Marks:
    known: Marks = np.isin(checksums.number(values, 0, 2), _PROVINCES)
    return known & checksums.real_dates(values, 6) & checksums.mod_11_2(values[:, :18])


def _company(values: Symbols) -> Marks:
    known = np.isin(checksums.number(values, 2, 4), (*_PROVINCES, 10))  # 10: registered with the state itself
    return known & checksums.mod_31(values[:, :18])


def _social(values: Symbols) -> Marks:
    area, group, serial = (checksums.number(values, *span) for span in ((0, 3), (3, 5), (5, 9)))
    return np.asarray((area != 0) & (area != 666) & (area < 900) & (group != 0) & (serial != 0))


def _ip_6(values: Symbols) -> Marks:
    return np.asarray(checksums.lengths(values) >= 3)  # "a::b" is of a programming language


def _iban() -> str:
    """One expression for all countries: at each place, one of its branches at most goes on."""
    branches = (
        f"(?i:{'|'.join(of.split())})[0-9][0-9](?:[ -]?[0-9A-Za-z]){{{length - 4}}}"
        for length, of in _IBAN.items()
    )
    return f"(?:{'|'.join(branches)})"


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_HEX = "[0-9A-Fa-f]{1,4}"
_31 = "[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy]"
_MAIL_SIGN = "A-Za-z0-9\u00c0-\u024f._%+\\-"
_URL_SIGN = r"A-Za-z0-9\-._~:/?#@!$&'()*+,;=%\[\]"
_DAY = "(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_CALL = (
    "phone",
    "telephone",
    "tel",
    "call",
    "fax",
    "mobile",
    "cell",
    "电话",
    "手机",
    "座机",
    "传真",
    "联系方式",
)
_PAPERS = ("id", "identity", "证件", "身份证")
_PLATES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"

RESIDENT = Recognizer(
    "resident ID",
    (
        f"[1-8][0-9]{{5}}[12][0-9]{{3}}{_DAY}[0-9]{{3}}[0-9Xx]",
        f"[1-8][0-9]{{5}}[ -][12][0-9]{{3}}{_DAY}[ -][0-9]{{3}}[0-9Xx]",
    ),
    "GB 11643-1999; provinces: GB/T 2260",
    _resident,
    luck=100,
    context=_PAPERS,
)
COMPANY = Recognizer(
    "USCC",
    (f"[1-9ANYany][1-59][0-9]{{6}}{_31}{{10}}",),
    "GB 32100-2015",
    _company,
    luck=8_000,
    context=("信用代码",),
)
IBAN = Recognizer(
    "IBAN", (_iban(),), "ISO 13616-1", checksums.mod_97, luck=10_000, context=("iban", "account", "账号")
)
CARD = Recognizer(
    "card",
    (
        "[2-8][0-9]{12,18}",
        "[2-8][0-9]{3}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{1,3})?",
        "[2-8][0-9]{3}(?:[ -][0-9]{4}){3}",
        "3[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5}",
        "6[0-9]{5}[ -][0-9]{13}",
    ),
    "ISO/IEC 7812-1",
    _card,
    luck=100_000,
    context=("card", "visa", "mastercard", "卡号", "银行卡", "信用卡"),
)
SSN = Recognizer(
    "SSN",
    ("[0-9]{3}-[0-9]{2}-[0-9]{4}", "[0-9]{3} [0-9]{2} [0-9]{4}"),
    "SSA POMS RM 10201.035",
    _social,
    context=("ssn", "social security"),
)
MOBILE = Recognizer(
    "mobile",
    (r"(?:(?:\+|00)?86[ -]?)?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}",),
    "MIIT numbering plan; ITU-T E.164",
    luck=80_000,
    context=_CALL,
    before=r"(?<![0-9A-Za-z+])(?<!0\.)",
)
PHONE = Recognizer(
    "phone",
    (
        r"\+[1-9](?:[ .\-()/]{0,2}[0-9]){6,14}",
        r"(?:1[ .\-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .\-])[2-9][0-9]{2}[ .\-][0-9]{4}",
        r"\(?0[1-9][0-9]{1,2}\)?[ \-]?[0-9]{7,8}",
        r"\(?0[1-9][0-9]{0,3}\)?[ \-/][0-9]{3,4}[ \-][0-9]{3,4}",
        r"\(?0[1-9][0-9]{1,3}\)?[ \-/][0-9]{5,8}",
        r"0[1-9](?:[ .\-][0-9]{2}){4}",
        "[48]00[ -]?[0-9]{3}[ -]?[0-9]{4}",
    ),
    "ITU-T E.164 and E.123; the North American plan; trunk prefix 0",
    luck=90_000,
    context=_CALL,
    before=r"(?<![0-9A-Za-z+])(?<![0-9][.\-/])",
)
MAIL = Recognizer(
    "e-mail",
    (f"[{_MAIL_SIGN}]+@(?:[0-9A-Za-z](?:[0-9A-Za-z-]{{0,61}}[0-9A-Za-z])?[.]){{1,8}}[A-Za-z]{{2,24}}",),
    "RFC 5321, RFC 5322",
    context=("mail", "email", "e-mail", "邮箱", "邮件"),
    before=f"(?<![{_MAIL_SIGN}])",
    after="(?![0-9A-Za-z])",
)
URL = Recognizer(
    "URL",
    (f"(?i:https?://|ftp://|www[.])[{_URL_SIGN}]*[A-Za-z0-9/#=&%_~\\-]",),
    "RFC 3986",
    before="(?<![0-9A-Za-z])",
    after="",
)
IP = Recognizer(
    "IP address",
    (rf"{_OCTET}(?:\.{_OCTET}){{3}}",),
    "RFC 791",
    luck=0,
    before=r"(?<![0-9A-Za-z])(?<![0-9]\.)",
)
IP_6 = Recognizer(
    "IP address",
    (
        f"{_HEX}(?::{_HEX}){{7}}",
        f"{_HEX}(?::{_HEX}){{0,6}}::(?:{_HEX}(?::{_HEX}){{0,5}})?",
        f"::{_HEX}(?::{_HEX}){{0,6}}",
    ),
    "RFC 4291",
    _ip_6,
    before="(?<![0-9A-Za-z])(?<!::)",
    after="(?![0-9A-Za-z])(?!:[0-9A-Fa-f])",
)
MAC = Recognizer(
    "device address", ("[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}",), "IEEE 802", before="(?<![0-9A-Za-z])"
)
PLATE = Recognizer(
    "plate",
    (f"[{_PLATES}][A-HJ-NP-Z][ ·-]?[A-HJ-NP-Z0-9]{{5,6}}",),
    "GA 36-2018",
    luck=0,
    before="",
    after="(?![0-9A-Za-z])",
)

SURE = (RESIDENT, COMPANY, IBAN, CARD, SSN, MOBILE, PHONE, MAIL, URL, IP, IP_6, MAC, PLATE)
"""Kinds that a value shows by itself, the surest first: where two kinds fit the same place, the first is taken."""

UNSURE = (
    Recognizer("SSN", ("[0-9]{9}",), SSN.source, _social, context=SSN.context),
    Recognizer("phone", ("[0-9]{3,4}[ -]?[0-9]{4}", "[0-9]{9,11}"), PHONE.source, context=_CALL),
    Recognizer("resident ID", (f"[1-8][0-9]{{5}}[0-9]{{2}}{_DAY}[0-9]{{3}}",), "GB 11643-1989", context=_PAPERS),
    Recognizer("passport", ("[A-Za-z]{1,2}[0-9]{6,8}", "[0-9]{9}"), "ICAO Doc 9303-4", context=("passport", "护照")),
    Recognizer(
        "account", ("[0-9]{6,20}",), "ISO 13616-1", context=("account", "acct", "账号", "帐号", "账户", "卡号")
    ),
    Recognizer(
        "patient number", ("[A-Za-z]{0,3}-?[0-9]{4,12}",), "45 CFR 164.514(b)(2)(i)",
        context=("mrn", "medical record", "record number", "patient id", "patient no", "病历号", "住院号", "门诊号"),
    ),
)  # fmt: skip
"""Kinds whose form alone says nothing: they count in a text beside a word that names them."""


@dataclass(frozen=True)
class Span:
    """A place in a text and what it looks like; never the text itself."""

    start: int
    end: int
    kind: str


def spans(texts: Sequence[str]) -> list[list[Span]]:
    """The places of sure kinds in each text, in order, that do not overlap: what touches is one place.

    Shapes: texts [n] -> n lists. Places count characters of the texts as they were given.
    """
    shown = [folded(text) for text in texts]
    found: list[list[tuple[int, int, int]]] = [[] for _ in texts]
    for rank, recognizer in enumerate(SURE):
        for place, start, end in recognizer.places(shown):
            found[place].append((start, end, rank))
    kinds = [recognizer.kind for recognizer in SURE]
    return [
        in_order(text, [(a, b, -rank, kinds[rank]) for a, b, rank in held]) if held else []
        for text, held in zip(texts, found, strict=True)
    ]


def in_order(text: str, held: Sequence[tuple[int, int, float, str]]) -> list[Span]:
    """Places (start, end, weight, kind) in a folded text as places of the text, overlapping ones as one.

    The kind of a place is that of its longest part, and of two as long that of more weight.
    """
    merged: list[list[tuple[int, int, float, str]]] = []
    reach = -1
    for span in sorted(held):
        if span[0] < reach:
            merged[-1].append(span)
        else:
            merged.append([span])
        reach = max(reach, span[1])
    at = range(len(text) + 1) if text.isascii() else origins(text)
    # a sign that folds to nothing lies before the end: `at` of the last character, and one more, is the end
    return [
        Span(at[group[0][0]], at[max(end for _, end, _, _ in group) - 1] + 1, _kind(group))
        for group in merged
    ]


def _kind(group: Sequence[tuple[int, int, float, str]]) -> str:
    return max(group, key=lambda span: (span[1] - span[0], span[2]))[3]
