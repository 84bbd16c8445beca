"""What travels between the coordinator and the sites: one signed message a stage, read with suspicion.

A message is MAGIC, the lengths of its head and signature, the head (canonical JSON), the signature, and a body of
numbers. The signature is its sender's own Ed25519 key's, over the head, which holds the body's hash: the transport
proves that somebody of the study speaks, not who (certificates are not held against host names).
"""

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from privae import files
from privae.custody import keys
from privae.errors import ArtifactError, DataError, PrivacyRefused, PrivaeError, ProtocolError, UsageError

MAGIC = b"privae-f1"
"""Names the form of a message; another version of it starts otherwise."""
COORDINATOR = "coordinator"
MOST = 2**30
"""Bytes of the largest message that is read at all."""
REFUSED = "refused"

_SIZES = struct.Struct("<II")  # bytes of the head and of the signature
_MOST_HEAD = 2**24
_HEAD = {"sender": str, "context": str, "query": int, "stage": str, "fields": dict}
Sign = Callable[[bytes], str]


@dataclass(frozen=True)
class Message:
    """One message. stage: of the round, or what else it is; query: which sum of the run it is about, from 0.

    context: names study, plan and attempt, so that no message of another run fits.
    """

    sender: str
    context: str
    query: int
    stage: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    def sealed(self, sign: Sign) -> bytes:
        """The bytes that travel."""
        facts = {name: getattr(self, name) for name in _HEAD}
        head = files.canonical_json({**facts, "body": hashlib.sha256(self.body).hexdigest()})
        signature = sign(MAGIC + head).encode()
        return MAGIC + _SIZES.pack(len(head), len(signature)) + head + signature + self.body

    def reply(self, sender: str, fields: Mapping[str, Any], body: bytes = b"") -> "Message":
        """An answer to this message."""
        return replace(self, sender=sender, fields=fields, body=body)


def read(data: bytes, publics: Mapping[str, str]) -> Message:
    """A message that bears the signature of the sender it names. publics: who may speak, and their public keys.

    Errors: ProtocolError for anything else; it names what is wrong, never what the message holds.
    """
    if not data.startswith(MAGIC):
        raise ProtocolError("a message is not of this version of privae's federated protocol")
    if len(data) > MOST:
        raise ProtocolError("a message is larger than any that the protocol sends")
    head, signature, body = _cut(data)
    try:
        facts = json.loads(head)
        values = {name: facts[name] for name in _HEAD}
        hashed = facts["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ProtocolError("a message does not read") from None
    if any(type(values[name]) is not kind for name, kind in _HEAD.items()):
        raise ProtocolError("a message does not read")
    found = Message(**values, body=body)
    public = publics.get(found.sender)
    if public is None:
        raise ProtocolError("a message names a sender who is not of this study")
    if hashed != hashlib.sha256(body).hexdigest() or not keys.check(public, signature, MAGIC + head):
        raise ProtocolError(f"a message that names {found.sender} does not bear its signature")
    return found


def _cut(data: bytes) -> tuple[bytes, str, bytes]:
    """Head, signature and body."""
    start = len(MAGIC) + _SIZES.size
    if len(data) < start:
        raise ProtocolError("a message is cut off")
    head, signature = _SIZES.unpack(data[len(MAGIC) : start])
    if head > _MOST_HEAD or signature > _MOST_HEAD or start + head + signature > len(data):
        raise ProtocolError("a message is cut off, or longer than it says")
    middle, end = start + head, start + head + signature
    return data[start:middle], data[middle:end].decode("ascii", "replace"), data[end:]


@lru_cache(maxsize=4096)
def signed(public: str, signature: str, statement: bytes) -> bool:
    """Whether a statement bears a signature; remembered, for the same one comes again at the next stage."""
    return keys.check(public, signature, statement)


def text_of(raw: bytes) -> str:
    """Bytes as a field holds them."""
    return base64.b64encode(raw).decode()


def bytes_of(text: Any, most: int = 4096) -> bytes:  # noqa: ANN401  whatever a peer put there
    """Inverse of `text_of`. Errors: ProtocolError for anything else, or more than `most` bytes."""
    if not isinstance(text, str) or len(text) > -(-most // 3) * 4:
        raise ProtocolError("a message holds a field of another kind or size")
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError("a message holds a field that does not read") from None
    if len(found) > most:
        raise ProtocolError("a message holds a field of another kind or size")
    return found


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Public tensors, as they travel and are kept."""
    return safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def tensors_of(raw: bytes) -> dict[str, Tensor]:
    """Inverse of `tensors_to_bytes`. Errors: ProtocolError."""
    try:
        found: dict[str, Tensor] = safetensors.torch.load(raw)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError):
        raise ProtocolError("what is agreed does not read") from None
    return found


def refusal(error: PrivaeError) -> dict[str, str]:
    """The fields of a site's refusal, as the coordinator may read them.

    privacy: what a site says of its records ("one row", "no value fits") is for its own log; others read that it
    refused (guarantees.md rule 21). Refusals that follow from plan, study, policy and ledger are public.
    """
    if isinstance(error, PrivacyRefused | ProtocolError | UsageError | ArtifactError):
        return {REFUSED: type(error).__name__, "why": str(error)}
    if isinstance(error, DataError):
        return {
            REFUSED: "DataError",
            "why": "its data do not read or do not fit the schema; its own log says where",
        }
    return {REFUSED: type(error).__name__, "why": "it cannot go on; its own log says why"}
