"""One sum of integers of several parties, formed on ciphertexts by somebody who cannot read them: a state machine.

    open      each party: its integers, encrypted  -> the set of parties in the sum; their ciphertexts are added
    decrypt   the set, their seeds, the sum        -> each party: the sum, exact modulo 2^32 or 2^64, of which it tells
                                                      the hashes of all parts and one part itself

`Party` is a party's side, `Gathering` that of whoever adds: functions of what came in, without input, output, clock or
coin. Nobody who falls out has to be recovered: who did not come to `open` is not in the sum, who does not come to
`decrypt` is not needed, as long as one does.

Encryption is CKKS on coefficients (`exact`): c0 = f x + e - a s, one prime, ring degree 4096, 128 bits of security and
more. Of n parties f = 42 n + 1, and an error is at most 21 (SEAL's own distribution: 21 coins minus 21 coins), so
rounding gives back the very integers, always. Numbers travel in as many bits as the prime has, and `a` as the seed that
it follows from, upwards and downwards: the sum of all `a` follows from the seeds of the set. 8 bytes travel as two
halves of 4. The key of one sum, s, follows from the parties' common key and what names the sum. Three numbers more,
inner products of c0 with secret random weights, modulo the prime, each under a pad that follows from the key and the
seed, show that c0 is the sum over this very set, under this key, bit for bit. They are held against it before anything
is decrypted: a change of c0 passes with a probability below 2^-100, whether it is larger than the noise or within it.

Guarantee: who adds, and holds no key, learns what a party tells it and nothing else, if ring-LWE, AES-256 and
HMAC-SHA256 hold, even if it changes what it adds: a refusal follows from its own bytes, weights and pads, and not from
s, e or x, so it is no oracle of the noise. A site lets one request a sum be tried, moreover (`federated.site`). What is
decrypted and told is a function of the integers alone, so decryptions may be shared: the attack of Li and Micciancio
needs the noise of approximate ones, which rounding took away, and none has to be drowned (IND-CPA^D).
Assumed: that no party gives the key, or what it decrypts beyond the sum, to who adds. Whoever has both the key and a
party's ciphertext reads that party's own integers. Masks (`federated.round`) assume no such thing.
Source: Li and Micciancio 2020, https://eprint.iacr.org/2020/1533; checks: Agrawal, Boneh 2009, homomorphic MACs.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privae.ckks import residues as kernel
from privae.ckks.bits import CHECKS, DEGREE, ERROR, HALF, Form, factor_of
from privae.ckks.exact import uniform
from privae.ckks.residues import Residues
from privae.ckks.scheme import transformed
from privae.errors import ProtocolError
from privae.files import canonical_json
from privae.privacy.noise import keystream

Words = NDArray[np.unsignedinteger[Any]]
Integers = NDArray[np.int64]
Fields = dict[str, Any]
Answer = tuple[Mapping[str, Any], bytes]

KEY = 32
"""Bytes of the key that all parties share."""
STAGES = ("open", "decrypt")
REFUSAL = "what is to be decrypted is not the sum of these sites, or not what was asked for first: one request a sum"
"""Why a site decrypts nothing: one text, so that a second request is not told what would have become of it."""


class Members(Protocol):
    """Who sums together: names in order, how many must be in a sum, and what names this one sum."""

    @property
    def names(self) -> tuple[str, ...]:
        """All parties."""
        ...

    @property
    def need(self) -> int:
        """The fewest in a sum."""
        ...

    @property
    def context(self) -> str:
        """Names this one sum."""
        ...

    def check(self, names: Sequence[Any], among: Sequence[str], least: int) -> tuple[str, ...]:
        """The names in order. Errors: ProtocolError unless they are distinct, of `among`, and enough."""
        ...


def name_of(key: bytes) -> str:
    """What a key is called in public; nothing else follows from it."""
    return _derived(key, "name").hex()


@dataclass(frozen=True)
class Party:
    """One party in one sum. key: that all parties share."""

    circle: Members
    name: str
    form: Form
    key: bytes = field(repr=False)

    def contribution(self, words: Words, coins: bytes) -> Answer:
        """Answer to "open": this party's numbers, encrypted, and the seed of their ciphertexts' other half.

        coins: 32 secret bytes; the same ones and words give the same bytes. privacy: other words with the same coins
        draw other errors and another seed, for two ciphertexts that share them would tell the difference.
        """
        form, coins = self.form, _derived(coins, "coins", hashlib.sha256(words.tobytes()).hexdigest())
        seed = _derived(coins, "seed")
        halves = _halves(words)
        noisy = halves * factor_of(form.parties) + _errors(_derived(coins, "errors"), len(halves))
        residues = (noisy % form.prime).astype(np.uint64)
        first = kernel.minus(residues, self._hidden(form.random(seed)), form.prime)
        return {"seed": seed.hex()}, form.written(np.concatenate([first, self._checks(first, [seed])]))

    def decrypted(self, request: Mapping[str, Any], body: bytes, own: str) -> Words:
        """The sum in a request to "decrypt". own: the seed of this party's contribution.

        Errors: ProtocolError unless it is the sum over the set that the request names, this party among them, bit for
        bit. That is found out without the secret key of the sum.
        """
        form, names = self.form, self.members_of(request)
        seeds = request.get("seeds")
        if not isinstance(seeds, dict) or set(seeds) != set(names) or seeds[self.name] != own:
            raise ProtocolError("a request to decrypt does not bring the seeds of its set of sites")
        raws = {_seed_of(seed) for seed in seeds.values()}
        if len(raws) != len(names):
            raise ProtocolError("a request to decrypt brings one ciphertext twice")
        found = form.read(body)
        first, checks = found[:-CHECKS], found[-CHECKS:]
        # privacy: before s is in use; what rounding would take away gives the noise, and s, to who may try changes
        if (checks != self._checks(first, raws)).any():
            raise ProtocolError(REFUSAL)
        total = np.zeros((form.blocks, DEGREE), np.uint64)
        for raw in raws:
            total = kernel.plus(total, form.random(raw), form.prime)
        return self._rounded(kernel.plus(first, self._hidden(total), form.prime), len(names))

    def members_of(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        """The set that a request names, with this party in it, and enough others (guarantees.md rule 23)."""
        names = request.get("members")
        if not isinstance(names, list):
            raise ProtocolError("a request names no set of sites")
        members = self.circle.check(names, self.circle.names, self.circle.need)
        if self.name not in members:
            raise ProtocolError("a request leaves this site out of the sum that it is to decrypt")
        return members

    def _rounded(self, phase: Residues, count: int) -> Words:
        prime, factor = self.form.prime, factor_of(self.form.parties)
        whole = phase.astype(np.int64)
        whole -= np.where(whole > prime // 2, prime, 0)
        return _whole((whole + factor // 2) // factor, count, self.form.word)

    def _hidden(self, random: Residues) -> Residues:
        """Coefficients of a polynomial's product with the secret key of this sum, as many as are in use."""
        parameters, prime = self.form.parameters, self.form.prime
        product = kernel.multiplied(random, self._secret[None], prime)
        whole = transformed(parameters, product[:, None], forward=False).reshape(-1)
        found: Residues = whole[: self.form.numbers - CHECKS]
        return found

    @cached_property
    def _secret(self) -> Residues:
        """The secret key of this sum, uniform among polynomials of -1, 0 and 1, transformed: [N]."""
        prime = self.form.prime
        ternary = uniform(_derived(self.key, "secret", self.circle.context), 3, DEGREE)
        small = (ternary.astype(np.int64) - 1) % prime
        found: Residues = transformed(
            self.form.parameters, small.astype(np.uint64)[None, None], forward=True
        )[0, 0]
        return found

    def _checks(self, first: Residues, seeds: Iterable[bytes]) -> Residues:
        """What the ciphertext of a seed carries, and the sum of those of several: checks of sums are sums of checks.

        privacy: each has a pad of its own, so what travels is uniform, whatever the weights, s, e and x are.
        """
        prime, sums = self.form.prime, self.circle.context
        found = np.empty(CHECKS, np.uint64)
        for i in range(CHECKS):
            weights = uniform(_derived(self.key, "weights", sums, str(i)), prime, len(first))
            found[i] = _sum_of(kernel.multiplied(first, weights, prime)) % prime
        for seed in seeds:
            pads = uniform(_derived(self.key, "pads", sums, seed.hex()), prime, CHECKS)
            found = kernel.plus(found, pads, prime)
        return found


@dataclass
class Gathering:
    """The side of who adds, in one sum of `count` words of 4 or 8 bytes; it holds no key. See `federated.round.Round`.

    tellers: of which parts each party is asked; all of them tell all hashes, which must be the same. parts: as told.
    """

    circle: Members
    count: int
    word: int
    stage: str = STAGES[0]
    members: tuple[str, ...] = ()
    seeds: dict[str, str] = field(default_factory=dict)
    tellers: dict[str, list[int]] = field(default_factory=dict)
    parts: dict[int, bytes] = field(default_factory=dict, repr=False)
    total: NDArray[Any] | None = field(default=None, repr=False)
    answers: dict[str, Answer] = field(default_factory=dict, repr=False)
    done: bool = False

    @cached_property
    def form(self) -> Form:
        """How the numbers travel."""
        return Form(len(self.circle.names), self.count, self.word)

    @property
    def body(self) -> bytes:
        """The encrypted sum, at the stage that decrypts it."""
        if self.total is None or self.done:
            return b""
        return self.form.written(self.total)

    @property
    def least(self) -> int:
        """Answers without which this stage does not end."""
        return self.circle.need if self.stage == STAGES[0] else 1

    def asked(self) -> tuple[str, ...]:
        """Who is asked at this stage."""
        return self.circle.names if self.stage == STAGES[0] else self.members

    def requests(self) -> dict[str, Fields]:
        """What to ask those who have not answered this stage yet."""
        if self.done:
            return {}
        left = [name for name in self.asked() if name not in self.answers]
        if self.stage == STAGES[0]:
            return {name: {} for name in left}
        known: Fields = {"members": list(self.members), "seeds": self.seeds}
        return {name: known | {"parts": self.tellers[name]} for name in left}

    def take(self, name: str, answer: Answer) -> None:
        """Keep the answer of a party. Errors: ProtocolError for one that does not fit the stage."""
        if self.done or name not in self.asked() or name in self.answers:
            return
        fields, body = answer
        if self.stage == STAGES[0]:
            seeds = {str(theirs.get("seed")) for theirs, _ in self.answers.values()}
            if _seed_of(fields.get("seed")).hex() in seeds:
                raise ProtocolError(f"{name} sends the seed of another site")
            self.form.read(body)
        else:
            self.parts |= self._parts_of(name, fields.get("hashes"), body)
        self.answers[name] = answer

    def advance(self, waiting: Sequence[str] = ()) -> bool:
        """Go on if everybody answered, or enough did and none of `waiting` is missing; see `Round.advance`."""
        missing = [name for name in self.asked() if name not in self.answers]
        if self.done or (missing and (len(self.answers) < self.least or set(missing) & set(waiting))):
            return False
        return self._added() if self.stage == STAGES[0] else self._told()

    def state(self) -> Fields:
        """What was decided so far, JSON-ready; with `total`, all that is needed to go on after a kill."""
        return {"stage": self.stage, "members": list(self.members), "seeds": self.seeds}

    def restore(self, state: Mapping[str, Any], total: bytes) -> None:
        """Inverse of `state`; answers to the present stage are asked for again."""
        self.stage, self.members, self.seeds = state["stage"], tuple(state["members"]), dict(state["seeds"])
        self.total, self.tellers = np.frombuffer(total, "<u8").copy(), _one_each(self.members)

    def _added(self) -> bool:
        self.members = tuple(name for name in self.circle.names if name in self.answers)
        total = np.zeros(self.form.numbers, np.uint64)
        for name in self.members:
            total = kernel.plus(total, self.form.read(self.answers[name][1]), self.form.prime)
            self.seeds[name] = str(self.answers[name][0]["seed"])
        self.total, self.stage, self.answers = total, STAGES[1], {}
        self.tellers = _one_each(self.members)
        return True

    def _parts_of(self, name: str, hashes: Any, body: bytes) -> dict[int, bytes]:  # noqa: ANN401  a peer's
        """The parts that a party was asked for, out of what it tells."""
        bounds = _bounds(self.count * self.word, self.word, len(self.members))
        found, start = {}, 0
        for index in self.tellers[name]:
            size = bounds[index + 1] - bounds[index]
            found[index], start = body[start : start + size], start + size
        right = isinstance(hashes, list) and len(hashes) == len(self.members) and start == len(body)
        if not right or any(_hashed(part) != hashes[index] for index, part in found.items()):
            raise ProtocolError(f"{name} tells of another sum than it sends")
        return found

    def _told(self) -> bool:
        hashes, *others = (fields["hashes"] for fields, _ in self.answers.values())
        if any(theirs != hashes for theirs in others):
            self.answers, self.parts = {}, {}
            raise ProtocolError(
                "sites tell of different sums of one set of ciphertexts: one of them is wrong"
            )
        right = {index: part for index, part in self.parts.items() if _hashed(part) == hashes[index]}
        left = [index for index in range(len(self.members)) if index not in right]
        if left:  # who should tell these is away; one who is here is asked again
            name = next(iter(self.answers))
            self.tellers[name] = left
            del self.answers[name]
            return False
        whole = b"".join(right[index] for index in range(len(self.members)))
        self.total, self.done = np.frombuffer(whole, f"<u{self.word}"), True
        return True


def told(words: Words, request: Mapping[str, Any]) -> Answer:
    """Answer to "decrypt": the hashes of all parts of the sum, one a party, and the parts that are asked for.

    Errors: ProtocolError for parts that the sum has not.
    """
    raw, count = words.tobytes(), len(request["members"])
    bounds, asked = _bounds(len(raw), words.itemsize, count), request.get("parts")
    if not isinstance(asked, list) or not all(isinstance(i, int) and 0 <= i < count for i in asked):
        raise ProtocolError("a request to decrypt asks for parts that a sum has not")
    parts = [raw[start:stop] for start, stop in pairwise(bounds)]
    return {"hashes": [_hashed(part) for part in parts]}, b"".join(parts[i] for i in sorted(set(asked)))


def _bounds(size: int, word: int, count: int) -> list[int]:
    """Where the parts of so many bytes begin and end, one part a party, of whole words."""
    return [size // word * index // count * word for index in range(count + 1)]


def _one_each(members: Sequence[str]) -> dict[str, list[int]]:
    return {name: [index] for index, name in enumerate(members)}


def _hashed(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _sum_of(residues: Residues) -> int:
    """Their sum, which 64 bits need not hold."""
    low = np.uint64(2**25 - 1)
    return (int((residues >> np.uint64(25)).sum()) << 25) + int((residues & low).sum())


def _derived(key: bytes, *facts: str) -> bytes:
    """32 bytes that follow from a key and what names their use; others give independent ones (HMAC-SHA256)."""
    return hmac.digest(key, canonical_json(["privae sums", *facts]), "sha256")


def _seed_of(text: Any) -> bytes:  # noqa: ANN401  whatever a peer put there
    try:
        raw = bytes.fromhex(text)
    except (TypeError, ValueError):
        raw = b""
    if len(raw) != KEY:
        raise ProtocolError("the seed of a ciphertext does not read")
    return raw


def _errors(seed: bytes, count: int) -> Integers:
    """Errors of ciphertexts, of standard deviation 3.24: 21 coins minus 21 coins."""
    words, ones = keystream(seed, 0, count), np.uint64(2**ERROR - 1)
    heads = np.bitwise_count(words & ones).astype(np.int64)
    tails = np.bitwise_count((words >> np.uint64(ERROR)) & ones).astype(np.int64)
    found: Integers = heads - tails
    return found


def _halves(words: Words) -> Integers:
    """Words as halves of 32 bits, shifted down to lie around zero."""
    small = np.ascontiguousarray(words, f"<u{words.itemsize}").view("<u4")
    found: Integers = small.astype(np.int64) - HALF
    return found


def _whole(sums: Integers, count: int, word: int) -> Words:
    """Inverse of `_halves` for the sum of `count` parties, modulo 2^32 or 2^64."""
    found = (sums + count * HALF).view(np.uint64)
    joined = found[::2] + (found[1::2] << np.uint64(32)) if word == 8 else found
    return joined.astype(f"<u{word}")
