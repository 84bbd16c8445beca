"""Masking: a text but for its first or last characters, or for what follows a sign such as the "@" of an address.

There are no patterns of one's own: a regular expression that backtracks would let one cell hold a run up for ever.
"""

from collections.abc import Sequence

from privae.actions.rule import Shown

_HIDDEN = 3  # signs that stand for any number of characters


def masked(rule: Shown, texts: Sequence[str]) -> list[str]:
    """Each text masked; what is to be shown of a text no longer than that is hidden, too.

    Guarantee: none; what is left may still tell who somebody is.

    >>> masked(Shown(last=4), ["4111 1111 1111 1111", "1111"]), masked(Shown(first=1, after="@"), ["ann@x.org"])
    (['***1111', '***'], ['a***@x.org'])
    """
    return [_masked(rule, text) for text in texts]


def _masked(rule: Shown, text: str) -> str:
    head, sign, rest = text.rpartition(rule.after) if rule.after is not None else (text, "", "")
    if rule.after is not None and not sign:
        head, rest = text, ""
    count = len(head) - rule.first - rule.last
    if count <= 0:
        return _signs(rule, len(head)) + sign + rest
    start, end = head[: rule.first], head[len(head) - rule.last :]
    return start + _signs(rule, count) + end + sign + rest


def _signs(rule: Shown, count: int) -> str:
    return rule.sign * (count if rule.length == "shown" else _HIDDEN)
