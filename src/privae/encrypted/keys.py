"""The holder's keys: a secret file that is encrypted, a public file for the server, and decryptions that may be shared.

What a holder decrypts for itself is its own. What leaves it (a score that is reported, an alarm) carries the noise of
the ciphertext, and enough of such noise is the secret key (Li, Micciancio 2020, https://eprint.iacr.org/2020/1533). So
a number that is shared gets normal noise far above that, and is rounded; and they are counted, key by key.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privae import files
from privae.ckks.clear import Clear
from privae.ckks.container import Container, load
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import Holder
from privae.custody import vault
from privae.encrypted.offer import Output
from privae.errors import ArtifactError, PrivacyRefused
from privae.privacy.noise import NoiseSource

Array = NDArray[np.float64]

MOST_SHARED = 1000
"""Numbers that one key may share in its life."""
ADVANTAGE = 2.0**-16
"""What whoever sees all of them gains, at most, over seeing the right numbers rounded: total variation."""
_DROWNED = 0.5  # of the spread of an output
_GRID = 2**20  # steps of the noise's lattice in one deviation


@dataclass(frozen=True)
class KeyRing:
    """A secret key and its name. name: SHA-256 of the public file's body, so keys and name cannot be told apart.

    rotates: whether the public file has Galois keys.
    """

    holder: Holder = field(repr=False)
    name: str
    rotates: bool = False

    @property
    def parameters(self) -> Parameters:
        """What ciphertexts of this key are made with."""
        return self.holder.parameters

    @classmethod
    def made(cls, parameters: Parameters, rotations: Sequence[int] = ()) -> tuple["KeyRing", Container]:
        """A fresh key, and what the server needs: public and relinearization keys, Galois keys of these steps only."""
        holder = Holder(parameters)
        parts = [holder.public_key(), holder.relinearization_key()]
        if rotations:
            parts.append(holder.galois_keys(rotations))
        body = b"".join(parts)
        name = hashlib.sha256(body).hexdigest()
        about = {"sizes": list(map(len, parts)), "rotations": sorted(set(rotations))}
        return cls(holder, name, bool(rotations)), Container("keys", parameters, name, about, body)

    def write(self, path: Path, passphrase: str) -> None:
        """Write the secret file: encrypted under a passphrase, for its owner alone to read."""
        bound = _bound(self.parameters, self.name)
        body = vault.closed(self.holder.secret, passphrase, bound)
        made = Container("secret key", self.parameters, self.name, {"rotates": self.rotates}, body)
        files.write_secretly(path, made.dumps(), sealed=False)

    @classmethod
    def read(cls, path: Path, passphrase: str) -> "KeyRing":
        """The keys in a secret file. Errors: ArtifactError for another passphrase or a file that was changed."""
        found = load(path, "secret key")
        secret = vault.opened(found.body, passphrase, _bound(found.parameters, found.key))
        return cls(Holder(found.parameters, secret), found.key, found.about.get("rotates") is True)

    def check(self, container: Container, name: str) -> None:
        """Refuse ciphertexts of another key. Errors: ArtifactError."""
        if container.key != self.name or container.parameters != self.parameters:
            raise ArtifactError(f"{name} was made for another key; use the key that packed the records")


def _bound(parameters: Parameters, name: str) -> bytes:
    return files.canonical_json({"parameters": parameters.to_dict(), "key": name})


def public_parts(container: Container) -> list[bytes]:
    """Public and relinearization keys, and Galois keys if there are any. Errors: ArtifactError for other files."""
    if hashlib.sha256(container.body).hexdigest() != container.key:
        raise ArtifactError("the keys do not bear their own name; ask for the file again")
    sizes = container.about.get("sizes")
    if (
        not isinstance(sizes, list)
        or len(sizes) not in {2, 3}
        or not all(isinstance(size, int) and size > 0 for size in sizes)
        or sum(sizes) != len(container.body)
    ):
        raise ArtifactError("the file of keys does not read; ask for it again")
    ends = np.cumsum(sizes)
    return [container.body[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def deviation(noise: float) -> float:
    """Deviation of what is added to a shared number whose decryption has noise of deviation `noise`.

    Two normal laws of deviation s whose centers are e apart differ by KL = e^2 / (2 s^2), on average noise^2 / (2 s^2).
    By the chain rule and Pinsker's inequality, MOST_SHARED of them differ by sqrt(MOST_SHARED * KL / 2) in total
    variation from numbers without the ciphertext's noise, and that is ADVANTAGE.
    Assumed: the noise is that of the model in `clear`.
    """
    return noise * math.sqrt(MOST_SHARED) / (2 * ADVANTAGE)


def start_count(counted: Path, ring: KeyRing) -> None:
    """Begin to count what a key shares: nothing yet."""
    _write_count(counted, ring.name, 0)


def flood(output: Output, ring: KeyRing) -> float:
    """Deviation of what is added to shared numbers of an output, in the words of an offer.

    Its noise is believed where it is more than any ciphertext of this scale has.
    """
    return deviation(max(output.noise, Clear(ring.parameters).least_noise(output.scale)))


def shared(
    values: Array, output: Output, ring: KeyRing, counted: Path, source: NoiseSource | None = None
) -> tuple[Array, float]:
    """Numbers as they may leave their holder, and the step that they are rounded to; counted in a file first.

    output: what the offer says of them, see `flood`.
    Guarantee: `deviation`, if the offer is honest and the file was not set back.
    Errors: PrivacyRefused where the key has shared enough, or the noise would leave nothing; ArtifactError where it is
    not known what it has shared.
    """
    spread = flood(output, ring)
    if spread > _DROWNED * output.spread:
        raise PrivacyRefused(
            "the noise that sharing needs would drown these scores; ask the server for --precision precise"
        )
    if not np.isfinite(values).all():
        raise PrivacyRefused("scores that are no numbers are not shared; look at what was scored")
    step = 10.0 ** math.floor(math.log10(spread))
    with files.locked(counted):
        before = _count(counted, ring.name)
        if before + values.size > MOST_SHARED:
            raise PrivacyRefused(
                f"a key shares at most {MOST_SHARED} numbers in its life; make a new one: privae encrypted keys"
            )
        _write_count(counted, ring.name, before + int(values.size))
    drawn = (source or NoiseSource()).gaussian_integers(values.size, float(_GRID))
    flooded = values + (drawn.astype(np.float64) * (spread / _GRID)).reshape(values.shape)
    return np.round(flooded / step) * step, step


def _write_count(counted: Path, name: str, count: int) -> None:
    files.write_secretly(counted, files.canonical_json({"key": name, "shared": count}), sealed=False)


def _count(counted: Path, name: str) -> int:
    try:
        stored = json.loads(counted.read_text(encoding="utf-8"))
        found = int(stored["shared"])
        if found < 0 or stored["key"] != name:
            raise ValueError
        return found
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        raise ArtifactError(
            f"{counted} is not there or does not read: it counts what the key has shared; restore it"
        ) from None
