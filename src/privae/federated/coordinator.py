"""The coordinator's end of a study: it asks, adds up what is masked, tells everybody, and makes the model.

It holds no record and no secret but its signing key: everything in its folder may be read by every site. What was
decided is on its disk before anybody is told, so a coordinator that was killed asks again for the same, and a folder
opened again goes on where it stopped.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privae import files
from privae.ckks.summation import Gathering
from privae.custody import keys
from privae.custody.keys import SigningKey, signing_key
from privae.errors import PrivacyRefused, ProtocolError
from privae.evaluate.released import Evaluated
from privae.federated import EVALUATED, chain
from privae.federated.chain import (
    Account,
    Step,
    charged,
    check_texts,
    decoded,
    encoded,
    ended,
    head_of,
    step_of,
)
from privae.federated.fit import Agreed, Ask, Forming, Integers, Made, Place, Sum, Texts, begin, rounds_of
from privae.federated.masking import as_integers
from privae.federated.messages import COORDINATOR, REFUSED, Message, read
from privae.federated.site import FINISH
from privae.federated.study import Study, recipe_for
from privae.plan import Plan
from privae.privacy.ledger import Ledger
from privae.recipes.modality import archived
from privae.training.watch import Silent, Watch

_LATER = ("ProtocolError", "ResourceError")  # refusals of a message, not of the study
_MOST_TOLD = 2**26  # bytes that a site is told in one message


@dataclass
class _Sites:
    """What the coordinator knows of the sites just now."""

    behind: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


class Coordinator:
    """One study's coordinator. Drive it: send `outbox`, hand what came back to `take`, until `done`."""

    def __init__(
        self,
        study: Study,
        plan: Plan,
        key: SigningKey,
        shelf: files.Shelf,
        results: files.Shelf,
        watch: Watch | None = None,
    ) -> None:
        study.check(plan)
        self.study, self.plan, self.done = study, plan, False
        self._key, self._shelf, self._results = key, shelf, results
        self.steps: list[Step] = chain.parse_steps(_steps_on(shelf))
        kept = shelf.get(chain.BOOK)
        ledger = Ledger.parse(kept.decode()) if kept else Ledger.fresh(plan.delta, plan.unit)
        self.account = Account(plan, ledger)
        self._marks: dict[str, Any] = json.loads(shelf.get("marks") or b"{}")
        self._sites, self._told, self._since, self._heard = _Sites(), 0, 0, 0
        self._ask: Ask | None = None
        self._rounds: list[Forming] = []
        self._out: set[str] = set()
        self._sealed: dict[tuple[int, ...], bytes] = {}
        self.fitted: Made | None = None
        self.model = b""
        place = Place(self.account.charge, bytes(32), site=False, watch=watch or Silent())
        recipe = recipe_for(study, plan, shelf.get(EVALUATED))
        self._talk = begin(recipe, plan, study, place, study.no_records)

    @classmethod
    def open(cls, folder: Path, watch: Watch | None = None) -> "Coordinator":
        """The coordinator of a folder with study.toml, plan.toml and coordinator.key, from where it stopped."""
        study, plan = Study.loads(files.text_in(folder / "study.toml")), Plan.load(folder / "plan.toml")
        state = files.Shelf(folder / "state")
        return cls(study, plan, signing_key(folder / "coordinator.key"), state, files.Shelf(folder), watch)

    @property
    def sites(self) -> tuple[str, ...]:
        """The roster."""
        return tuple(self.study.sites)

    @property
    def phase(self) -> str:
        """The phase under way; "" before the first, and when all sums are there."""
        return self._ask.phase if self._ask and self.fitted is None else ""

    def outbox(self) -> dict[str, bytes]:
        """What to send whom; the same until something was taken. Runs the recipe up to the next sum."""
        self._go_on()
        found = {} if self.done else self._asking()
        self._out = set(found)
        return found

    def _asking(self) -> dict[str, bytes]:
        if self.fitted is not None:
            return {name: self._ending() for name in self.sites if name not in self._sites.refused}
        found = {}
        for one in self._rounds:
            for name, fields in one.requests().items():
                if name in self._sites.refused:
                    continue
                opening = one.stage == "open" or name in self._sites.behind
                body = one.body if isinstance(one, Gathering) else b""
                found[name] = self._opening(name) if opening else self._message(one.stage, fields, body)
        return found

    def take(self, replies: Mapping[str, bytes]) -> None:
        """Use what came back; a site without a reply is taken to be away for this stage.

        Errors: ProtocolError if too few sites answer for now: ask again later. PrivacyRefused if too many refuse.
            Those of the recipe, which follow from released sums. A reply that does not hold is no reply.
        """
        before = self._progress()
        for name, data in replies.items():
            try:
                self._take(name, read(data, self.study.sites))
            except ProtocolError as error:
                self._sites.said[name] = str(error)
        for name in self._out - set(replies):
            self._sites.behind.pop(name, None)
            self._sites.said[name] = "does not answer"
        if self.fitted is not None:
            self._end()
            return
        self._advance()
        if self._progress() == before and not self._sites.behind:
            raise ProtocolError(self._too_few())

    def status(self) -> dict[str, Any]:
        """What may be shown: where the study is, what was charged, and what each site does. Nothing of the data."""
        entries, ask = self.account.ledger.entries, self._ask
        planned = self.plan.phase(ask.phase) if ask else None
        epsilon = entries[-1].epsilon if entries else 0.0
        return {
            "phase": self.phase,
            "step": ask.step if ask else 0,
            "steps": planned.steps if planned else 1,
            "stage": self._rounds[0].stage if self._rounds and self.fitted is None else "",
            "query": len(self.steps),
            "done": self.done,
            "epsilon": "inf" if math.isinf(epsilon) else epsilon,
            "unit": self.account.ledger.unit,
            "sites": {n: self._sites.refused.get(n) or self._sites.said.get(n, "") for n in self.sites},
            "note": "",
        }

    def _progress(self) -> tuple[Any, ...]:
        return len(self.steps), self._heard, *((one.stage, one.done) for one in self._rounds)

    def _go_on(self) -> None:
        """Run the recipe until sites must be asked, or there is a model."""
        while not self._rounds and self.fitted is None:
            ask = self._talk.asked()
            if not isinstance(ask, Ask):
                self._finish(ask)
                return
            self._ask = ask
            if self._told < len(self.steps):
                step = self.steps[self._told]
                raw = self._raw(step.index)
                if hashlib.sha256(raw).hexdigest() != step.content:
                    raise ProtocolError("what was told before is not in the coordinator's folder any more")
            elif isinstance(ask, Agreed):
                raw = self._keep(encoded(ask, ask.made, 0), (), 0)
            else:
                self._begin(ask)
                return
            self._tell(raw)

    def _tell(self, raw: bytes) -> None:
        assert self._ask is not None
        step = self.steps[self._told]
        self._told += 1
        self._rounds, self._sealed = [], {}
        self._talk.tell(decoded(self._ask, raw, step.word))

    def _keep(self, raw: bytes, sites: tuple[str, ...], word: int) -> bytes:
        """Write down what all will be told: first itself, then that it is so."""
        assert self._ask is not None
        step = step_of(self._ask, raw, sites, word, self.steps)
        self._shelf.put(f"told-{step.index}", raw)
        self._shelf.put(f"step-{step.index}", step.line())
        self.steps.append(step)
        return raw

    def _raw(self, index: int) -> bytes:
        return self._shelf.get(f"told-{index}") or b""

    def _begin(self, ask: Ask) -> None:
        """Charge, and open one round a circle, or take up those that a kill interrupted."""
        if self.account.written():
            self._shelf.put(chain.BOOK, self.account.ledger.dumps().encode())
        self._rounds = rounds_of(ask, self.study, len(self.steps))
        for index, one in enumerate(self._rounds):
            kept = json.loads(self._shelf.get(f"round-{index}") or b"{}")
            if kept.get("query") == len(self.steps):
                one.restore(kept["state"], self._shelf.get(f"total-{index}") or b"")

    def _take(self, name: str, message: Message) -> None:
        fields, query = message.fields, len(self.steps)
        if message.sender != name or message.context != self.study.hash:
            raise ProtocolError("its answer is somebody else's, or of another study")
        if REFUSED in fields:
            self._sites.said[name] = f"refuses: {fields.get('why')}"
            if fields[REFUSED] not in _LATER:
                self._sites.refused[name] = self._sites.said[name]
        elif message.stage == FINISH:
            self._take_end(name, str(fields.get("signature")))
        elif message.query != query:
            raise ProtocolError("its answer comes too late")
        elif "behind" in fields:
            self._sites.behind[name] = fields["behind"] if isinstance(fields["behind"], int) else 0
            self._sites.said[name] = "catches up"
        else:
            self._take_stage(name, message)

    def _take_stage(self, name: str, message: Message) -> None:
        if message.stage == "open":
            self._take_mark(name, str(message.fields.get("ledger")))
            self._sites.behind.pop(name, None)
        one = next(one for one in self._rounds if name in one.circle.names)
        if message.stage == one.stage:
            if isinstance(self._ask, Texts):
                check_texts(message.fields.get("texts"), self._ask)
            one.take(name, (message.fields, message.body))
            self._heard += 1
            self._sites.said[name] = f"answered {one.stage}"

    def _take_mark(self, name: str, mark: str) -> None:
        """Keep a site's signature on the charge."""
        head = self.account.ledger.head
        if not keys.check(self.study.sites[name], mark, charged(self.study, head)):
            raise ProtocolError("it does not sign the charge")
        if name not in self._marks.setdefault(head, {}):
            self._marks[head][name] = mark
            self._shelf.put("marks", files.canonical_json(self._marks))

    def _advance(self) -> None:
        for index, one in enumerate(self._rounds):
            left = [name for name in one.circle.names if name not in self._sites.refused]
            if len(left) < one.least:
                raise PrivacyRefused(f"too few sites take part: {self._reasons(one)}")
            while one.advance(tuple(self._sites.behind)):
                # the set in a sum is decided on disk before anybody hears of it: sites open one set only
                if not one.done and one.stage in ("shares", "agree", "decrypt"):
                    total = b"" if one.total is None else one.total.tobytes()
                    self._shelf.put(f"total-{index}", total)
                    state = {"query": len(self.steps), "state": one.state()}
                    self._shelf.put(f"round-{index}", files.canonical_json(state))
        if self._rounds and all(one.done for one in self._rounds):
            self._tell(self._decided())

    def _decided(self) -> bytes:
        members = tuple(name for name in self.sites for one in self._rounds if name in one.members)
        ask = self._ask
        assert ask is not None
        word = ask.word if isinstance(ask, Sum) and len(self._rounds) == 1 else 8
        value = self._summed() if isinstance(ask, Sum) else self._united()
        self._since = len(self.steps)
        return self._keep(encoded(ask, value, word), members, word)

    def _summed(self) -> Integers:
        """The sum over all sites; of several circles, the median of their sums, times how many they are."""
        sums = [as_integers(one.total) for one in self._rounds if one.total is not None]
        if len(sums) == 1:
            return sums[0]
        middle: Integers = np.rint(np.median(np.stack(sums), axis=0) * len(sums)).astype(np.int64)
        return middle

    def _united(self) -> list[list[str]]:
        """The texts that sites released, column by column, sorted."""
        found = [fields["texts"] for one in self._rounds for fields, _ in one.answers.values()]
        return [sorted(set().union(*column)) for column in zip(*found, strict=True)]

    def _message(self, stage: str, fields: Mapping[str, Any], body: bytes = b"") -> bytes:
        return Message(COORDINATOR, self.study.hash, len(self.steps), stage, fields, body).sealed(
            self._key.sign
        )

    def _opening(self, name: str) -> bytes:
        """What begins a sum at a site, with what it was not told yet; the same bytes for all who are as far."""
        start, query = self._sites.behind.get(name, self._since), len(self.steps)
        # a sum that sites decrypted is not sent to them; who does not have it says that it is behind
        has = self.study.encrypted and self.study.groups == 1 and name not in self._sites.behind
        if (start, query, has) not in self._sealed:
            told: list[tuple[Step, bytes]] = []
            size = 0
            for step in self.steps[start:]:
                raw = b"" if has and step.kind == "sum" else self._raw(step.index)
                size += len(raw)
                if told and size > _MOST_TOLD:
                    break
                told.append((step, raw))
            ask = self._ask
            assert ask is not None
            fields = {
                "plan": self.plan.dumps(),
                "position": start,
                "steps": [step.model_dump() for step, _ in told],
                "sizes": [len(raw) for _, raw in told],
                "ledger": self.account.ledger.dumps(),
                "due": [ask.kind, ask.phase, ask.step],
            }
            self._sealed[start, query, has] = self._message("open", fields, b"".join(raw for _, raw in told))
        return self._sealed[start, query, has]

    def _too_few(self) -> str:
        one = next((one for one in self._rounds if not one.done), self._rounds[0])
        answered = f"{len(one.answers)} of {len(one.asked())} sites answered"
        return f"{answered}, and a sum needs {one.least}: {self._reasons(one)}"

    def _reasons(self, one: Forming) -> str:
        missing = [name for name in one.circle.names if name not in one.answers]
        return "; ".join(f"{name} {self._sites.said.get(name, 'is away')}" for name in missing)

    def _finish(self, fitted: Made) -> None:
        """Write the model, or what was found of one; its ledger bears the signatures of sites that saw each charge."""
        entries = [
            entry.model_copy(
                update={
                    "signatures": tuple(
                        f"{n} {m}" for n, m in sorted(self._marks.get(entry.hash, {}).items())
                    )
                }
            )
            for entry in self.account.ledger.entries
        ]
        ledger = Ledger.parse("".join(entry.line().decode() for entry in entries))
        facts = self.study.facts(self.plan, head_of(self.steps))
        promise = chain.promised(self.plan, facts)
        if isinstance(fitted, Evaluated):
            self.model = fitted.document(self.plan, promise, ledger, facts)
        else:
            members = archived(fitted, self.plan, promise, ledger)
            self.model = files.archive(members | {"federation.json": files.canonical_json(facts)})
        self.fitted = fitted
        self._results.put(chain.result_of(self.plan), self.model)
        self._write_ledger({})

    def _ending(self) -> bytes:
        if (-1, -1) not in self._sealed:
            rounds = b"".join(step.line() for step in self.steps).decode()
            fields = {"rounds": rounds, "ledger": self.account.ledger.dumps()}
            self._sealed[-1, -1] = self._message(FINISH, fields, self.model)
        return self._sealed[-1, -1]

    def _take_end(self, name: str, mark: str) -> None:
        model = hashlib.sha256(self.model).hexdigest()
        statement = ended(self.study, head_of(self.steps), self.account.ledger.head, model)
        if self.fitted is None or not keys.check(self.study.sites[name], mark, statement):
            raise ProtocolError("it does not sign the end of the study")
        self._marks.setdefault("end", {})[name] = mark
        self._sites.said[name] = "has the model"

    def _end(self) -> None:
        self._write_ledger(self._marks.get("end", {}))
        self.done = True

    def _write_ledger(self, ends: Mapping[str, str]) -> None:
        """What anybody can verify (`chain.verify`), in the folder ledger/."""
        folder = self._results.folder
        shelf = files.Shelf(None if folder is None else folder / "ledger")
        booked = {head: marks for head, marks in self._marks.items() if head != "end"}
        model = hashlib.sha256(self.model).hexdigest()
        shelf.put("study.toml", self.study.dumps().encode())
        shelf.put("plan.toml", self.plan.dumps().encode())
        shelf.put(chain.BOOK, self.account.ledger.dumps().encode())
        shelf.put(chain.ROUNDS, b"".join(step.line() for step in self.steps))
        shelf.put(
            chain.SIGNATURES, files.canonical_json({"model": model, "charged": booked, "ended": dict(ends)})
        )


def _steps_on(shelf: files.Shelf) -> str:
    """The lines of the chain that were kept, one by one: writing all of it at every step would grow with its square."""
    lines: list[bytes] = []
    while (line := shelf.get(f"step-{len(lines)}")) is not None:
        lines.append(line)
    return b"".join(lines).decode()
