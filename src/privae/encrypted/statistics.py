"""A fit of images whose sums are formed on ciphertexts, in three roles; the model of the clear fit, bit for bit.

Clients have rows and the key holder's public keys. A server multiplies and adds ciphertexts. The key holder opens sums
of all clients, charges the ledger, adds the noise and releases; what follows is public. One round a phase:
    norms          counts of norms, encrypted as coefficients and added
    axes, prior    columns of codes, encrypted as `rounds.Tiling` says; products of pairs of columns, added
Guarantee: the released numbers are those of the clear fit on all rows together, with the same noise (rounds: why sums
are exact; guarantees.md rules 1, 7, 24), so its epsilon is, too. Rows are bounded at their client, each by itself.
Who learns what, if all follow the protocol and the key holder colludes with nobody: clients learn releases. The server
learns sizes, which follow from the terms, under ring learning with errors. The key holder learns sums of all clients:
a product of ciphertexts shows a holder of the key more than its sum, so keys are switched to two parts, an encryption
of zero is added, all other coefficients are drowned in uniform residues, and the noise in a flood: what it sees can be
made of the sums alone, up to 2^-40 and the hardness of ring learning with errors. Number of rows and labels stay
hidden from the server, for clients send as many ciphertexts as their capacity says.
Not covered: roles that deviate. A message is bound to its fit, key and place, not signed: transport must do that.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privae.ckks import exact
from privae.ckks import residues as kernel
from privae.ckks.residues import Residues
from privae.ckks.scheme import Ciphertext, Evaluation, Holder, Public, primes_of, transformed
from privae.data.images import label_codes
from privae.encrypted.rounds import (
    COUNT_FACTOR,
    DEGREE,
    Keys,
    Terms,
    Tiling,
    masks,
    multiplied,
    packed,
    unpacked,
)
from privae.errors import ArtifactError, UsageError
from privae.fitted.images import FittedImages
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.recipes import image
from privae.recipes.image import CLASSES, NORMS
from privae.recipes.phases import Released, Run
from privae.sums import moments
from privae.sums.moments import BOUND
from privae.training.books import Books, Places
from privae.training.watch import Silent, Watch

Integers = NDArray[np.int64]
Records = tuple[NDArray[np.uint8], NDArray[Any] | None]


@dataclass(frozen=True)
class Known:
    """What was released so far, and so is public: counts of norms [bins], and mean, axes and spread of codes."""

    norms: NDArray[np.float64] | None = None
    linear: dict[str, torch.Tensor] | None = None


@dataclass(frozen=True)
class Client:
    """A client's part: it has the terms, the key holder's public keys and its place among the clients."""

    terms: Terms
    keys: Keys = field(repr=False)
    place: int

    def encrypt(self, phase: str, records: Records, known: Known) -> list[bytes]:
        """The messages of a phase, as many as the terms say, whatever the records are.

        records: images [n, h, w] and labels [n]; none is as good as many. known: what was released before.
        Errors: UsageError for more images than the declared capacity, or of another shape: nothing is sent then.
        PrivacyRefused for axes that no key holder would release.
        """
        images, labels = records
        self.terms.recipe.check(images, labels, strict=False)
        capacity = self.terms.capacities[self.place]
        if len(images) > capacity:
            # privacy: dropping some would let one image change which others take part
            raise UsageError("there are more images than the capacity agreed on; agree on a larger one")
        raw = image.frequencies(np.ascontiguousarray(images), self.terms.sizes)
        if phase == NORMS:
            return [self._counts(image.ball_counts(raw, self.terms.pixels))]
        rows, groups = self._codes(phase, raw, labels, known)
        tiling, key = self.terms.tilings[phase], Public(self.terms.parameters, self.keys.encryption)
        parts = [slice(b * tiling.rows, (b + 1) * tiling.rows) for b in range(tiling.blocks(capacity))]
        pairs = [(tiling.lefthand(rows[part], groups[part]), tiling.righthand(rows[part])) for part in parts]
        return [self._block((phase, b), key, *pair) for b, pair in enumerate(pairs)]

    def _counts(self, counts: Integers) -> bytes:
        key = Public(self.terms.parameters, self.keys.encryption)
        made = exact.encrypted(key, counts, COUNT_FACTOR)
        return packed(self.terms, self.keys, _label(NORMS, self.place, 0), made.residues)

    def _codes(
        self, phase: str, raw: Integers, labels: NDArray[Any] | None, known: Known
    ) -> tuple[Integers, Integers]:
        """Bounded codes of a phase with a constant column, [n, k + 1], and the group of each row [n]."""
        sizes, classes = self.terms.sizes, self.terms.schema.classes
        assert known.norms is not None, "norms come first"
        ball = image.ball_of(known.norms, self.terms.pixels, sizes.quantile)
        codes, groups = image.bounded(raw, ball), np.zeros(len(raw), np.int64)
        if phase == CLASSES:
            assert known.linear is not None, "axes come before the prior"
            mean, axes, spread = image.checked_axes(known.linear, codes.shape[1])
            codes = image.latent_codes(codes, mean, axes, spread, sizes)
            if isinstance(classes, tuple) and labels is not None:
                groups = label_codes(labels, classes)
        return np.column_stack([codes, np.ones(len(codes), np.int64)]), groups

    def _block(self, name: tuple[str, int], key: Public, left: Integers, right: Integers) -> bytes:
        made = [exact.encrypted(key, row, self.terms.factor).residues for row in (*left, *right)]
        return packed(self.terms, self.keys, _label(name[0], self.place, name[1]), np.concatenate(made))


@dataclass(frozen=True)
class Server:
    """What forms sums: it has the terms and public keys only."""

    terms: Terms
    keys: Keys = field(repr=False)

    def summed(self, phase: str, messages: Sequence[Sequence[bytes]]) -> bytes:
        """The sum of all clients' messages of a phase, for the key holder.

        Errors: ArtifactError for messages of another fit, key or place, of other sizes, or that are damaged.
        """
        if len(messages) != len(self.terms.capacities):
            raise ArtifactError("there is one list of messages a client; ask all of them again")
        if phase == NORMS:
            return self._added(messages)
        tiling = self.terms.tilings[phase]
        for capacity, own in zip(self.terms.capacities, messages, strict=True):
            if len(own) != tiling.blocks(capacity):
                raise ArtifactError("a client sent another number of messages than its capacity asks for")
        parts = 2 * (tiling.lefts + tiling.rights)
        wide = [
            self._read(_label(phase, place, b), message, parts)
            for place, own in enumerate(messages)
            for b, message in enumerate(own)
        ]
        blocks = np.stack(wide).reshape(len(wide), -1, 2, len(self._primes), DEGREE)
        made = [self._hidden(total, tiling) for total in self._products(blocks, tiling)]
        return packed(self.terms, self.keys, _label(phase, -1, 0), np.concatenate(made))

    def _added(self, messages: Sequence[Sequence[bytes]]) -> bytes:
        if any(len(own) != 1 for own in messages):
            raise ArtifactError("a client sends its counts in one message")
        read = [self._read(_label(NORMS, place, 0), own[0], 2) for place, own in enumerate(messages)]
        total = exact.added([Ciphertext(self.terms.parameters, COUNT_FACTOR, raw=one) for one in read])
        return packed(self.terms, self.keys, _label(NORMS, -1, 0), total.residues)

    def _products(self, blocks: Residues, tiling: Tiling) -> Iterator[Residues]:
        """Sums over blocks of the products of each tile, [3, primes, N], of blocks [blocks, columns, 2, primes, N]."""
        for g, h in tiling.tiles:
            yield multiplied(blocks[:, g], blocks[:, tiling.lefts + h], self._primes)

    def _hidden(self, total: Residues, tiling: Tiling) -> Residues:
        """A sum of products as the key holder gets it: two parts, fewer primes, all but the sums drowned: [2, p, N]."""
        parameters = self.terms.parameters
        value = self._evaluation.relinearize(Ciphertext(parameters, 1.0, raw=total))
        while value.level:
            value = self._evaluation.rescale(
                value, value.scale / self._primes[parameters.base + value.level - 1]
            )
        # privacy: the holder of the key reads the second part, too, which an encryption of zero makes a fresh one
        out = exact.added([value, self._public.zero(0)]).residues.copy()
        primes = self._primes[: parameters.base]
        mask = transformed(parameters, masks(primes, tiling.rows, self.terms.flood)[None], forward=True)[0]
        for i, prime in enumerate(primes):
            out[0, i] = kernel.plus(out[0, i], mask[i], prime)
        return out

    def _read(self, label: str, message: bytes, parts: int) -> Residues:
        return unpacked(self.terms, self.keys, label, message, (parts, len(self._primes)))

    @cached_property
    def _primes(self) -> tuple[int, ...]:
        return primes_of(self.terms.parameters)

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self.terms.parameters, self.keys.products)

    @cached_property
    def _public(self) -> Public:
        return Public(self.terms.parameters, self.keys.encryption)


class KeyHolder:
    """Who alone opens sums, and releases them with noise. The secret key never leaves it, and is never printed."""

    def __init__(self, terms: Terms) -> None:
        """A fresh key pair for one fit. Errors: UsageError where sums would not be exact."""
        self.terms = terms
        terms.flood  # noqa: B018  raises
        self._holder = Holder(terms.parameters)
        self.keys = Keys(self._holder.public_key(), self._holder.relinearization_key())

    def __repr__(self) -> str:
        """No part of the key."""
        return f"KeyHolder({self.keys.identity[:12]})"

    def opened(self, phase: str, message: bytes) -> Integers:
        """The exact sums of a phase: counts [1, bins], or moments [groups, p]. privacy: they stay here.

        Errors: ArtifactError for a message of another fit or key, that is damaged, or does not hold such sums.
        """
        label, primes = _label(phase, -1, 0), primes_of(self.terms.parameters)
        if phase == NORMS:
            read = unpacked(self.terms, self.keys, label, message, (2, len(primes)))
            value = Ciphertext(self.terms.parameters, COUNT_FACTOR, raw=read)
            return exact.decrypted(self._holder, value)[None, : self._bins]
        tiling, base = self.terms.tilings[phase], self.terms.parameters.base
        read = unpacked(self.terms, self.keys, label, message, (2 * len(tiling.tiles), base))
        tiles = read.reshape(len(tiling.tiles), 2, base, DEGREE)
        return tiling.sums(np.stack([self._places(tile, tiling.rows) for tile in tiles]))

    def fit(self, run: Run, ask: Callable[[str, Known], bytes]) -> FittedImages:
        """Fit as the plan says. ask: the server's message of a phase, given what was released before.

        Guarantee: `run.charge` is told of a phase before any number that depends on its sums is released.
        Errors: those of `opened`, and of the recipe.
        """
        told = (run.plan, run.charge, run.noise, run.watch)
        opening = Opening(*told, sums=lambda phase, known: self.opened(phase, ask(phase, known)))
        nobody = np.zeros((0, self.terms.schema.height, self.terms.schema.width), np.uint8)
        return self.terms.recipe.fit(opening, nobody, np.zeros(0, object))

    @property
    def _bins(self) -> int:
        phase = self.terms.plan.phase(NORMS)
        assert phase is not None
        return phase.size

    def _places(self, tile: Residues, step: int) -> Integers:
        """The integers at multiples of `step` in a ciphertext: [N / step]."""
        value = Ciphertext(self.terms.parameters, 1.0, raw=tile)
        hidden = exact.phase(self._holder, value)[None]
        kept = transformed(self.terms.parameters, hidden, forward=False)[0, :, ::step]
        found = _integers(kept, primes_of(self.terms.parameters)[: len(kept)])
        whole = self.terms.factor**2
        sums = [(2 * number * self.terms.dropped + whole) // (2 * whole) for number in found]
        if max(map(abs, sums)) > self.terms.rows * (BOUND**2 + 1):
            raise ArtifactError("a message does not open to sums of this fit; the clients must encrypt again")
        return np.array(sums, np.int64)


@dataclass(frozen=True)
class Opening(Run):
    """A run without rows of its own, whose sums are opened. sums: those of a phase, given what is known by then."""

    sums: Callable[[str, Known], Integers] = field(kw_only=True, repr=False)
    known: list[Known] = field(default_factory=lambda: [Known()])

    def release(
        self,
        name: str,
        totals: Sequence[tuple[NDArray[np.int64], float]],
        leaves: Callable[[Released], Released] | None = None,
    ) -> Released:
        """The noisy sums of all clients; see `Run.release`."""
        opened = self.sums(name, self.known[-1])
        blocks = [opened[0]] if name == NORMS else _blocks(opened)
        found = [(mine, weight) for mine, (_, weight) in zip(blocks, totals, strict=True)]
        released = super().release(name, found, leaves)
        if name == NORMS:
            self.known.append(replace(self.known[-1], norms=released[0]))
        return released

    def agreed(self, name: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What follows from releases, which clients are told."""
        made = super().agreed(name, make)
        self.known.append(replace(self.known[-1], linear=made))
        return made


def _blocks(opened: Integers) -> list[Integers]:
    """Moments [groups, p] by weight, as the recipe releases them."""
    size = (math.isqrt(8 * opened.shape[1] + 1) - 3) // 2  # of (size + 1) (size + 2) / 2 numbers
    weight, _, _ = moments.weights(size)
    return [opened[:, weight == value] for value in np.unique(weight)]


def _integers(remainders: Residues, primes: Sequence[int]) -> list[int]:
    """The integers of least magnitude with these remainders, [primes, n] -> n."""
    modulus = math.prod(primes)
    total = np.zeros(remainders.shape[1], object)
    for row, prime in zip(remainders, primes, strict=True):
        rest = modulus // prime
        total += row.astype(object) * (rest * pow(rest, -1, prime))
    return [number - modulus if number > modulus // 2 else number for number in (total % modulus).tolist()]


def _label(phase: str, place: int, block: int) -> str:
    """What a message is bound to; the server's place is -1."""
    return f"{phase}/{place}/{block}"


@dataclass(frozen=True)
class Outcome:
    """A fit whose sums were formed on ciphertexts. costs: processor seconds and bytes of each role, by name."""

    fitted: FittedImages
    ledger: Ledger
    guarantee: Guarantee
    costs: dict[str, float]


ROLES = (
    "roles that deviate from the protocol, or a key holder that colludes with the server or a client",
    "the hardness of ring learning with errors, which hides rows from the server",
)
_FIXED = "a noise key was given by hand: whoever knows it can remove the noise; for tests only"


def fit(
    terms: Terms,
    records: Sequence[Records],
    *,
    noise: NoiseSource | None = None,
    ledger: Ledger | str | Path | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """All roles in one process, each with what it may have: the model that `VAE.fit` gives on all records together.

    records: images and labels of each client, in the order of the terms' capacities; none is as good as many.
    noise: for repeatable tests only. ledger: a data set's ledger, charged with the whole plan before anything else.
    Errors: those of `Client.encrypt`, `Books` and the recipe.
    """
    if len(records) != len(terms.capacities):
        raise UsageError("there are as many clients' records as the terms have capacities")
    source, meter = noise or NoiseSource(), Meter()
    books = Books(terms.plan, source, Places(ledger))
    with books.open():
        with meter.time("key holder"):
            holder = KeyHolder(terms)
        run = Run(terms.plan, books.charge, source, watch or Silent())
        with meter.time("key holder"):
            fitted = holder.fit(run, _asking(terms, holder.keys, records, meter))
        run.finish()
    made = terms.plan.guarantee()
    notes = (*((_FIXED,) if books.fixed else ()), *ROLES, *made.not_covered)
    return Outcome(fitted, books.own, replace(made, not_covered=notes), meter.found)


def _asking(
    terms: Terms, keys: Keys, records: Sequence[Records], meter: "Meter"
) -> Callable[[str, Known], bytes]:
    """How the key holder gets the message of a phase: the clients encrypt, the server sums."""
    clients = [Client(terms, keys, place) for place in range(len(records))]
    server = Server(terms, keys)

    def ask(phase: str, known: Known) -> bytes:
        with meter.time("clients"):
            sent = [one.encrypt(phase, own, known) for one, own in zip(clients, records, strict=True)]
        meter.count("clients", [message for own in sent for message in own])
        with meter.time("server"):
            message = server.summed(phase, sent)
        meter.count("server", [message])
        return message

    return ask


class Meter:
    """Processor seconds and bytes sent, by role; what a role asks of another one counts for that one alone."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def time(self, role: str) -> Iterator[None]:
        """Count the seconds of a block for a role."""
        begun, outer, self._inner = time.process_time(), self._inner, 0.0
        yield
        spent = time.process_time() - begun
        self._add(f"{role} seconds", spent - self._inner)
        self._inner = outer + spent

    def count(self, role: str, messages: Sequence[bytes]) -> None:
        """Count the bytes of messages that a role sent."""
        self._add(f"{role} bytes", sum(map(len, messages)))

    def _add(self, name: str, value: float) -> None:
        self.found[name] = self.found.get(name, 0.0) + value
