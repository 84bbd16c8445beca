"""Records to ciphertexts, ciphertexts to ciphertexts of scores, and back: what a holder and a server do.

The server reads sizes: how many records, of which model, in which packing. It is honest but curious: it computes what
it was asked, and learns what it can. Ciphertexts are malleable, so a holder must not take scores for proven.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privae.ckks import residues as kernel
from privae.ckks.container import Container
from privae.ckks.exact import SEED, Seeded
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import Ciphertext, Evaluation, Public, primes_of
from privae.encrypted import samples
from privae.encrypted.compile import finished
from privae.encrypted.keys import KeyRing, public_parts
from privae.encrypted.offer import Offer, Served
from privae.errors import ArtifactError, UsageError
from privae.training.watch import Silent, Watch

Array = NDArray[np.float64]
Data = Any
"""Records as they lie in files: a DataFrame, or uint8 images [n, h, w]."""

PACKING, SCORING = "encrypt", "score ciphertexts"
_HEADS = 2**10  # bytes, more than the library writes around a key


def pack(
    offer: Offer,
    ring: KeyRing,
    data: Data,
    lanes: int | None = None,
    watch: Watch | None = None,
) -> Container:
    """Encrypt records for an offered model, in half-size ciphertexts.

    lanes: the packing, by default the cheapest that has keys for it.
    Errors: UsageError or DataError for records of another schema; ArtifactError for a key of other parameters.
    """
    if ring.parameters != offer.parameters:
        raise ArtifactError("the key was made for other parameters than the offer's; make one for it")
    rows = offer.prepared(data)
    chosen = offer.packing(len(rows), rotations=ring.rotates) if lanes is None else lanes
    if chosen not in {0, *offer.layouts}:
        raise UsageError("the offer has no such packing")
    if not len(rows):
        raise UsageError("there are no records to encrypt")
    seen, written = watch or Silent(), []
    seen.phase(PACKING, _count(offer, chosen, len(rows)))
    for slots in _slots(offer, chosen, rows):
        sealed = Seeded.of(ring.holder, ring.holder.encrypt(slots, offer.scale))
        written += [sealed.seed, kernel.written(sealed.first[None], ring.holder.primes)]
        seen.advance(1)
    about = {"model": offer.model, "lanes": chosen, "rows": len(rows)}
    return Container("records", ring.parameters, ring.name, about, b"".join(written))


def _slots(offer: Offer, lanes: int, rows: Array) -> Iterator[Array]:
    """The numbers of every ciphertext of a packing."""
    size = lanes or offer.parameters.slots
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        if lanes:
            yield offer.layout(lanes).packed(block)
        else:
            yield from np.ascontiguousarray(block.T)


def _count(offer: Offer, lanes: int, rows: int) -> int:
    """Ciphertexts of a packing."""
    return -(-rows // lanes) if lanes else -(-rows // offer.parameters.slots) * offer.inputs


def unpack(offer: Offer, ring: KeyRing, results: Container) -> dict[str, Array]:
    """Decrypt what a server computed: every output of every record, as `Compiled.evaluate` gives it in the clear.

    privacy: for the holder alone; see `keys.shared` before a number of it leaves.
    Errors: ArtifactError for results of another key or model, or that do not read.
    """
    ring.check(results, "the file of results")
    rows, lanes = _asked(offer, results)
    size, reader = lanes or offer.parameters.slots, _Reader(ring.parameters, results.body)
    found: dict[str, list[Array]] = {name: [] for name in offer.outputs}
    for start in range(0, rows, size):
        count = min(size, rows - start)
        for name, output in offer.outputs.items():
            whole = [reader.whole(output.level, output.scale) for _ in range(1 if lanes else output.width)]
            slots = [ring.holder.decrypt(value) for value in whole]
            packed = offer.layout(lanes).read(slots[0], output.width, count) if lanes else None
            found[name].append(np.stack([v[:count] for v in slots], 1) if packed is None else packed)
    reader.end()
    return {name: finished(name, np.concatenate(parts), offer.finish) for name, parts in found.items()}


def _asked(offer: Offer, container: Container) -> tuple[int, int]:
    """Rows and lanes of a container. Errors: ArtifactError for anything that the offer does not have."""
    about = container.about
    if about.get("model") != offer.model:
        raise ArtifactError("these ciphertexts are for another model; ask for its offer, and pack again")
    rows, lanes = about.get("rows"), about.get("lanes")
    if type(rows) is not int or rows < 1 or type(lanes) is not int or lanes not in {0, *offer.layouts}:
        raise ArtifactError("the header of these ciphertexts does not read; pack again")
    return rows, lanes


@dataclass
class _Reader:
    """Ciphertexts of a body, one after another. Errors: ArtifactError where it ends too soon, or holds no residues."""

    parameters: Parameters
    body: bytes
    place: int = field(default=0, init=False)

    def seeded(self, scale: float) -> Ciphertext:
        """The next fresh ciphertext."""
        seed = self._take(SEED)
        first = self._residues(1, len(primes_of(self.parameters)))
        return Seeded(first[0], seed, scale).expanded(self.parameters)

    def whole(self, level: int, scale: float) -> Ciphertext:
        """The next ciphertext of two parts."""
        return Ciphertext(self.parameters, scale, raw=self._residues(2, self.parameters.base + level))

    def end(self) -> None:
        """Nothing may follow."""
        if self.place != len(self.body):
            raise ArtifactError("more follows than the header says; get the file again")

    def _residues(self, parts: int, count: int) -> kernel.Residues:
        primes = primes_of(self.parameters)[:count]
        content = self._take(kernel.written_size(parts, self.parameters.degree, primes))
        try:
            return kernel.read(content, parts, self.parameters.degree, primes)
        except ValueError:
            raise ArtifactError("a ciphertext is not valid; get the file again") from None

    def _take(self, size: int) -> bytes:
        taken = self.body[self.place : self.place + size]
        if len(taken) < size:
            raise ArtifactError("fewer ciphertexts than the header says; get the file again")
        self.place += size
        return taken


@dataclass(frozen=True)
class Keys:
    """A client's public keys, read once."""

    name: str
    evaluation: Evaluation
    public: Public

    @classmethod
    def of(cls, container: Container, offer: Offer) -> "Keys":
        """Errors: ArtifactError for keys of other parameters, or that do not read."""
        if container.parameters != offer.parameters:
            raise ArtifactError("the keys were made for other parameters than this model's; make new ones")
        parts = public_parts(container)
        evaluation = Evaluation(container.parameters, parts[1], parts[2] if len(parts) > 2 else None)
        return cls(container.key, evaluation, Public(container.parameters, parts[0]))


def expected_bytes(offer: Offer, rows: int, lanes: int) -> int:
    """Bytes of the body of so many packed records."""
    primes = primes_of(offer.parameters)
    each = SEED + kernel.written_size(1, offer.parameters.degree, primes)
    return _count(offer, lanes, rows) * each


def expected_key_bytes(offer: Offer, *, rotations: bool = True) -> int:
    """The most bytes that the body of a client's public keys has, with Galois keys or without."""
    primes, steps = len(offer.parameters.bits), offer.steps if rotations else []
    each = 2 * 8 * primes * offer.parameters.degree + _HEADS
    return each * (1 + (primes - 1) * (1 + len(steps))) + _HEADS * offer.parameters.degree // 128


def blocks_of(offer: Offer, rows: int, lanes: int) -> int:
    """Ciphertexts of each number of an answer."""
    return -(-rows // (lanes or offer.parameters.slots))


def check(model: Served, keys: Keys, records: Container) -> tuple[int, int]:
    """Rows and lanes of records that can be scored; what a sender says of its rows is a claim, their bytes are not.

    Errors: ArtifactError for records of another key, model or size; UsageError for a packing that the keys cannot
    rotate.
    """
    offer = model.offer
    if records.key != keys.name or records.parameters != offer.parameters:
        raise ArtifactError("the records were encrypted under another key than the keys that came with them")
    rows, lanes = _asked(offer, records)
    if len(records.body) != expected_bytes(offer, rows, lanes):
        raise ArtifactError("the records are not as many as their header says; pack again")
    if lanes and not keys.evaluation.rotates(offer.rotations[lanes]):
        raise UsageError("these keys rotate nothing, so records are packed one ciphertext a feature: --batch")
    return rows, lanes


def score(model: Served, keys: Keys, records: Container, watch: Watch | None = None) -> Container:
    """Compute the offered outputs of encrypted records; nothing that this process holds decrypts them.

    Every ciphertext of the answer is refreshed by an encryption of zero. Its slots hold the outputs, repeated, and
    zeros, whatever was packed; in a batch, each slot is a record.
    Errors: those of `check`; ArtifactError for ciphertexts that do not read, or cannot be computed on.
    """
    offer = model.offer
    rows, lanes = check(model, keys, records)
    seen, reader = watch or Silent(), _Reader(offer.parameters, records.body)
    blocks = blocks_of(offer, rows, lanes)
    seen.phase(SCORING, blocks)
    written = []
    for _ in range(blocks):
        try:
            found = _computed(model, keys, reader, lanes)
            for name, values in found.items():
                written += [_reply(keys, value, offer.outputs[name].level) for value in values]
        except (RuntimeError, ValueError):  # the library, of ciphertexts made on purpose
            raise ArtifactError("these ciphertexts cannot be computed on; pack again") from None
        seen.advance(1)
    reader.end()
    about = {"model": offer.model, "lanes": lanes, "rows": rows}
    return Container("results", offer.parameters, keys.name, about, b"".join(written))


def _computed(model: Served, keys: Keys, reader: _Reader, lanes: int) -> Mapping[str, list[Any]]:
    offer, wanted = model.offer, tuple(model.offer.outputs)
    if lanes:
        found = model.programs[lanes].run(keys.evaluation, reader.seeded(offer.scale), wanted)
        return {name: [value] for name, value in found.items()}
    inputs = [reader.seeded(offer.scale) for _ in range(offer.inputs)]
    return samples.run(keys.evaluation, model.schedule, inputs, wanted)


def _reply(keys: Keys, value: Ciphertext, level: int) -> bytes:
    """A ciphertext at a level, refreshed by a fresh encryption of zero."""
    low = keys.evaluation.lowered(value, level)
    fresh = Ciphertext(low.parameters, low.scale, raw=keys.public.zero(level).residues)
    made = keys.evaluation.add(low, fresh)
    return kernel.written(made.residues, keys.evaluation.primes[: low.parameters.base + level])
