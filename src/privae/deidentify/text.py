"""Identifiers in free text: by patterns alone, or with words beside them by Presidio; the only door to Presidio.

Nothing is downloaded and no model is used. Presidio gets a blank pipeline of spaCy and our own recognizers; its own
ones stay out, for some ask the network (e-mail addresses for the list of public suffixes, phones for a library).
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from privae.deidentify import patterns
from privae.deidentify.patterns import SURE, UNSURE, Recognizer, Span
from privae.errors import UsageError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
UNFOUND = (
    "Not found in free text: names of people, places and organizations, and whatever else has no form of its own. "
    "That takes a language model, and none is used here. Read some of the texts, or drop the column."
)
"""What masking cannot do; shown wherever it is done."""

ENOUGH = 0.5
"""The score from which a place counts."""
_SURE, _UNSURE, _BESIDE = 0.8, 0.2, 0.4  # the scores of forms, and what a word that stands before adds
_BEFORE = 24  # characters before a place in which such a word is looked for
_PAUSE = re.compile("[,;!?。、\n]")  # what stands before one of these is about something else


def found(texts: Sequence[str], language: Language = "en", *, context: bool = False) -> list[list[Span]]:
    """The places in each text that look like identifiers, in order, none overlapping another.

    context: by Presidio (extra `text`), with forms that mean something beside a word that names them, such as nine
        digits after "SSN"; language: that of the texts, for Presidio's pipeline.
    Shapes: texts [n] -> n lists. Guarantee: none for what is left in a text; see `UNFOUND`.
    Errors: UsageError for another language, or where the extra is missing.
    """
    if language not in LANGUAGES:
        raise UsageError(f"texts are searched in English (en) or Chinese (zh), not in '{language}'")
    if not context:
        return patterns.spans(texts)
    engine = analyzer()
    return [_by(engine, text, language) for text in texts]


def masked(texts: Sequence[str], language: Language = "en", *, context: bool = False) -> list[str]:
    """The texts with <E-MAIL>, <PHONE> and so on in place of what looks like an identifier.

    Shapes: [n] -> [n]. Edges: masking twice changes nothing. Errors: as of `found`.

    >>> masked(["Mail bob@example.com, or 致电13812345678。"])
    ['Mail <E-MAIL>, or 致电<MOBILE>。']
    """
    held = found(texts, language, context=context)
    return ["".join(_pieces(text, places)) for text, places in zip(texts, held, strict=True)]


def placeholder(kind: str) -> str:
    """What stands in a text for an identifier of a kind."""
    return f"<{kind.upper().replace(' ', '-')}>"


@cache
def analyzer() -> "AnalyzerEngine":
    """Presidio's engine with our recognizers, for both languages: for those who add recognizers of their own.

    Guarantee: making and using it opens no connection. Errors: UsageError where the extra `text` is missing.
    """
    try:
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    except ImportError:
        raise UsageError(
            "words beside identifiers are read by Presidio, which is not installed: pip install 'privae[text]'; "
            "patterns alone are searched without it"
        ) from None
    recognizers = [
        _adapted(recognizer, language, score)
        for language in LANGUAGES
        for score, group in ((_SURE, SURE), (_UNSURE, UNSURE))
        for recognizer in group
    ]
    languages: list[str] = list(LANGUAGES)
    return AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=recognizers, supported_languages=languages),
        nlp_engine=_pipeline(),
        supported_languages=languages,
        context_aware_enhancer=_words_before(),
        default_score_threshold=ENOUGH,
    )


def _by(engine: "AnalyzerEngine", text: str, language: Language) -> list[Span]:
    shown = patterns.folded(text)
    results = engine.analyze(shown, language)
    return patterns.in_order(text, [(r.start, r.end, r.score, _kind(r.entity_type)) for r in results])


def _kind(entity: str) -> str:
    """Presidio's names of entities are in capitals; others' recognizers may bring kinds that are none of ours."""
    return _KINDS.get(entity, entity.lower().replace("_", " "))


def _entity(kind: str) -> str:
    return kind.upper().replace("-", "_").replace(" ", "_")


_KINDS = {_entity(recognizer.kind): recognizer.kind for recognizer in (*SURE, *UNSURE)}


@cache
def _named_by(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{'|'.join(words)})s?(?![a-z])", re.IGNORECASE)


def _pieces(text: str, places: Sequence[Span]) -> Iterator[str]:
    at = 0
    for span in places:
        yield text[at : span.start]
        yield placeholder(span.kind)
        at = span.end
    yield text[at:]


def _pipeline() -> Any:  # noqa: ANN401  a class whose base is there only where the extra is
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        """The words of a text; nothing that was learned from other texts, and nothing to download."""

        def load(self) -> None:
            # a longer text would be refused with an error of spaCy's own
            self.nlp: Any = {language: spacy.blank(language) for language in LANGUAGES}
            for pipeline in self.nlp.values():
                pipeline.max_length = sys.maxsize

    return Blank([{"lang_code": language, "model_name": "blank"} for language in LANGUAGES])


def _adapted(recognizer: Recognizer, language: str, score: float) -> Any:  # noqa: ANN401
    from presidio_analyzer import EntityRecognizer, RecognizerResult

    entity = _entity(recognizer.kind)

    class Adapted(EntityRecognizer):
        """One of our recognizers, as Presidio asks for it."""

        def load(self) -> None: ...

        def analyze(self, text: str, entities: list[str], nlp_artifacts: object) -> list[RecognizerResult]:  # noqa: ARG002
            if entity not in entities:
                return []
            return [
                RecognizerResult(entity, start, end, score) for _, start, end in recognizer.places([text])
            ]

    return Adapted([entity], recognizer.kind, language, context=list(recognizer.context))


def _words_before() -> Any:  # noqa: ANN401
    from presidio_analyzer import ContextAwareEnhancer, EntityRecognizer, RecognizerResult

    class WordsBefore(ContextAwareEnhancer):
        """Adds to the score of a place before which a word names it: characters are compared, not Presidio's words.

        A blank pipeline for Chinese has words of one character each.
        """

        def enhance_using_context(
            self, text: str, raw_results: list[RecognizerResult], nlp_artifacts: object,  # noqa: ARG002
            recognizers: list[EntityRecognizer], context: list[str] | None = None,  # noqa: ARG002
        ) -> list[RecognizerResult]:  # fmt: skip
            words = {recognizer.id: tuple(recognizer.context) for recognizer in recognizers}
            for result in raw_results:
                told = words.get(result.recognition_metadata[RecognizerResult.RECOGNIZER_IDENTIFIER_KEY], ())
                before = _PAUSE.split(text[max(0, result.start - _BEFORE) : result.start])[-1]
                if told and _named_by(told).search(before):
                    result.score = min(1.0, result.score + _BESIDE)
            return raw_results

    return WordsBefore(_BESIDE, 0.0, 0, 0)
