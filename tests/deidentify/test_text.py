import builtins
import socket
import sys

import pytest

from privae.deidentify import text
from privae.errors import UsageError

ENGLISH = "Ms Ames (mail: ann.ames@example.com, +1 212-555-0123) paid by 4111 1111 1111 1111 from 10.1.2.3."
CHINESE = "患者身份证11010519491231002X，手机13812345678，邮箱ann@example.com，车牌京A12345。"
HINTED = ["My SSN is 123456789 and my passport C01234567.", "护照E12345678，住院号：00123456，电话88886666"]
PLAIN = ["order 123456789 of item C01234567", "共计 00123456 元，编号88886666"]


@pytest.fixture(scope="module")
def offline():
    """No socket can be made, no name looked up, from before Presidio is loaded."""
    with pytest.MonkeyPatch.context() as patch:

        def refused(*_, **__):
            raise AssertionError("something reached for the network")

        for name in ("connect", "connect_ex", "sendto", "bind"):
            patch.setattr(socket.socket, name, refused)
        for name in ("getaddrinfo", "gethostbyname", "create_connection"):
            patch.setattr(socket, name, refused)
        yield


def test_planted_values_are_masked_in_both_languages():
    assert text.masked([ENGLISH, CHINESE, "nothing here", ""]) == [
        "Ms Ames (mail: <E-MAIL>, <PHONE>) paid by <CARD> from <IP-ADDRESS>.",
        "患者身份证<RESIDENT-ID>，手机<MOBILE>，邮箱<E-MAIL>，车牌<PLATE>。",
        "nothing here",
        "",
    ]


def test_masking_twice_changes_nothing():
    once = text.masked([ENGLISH, CHINESE])
    assert text.masked(once) == once


def test_places_are_of_the_texts_as_they_were_given():
    full = "手机１３８１２３４５６７８；ok"
    (span,) = text.found([full])[0]
    assert full[span.start : span.end] == "１３８１２３４５６７８"
    assert text.masked([full]) == ["手机<MOBILE>；ok"]


def test_patterns_alone_need_no_presidio_and_no_network(offline, monkeypatch):
    real = builtins.__import__

    def imported(name, *rest):
        assert name.split(".")[0] not in ("presidio_analyzer", "spacy", "tldextract")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)
    assert text.masked([ENGLISH])[0].count("<") == 4


def test_a_word_beside_it_tells_what_a_number_is(offline):
    assert text.masked(HINTED) == HINTED
    assert text.masked(HINTED[:1], "en", context=True) == ["My SSN is <SSN> and my passport <PASSPORT>."]
    assert text.masked(HINTED[1:], "zh", context=True) == [
        "护照<PASSPORT>，住院号：<PATIENT-NUMBER>，电话<PHONE>"
    ]
    assert text.masked(PLAIN, "zh", context=True) == PLAIN
    told = text.analyzer().analyze("bob@example.com 13812345678", "en", entities=["E_MAIL"])
    assert [(result.start, result.end) for result in told] == [(0, 15)]


def test_with_presidio_no_less_is_found(offline):
    for language in text.LANGUAGES:
        plain = text.found([ENGLISH, CHINESE], language)
        with_words = text.found([ENGLISH, CHINESE], language, context=True)
        for spans, more in zip(plain, with_words, strict=True):
            assert {(s.start, s.end) for s in spans} <= {(s.start, s.end) for s in more}


def test_only_our_recognizers_are_in_presidio_on_blank_pipelines(offline):
    engine = text.analyzer()
    ours = {type(recognizer).__qualname__ for recognizer in engine.get_recognizers("en")}
    assert ours == {"_adapted.<locals>.Adapted"}
    assert sorted(engine.nlp_engine.nlp) == ["en", "zh"]
    assert all(not pipeline.pipe_names for pipeline in engine.nlp_engine.nlp.values())


def test_presidio_missing_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    monkeypatch.setattr(text, "analyzer", text.analyzer.__wrapped__)
    with pytest.raises(UsageError, match=r"pip install 'privae\[text\]'"):
        text.masked(HINTED, context=True)
    assert text.masked(["bob@example.com"]) == ["<E-MAIL>"]


def test_another_language_is_refused_and_what_is_not_found_is_said():
    with pytest.raises(UsageError, match="English"):
        text.found([""], "fr")
    assert "names of people" in text.UNFOUND
    assert text.masked(["Ann Ames lives in Springfield"]) == ["Ann Ames lives in Springfield"]
