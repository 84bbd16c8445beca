"""What hides one site in a sum: pairwise masks that cancel, self masks, and shares that open what a lost site left.

Every key, mask and share follows from a secret of 32 bytes and from what names its one use, so nothing here draws
coins, and a site that was killed sends byte for byte what it sent before. Masks are AES-256 in counter mode under
256-bit keys from X25519 and HKDF-SHA256; sums are modulo 2^32 or 2^64, so what is added is taken away exactly.

Assumed, not proved: X25519 with HKDF as a key agreement (RFC 7748, RFC 5869), AES-256 as a pseudorandom permutation,
ChaCha20-Poly1305 as an authenticated cipher (RFC 8439). Shamir's shares need no assumption.
Source: Bonawitz et al. 2017, https://eprint.iacr.org/2017/281; Shamir 1979.
"""

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privae.errors import ProtocolError

Words = NDArray[np.unsignedinteger[Any]]
Info = str | int | bytes

PRIME = 2**256 + 297
"""The field of the shares: the smallest prime above every secret of 32 bytes."""
SHARE = 33
"""Bytes of a share."""
_CHUNK = 2**18  # bytes of keystream at a time; they stay in the cache
_NONCE = 12


def derive(secret: bytes, *info: Info, size: int = 32) -> bytes:
    """Bytes that follow from a secret and what names their use; different uses give independent bytes.

    Each part of `info` bears its kind and length, so no two lists of parts read the same. Source: RFC 5869.
    """
    parts = [(type(part).__name__[0].encode(), _raw(part)) for part in info]
    named = b"".join(kind + struct.pack("<I", len(raw)) + raw for kind, raw in parts)
    return HKDF(hashes.SHA256(), size, salt=None, info=named).derive(secret)


@dataclass(frozen=True)
class Keys:
    """What one site holds in one sum: X25519 keys of its channel and of its masks, and the seed of its self mask."""

    channel: bytes = field(repr=False)
    mask: bytes = field(repr=False)
    seed: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> "Keys":
        """The keys that follow from a site's secret of that sum (32 bytes)."""
        return cls(*(derive(secret, kind) for kind in ("channel", "mask", "seed")))

    @cached_property
    def public(self) -> tuple[bytes, bytes]:
        """Public keys of the channel and of the masks, 32 bytes each."""
        return public_of(self.channel), public_of(self.mask)


def public_of(own: bytes) -> bytes:
    """The public key of an X25519 key."""
    return _private(own).public_key().public_bytes_raw()


def check_public(*public: bytes) -> None:
    """Raise ProtocolError for a public key that agrees on the same secret with everybody (a point of low order)."""
    for key in public:
        _agreed(bytes(range(32)), key)


def pair_seed(own: bytes, peer: bytes, context: bytes) -> bytes:
    """The seed that two sites share for one sum, the same at both ends: all 256 bits of it.

    Errors: ProtocolError for a peer's key that would make it a known one (a point of low order).
    """
    both = sorted((public_of(own), peer))
    return derive(_agreed(own, peer), "pair", context, *both)


def split(secret: bytes, threshold: int, places: Sequence[int], coins: bytes) -> dict[int, bytes]:
    """Shares of a secret of 32 bytes, one a place (from 1), of which `threshold` open it and fewer tell nothing.

    coins: 32 secret bytes for this one sharing. Source: Shamir 1979.
    """
    # 384 bits modulo a prime of 257: uniform up to 2^-127
    drawn = [int.from_bytes(derive(coins, "coefficient", i, size=48)) % PRIME for i in range(1, threshold)]
    coefficients = [int.from_bytes(secret), *drawn]
    return {place: _at(coefficients, place).to_bytes(SHARE) for place in places}


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret that shares came from. Shares beyond the threshold must agree with the others.

    Errors: ProtocolError for too few, or for shares that are not all of one secret.
    """
    points = [(place, int.from_bytes(share)) for place, share in sorted(shares.items())]
    if len(points) < threshold:
        raise ProtocolError(f"a secret of the round needs {threshold} shares, and fewer came")
    if any(len(share) != SHARE for share in shares.values()) or any(y >= PRIME for _, y in points):
        raise ProtocolError("a share of the round's secrets is malformed")
    base = points[:threshold]
    if any(_through(base, place) != value for place, value in points[threshold:]):
        raise ProtocolError("shares of the round's secrets contradict each other: a site sent a wrong one")
    found = _through(base, 0)
    if found >= 2**256:
        raise ProtocolError("shares of the round's secrets open none: a site sent a wrong one")
    return found.to_bytes(32)


def seal(own: bytes, peer: bytes, context: bytes, data: bytes) -> bytes:
    """Data that only the holder of the peer's key reads, and that it knows to come from this one.

    The nonce follows from key and data: the same data give the same bytes, other data another nonce.
    """
    key, nonces = _channel(own, peer, context, (public_of(own), peer))
    nonce = derive(nonces, data, size=_NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, data, None)


def open_sealed(own: bytes, peer: bytes, context: bytes, sealed: bytes) -> bytes:
    """What a peer sealed for this key. Errors: ProtocolError unless it is whole and from that peer for this sum."""
    key, _ = _channel(own, peer, context, (peer, public_of(own)))
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
    except (InvalidTag, ValueError):
        raise ProtocolError(
            "what one site sealed for another does not open: it was changed on the way"
        ) from None


def add_keystream(values: Words, seed: bytes, sign: Literal[1, -1]) -> None:
    """Add or take away the mask of a seed, in place: values, [p], modulo 2^32 or 2^64.

    A seed is for one vector; every caller derives it for one sum (`pair_seed`, `derive`).
    """
    stream = _fastest()(seed)
    step, room = _CHUNK // values.itemsize, bytearray(_CHUNK + 16)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        stream.update_into(memoryview(_ZEROS)[: part.nbytes], room)
        mask = np.frombuffer(room, values.dtype, len(part))
        (np.add if sign > 0 else np.subtract)(part, mask, out=part)


def gcm(seed: bytes) -> Any:  # noqa: ANN401  cryptography names the type nowhere
    """The keystream of AES-256-GCM under a nonce of zeros, whose tag nobody reads: counter mode from block 2 on."""
    return Cipher(AES256(seed), GCM(bytes(_NONCE))).encryptor()


def counter(seed: bytes) -> Any:  # noqa: ANN401
    """The same keystream, plainly."""
    return Cipher(AES256(seed), CTR(bytes(15) + b"\2")).encryptor()


@cache
def _fastest() -> Callable[[bytes], Any]:
    """Whichever of the two is faster here: on some processors GCM alone reaches the wide instructions."""

    def seconds(made: Callable[[bytes], Any]) -> float:
        stream, room, start = made(bytes(32)), bytearray(_CHUNK + 16), time.process_time()
        for _ in range(4):
            stream.update_into(_ZEROS, room)
        return time.process_time() - start

    return min((gcm, counter), key=lambda made: min(seconds(made) for _ in range(3)))


def masked(words: Words, keys: Keys, me: int, peers: Mapping[int, bytes], context: bytes) -> Words:
    """A site's numbers under its self mask and one mask with each peer; me, peers: places, and peers' public keys.

    Guarantee: without the seed, or the mask key, of this site, and with one honest peer whose key is not revealed,
    the result is uniform to whoever does not break the assumptions above.
    """
    out = words.copy()
    add_keystream(out, derive(keys.seed, "self", context), 1)
    for place, peer in peers.items():
        add_keystream(out, pair_seed(keys.mask, peer, context), 1 if me < place else -1)
    return out


def remove_self(total: Words, seed: bytes, context: bytes) -> None:
    """Take the self mask of a site in the sum away, in place."""
    add_keystream(total, derive(seed, "self", context), -1)


def remove_pairs(
    total: Words, mask: bytes, lost: int, survivors: Mapping[int, bytes], context: bytes
) -> None:
    """Take away, in place, what the sites in the sum added for a site that is not; mask: its key, opened."""
    for place, public in survivors.items():
        add_keystream(total, pair_seed(mask, public, context), -1 if place < lost else 1)


def as_words(integers: NDArray[np.int64], size: int) -> Words:
    """Integers modulo 2^32 or 2^64, as words of that many bytes."""
    return integers.astype("<u8").astype(f"<u{size}")


def as_integers(words: Words) -> NDArray[np.int64]:
    """Inverse of `as_words` for integers that fit the words with a sign."""
    return words.view(f"<i{words.itemsize}").astype(np.int64)


_ZEROS = bytes(_CHUNK)


def _raw(part: Info) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


@lru_cache(maxsize=4)
def _private(own: bytes) -> X25519PrivateKey:
    """A key, ready to use: it is made ready once for all peers, which takes longer than to use it."""
    return X25519PrivateKey.from_private_bytes(own)


def _agreed(own: bytes, peer: bytes) -> bytes:
    try:
        return _private(own).exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise ProtocolError("a site's key of the round is none") from None


def _channel(own: bytes, peer: bytes, context: bytes, way: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Keys of what goes one way between two sites in one sum: the cipher's, and that of its nonces."""
    both = derive(_agreed(own, peer), "channel", context, *way, size=64)
    return both[:32], both[32:]


def _at(coefficients: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


def _through(points: Sequence[tuple[int, int]], where: int) -> int:
    """The polynomial through points, at another place."""
    total = 0
    for place, value in points:
        above, below = 1, 1
        for other, _ in points:
            if other != place:
                above, below = above * (where - other) % PRIME, below * (place - other) % PRIME
        total += value * above * pow(below, -1, PRIME)
    return total % PRIME
