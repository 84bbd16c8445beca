"""What follows from a secret key: tokens for identities, and the days that a person's dates are moved by.

privacy: whoever has the key can try names until one gives a token; without it, tokens and days are as good as drawn
by lot, if HMAC-SHA256 is a pseudorandom function (RFC 2104; FIPS 198-1). Who is the same stays visible: how often a
token occurs, and beside what, may tell who it is.
"""

import base64
import hmac
from collections.abc import Sequence

LENGTH = 20
"""Letters of a token: 100 bits."""
KEY_BYTES = 32


def derived(key: bytes, purpose: str) -> bytes:
    """The key of one purpose, so that what is known of one tells nothing of another."""
    return _mac(key, b"privae pseudonyms 1/" + purpose.encode())


def tokens(key: bytes, domain: str, texts: Sequence[str]) -> list[str]:
    """A token for each text: the first 100 bits of HMAC-SHA256, base32 (RFC 4648).

    Guarantee: the same text has the same token in all tables of a domain. That two of n texts of a domain share one
        has a probability of at most n^2 / 2^101: 4e-17 for ten million.

    >>> tokens(bytes(32), "patient", ["7", "7"]) == 2 * tokens(bytes(32), "patient", ["7"])
    True
    """
    own = derived(key, "tokens")
    return [base64.b32encode(_mac(own, _told_apart(domain, text)))[:LENGTH].decode() for text in texts]


def offsets(key: bytes, persons: Sequence[str], days: int) -> list[int]:
    """By how many days each person's dates are moved: uniform among -days to days without 0.

    Edges: the remainder of 128 bits is off uniform by less than 2^-110. The days depend on the most that there may be,
        so the dates of a person are moved alike only under one `days`.
    """
    own = derived(key, "shift")
    drawn = (int.from_bytes(_mac(own, _told_apart(str(days), text))[:16], "big") for text in persons)
    places = (number % (2 * days) for number in drawn)
    return [place - days if place < days else place - days + 1 for place in places]


def seeds(key: bytes, domain: str, texts: Sequence[str]) -> list[int]:
    """A number of 64 bits for each text, which made-up values are drawn by."""
    own = derived(key, "surrogates")
    return [int.from_bytes(_mac(own, _told_apart(domain, text))[:8], "big") for text in texts]


def _told_apart(domain: str, text: str) -> bytes:
    """One byte string for each pair of texts."""
    named = domain.encode("utf-8", "surrogatepass")
    return len(named).to_bytes(4, "big") + named + text.encode("utf-8", "surrogatepass")


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
