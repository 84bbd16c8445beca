"""One sum over sites, each of which stays hidden in it: secure aggregation as a pure state machine.

Stages, of which each is one message to every site and its answer:

    open     the site's round keys                    -> U1, the sites whose keys are known
    keys     everyone's keys; shares of own secrets   -> U2, the sites whose secrets are shared
    shares   own ciphertexts; the masked vector       -> U3, the sites that are in the sum
    agree    U3; a signature on it                    -> U4, enough signatures on one and the same U3
    unmask   U3 and signatures; shares of secrets     -> the sum over U3, exact

`Round` is the coordinator's side; the functions that take a `Seat` are a site's. Both are functions of what came in:
there is no input, output, clock or coin in this file. A site's answers follow from one secret of 32 bytes, so a site
that was killed answers byte for byte as before, and every request brings all that its answer needs.

Guarantee: with honest arithmetic the result is the sum over U3 modulo 2^32 or 2^64, bit for bit, whoever vanished.
A coordinator together with at most `colluders` sites learns of the others nothing but the sum over the honest sites
in U3 (Bonawitz et al. 2017, section 6.2, for active adversaries): keys are signed by each site's own key, a site opens
one set at most, inside the set that it masked with (`site.Site`), and with a threshold above (sites + colluders) / 2
no two sets are both opened. Of a site either shares of its seed (it is in U3) or of its mask key (it is not) are
revealed, never both.
Source: Bonawitz et al. 2017, https://eprint.iacr.org/2017/281, figure 4 and section 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privae.errors import ProtocolError
from privae.federated import masking
from privae.federated.messages import Sign, bytes_of, signed, text_of
from privae.files import canonical_json

Word = Literal[4, 8]
Fields = dict[str, Any]
Words = NDArray[np.unsignedinteger[Any]]
Answer = tuple[Mapping[str, Any], bytes]

STAGES = ("open", "keys", "shares", "agree", "unmask")
KINDS: dict[int, np.dtype[Any]] = {4: np.dtype("<u4"), 8: np.dtype("<u8")}


@dataclass(frozen=True)
class Circle:
    """Who sums together, and the public numbers of it.

    names: the sites in order. publics: their Ed25519 keys. threshold: shares that open a secret. need: sites that
    must be in a sum, on which the noise rests. context: names this one sum.
    """

    names: tuple[str, ...]
    publics: Mapping[str, str]
    threshold: int
    need: int
    context: str

    def place(self, name: str) -> int:
        """A site's place in shares, from 1."""
        return self.names.index(name) + 1

    @property
    def least(self) -> int:
        """Sites that must come to every stage before the last."""
        return max(self.need, self.threshold)

    def statement(self, kind: str, *facts: object) -> bytes:
        """What a site signs: its kind, this sum, and the facts."""
        return canonical_json([kind, self.context, self.names, *facts])

    def check(self, names: Sequence[Any], among: Sequence[str], least: int) -> tuple[str, ...]:
        """The names in order. Errors: ProtocolError unless they are distinct, of `among`, and enough."""
        if not all(isinstance(name, str) for name in names) or not set(names) <= set(among):
            raise ProtocolError("a set of sites names one that is not in the round")
        if len(set(names)) != len(names) or len(names) < least:
            raise ProtocolError(f"a sum needs {least} sites, and a set names fewer, or one twice")
        return tuple(name for name in self.names if name in names)


@dataclass(frozen=True)
class Seat:
    """One site in a circle: its name, its secret of this round and its signature."""

    circle: Circle
    name: str
    secret: bytes = field(repr=False)
    sign: Sign = field(repr=False)

    @cached_property
    def keys(self) -> masking.Keys:
        """The round's keys."""
        return masking.Keys.of(self.secret)

    @property
    def place(self) -> int:
        """This site's place in shares."""
        return self.circle.place(self.name)

    @property
    def context(self) -> bytes:
        """Binds every mask and share to this one sum."""
        return self.circle.context.encode()


@dataclass(frozen=True)
class Opened:
    """Public keys of a site in one round, and its own key's signature on them."""

    channel: bytes
    mask: bytes
    signature: str

    def statement(self, circle: Circle, name: str) -> bytes:
        """What the site signs of them."""
        return circle.statement("keys", name, text_of(self.channel), text_of(self.mask))

    def fields(self) -> Fields:
        """As a message holds them."""
        return {"channel": text_of(self.channel), "mask": text_of(self.mask), "signature": self.signature}


def opened(fields: Any, circle: Circle, name: str) -> Opened:  # noqa: ANN401  whatever a peer sent
    """The keys in a message. Errors: ProtocolError unless they bear the site's own signature."""
    if not isinstance(fields, dict):
        raise ProtocolError("keys of a round do not read")
    channel, mask = (bytes_of(fields.get(kind), 32) for kind in ("channel", "mask"))
    if len(channel) != 32 or len(mask) != 32:
        raise ProtocolError(f"the round's keys of {name} are none")
    found = Opened(channel, mask, str(fields.get("signature")))
    # privacy: a coordinator that passed on keys of its own would read every share
    if not signed(circle.publics[name], found.signature, found.statement(circle, name)):
        raise ProtocolError(f"the round's keys of {name} do not bear its signature")
    return found


def advertise(seat: Seat) -> Fields:
    """Answer to "open": the round's public keys, signed."""
    made = Opened(*seat.keys.public, "")
    return replace(made, signature=seat.sign(made.statement(seat.circle, seat.name))).fields()


def share_keys(seat: Seat, request: Mapping[str, Any]) -> Fields:
    """Answer to "keys": shares of this site's seed and mask key, sealed to each of the others."""
    book, shares = _book(seat, request), _split(seat, request)
    sealed = {
        name: masking.seal(seat.keys.channel, theirs.channel, seat.context, shares[seat.circle.place(name)])
        for name, theirs in book.items()
        if name != seat.name
    }
    return {"sealed": {name: text_of(raw) for name, raw in sealed.items()}}


def contribute(seat: Seat, request: Mapping[str, Any], words: Words) -> bytes:
    """Answer to "shares": this site's numbers under its self mask and a mask with every other site of U2."""
    book = _book(seat, request)
    others = [name for name in _senders(seat, request, book) if name != seat.name]
    for name in others:
        _received(seat, request, book, name)  # what does not open now could not be revealed later
    peers = {seat.circle.place(name): book[name].mask for name in others}
    masked = masking.masked(words, seat.keys, seat.place, peers, seat.context)
    return masked.astype(KINDS[words.itemsize], copy=False).tobytes()


def agree(seat: Seat, request: Mapping[str, Any]) -> Fields:
    """Answer to "agree": a signature on the set of sites in the sum."""
    return {"signature": seat.sign(seat.circle.statement("members", seat.name, members_of(seat, request)))}


def reveal(seat: Seat, request: Mapping[str, Any]) -> Fields:
    """Answer to "unmask": a share of the seed of each site in the sum, and of the mask key of each that fell out.

    Errors: ProtocolError unless `threshold` sites signed this very set.
    """
    book, members, circle = _book(seat, request), members_of(seat, request), seat.circle
    marks = request.get("signatures")
    if not isinstance(marks, dict):
        raise ProtocolError("a request to unmask brings no signatures")
    names = circle.check(list(marks), members, circle.threshold)
    if not all(
        signed(circle.publics[n], str(marks[n]), circle.statement("members", n, members)) for n in names
    ):
        raise ProtocolError("a request to unmask brings a signature on another set of sites")
    seeds: dict[str, str] = {}
    masks: dict[str, str] = {}
    for name in _senders(seat, request, book):
        shares = _received(seat, request, book, name)
        seed, mask = shares[: len(shares) // 2], shares[len(shares) // 2 :]
        # privacy: of a site either its seed or its mask key may be opened; both would open its numbers
        kept, share = (seeds, seed) if name in members else (masks, mask)
        kept[name] = text_of(share)
    return {"seeds": seeds, "masks": masks}


def members_of(seat: Seat, request: Mapping[str, Any]) -> tuple[str, ...]:
    """U3 as a request names it, with this site in it."""
    names, sealed = request.get("members"), request.get("sealed")
    if not isinstance(names, list) or not isinstance(sealed, dict):
        raise ProtocolError("a request names no set of sites")
    members = seat.circle.check(names, [*sealed, seat.name], seat.circle.need)
    if seat.name not in members:
        raise ProtocolError("a request leaves this site out of the set that it is to open")
    return members


def _book(seat: Seat, request: Mapping[str, Any]) -> dict[str, Opened]:
    """Everyone's keys in a request, checked; the own ones must be among them, unchanged."""
    book, circle = request.get("book"), seat.circle
    if not isinstance(book, dict):
        raise ProtocolError("a request brings no keys")
    found = {n: opened(book[n], circle, n) for n in circle.check(list(book), circle.names, circle.least)}
    own = found.get(seat.name)
    if own is None or (own.channel, own.mask) != seat.keys.public:
        raise ProtocolError("a request does not bring this site's own keys")
    _refuse_shared([*found.values()])
    return found


def _refuse_shared(book: Sequence[Opened]) -> None:
    if len({key for keys in book for key in (keys.channel, keys.mask)}) < 2 * len(book):
        raise ProtocolError("two keys of a round are the same")


def _split(seat: Seat, request: Mapping[str, Any]) -> dict[int, bytes]:
    """Shares of this site's seed and mask key, joined, by place."""
    places, least = sorted(seat.circle.place(name) for name in request["book"]), seat.circle.threshold
    secrets = {"seed": seat.keys.seed, "mask": seat.keys.mask}
    coins = {kind: masking.derive(seat.secret, "shares", kind, *places) for kind in secrets}
    parts = [masking.split(secret, least, places, coins[kind]) for kind, secret in secrets.items()]
    return {place: parts[0][place] + parts[1][place] for place in places}


def _received(seat: Seat, request: Mapping[str, Any], book: Mapping[str, Opened], name: str) -> bytes:
    """What a site of U2 gave this one: a share of its seed, then one of its mask key."""
    if name == seat.name:
        return _split(seat, request)[seat.place]
    sealed = bytes_of(request["sealed"][name])
    return masking.open_sealed(seat.keys.channel, book[name].channel, seat.context, sealed)


def _senders(seat: Seat, request: Mapping[str, Any], book: Mapping[str, Opened]) -> tuple[str, ...]:
    """U2: this site, and those whose ciphertexts for it the request brings."""
    sealed = request.get("sealed")
    if not isinstance(sealed, dict) or seat.name in sealed:
        raise ProtocolError("a request brings no shares")
    return seat.circle.check([*sealed, seat.name], list(book), seat.circle.least)


@dataclass
class Round:
    """The coordinator's side of one sum of `count` numbers, each a word of 4 or 8 bytes.

    masked=False: sites send their numbers, with all of the noise each, as answers to "open", and that is all.
    `requests` says what to ask whom, `take` keeps an answer, `advance` goes on when there is nobody to wait for.
    Answers to a stage that is over, or from a site that is out, change nothing.
    """

    circle: Circle
    count: int
    word: Word
    masked: bool = True
    stage: str = STAGES[0]
    book: dict[str, Opened] = field(default_factory=dict)
    sealed: dict[str, dict[str, str]] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)
    total: Words | None = field(default=None, repr=False)
    answers: dict[str, Answer] = field(default_factory=dict, repr=False)
    done: bool = False

    @property
    def least(self) -> int:
        """Answers without which this stage does not end."""
        if not self.masked:
            return self.circle.need
        return self.circle.threshold if self.stage == "unmask" else self.circle.least

    def asked(self) -> tuple[str, ...]:
        """Who is asked at this stage."""
        among = {"open": self.circle.names, "keys": tuple(self.book), "shares": tuple(self.sealed)}
        return among.get(self.stage, self.members)

    def requests(self) -> dict[str, Fields]:
        """What to ask those who have not answered this stage yet."""
        return {n: self._request(n) for n in self.asked() if n not in self.answers and not self.done}

    def take(self, name: str, answer: Answer) -> None:
        """Keep the answer of a site. Errors: ProtocolError for one that does not fit the stage."""
        if self.done or name not in self.asked() or name in self.answers:
            return
        getattr(self, f"_check_{self.stage}")(name, *answer)
        self.answers[name] = answer

    def advance(self, waiting: Sequence[str] = ()) -> bool:
        """Go on to the next stage if everybody answered, or enough did and none of `waiting` is missing."""
        missing = [name for name in self.asked() if name not in self.answers]
        if self.done or (missing and (len(self.answers) < self.least or set(missing) & set(waiting))):
            return False
        getattr(self, f"_end_{self.stage}")()
        self.done = self.stage == STAGES[-1] or not self.masked
        if not self.done:
            self.stage, self.answers = STAGES[STAGES.index(self.stage) + 1], {}
        return True

    def state(self) -> Fields:
        """What was decided so far, JSON-ready; with `total`, all that a coordinator needs to go on after a kill."""
        book = {name: keys.fields() for name, keys in self.book.items()}
        kept = {"stage": self.stage, "book": book, "sealed": self.sealed}
        return kept | {"members": list(self.members), "marks": self.marks}

    def restore(self, state: Mapping[str, Any], total: bytes) -> None:
        """Inverse of `state`; answers to the present stage are asked for again."""
        self.stage, self.sealed, self.marks = state["stage"], dict(state["sealed"]), dict(state["marks"])
        self.book = {name: opened(keys, self.circle, name) for name, keys in state["book"].items()}
        self.members = tuple(state["members"])
        self.total = np.frombuffer(total, KINDS[self.word]).copy() if self.members else None

    def _request(self, name: str) -> Fields:
        known = {
            "book": {n: keys.fields() for n, keys in self.book.items()},
            "sealed": {n: theirs[name] for n, theirs in self.sealed.items() if n != name},
            "members": list(self.members),
            "signatures": self.marks,
        }
        return dict(list(known.items())[: STAGES.index(self.stage)])  # each stage brings one thing more

    def _check_open(self, name: str, fields: Mapping[str, Any], body: bytes) -> None:
        if not self.masked:
            self._check_shares(name, fields, body)
            return
        found = opened(fields.get("keys"), self.circle, name)
        # a key that honest sites refuse would keep them all from going on
        _refuse_shared([found, *(opened(f["keys"], self.circle, n) for n, (f, _) in self.answers.items())])
        masking.check_public(found.channel, found.mask)

    def _check_keys(self, name: str, fields: Mapping[str, Any], body: bytes) -> None:  # noqa: ARG002
        sealed = fields.get("sealed")
        if not isinstance(sealed, dict) or set(sealed) != set(self.book) - {name}:
            raise ProtocolError(f"{name} does not share its secrets with every site of the round")
        for text in sealed.values():
            bytes_of(text)

    def _check_shares(self, name: str, fields: Mapping[str, Any], body: bytes) -> None:  # noqa: ARG002
        if len(body) != self.count * self.word:
            raise ProtocolError(f"{name} sends another number of numbers than the sum has")

    def _check_agree(self, name: str, fields: Mapping[str, Any], body: bytes) -> None:  # noqa: ARG002
        statement = self.circle.statement("members", name, self.members)
        if not signed(self.circle.publics[name], str(fields.get("signature")), statement):
            raise ProtocolError(f"{name} does not sign the set of sites in the sum")

    def _check_unmask(self, name: str, fields: Mapping[str, Any], body: bytes) -> None:  # noqa: ARG002
        lost = set(self.sealed) - set(self.members)
        for kind, about in (("seeds", set(self.members)), ("masks", lost)):
            shares = fields.get(kind)
            if not isinstance(shares, dict) or set(shares) != about:
                raise ProtocolError(f"{name} does not give one share for each site of the round")
            if any(len(bytes_of(share)) != masking.SHARE for share in shares.values()):
                raise ProtocolError(f"{name} gives a share that is none")

    def _end_open(self) -> None:
        if self.masked:
            self.book = {n: opened(f["keys"], self.circle, n) for n, (f, _) in self._in_order()}
        else:
            self._end_shares()

    def _end_keys(self) -> None:
        self.sealed = {name: dict(fields["sealed"]) for name, (fields, _) in self._in_order()}

    def _end_shares(self) -> None:
        self.total = np.zeros(self.count, KINDS[self.word])
        for _, (_, body) in self._in_order():
            self.total += np.frombuffer(body, KINDS[self.word])
        self.members = tuple(name for name, _ in self._in_order())

    def _end_agree(self) -> None:
        self.marks = {name: str(fields["signature"]) for name, (fields, _) in self._in_order()}

    def _end_unmask(self) -> None:
        assert self.total is not None
        circle, context = self.circle, self.circle.context.encode()
        # all are opened before any mask is taken away: a wrong share leaves the total as it was
        seeds = [self._joined("seeds", name) for name in self.members]
        lost = {n: self._joined("masks", n) for n in self.sealed if n not in self.members}
        if any(masking.public_of(key) != self.book[name].mask for name, key in lost.items()):
            raise ProtocolError("shares of the round's secrets open another key: a site sent a wrong one")
        survivors = {circle.place(name): self.book[name].mask for name in self.members}
        for seed in seeds:
            masking.remove_self(self.total, seed, context)
        for name, key in lost.items():
            masking.remove_pairs(self.total, key, circle.place(name), survivors, context)

    def _joined(self, kind: str, about: str) -> bytes:
        shares = {self.circle.place(n): bytes_of(fields[kind][about]) for n, (fields, _) in self._in_order()}
        return masking.join(shares, self.circle.threshold)

    def _in_order(self) -> list[tuple[str, Answer]]:
        return [(name, self.answers[name]) for name in self.circle.names if name in self.answers]
