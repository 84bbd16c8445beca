"""The one door to the CKKS library, Microsoft SEAL: ciphertexts, what a server computes on them, what a holder may do.

What it wraps, because the library is silent about it: arrays that are not contiguous encode other numbers; Galois keys
are made from steps, whatever the stub says; bytes after a ciphertext are not refused; threads give nothing.
Assumed, not proved: the hardness of ring learning with errors at these parameters, and the library's own sampling.
"""

import struct
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privae.ckks import residues as kernel
from privae.ckks.backend import check_alike, check_scale
from privae.ckks.parameters import Parameters
from privae.ckks.residues import Residues
from privae.errors import ArtifactError, UsageError

Array = NDArray[np.float64]
Object = Any
"""An object of the library, which has no types."""

_MAGIC, _VERSION = 0xA15E, (16, 4, 4)
_FOREIGN = "evaluation keys do not read, or are for other parameters; ask for them again"
_SECRET_HEAD = 88  # bytes before the residues of a secret key


def library() -> Object:
    """SEAL. Errors: UsageError that names the extra where it is not installed."""
    try:
        import seal
    except ImportError:
        raise UsageError("ciphertexts need an extra: pip install 'privae[encrypted]'") from None
    return seal


@lru_cache(maxsize=8)
def context(parameters: Parameters) -> Object:
    """The library's context, which holds to 128 bits of security by itself, too."""
    seal = library()
    made = seal.EncryptionParameters(seal.scheme_type.ckks)
    made.set_poly_modulus_degree(parameters.degree)
    try:
        made.set_coeff_modulus(seal.CoeffModulus.Create(parameters.degree, list(parameters.bits)))
    except (ValueError, RuntimeError):
        raise UsageError(
            "there are not enough primes of these sizes at this ring degree; use larger ones"
        ) from None
    found = seal.SEALContext(made, True, seal.sec_level_type.tc128)
    if not found.parameters_set():
        raise UsageError(f"encryption parameters refused: {found.parameter_error_message()}")
    return found


@lru_cache(maxsize=8)
def primes_of(parameters: Parameters) -> tuple[int, ...]:
    """The primes of a fresh ciphertext: base primes, then the primes of levels; without the key-switching one."""
    chain = context(parameters).key_context_data().parms().coeff_modulus()
    return tuple(int(modulus.value()) for modulus in chain)[:-1]


class Ciphertext:
    """A ciphertext of N / 2 numbers, as the library's object, as residues [parts, primes, N], or both."""

    def __init__(
        self, parameters: Parameters, scale: float, *, known: Object = None, raw: Residues | None = None
    ) -> None:
        self.parameters, self.scale = parameters, scale
        self._object, self._raw = known, raw

    @property
    def level(self) -> int:
        """Products that may still follow."""
        count = self._raw.shape[1] if self._raw is not None else self._object.coeff_modulus_size()
        return int(count) - self.parameters.base

    @property
    def parts(self) -> int:
        """2, or 3 after a product that was not relinearized."""
        return int(self._raw.shape[0] if self._raw is not None else self._object.size())

    @property
    def residues(self) -> Residues:
        """Residues [parts, primes, N], not to be changed."""
        if self._raw is None:
            content = self._object.to_string(library().compr_mode_type.none)
            count = self._object.size() * self._object.coeff_modulus_size() * self.parameters.degree
            flat = np.frombuffer(content, np.uint64, count, len(content) - 8 * count)
            self._raw = flat.reshape(self._object.size(), -1, self.parameters.degree)
        return self._raw

    @property
    def object(self) -> Object:
        """The library's ciphertext, built through its own validity checks."""
        if self._object is None:
            assert self._raw is not None
            head = _head(self.parameters, self._raw.shape, self.scale)
            body = np.ascontiguousarray(self._raw, dtype="<u8").tobytes()
            try:
                self._object = context(self.parameters).from_cipher_str(head + body)
            except (ValueError, RuntimeError):
                raise ArtifactError("a ciphertext is not valid; encrypt again") from None
        return self._object


def transformed(parameters: Parameters, polynomials: Residues, *, forward: bool) -> Residues:
    """Number-theoretic transform of polynomials [n, primes, N]: coefficients to the form of ciphertexts, or back."""
    evaluator = library().Evaluator(context(parameters))
    move = evaluator.transform_to_ntt if forward else evaluator.transform_from_ntt
    out = np.empty_like(polynomials)
    for start in range(
        0, len(polynomials), 2
    ):  # as parts of a ciphertext, which the library wants not all zero
        pair = polynomials[start : start + 2]
        wide = np.concatenate([pair, np.ones_like(pair[:1])])
        head = _head(parameters, wide.shape, 1.0, transformed=not forward)
        value = context(parameters).from_cipher_str(head + np.ascontiguousarray(wide, dtype="<u8").tobytes())
        out[start : start + 2] = Ciphertext(parameters, 1.0, known=move(value)).residues[: len(pair)]
    return out


def _head(parameters: Parameters, shape: tuple[int, ...], scale: float, *, transformed: bool = True) -> bytes:
    """What the library writes before the residues of a ciphertext."""
    parts, primes, degree = shape
    count = parts * primes * degree
    inner = struct.pack("<HBBBBHQQ", _MAGIC, *_VERSION, 0, 0, 24 + 8 * count, count)
    identity = struct.pack("<4Q", *_identities(parameters)[primes])
    body = identity + struct.pack("<BQQQdQ", transformed, parts, degree, primes, scale, 1) + inner
    return struct.pack("<HBBBBHQ", _MAGIC, *_VERSION, 0, 0, 16 + len(body) + 8 * count) + body


@lru_cache(maxsize=8)
def _identities(parameters: Parameters) -> dict[int, tuple[int, ...]]:
    """The library's names of the sets of primes, by how many there are."""
    found, data = {}, context(parameters).first_context_data()
    while data is not None:
        found[len(data.parms().coeff_modulus())] = tuple(data.parms_id())
        data = data.next_context_data()
    return found


class Evaluation:
    """What a server computes: it holds public keys only. `clear.Clear` does the same on plain numbers.

    relinearization, galois: the keys as `Holder` gives them; without Galois keys nothing rotates.
    Errors: ArtifactError for keys of other parameters, or that do not read.
    """

    def __init__(
        self, parameters: Parameters, relinearization: bytes | None = None, galois: bytes | None = None
    ) -> None:
        self.parameters, self.primes = parameters, primes_of(parameters)
        self._context = context(parameters)
        self._evaluator = library().Evaluator(self._context)
        self._encoder = library().CKKSEncoder(self._context)
        self._relin = None if relinearization is None else self._key("from_relin_str", relinearization)
        self._galois = None if galois is None else self._key("from_galois_str", galois)
        if self._relin is not None and not self._relin.has_key(2):
            raise ArtifactError(_FOREIGN)

    def add(self, left: Ciphertext, right: Ciphertext) -> Ciphertext:
        """Sum of two ciphertexts of the same level and scale."""
        check_alike(left, right)
        right.object.scale(left.scale)
        return self._made(self._evaluator.add(left.object, right.object), left.scale)

    def multiply(self, left: Ciphertext, right: Ciphertext) -> Ciphertext:
        """Product of two ciphertexts of the same level: three parts, the product of their scales."""
        return self._made(self._evaluator.multiply(left.object, right.object), left.scale * right.scale)

    def square(self, value: Ciphertext) -> Ciphertext:
        """Square of a ciphertext: three parts, the square of its scale."""
        return self._made(self._evaluator.square(value.object), value.scale**2)

    def relinearize(self, value: Ciphertext) -> Ciphertext:
        """The same numbers in two parts."""
        return self._made(self._evaluator.relinearize(value.object, self._relin), value.scale)

    def rescale(self, value: Ciphertext, scale: float) -> Ciphertext:
        """Divide by the last prime, which must make the scale `scale`; one level is gone."""
        check_scale(value.scale / self.primes[value.parameters.base + value.level - 1], scale)
        made = self._evaluator.rescale_to_next(value.object)
        made.scale(scale)
        return self._made(made, scale)

    def lowered(self, value: Ciphertext, level: int) -> Ciphertext:
        """The same numbers at a lower level."""
        if value.level == level:
            return value
        kept = value.residues[:, : self.parameters.base + level]
        return Ciphertext(self.parameters, value.scale, raw=kept)

    def rotate(self, value: Ciphertext, steps: int) -> Ciphertext:
        """Slot i gets what slot i + steps had."""
        if steps == 0:
            return value
        return self._made(self._evaluator.rotate_vector(value.object, steps, self._galois), value.scale)

    def encode(self, values: Array, scale: float, level: int) -> Object:
        """A plaintext of N / 2 numbers, for `times` and `plus`."""
        plain = self._encoder.encode(np.ascontiguousarray(values, dtype=np.float64), scale)
        self._evaluator.mod_switch_to_inplace(plain, self._identity(level))
        return plain

    def times(self, value: Ciphertext, plain: Object) -> Ciphertext:
        """Product with a plaintext, slot by slot; scales multiply."""
        scale = value.scale * plain.scale()
        return self._made(self._evaluator.multiply_plain(value.object, plain), scale)

    def plus(self, value: Ciphertext, numbers: Array) -> Ciphertext:
        """Sum with plain numbers, slot by slot."""
        plain = self.encode(numbers, value.scale, value.level)
        return self._made(self._evaluator.add_plain(value.object, plain), value.scale)

    def combine(
        self, values: Sequence[Ciphertext], weights: Array, scale: float, bias: Array
    ) -> list[Ciphertext]:
        """Integer combinations [m, n] of ciphertexts of one level, plus a bias [m]; `scale` is what scale they have."""
        primes = self.primes[: self.parameters.base + values[0].level]
        added = [round(float(number) * scale) for number in bias]
        found = kernel.product([value.residues for value in values], weights, primes, added)
        return [Ciphertext(self.parameters, scale, raw=row) for row in found]

    def _identity(self, level: int) -> list[int]:
        return list(_identities(self.parameters)[self.parameters.base + level])

    def _made(self, made: Object, scale: float) -> Ciphertext:
        return Ciphertext(self.parameters, scale, known=made)

    def _key(self, reader: str, content: bytes) -> Object:
        try:
            read = getattr(self._context, reader)(content)
        except (ValueError, RuntimeError):
            raise ArtifactError(_FOREIGN) from None
        if len(read.to_string()) != len(content):
            raise ArtifactError(_FOREIGN)
        return read

    def rotates(self, steps: Sequence[int]) -> bool:
        """Whether there is a key for each of these steps."""
        turned = [pow(3, step % self.parameters.slots, 2 * self.parameters.degree) for step in steps]
        return self._galois is not None and all(map(self._galois.has_key, turned))


class Public:
    """The public key: whoever has it can encrypt, not decrypt. Errors: ArtifactError for no key of these parameters."""

    def __init__(self, parameters: Parameters, key: bytes) -> None:
        self.parameters, self.primes = parameters, primes_of(parameters)
        try:
            read = context(parameters).from_public_str(key)
        except (ValueError, RuntimeError):
            raise ArtifactError(
                "the public key does not read, or is for other parameters; ask for it again"
            ) from None
        self._encryptor = library().Encryptor(context(parameters), read)

    def zero(self, level: int | None = None) -> Ciphertext:
        """A fresh encryption of zeros, at the highest level or another."""
        primes = len(self.primes) if level is None else self.parameters.base + level
        made = self._encryptor.encrypt_zero(list(_identities(self.parameters)[primes]))
        return Ciphertext(self.parameters, 1.0, known=made)


class Holder:
    """The secret key, and all that needs it. It is never printed, and never given to `Evaluation`."""

    def __init__(self, parameters: Parameters, secret: bytes | None = None) -> None:
        """secret: as `secret` gives it; a fresh key without it. Errors: ArtifactError for another's key."""
        seal = library()
        self.parameters, self.primes = parameters, primes_of(parameters)
        self._context = context(parameters)
        try:
            key = None if secret is None else self._context.from_secret_str(secret)
        except (ValueError, RuntimeError):
            raise ArtifactError("the secret key does not read; restore a copy") from None
        self._generator = seal.KeyGenerator(self._context, *(() if key is None else (key,)))
        self._key = self._generator.secret_key()
        self._encoder = seal.CKKSEncoder(self._context)
        self._decryptor = seal.Decryptor(self._context, self._key)
        self._encryptor = seal.Encryptor(self._context, self._generator.create_public_key(), self._key)

    def __repr__(self) -> str:
        """No part of the key."""
        return f"Holder(degree={self.parameters.degree}, levels={self.parameters.levels})"

    def public_key(self) -> bytes:
        """What others need to encrypt for the holder, and a server to hide what it adds."""
        return bytes(self._generator.create_public_key().to_string())

    @property
    def secret(self) -> bytes:
        """The secret key; privacy: only for a file that is encrypted."""
        return bytes(self._key.to_string())

    @cached_property
    def residues(self) -> Residues:
        """The secret key as residues [primes, N], in the form of ciphertexts."""
        flat = np.frombuffer(self.secret, np.uint64, offset=_SECRET_HEAD)
        return flat.reshape(-1, self.parameters.degree)[: len(self.primes)]

    def relinearization_key(self) -> bytes:
        """What a server needs to multiply ciphertexts."""
        return bytes(self._generator.create_relin_keys().to_string())

    def galois_keys(self, steps: Sequence[int]) -> bytes:
        """What a server needs to rotate ciphertexts by these steps, and by no others."""
        made = library().GaloisKeys()
        self._generator.create_galois_keys(sorted(set(steps)), made)
        return bytes(made.to_string())

    def encrypt(self, values: Array, scale: float) -> Ciphertext:
        """A fresh ciphertext of at most N / 2 numbers; slots beyond them hold zero."""
        plain = self._encoder.encode(np.ascontiguousarray(values, dtype=np.float64), scale)
        return Ciphertext(self.parameters, scale, known=self._encryptor.encrypt_symmetric(plain))

    def zero(self) -> Ciphertext:
        """A fresh encryption of zeros, as `Public.zero` makes one, with less noise."""
        made = self.encrypt(np.zeros(1), 1.0)
        return Ciphertext(self.parameters, 1.0, raw=made.residues)

    def decrypt(self, value: Ciphertext) -> Array:
        """The numbers of all slots. privacy: see `keys` before one of them leaves the holder."""
        found: Array = np.array(self._encoder.decode(self._decryptor.decrypt(value.object)))
        return found
