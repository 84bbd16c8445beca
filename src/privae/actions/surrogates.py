"""Made-up names, addresses, numbers: the only door to Faker, extra `deidentify`.

A surrogate is no secret and no token: two values may get the same one, and another version of Faker makes others.
"""

from collections.abc import Callable, Sequence
from typing import Any

from privae.actions.rule import SUPPRESSED, Surrogate
from privae.actions.tokens import seeds
from privae.errors import UsageError

_TRIES = 8


def surrogates(key: bytes, rule: Surrogate, texts: Sequence[str]) -> list[str]:
    """A made-up value for each text, the same for the same text; never the text itself, in whatever case.

    Edges: "*" where eight draws in a row gave the text itself.
    Errors: UsageError where Faker is not installed.
    """
    fake = _faker(rule.locale)
    drawn: Callable[[], Any] = getattr(fake, rule.provider)
    made = []
    for text, seed in zip(texts, seeds(key, f"{rule.provider}/{rule.locale}", texts), strict=True):
        fake.seed_instance(seed)
        tries = (" ".join(str(drawn()).split()) for _ in range(_TRIES))
        made.append(next((one for one in tries if one.casefold() != text.casefold()), SUPPRESSED))
    return made


def _faker(locale: str) -> Any:  # noqa: ANN401  a Faker
    try:
        from faker import Faker
    except ImportError:
        raise UsageError(
            "made-up values need the extra deidentify: pip install 'privae[deidentify]'"
        ) from None
    return Faker(locale)
