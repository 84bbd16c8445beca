"""What stands for an identifier in an image file: tokens, new UIDs, and by how much dates move."""

import datetime
import hmac
import uuid

from privae.actions.tokens import derived, offsets, tokens


def pseudonym(key: bytes, value: str) -> str:
    """The token that stands for a patient: that of a table whose column has the domain "patient"."""
    return tokens(key, "patient", [value])[0]


def new_uid(key: bytes, value: str) -> str:
    """The UID that stands for another: a UUID of version 8 (RFC 9562) as a number under 2.25."""
    found = hmac.digest(derived(key, "uids"), value.encode("utf-8", "surrogatepass"), "sha256")
    number = int.from_bytes(found[:16])
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
    return f"2.25.{uuid.UUID(int=number).int}"


def new_name(key: bytes, digest: bytes, count: int) -> str:
    """The name of a file: it tells nothing without the key, and in the order of names files are mixed."""
    return hmac.digest(derived(key, "files"), digest + count.to_bytes(4), "sha256").hex()[:20]


def offset(key: bytes, who: str, most: int) -> datetime.timedelta:
    """By how many days a patient's dates move: 1 to `most`, either way, as those of a table with the same `days`."""
    return datetime.timedelta(days=offsets(key, [who], most)[0])


def moved_date(text: str, by: datetime.timedelta) -> str | None:
    """A date of DICOM (YYYYMMDD), moved; None for what is none, or where it leaves the calendar."""
    try:
        date = datetime.date(int(text[:4]), int(text[4:6]), int(text[6:])) + by
    except (ValueError, OverflowError):
        return None
    return date.isoformat().replace("-", "")
