"""Secret fair coins: which records a fit keeps out, and which canaries it plants."""

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privae import files
from privae.errors import ArtifactError, UsageError
from privae.privacy.noise import NoiseSource

KEPT_OUT = 0.05
"""Share of the records that `--audit standard` keeps out of the fit, where no hold-out is given."""

_FORMAT = "privae-coins/1"
_LEAST, _MOST, _ROWS_EACH = 20, 500, 50  # canaries, and declared records for each of them
_UNDECLARED = 100  # canaries where no number of records is declared


@dataclass(frozen=True)
class Coins:
    """A secret key, and what is decided by it: one coin a record, by its place, and one a canary.

    canaries: how many are made up, about half of which are planted. kept_out: the chance that a record is kept out.
    privacy: whoever holds the key knows which records took part, so it stays with the data (file mode 0600).
    """

    canaries: int = 0
    kept_out: float = 0.0
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def __post_init__(self) -> None:
        if self.canaries < 0 or not 0 <= self.kept_out < 1 or len(self.key) != 32:
            raise UsageError("coins need a number of canaries, a share below 1 and a key of 32 bytes")

    def taking_part(self, count: int) -> NDArray[np.bool_]:
        """Whether the record at each place takes part in the fit, [count]."""
        return ~self.source("records").bernoulli(count, self.kept_out)

    def planted(self) -> NDArray[np.bool_]:
        """Whether each canary is planted, [canaries]: independent fair coins."""
        return self.source("canaries").bernoulli(self.canaries, 0.5)

    def source(self, use: str) -> NoiseSource:
        """A keystream of its own for each use."""
        return NoiseSource(hashlib.sha256(self.key + use.encode()).digest())

    def save(self, path: Path) -> None:
        """Write the file that `load` reads, for its owner's eyes alone."""
        fields = {
            "format": _FORMAT,
            "canaries": self.canaries,
            "kept_out": self.kept_out,
            "key": self.key.hex(),
            "note": "for the data holder only: it tells which records and canaries took part in the fit",
        }
        files.write_secretly(path, json.dumps(fields, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> "Coins":
        """The coins in a file. Errors: UsageError for none; ArtifactError for one that does not read."""
        try:
            fields = json.loads(path.read_bytes())
            if fields["format"] != _FORMAT:
                raise ValueError
            return cls(int(fields["canaries"]), float(fields["kept_out"]), bytes.fromhex(fields["key"]))
        except OSError:
            raise UsageError(
                f"{path} cannot be read; it is written beside a model by: fit --audit standard"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{path} holds no coins, or is damaged; restore a copy") from None


def canaries_for(rows: int | None) -> int:
    """How many canaries a fit gets: one for 50 declared records, 20 to 500: a public number.

    >>> canaries_for(100), canaries_for(10_000), canaries_for(10**6), canaries_for(None)
    (20, 200, 500, 100)
    """
    return _UNDECLARED if rows is None else min(max(rows // _ROWS_EACH, _LEAST), _MOST)
