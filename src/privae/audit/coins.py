"""Secret fair coins: which records a fit keeps out, and which canaries it plants."""

import hashlib
import json
import math
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privae import files
from privae.data.values import distinct
from privae.errors import ArtifactError, UsageError
from privae.privacy.noise import NoiseSource, keyed_words

KEPT_OUT = 0.05
"""Share of the records that `--audit standard` keeps out of the fit, where no hold-out is given."""

_FORMAT = "privae-coins/1"
_LEAST, _MOST, _ROWS_EACH = 20, 500, 50  # canaries, and declared records for each of them
_UNDECLARED = 100  # canaries where no number of records is declared
_ODD = np.uint64(0x9E3779B97F4A7C15)

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Coins:
    """A secret key, and what is decided by it: one coin a record, by its content, and one a canary.

    canaries: how many are made up, about half of which are planted. kept_out: the chance that a record is kept out.
    fit: names the model that they decided about, once it is fitted; "" before.
    Guarantee: the coin of a record depends on this record alone, and on how many equal ones there are. So for every
        key neighbors differ, after the coins fell, in one record or in none: keeping records out leaves the promise
        of the fit as it is, also to somebody who knows the key.
    privacy: whoever holds the key and a record can tell whether it took part, so it stays with the data (mode 0600).
    """

    canaries: int = 0
    kept_out: float = 0.0
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    fit: str = ""

    def __post_init__(self) -> None:
        if self.canaries < 0 or not 0 <= self.kept_out <= 0.5 or len(self.key) != 32:
            raise UsageError(
                "coins need a number of canaries, a share of at most half, and a key of 32 bytes"
            )

    def taking_part(self, data: Any) -> NDArray[np.bool_]:  # noqa: ANN401
        """Whether each record of a table, or of images [n, h, w], takes part in the fit, [n]."""
        if not self.kept_out:
            return np.ones(len(data), np.bool_)
        found = contents(data)
        words = keyed_words(self._key("records"), np.stack([found, _occurrences(found)], 1))
        return words >= np.uint64(int(self.kept_out * 2.0**64))

    def planted(self) -> NDArray[np.bool_]:
        """Whether each canary is planted, [canaries]: independent fair coins."""
        return self.source("canaries").bernoulli(self.canaries, 0.5)

    def source(self, use: str) -> NoiseSource:
        """A keystream of its own for each use."""
        return NoiseSource(self._key(use))

    def save(self, path: Path) -> None:
        """Write the file that `load` reads, for its owner's eyes alone."""
        fields = {
            "format": _FORMAT,
            "canaries": self.canaries,
            "kept_out": self.kept_out,
            "key": self.key.hex(),
            "fit": self.fit,
            "note": "for the data holder only: it tells which records and canaries took part in the fit",
        }
        files.write_secretly(path, json.dumps(fields, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> "Coins":
        """The coins in a file. Errors: UsageError for none; ArtifactError for one that does not read."""
        try:
            fields = json.loads(files.content(path))
            if fields["format"] != _FORMAT:
                raise ValueError
            numbers = int(fields["canaries"]), float(fields["kept_out"])
            return cls(*numbers, bytes.fromhex(fields["key"]), str(fields["fit"]))
        except OSError:
            raise UsageError(f"{path} cannot be read; it is written by: fit --audit standard") from None
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{path} holds no coins, or is damaged; restore a copy") from None

    def _key(self, use: str) -> bytes:
        return hashlib.sha256(self.key + use.encode()).digest()


def canaries_for(rows: int | None) -> int:
    """How many canaries a fit gets: one for 50 declared records, 20 to 500: a public number.

    >>> canaries_for(100), canaries_for(10_000), canaries_for(10**6), canaries_for(None)
    (20, 200, 500, 100)
    """
    return _UNDECLARED if rows is None else min(max(rows // _ROWS_EACH, _LEAST), _MOST)


def contents(data: Any) -> Words:  # noqa: ANN401
    """A word for the content of each record, [n]: equal for equal texts, whatever the types of their columns."""
    total = np.zeros(len(data), np.uint64)
    for part in _parts(data):
        total = _mixed(total * _ODD + part)
    return total


def _parts(data: Any) -> list[Words]:  # noqa: ANN401
    if isinstance(data, pd.DataFrame):
        return [_texts(data[name]) for name in sorted(data.columns, key=str)]
    flat = data.reshape(len(data), math.prod(data.shape[1:]))
    wide = np.zeros((len(flat), -(-flat.shape[1] // 8) * 8), np.uint8)
    wide[:, : flat.shape[1]] = flat
    return list(wide.view("<u8").T.astype(np.uint64))


def _texts(column: "pd.Series[Any]") -> Words:
    places, texts = distinct(column)
    hashed = pd.util.hash_array(np.array([*texts, ""], dtype=object), categorize=False)
    return hashed[places]


def _occurrences(words: Words) -> Words:
    """How many equal words come before each: [n]."""
    counted: Words = pd.Series(words).groupby(words).cumcount().to_numpy().astype(np.uint64)
    return counted


def _mixed(words: Words) -> Words:
    """Each word spread over all 64 bits (the finalizer of splitmix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))
