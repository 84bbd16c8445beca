"""Files that only the holders of a key can read, in the age format (age-encryption.org/v1)."""

from privae.sealing.envelope import Keys, fresh, is_sealed, public_of, reseal, seal, unseal
from privae.sealing.identities import at_hand, from_place, keep, recipients

__all__ = [
    "Keys",
    "at_hand",
    "fresh",
    "from_place",
    "is_sealed",
    "keep",
    "public_of",
    "recipients",
    "reseal",
    "seal",
    "unseal",
]
