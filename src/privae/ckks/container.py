"""Files of ciphertexts and keys (`.pvhe`): magic, a JSON header that says what is in it, blobs, and their SHA-256."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privae import files
from privae.ckks.parameters import Parameters
from privae.errors import ArtifactError, UsageError

MAGIC = b"PVHE\x00\x01\r\n"
_LENGTH, _HASH = 4, 32  # bytes
_MOST_HEADER = 2**20


@dataclass(frozen=True)
class Container:
    """What a `.pvhe` file holds. kind: keys, records or results. key: which secret key it belongs to.

    about: what else its kind needs, JSON-ready, and public: a server reads it.
    """

    kind: str
    parameters: Parameters
    key: str
    about: dict[str, Any]
    body: bytes

    def __repr__(self) -> str:
        """Without the body."""
        return f"Container({self.kind}, degree={self.parameters.degree}, bytes={len(self.body)})"

    def header(self) -> dict[str, Any]:
        """All but the body."""
        return {
            "kind": self.kind,
            "parameters": self.parameters.to_dict(),
            "key": self.key,
            "about": self.about,
            "bytes": len(self.body),
        }

    def dumps(self) -> bytes:
        """The whole file."""
        header = files.canonical_json(self.header())
        content = b"".join([MAGIC, len(header).to_bytes(_LENGTH, "big"), header, self.body])
        return content + hashlib.sha256(content).digest()

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        content = self.dumps()
        files.write_atomically(path, lambda file: file.write(content))


def loads(content: bytes, name: str, kind: str | None = None) -> Container:
    """A container from its bytes; name: what errors call it.

    Errors: ArtifactError for anything that is not whole, not of this version, changed, weak, or of another kind.
    """
    start = len(MAGIC) + _LENGTH
    if content[: len(MAGIC)] != MAGIC:
        raise ArtifactError(f"{name} is no .pvhe file of this version of privae")
    size = int.from_bytes(content[len(MAGIC) : start], "big")
    if size > _MOST_HEADER or len(content) < start + size + _HASH:
        raise ArtifactError(f"{name} is truncated; get it again")
    if hashlib.sha256(memoryview(content)[:-_HASH]).digest() != content[-_HASH:]:
        raise ArtifactError(f"{name} was changed or truncated after it was written; get it again")
    try:
        header = json.loads(content[start : start + size], parse_constant=_no_number)
        found = Container(
            str(header["kind"]),
            Parameters.from_dict(header["parameters"]),
            str(header["key"]),
            dict(header["about"]),
            content[start + size : -_HASH],
        )
        stated = int(header["bytes"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ArtifactError(f"the header of {name} does not read; get it again") from None
    if stated != len(found.body):
        raise ArtifactError(f"{name} is truncated; get it again")
    if kind is not None and found.kind != kind:
        raise ArtifactError(f"{name} holds {found.kind}, not {kind}")
    return found


def _no_number(text: str) -> float:
    raise ValueError(text)


def load(path: Path, kind: str | None = None) -> Container:
    """A container from its file; see `loads`. Errors: UsageError for a file that cannot be read."""
    try:
        content = files.content(path)
    except OSError:
        raise UsageError(f"{path} cannot be read") from None
    return loads(content, str(path), kind)
