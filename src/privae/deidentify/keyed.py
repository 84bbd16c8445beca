"""What stands for an identifier, found with a secret key: pseudonyms, new UIDs, and by how much dates move."""

import base64
import datetime
import hashlib
import hmac
import uuid


def _keyed(key: bytes, what: str, value: str) -> bytes:
    return hmac.new(
        key, f"privae/1 {what}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256
    ).digest()


def pseudonym(key: bytes, value: str) -> str:
    """The 16 letters and digits that stand for a value: the same for the same key, and not to be turned back."""
    return base64.b32encode(_keyed(key, "patient", value)[:10]).decode()


def new_uid(key: bytes, value: str) -> str:
    """The UID that stands for another: a UUID of version 8 (RFC 9562) as a number under 2.25."""
    number = int.from_bytes(_keyed(key, "uid", value)[:16])
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
    return f"2.25.{uuid.UUID(int=number).int}"


def offset(key: bytes, who: str, most: int) -> datetime.timedelta:
    """By how many days a patient's dates move: 1 to `most`, either way."""
    drawn = int.from_bytes(_keyed(key, f"days {most}", who)) % (2 * most)
    return datetime.timedelta(days=drawn - most if drawn < most else drawn - most + 1)


def moved_date(text: str, by: datetime.timedelta) -> str | None:
    """A date of DICOM (YYYYMMDD), moved; None for what is none, or where it leaves the calendar."""
    try:
        date = datetime.date(int(text[:4]), int(text[4:6]), int(text[6:])) + by
    except (ValueError, OverflowError):
        return None
    return date.isoformat().replace("-", "")
