import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.deidentify import patterns
from privae.deidentify.patterns import SURE, UNSURE, Span, folded, spans

few = settings(max_examples=15, deadline=None)
BY_KIND = {}
for one in SURE:
    BY_KIND.setdefault(one.kind, []).append(one)
COUNTRIES = {country: length for length, of in patterns._IBAN.items() for country in of.split()}
_31 = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def whole(kind, text):
    return any(recognizer.whole([folded(text)])[0] for recognizer in BY_KIND[kind])


def luhn_digit(digits):
    doubled = [int(d) * (2 - place % 2) for place, d in enumerate(reversed(digits))]
    return str(-sum(d - 9 * (d > 9) for d in doubled) % 10)


def digits(count):
    return st.text("0123456789", min_size=count, max_size=count)


@st.composite
def cards(draw):
    start, length = draw(
        st.sampled_from([("4", 16), ("5555", 16), ("2221", 16), ("3782", 15), ("6212", 19), ("3528", 16)])
    )
    body = start + draw(digits(length - len(start) - 1))
    return body + luhn_digit(body)


@st.composite
def ibans(draw):
    country = draw(st.sampled_from(sorted(COUNTRIES)))
    inner = draw(
        st.text("0123456789ABCXYZ", min_size=COUNTRIES[country] - 4, max_size=COUNTRIES[country] - 4)
    )
    rest = int("".join(str(int(sign, 36)) for sign in f"{inner}{country}00")) % 97
    return f"{country}{98 - rest:02d}{inner}"


@st.composite
def residents(draw):
    province = draw(st.sampled_from(patterns._PROVINCES))
    born = draw(
        st.dates(min_value=np.datetime64("1900-01-01").item(), max_value=np.datetime64("2020-12-31").item())
    )
    body = f"{province}{draw(digits(4))}{born:%Y%m%d}{draw(digits(3))}"
    rest = sum(int(d) * 2 ** (17 - place) for place, d in enumerate(body)) % 11
    return body + "10X98765432"[rest]


@st.composite
def companies(draw):
    body = draw(st.sampled_from(["91", "92", "52", "11", "N1", "Y1"])) + str(
        draw(st.sampled_from(patterns._PROVINCES))
    )
    body += draw(digits(4)) + draw(st.text(_31, min_size=9, max_size=9))
    rest = sum(_31.index(sign) * pow(3, place, 31) for place, sign in enumerate(body)) % 31
    return body + _31[-rest % 31]


CHECKED = {"card": cards(), "IBAN": ibans(), "resident ID": residents(), "USCC": companies()}
words = st.text("abcxyz019", min_size=1, max_size=9).map("a{}".format)
OPEN = {
    "mobile": st.builds(lambda a, b: f"1{a}{b}", st.sampled_from("3456789"), digits(9)),
    "SSN": st.builds("{}-{:02d}-{:04d}".format, st.integers(667, 899), st.integers(1, 99), st.integers(1, 9999)),
    "e-mail": st.builds("{}{}{}@{}.co.uk".format, words, st.sampled_from("._+-"), words, words),
    "IP address": st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda ip: ip.exploded),
    "device address": st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex("-")),
    "URL": st.builds("{}://{}.{}/{}".format, st.sampled_from(["http", "https"]), words, words, words),
    "phone": st.sampled_from(
        ["+44 20 7946 0958", "+1 (212) 555-0123", "(212) 555-0123", "212.555.0123", "010-12345678", "(0755)1234567",
         "020 7946 0958", "030/1234567", "01 23 45 67 89", "400-123-4567", "+49 30 123456"]
    ),
    "plate": st.builds(lambda a, b: f"{a}A{b}", st.sampled_from("京沪粤"), st.text("ABC123", min_size=5, max_size=6)),
}  # fmt: skip
AROUND = [("Reach me at ", ", please"), ("请联系：", "，谢谢。"), ("号码", "是我的"), ("", ".")]
ALL = [(kind, made) for kind, made in (CHECKED | OPEN).items()]


@pytest.mark.parametrize(("kind", "made"), ALL, ids=[kind for kind, _ in ALL])
def test_made_numbers_of_each_kind_are_found_whole_and_in_sentences(kind, made):
    @few
    @given(made)
    def check(value):
        assert whole(kind, value)
        found = spans([before + value + after for before, after in AROUND])
        for (before, _), held in zip(AROUND, found, strict=True):
            assert (len(before), len(before) + len(value)) in [(span.start, span.end) for span in held], held

    check()


@pytest.mark.parametrize(("kind", "made"), list(CHECKED.items()), ids=list(CHECKED))
def test_one_changed_digit_is_never_found(kind, made):
    @few
    @given(made, st.data())
    def check(value, data):
        assert whole(kind, value.lower())
        place = data.draw(st.sampled_from([p for p, sign in enumerate(value) if sign.isdigit()]))
        other = data.draw(st.sampled_from([d for d in "0123456789" if d != value[place]]))
        changed = value[:place] + other + value[place + 1 :]
        assert not whole(kind, changed)
        assert kind not in [span.kind for span in spans([f"see {changed} there"])[0]]

    check()


@pytest.mark.parametrize(
    ("kind", "length"), [("card", 16), ("resident ID", 18), ("USCC", 18), ("mobile", 11), ("phone", 10)]
)
def test_of_random_digits_no_more_pass_than_said(kind, length):
    made = np.random.default_rng(0).integers(10 ** (length - 1), 10**length, 20_000).astype(str).tolist()
    assert all(recognizer.whole(made).mean() <= recognizer.luck / 1e6 for recognizer in BY_KIND[kind])


@pytest.mark.parametrize(
    "text",
    [
        "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000",  # no area, group or serial
        "110105199002300028", "110105202813010021", "990105194912310025",  # no such day, month, province
        "4111111111111112", "4111 1111 1111 1112", "1111111111111117",
        "256.1.1.1", "1.2.3", "01.02.2020", "2020-01-02 12:30:45", "0.13812345678", "std::vector", "3.14159",
        "12381234567", "A13812345678", "13812345678B", "DE89370400440532013001", "a@b", "@b.com", "GB29 NWBK",
        "1700000000", "1700000000000", "20240131235959", "12:30", "x1.2.3.4", "1.2.3.4.5",
    ],
)  # fmt: skip
def test_what_looks_alike_is_not_found(text):
    assert spans([text, f"见{text}。"]) == [[], []]


def test_digits_in_other_scripts_and_hidden_signs_do_not_hide_an_identifier():
    text = "电话：１３８\u200b１２３４５６７８，mail bob＠example．com, ٤١١١ ١١١١ ١١١١ ١١١١"
    found = [(text[span.start : span.end], span.kind) for span in spans([text])[0]]
    assert found == [
        ("１３８\u200b１２３４５６７８", "mobile"),
        ("bob＠example．com", "e-mail"),
        ("٤١١١ ١١١١ ١١١١ ١١١١", "card"),
    ]


def test_places_that_touch_are_one_and_the_longest_names_it():
    text = "see https://x.org/?mail=bob@example.com now"
    assert spans([text]) == [[Span(4, 39, "URL")]]
    assert [span.kind for span in spans(["4111 1111 1111 1111 12 items"])[0]] == ["card"]
    assert [span.kind for span in spans(["11010519491231002X 11010519491231002X"])[0]] == ["resident ID"] * 2


HOSTILE = [
    "a", "a.", "a@", "a@a.", "a@" + "a-" * 30 + ".", "http://", "http://.", "www.", "1", "1-", "1 ", "1.", "+1 ",
    "+1()", "(0)", "01 ", "0123 4567 ", "a:", "::", "::1", "1.1.1.1.", "DE89", "DE89 ", "0a-", "京A", "4111 ", "110105",
]  # fmt: skip


@pytest.mark.parametrize("recognizer", [*SURE, *UNSURE], ids=lambda r: f"{r.kind} {r.forms[0][:12]}")
def test_no_text_takes_long(recognizer):
    def seconds(length):
        texts = [(sign * length)[:length] for sign in HOSTILE]
        start = time.process_time()
        recognizer.places(texts)
        return time.process_time() - start

    # quadratic time would take 100 times as long; a table of these would stop a machine. Two read runs of any length
    length = 10**5 if recognizer in (patterns.MAIL, patterns.URL) else 10**4
    assert seconds(length) < 30 * seconds(length // 10) + 0.2


def test_each_says_where_it_comes_from_and_no_text_is_in_a_span():
    assert all(recognizer.source for recognizer in (*SURE, *UNSURE))
    assert "bob" not in repr(spans(["bob@example.com"]))
    assert spans([]) == []
    assert spans([""]) == [[]]


def test_many_texts_hold_what_each_of_them_holds():
    texts = [
        "call 13812345678",
        "IBAN DE89 3704 0044 0532 0130 00",
        "é@x",
        "mail josé.é@example.com",
        "京A12345",
        "-",
    ]
    alone = [spans([text])[0] for text in texts]
    assert spans(texts * 20) == alone * 20
    assert [len(held) for held in alone] == [1, 1, 0, 1, 1, 0]
