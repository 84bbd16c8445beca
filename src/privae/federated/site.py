"""A site's end of a study: messages in, messages out, and nothing that its own policy and ledger do not allow.

Written ahead, so that a killed site goes on as if nothing had happened and never sends two things where one was
charged: the whole plan is spent from the site's own ledger, and its secret kept, before the first answer; what it
puts into a sum, which set of sites it opens, and what it is asked to decrypt, before it does. It keeps no records and
no sums on disk.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from privae import files
from privae.ckks import summation
from privae.ckks.bits import Form
from privae.ckks.summation import Party
from privae.custody.keys import signing_key
from privae.errors import PrivacyRefused, PrivaeError, ProtocolError, UsageError
from privae.evaluate.released import RECIPE
from privae.federated import chain, round
from privae.federated.chain import Account, Step, charged, decoded, ended, follow, head_of
from privae.federated.fit import Agreed, Ask, Place, Sum, Talk, Texts, begin, noised
from privae.federated.masking import as_words, derive
from privae.federated.messages import COORDINATOR, REFUSED, Message, read, refusal
from privae.federated.policy import Own, Records, SitePolicy, consortium_key, records_of, reserve
from privae.federated.round import KINDS, Fields, Seat, Words
from privae.federated.study import Study, recipe_for
from privae.plan import MOST_NUMBERS, Plan
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.training.books import charges_of, follows

Answer = tuple[Fields, bytes]
_LOG = logging.getLogger("privae.federated")
FINISH = "finish"
_ONCE = "this site answered this sum before, with something else; it does so once"


class Site:
    """One site of one study. `answer` is all that the outside can do to it."""

    def __init__(self, own: Own) -> None:
        self.own, self.name = own, own.name
        self._work: _Work | None = None
        self._last = (b"", b"")
        self._held = ExitStack()

    @classmethod
    def open(cls, kit: Path) -> "Site":
        """The site of a kit: local/study.toml, local/site.toml and local/site.key; its state is kept in privae/.

        Errors: UsageError for a file that is missing or does not read, or a kit that another process works with.
        """
        study = Study.loads(files.text_in(kit / "local" / "study.toml"))
        policy = SitePolicy.load(kit / "local" / "site.toml")
        key = signing_key(kit / "local" / "site.key")
        shelf = files.Shelf(kit / "privae" / study.hash[:16])
        schema = study.schema_of
        shared = consortium_key(kit / policy.consortium) if study.encrypted and policy.consortium else b""
        own = Own(
            study, policy, key, lambda: records_of(policy, schema, kit), shelf, kit / policy.ledger, shared
        )
        site = cls(own)
        # privacy: two processes on one kit could answer one sum twice
        site._held.enter_context(files.owned(kit / "privae" / study.hash[:16] / "running"))
        return site

    def close(self) -> None:
        """Let another process work with the kit."""
        self._held.close()

    def answer(self, data: bytes) -> bytes:
        """The answer to a message, signed. Whatever goes wrong is an answer, too: never an exception.

        The same message gets the same answer. Reasons that could tell of records are for this site's log only.
        """
        digest = hashlib.sha256(data).digest()
        if self._last[0] == digest:
            return self._last[1]
        message = Message(COORDINATOR, self.own.study.hash, -1, REFUSED)
        try:
            message = self._read(data)
            fields, body = self._answered(message)
        except PrivaeError as error:
            _LOG.warning("%s refused: %s: %s", self.name, type(error).__name__, error)
            fields, body = refusal(error), b""
        except Exception as error:  # noqa: BLE001  privacy: the text of a stranger's error may hold a cell
            _LOG.error("%s failed: %s", self.name, type(error).__name__)
            fields, body = refusal(PrivaeError()), b""
        answer = message.reply(self.name, fields, body).sealed(self.own.key.sign)
        if REFUSED not in fields:
            self._last = digest, answer
        return answer

    def _read(self, data: bytes) -> Message:
        message = read(data, {COORDINATOR: self.own.study.coordinator})
        if message.context != self.own.study.hash:
            raise ProtocolError("a message is of another study, or of another attempt of it")
        return message

    def _answered(self, message: Message) -> Answer:
        if message.stage == FINISH:
            return self._finish(message)
        if message.stage == "open":
            self._work = self._work or _Work.of(self.own, self.name, str(message.fields.get("plan")))
            return self._work.opened(message)
        if self._work is None or self._work.position != message.query:
            return {"behind": self._work.position if self._work else 0}, b""
        return self._work.stage(message)

    def _finish(self, message: Message) -> Answer:
        """Keep the model and what proves it, and sign the end of it all, if it goes on from what was seen here."""
        fields, shelf = message.fields, self.own.shelf
        steps = chain.parse_steps(str(fields.get("rounds")))
        ledger = Ledger.parse(str(fields.get("ledger")))
        plan = self._check_end(steps, ledger)
        if plan.recipe == RECIPE:
            chain.check_evaluation(self.own.study, plan, (steps, ledger), message.body)
        model = hashlib.sha256(message.body).hexdigest()
        for name, content in ((chain.ROUNDS, fields["rounds"]), (chain.BOOK, fields["ledger"])):
            shelf.put(name, str(content).encode())
        shelf.put(chain.result_of(plan), message.body)
        if self._work:
            self._work.close()
        return {
            "signature": self.own.key.sign(ended(self.own.study, head_of(steps), ledger.head, model))
        }, b""

    def _check_end(self, steps: Sequence[Step], ledger: Ledger) -> Plan:
        """The plan. Refuses an end that is not of it, or does not go on from what this site saw, before a kill, too."""
        shelf = self.own.shelf
        text, book, record = (shelf.get(name) for name in ("plan", chain.BOOK, "sum"))
        if text is None or book is None or record is None:
            raise ProtocolError("this site took no part in the study that is said to be over")
        plan, seen = Plan.loads(text.decode()), json.loads(record)
        known = [entry.hash for entry in Ledger.parse(book.decode()).entries]
        mine = self._work.steps if self._work else []
        whole = follows(charges_of(ledger), plan, whole=True)
        if not whole or [entry.hash for entry in ledger.entries][: len(known)] != known:
            raise ProtocolError("the ledger at the end does not go on from what this site saw")
        if head_of(steps[: seen["query"]]) != seen["head"] or list(steps[: len(mine)]) != mine:
            raise ProtocolError("the rounds at the end do not go on from what this site saw")
        return plan


class _Work:
    """A site's part in a fit under way: its recipe, what it was told, and the sum that is being formed."""

    def __init__(self, own: Own, name: str, plan: Plan, root: bytes, records: Records) -> None:
        self._own, self._name, self._plan, self._root = own, name, plan, root
        self.account = Account(plan, Ledger.fresh(plan.delta, plan.unit))
        self.steps: list[Step] = []
        self._left = MOST_NUMBERS // len(own.study.sites)  # noise numbers that delta pays for (rule 5)
        self._words: Words | None = None
        self._sum = b""  # the last sum that this site decrypted itself
        self._drawn = -1  # the last sum whose noise was counted
        place = Place(self.account.charge, derive(root, "place", name))
        self._talk: Talk = begin(recipe_for(own.study, plan), plan, own.study, place, records)

    @classmethod
    def of(cls, own: Own, name: str, text: str) -> "_Work":
        """Begin, or begin again after a kill, once everything holds that this site asks for.

        Errors: UsageError, PrivacyRefused for a plan or study that it does not let happen; ArtifactError.
        """
        plan = Plan.loads(text)
        if plan.code_version != files.code_version():
            raise UsageError(
                f"the plan was made by privae {plan.code_version}, this site has {files.code_version()}"
            )
        own.study.check(plan)
        own.policy.check(own.study, plan)
        if own.study.encrypted and summation.name_of(own.consortium) != own.study.consortium:
            raise UsageError("this site's key of the consortium is another one than the study names")
        if plan.guarantee().epsilon > plan.epsilon:
            raise PrivacyRefused("the plan's phases cost more than its epsilon; plan again")
        records = own.records()
        recipe_for(own.study, plan).check(*records, plan.strict)
        root = own.shelf.get("root")
        began = root is not None
        if root is None:
            root = os.urandom(32)
            own.shelf.put("root", root)
        # privacy: after the root: without the one that was charged for, all noise is fresh, and a new spend (rule 19)
        reserve(own.ledger, own.policy, (own.study, own.name), plan, began=began)
        own.shelf.put("plan", text.encode())
        return cls(own, name, plan, root, records)

    @property
    def position(self) -> int:
        """How many steps this site was told."""
        return len(self.steps)

    def close(self) -> None:
        """End the recipe; its records are not needed any more."""
        self._talk.close()

    def opened(self, message: Message) -> Answer:
        """Catch up with what the others were told, and begin with the sum that is due."""
        self._told(message)
        if self.position != message.query:
            return {"behind": self.position}, b""
        ask = self._due(message)
        fields: Fields = {"ledger": self._charged(str(message.fields.get("ledger")))}
        if isinstance(ask, Texts):
            self._count(ask)
            return fields | {"texts": self._locked_texts(ask.texts)}, b""
        assert isinstance(ask, Sum)
        if self._own.study.masking and not self._own.study.encrypted:
            return fields | {"keys": round.advertise(self._seat)}, b""
        words = self._contribution(ask)
        self._lock("contribution", _hashed(words.tobytes()))
        if self._own.study.encrypted:
            seed, body = self._encrypted(ask)
            return fields | seed, body
        return fields, words.astype(KINDS[ask.word], copy=False).tobytes()

    def stage(self, message: Message) -> Answer:
        """A later stage of a sum in which each site is hidden."""
        ask = self._due(message)
        if not isinstance(ask, Sum) or not self._own.study.masking:
            raise ProtocolError("this sum has no such stage")
        self._charged_before()
        return self._decrypted(ask, message) if self._own.study.encrypted else self._masked(ask, message)

    def _masked(self, ask: Sum, message: Message) -> Answer:
        seat, request = self._seat, message.fields
        if message.stage == "keys":
            return round.share_keys(seat, request), b""
        if message.stage == "shares":
            words = self._contribution(ask)
            masked = round.contribute(seat, request, words)
            # privacy: the same noise under two sets of masks, or two noises, would be two releases
            self._lock("contribution", f"{_hashed(words.tobytes())}/{_circled(request)}")
            return {}, masked
        # privacy: masks with others than those named now would not hide this site in the sum of those named
        if not self._record().get("contribution", "").endswith(f"/{_circled(request)}"):
            raise ProtocolError("this site hid its numbers among other sites than a request names")
        if message.stage == "agree":
            self._lock("members", json.dumps(self._enough(round.members_of(seat, request))))
            return round.agree(seat, request), b""
        if message.stage == "unmask":
            members = self._enough(round.members_of(seat, request))
            if self._record().get("members") != json.dumps(members):
                raise ProtocolError("this site agreed to open another set of sites, or to none")
            return round.reveal(seat, request), b""
        raise ProtocolError("a message names a stage that the protocol has not")

    def _encrypted(self, ask: Sum) -> Answer:
        """This site's contribution as a ciphertext; the same bytes, whenever it is asked for."""
        fields, body = self._party(ask).contribution(
            self._contribution(ask), derive(self._seat.secret, "ciphertext")
        )
        return dict(fields), body

    def _decrypted(self, ask: Sum, message: Message) -> Answer:
        """The sum of one set of sites, decrypted. No other request is tried, of this sum, whatever became of it."""
        party, request = self._party(ask), message.fields
        members = self._enough(party.members_of(request))
        if message.stage != "decrypt" or "contribution" not in self._record():
            raise ProtocolError("this site contributed nothing yet to what it is to decrypt")
        # privacy: sums of two sets tell the difference, which may be one site's own numbers; and were a second request
        # tried, refused or not, changes of a sum could be tried until one tells of its noise. So it is locked first
        asked = _hashed(message.body, members, request.get("seeds"))
        self._lock("decrypted", asked, summation.REFUSAL)
        words = party.decrypted(request, message.body, self._encrypted(ask)[0]["seed"])
        self._sum = words.tobytes()
        fields, body = summation.told(words, request)
        return dict(fields), body

    def _party(self, ask: Sum) -> Party:
        circle = self._seat.circle
        return Party(
            circle, self._name, Form(len(circle.names), len(ask.values), ask.word), self._own.consortium
        )

    def _told(self, message: Message) -> None:
        start, lines, rest = (
            message.fields.get("position"),
            message.fields.get("steps"),
            memoryview(message.body),
        )
        sizes = message.fields.get("sizes")
        if not isinstance(start, int) or not isinstance(lines, list) or not isinstance(sizes, list):
            raise ProtocolError("a message does not say what was told")
        for index, (line, size) in enumerate(zip(lines, sizes, strict=True), start):
            raw, rest = bytes(rest[:size]), rest[size:]
            if index == self.position:
                step = Step.model_validate(line)
                own = self._sum
                if not raw and not own:
                    return  # a sum that others decrypted; it is sent to who says to be behind
                if own and self._own.study.groups == 1 and hashlib.sha256(own).hexdigest() != step.content:
                    raise ProtocolError("the coordinator tells of another sum than this site decrypted")
                self._tell(step, raw or own)

    def _tell(self, step: Step, raw: bytes) -> None:
        ask = self._asked()
        follow(ask, step, raw, self.steps)
        self._count(ask)
        value = decoded(ask, raw, step.word)
        self.steps.append(step)
        self._words, self._sum = None, b""
        self._talk.tell(value)

    def _asked(self) -> Ask:
        ask = self._talk.asked()
        if not isinstance(ask, Ask):
            raise ProtocolError("the study is over, and the coordinator goes on")
        return ask

    def _due(self, message: Message) -> Ask:
        ask = self._asked()
        named = message.fields.get("due")
        if message.stage == "open" and named != [ask.kind, ask.phase, ask.step]:
            raise ProtocolError(f"the coordinator asks for another sum than '{ask.phase}', which is due")
        return ask

    def _charged(self, text: str) -> str:
        """Check and keep the ledger with the charge of this sum; the signature of its end."""
        if self.account.adopt(text):
            self._own.shelf.put(chain.BOOK, self.account.ledger.dumps().encode())
        return self._own.key.sign(charged(self._own.study, self.account.ledger.head))

    def _charged_before(self) -> None:
        if len(self.account.ledger.entries) != len(self.account.charges):
            raise ProtocolError("a later stage of a sum came before its charge")

    def _contribution(self, ask: Sum) -> Words:
        """This site's numbers with its share of the noise, as they go under masks."""
        if self._words is None:
            self._count(ask)
            # privacy: other coins if the history were another, so that no two sums ever share their noise
            coins = NoiseSource(derive(self._root, "noise", self._name, self.position, head_of(self.steps)))
            share = self._own.study.shared(self._own.study.circle_of(self._name, self.position), 1.0)
            self._words = as_words(noised(ask, share, coins), ask.word)
        return self._words

    def _count(self, ask: Ask) -> None:
        """Count the noise of a sum, once, whether it is drawn now or was drawn before a kill."""
        if self.position > self._drawn and not isinstance(ask, Agreed):
            self._left -= len(ask.values) if isinstance(ask, Sum) else ask.drawn
            self._drawn = self.position
        if self._left < 0:
            raise PrivacyRefused(
                "more noise would be drawn than delta pays for; plan fewer steps or parameters"
            )

    def _locked_texts(self, texts: list[list[str]]) -> list[list[str]]:
        self._lock("contribution", files.digest(texts))
        return texts

    def _enough(self, members: tuple[str, ...]) -> list[str]:
        if len(members) < self._own.policy.min_sites:
            raise PrivacyRefused(
                f"a sum of fewer than this site's min_sites {self._own.policy.min_sites} sites"
            )
        return list(members)

    def _record(self) -> dict[str, Any]:
        kept = self._own.shelf.get("sum")
        record: dict[str, Any] = json.loads(kept) if kept else {}
        if record.get("query", -1) > self.position:
            return record  # of a later sum, which was answered before a kill
        return (
            record
            if record.get("query") == self.position
            else {"query": self.position, "head": head_of(self.steps)}
        )

    def _lock(self, what: str, value: str, why: str = _ONCE) -> None:
        """Bind this site to one answer of a sum. Errors: ProtocolError for another one than before."""
        record = self._record()
        if record["query"] != self.position or record.get(what, value) != value:
            raise ProtocolError(why)
        if what not in record:
            self._own.shelf.put("sum", files.canonical_json({**record, what: value}))

    @property
    def _seat(self) -> Seat:
        study, query = self._own.study, self.position
        secret = derive(self._root, "round", self._name, query, head_of(self.steps))
        return Seat(study.circle_of(self._name, query), self._name, secret, self._own.key.sign)


def _circled(request: Mapping[str, Any]) -> str:
    return files.digest([request.get("book"), request.get("sealed")])


def _hashed(words: bytes, *facts: object) -> str:
    return files.digest([hashlib.sha256(words).hexdigest(), *facts])
