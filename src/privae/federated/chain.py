"""What all places of a study were told, as one chain of hashes, and the ledger that each keeps its own replica of.

A step of the chain is a sum, a union of texts, or tensors that follow from such, and everything a place computes
follows from the steps before. So two places that sign the same end of the chain were told the same, bit for bit.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from privae import files
from privae.custody import keys
from privae.errors import ArtifactError, PrivacyRefused, ProtocolError, UsageError
from privae.evaluate.released import PHASE, RECIPE, Evaluated
from privae.federated.fit import Agreed, Ask, Sum, Texts, Wire
from privae.federated.messages import tensors_of, tensors_to_bytes
from privae.federated.study import Study
from privae.plan import Plan
from privae.privacy import accountant
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Event
from privae.training.books import charges_of, ends, follows, next_charge

GENESIS = "0" * 64
ROUNDS, BOOK, SIGNATURES = "rounds.jsonl", "ledger.jsonl", "signatures.json"
_CLOSE = 1e-6  # relative; processors differ in the last bits of epsilon
_COARSE = 1.05  # epsilon within a phase is noted on a coarser lattice, which is above the finer one
_DIGITS = 2e-4  # absolute, for figures that are rounded
_COMPOSED = 16  # charges whose epsilon is composed anew when a study is verified, beside the ends of phases
_UNREAD = "the signatures do not read; restore a copy"


def result_of(plan: Plan) -> str:
    """The name of the file that a study ends with."""
    return "evaluation.json" if plan.recipe == RECIPE else "model.privae"


class Step(BaseModel):
    """One thing that all places were told. Public: names, numbers of the plan and hashes.

    sites: whose numbers are in it. word: bytes of its integers; content: SHA-256 of what was told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    kind: Literal["sum", "texts", "agreed"]
    phase: str
    step: int
    sites: tuple[str, ...]
    word: int
    content: str
    previous: str
    hash: str = ""

    def sealed(self) -> "Step":
        """The same step with the hash of everything else in it."""
        return self.model_copy(update={"hash": files.digest(self.model_dump(exclude={"hash"}))})

    def line(self) -> bytes:
        """Canonical JSON, one line."""
        return files.canonical_json(self.model_dump()) + b"\n"


def step_of(ask: Ask, told: bytes, sites: Sequence[str], word: int, before: Sequence[Step]) -> Step:
    """The next step of a chain."""
    return Step(
        index=len(before),
        kind=ask.kind,
        phase=ask.phase,
        step=ask.step,
        sites=tuple(sites),
        word=word,
        content=hashlib.sha256(told).hexdigest(),
        previous=head_of(before),
    ).sealed()


def head_of(steps: Sequence[Step]) -> str:
    """The hash that names a whole chain."""
    return steps[-1].hash if steps else GENESIS


def parse_steps(text: str) -> list[Step]:
    """A chain from its JSON lines. Errors: ArtifactError unless every hash holds."""
    try:
        steps = [Step.model_validate_json(line) for line in text.splitlines()]
    except ValidationError:
        raise ArtifactError("a line of the rounds does not read; restore a copy") from None
    previous = GENESIS
    for index, step in enumerate(steps):
        if (step.index, step.previous, step.hash) != (index, previous, step.sealed().hash):
            raise ArtifactError("the rounds were changed after they were written; restore a copy")
        previous = step.hash
    return steps


def follow(ask: Ask, step: Step, told: bytes, before: Sequence[Step]) -> None:
    """Check that a step is the next one, of what this place asks for. Errors: ProtocolError."""
    if (step.kind, step.phase, step.step) != (ask.kind, ask.phase, ask.step):
        raise ProtocolError(f"the coordinator tells of another step than '{ask.phase}', which is due")
    if step != step_of(ask, told, step.sites, step.word, before):
        raise ProtocolError("what the coordinator tells does not follow from what it told before")


def encoded(ask: Ask, value: Any, word: int) -> bytes:  # noqa: ANN401  integers, texts or tensors, by the ask's kind
    """What is told, as bytes."""
    if isinstance(ask, Sum):
        return bytes(np.asarray(value).astype(f"<i{word}").tobytes())
    return files.canonical_json(value) if isinstance(ask, Texts) else tensors_to_bytes(value)


def decoded(ask: Ask, raw: bytes, word: int) -> Any:  # noqa: ANN401
    """Inverse of `encoded`. Errors: ProtocolError for what does not fit the ask."""
    if isinstance(ask, Agreed):
        return tensors_of(raw)
    if isinstance(ask, Sum):
        if word not in (4, 8) or len(raw) != word * len(ask.values):
            raise ProtocolError("a sum has another number of numbers than was asked for")
        return np.frombuffer(raw, f"<i{word}").astype(np.int64)
    try:
        texts = json.loads(raw)
    except ValueError:
        texts = None
    check_texts(texts, ask)
    return texts


def check_texts(found: Any, ask: Texts) -> None:  # noqa: ANN401  whatever a peer sent
    """Refuse what is no list of texts for each column. Errors: ProtocolError."""
    columns = found if isinstance(found, list) else []
    plain = all(
        isinstance(column, list) and all(isinstance(one, str) for one in column) for column in columns
    )
    if not plain or len(columns) != len(ask.texts):
        raise ProtocolError("texts that were released do not read, or are not one list a column")


def promised(plan: Plan, facts: Mapping[str, Any]) -> Guarantee:
    """The promise of a plan that a study ran; facts: what `study.facts` says."""
    promise = plan.guarantee()
    return replace(promise, not_covered=(*facts["not_covered"], *promise.not_covered))


def check_evaluation(study: Study, plan: Plan, rounds: tuple[Sequence[Step], Ledger], content: bytes) -> None:
    """Refuse an evaluation that does not follow from what all were told, whoever wrote it. Errors: ArtifactError."""
    steps, book = rounds
    try:
        said = json.loads(content)
        found, ledger = Evaluated.parse(study.schema_of, said), Ledger.parse(said["ledger"])
        told = {step.phase: step for step in steps}
        wanted = [told[PHASE].content, told["edges"].content]
        scale = Wire.of(found.counts.size, plan.phases[0].mechanism().std, study).scale
        integers = np.rint(found.counts.ravel() * scale).astype(f"<i{told[PHASE].word}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ArtifactError("the evaluation does not read, or its rounds tell of none") from None
    parts = integers.tobytes(), tensors_to_bytes({"edges": torch.from_numpy(found.edges)})
    if [hashlib.sha256(part).hexdigest() for part in parts] != wanted:
        raise ArtifactError("the counts or edges of the evaluation are not those that all were told")
    if [entry.hash for entry in ledger.entries] != [entry.hash for entry in book.entries]:
        raise ArtifactError("the ledger in the evaluation is not that of the study")
    facts = study.facts(plan, head_of(steps))
    deviation = plan.phases[0].mechanism().std * study.cost
    again = replace(found, std=deviation, model=str(plan.settings["model"]))
    if not _alike(said, json.loads(again.document(plan, promised(plan, facts), ledger, facts))):
        raise ArtifactError("the evaluation says something else than follows from its counts, plan and study")


def _alike(said: Any, again: Any) -> bool:  # noqa: ANN401  any JSON value
    """Whether two JSON values are the same but for the last digits of numbers, in which processors differ."""
    if isinstance(said, dict) and isinstance(again, dict):
        return said.keys() == again.keys() and all(_alike(said[name], again[name]) for name in said)
    if isinstance(said, list) and isinstance(again, list):
        return len(said) == len(again) and all(map(_alike, said, again))
    if isinstance(said, float) and isinstance(again, float):
        return math.isclose(said, again, rel_tol=_CLOSE, abs_tol=_DIGITS)
    return bool(said == again)


@dataclass
class Account:
    """The charges of a recipe under way, and the model's ledger of them: made by the coordinator, checked by a site."""

    plan: Plan
    ledger: Ledger
    charges: list[tuple[str, Event]] = field(default_factory=list)
    _text: str = field(default="", repr=False)

    def charge(self, phase: str, event: Event) -> None:
        """A recipe is about to release. Errors: PrivacyRefused for anything else than the plan's next event."""
        if not follows([*self.charges, (phase, event)], self.plan):
            raise PrivacyRefused(f"phase '{phase}' is about to do something else than was planned")
        self.charges.append((phase, event))

    def written(self) -> bool:
        """Write down what was charged and is not in the ledger yet; whether there was any."""
        before = len(self.ledger.entries)
        if charges_of(self.ledger) != self.charges[:before]:
            raise ArtifactError("the ledger does not follow from the plan; restore a copy")
        _spend(self.ledger, self.plan, self.charges[before:])
        return len(self.ledger.entries) > before

    def adopt(self, text: str) -> bool:
        """Take over the coordinator's ledger, if it is what this place would have written; whether it grew.

        Errors: ProtocolError if it is anything else.
        """
        if self.ledger.entries and text == self._text and len(self.charges) == len(self.ledger.entries):
            return False
        try:
            theirs = Ledger.parse(text)
        except ArtifactError:
            raise ProtocolError("the ledger that the coordinator sends does not read") from None
        own, known = Ledger(self.ledger.entries, _terms(self.ledger), None), len(self.ledger.entries)
        heads = [entry.hash for entry in self.ledger.entries]
        if [e.hash for e in theirs.entries[:known]] != heads or charges_of(theirs) != self.charges:
            raise ProtocolError("the ledger that the coordinator sends does not show what is due")
        _spend(own, self.plan, self.charges[known:])
        for mine, entry in zip(own.entries[known:], theirs.entries[known:], strict=True):
            named = mine.model_copy(
                update={"time": entry.time, "previous_hash": entry.previous_hash, "epsilon": entry.epsilon}
            )
            close = (
                abs(mine.epsilon - entry.epsilon) <= _CLOSE * mine.epsilon or mine.epsilon == entry.epsilon
            )
            if named.sealed().hash != entry.hash or not close:
                raise ProtocolError(
                    "the ledger that the coordinator sends charges something else than is due"
                )
        self.ledger, self._text = theirs, text
        return len(theirs.entries) > known


def _spend(ledger: Ledger, plan: Plan, charges: Sequence[tuple[str, Event]]) -> None:
    for phase, event in charges:
        ledger.spend([next_charge(ledger, plan, phase, event)], fine=ends(ledger, plan, phase, event))


def _terms(ledger: Ledger) -> Any:  # noqa: ANN401  private to the ledger
    return ledger.delta, ledger.unit, ledger.relation


def charged(study: Study, entry: str) -> bytes:
    """What a site signs of an entry of the ledger before it computes for it."""
    return files.canonical_json(["ledger", study.hash, entry])


def ended(study: Study, steps: str, ledger: str, model: str) -> bytes:
    """What a site signs at the end: all rounds, the whole ledger, and the SHA-256 of the model's file."""
    return files.canonical_json(["end", study.hash, steps, ledger, model])


@dataclass(frozen=True)
class Verified:
    """What a study left, and what that proves: who signed what.

    composed: of how many charges epsilon was composed anew. model: SHA-256 of what it ended with; marks: signatures.
    """

    study: Study
    plan: Plan
    ledger: Ledger
    steps: tuple[Step, ...]
    signed: Mapping[str, Sequence[str]]
    ended: tuple[str, ...]
    composed: int
    model: str
    marks: Mapping[str, Any] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """In words, one line a fact."""
        study, last = self.study, self.ledger.entries[-1]
        yield f"study {study.name}: {len(study.sites)} sites, plan {self.plan.hash[:16]}, attempt {study.attempt}"
        yield f"epsilon {last.epsilon:.4g} at delta {last.delta:g}, of {self.plan.epsilon:g} planned"
        for entry in self.ledger.entries:
            names = self.signed.get(entry.hash, ())
            yield f"charge {entry.index}: {entry.phase}, signed by {len(names)} of {len(study.sites)} sites"
        sums = [len(step.sites) for step in self.steps if step.kind != "agreed"]
        yield f"{len(sums)} rounds, of {min(sums, default=0)} to {max(sums, default=0)} sites each"
        yield f"the end was signed by: {', '.join(self.ended) or 'nobody'}"


def verify(folder: Path) -> Verified:
    """Check everything that a study's ledger folder shows; a function of its files alone.

    Guarantee: as `examined`, and what the study ended with, where it lies beside the folder, is what was signed.
    Errors: UsageError for a folder that is none; ArtifactError.
    """
    texts = {}
    for name in ("study.toml", "plan.toml", BOOK, ROUNDS, SIGNATURES):
        try:
            texts[name] = files.text(folder / name)
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"{folder} is no ledger of a study: {name} cannot be read") from None
    try:
        marks = json.loads(texts[SIGNATURES])
    except (ValueError, RecursionError):
        raise ArtifactError(_UNREAD) from None
    study, plan = Study.loads(texts["study.toml"]), Plan.loads(texts["plan.toml"])
    found = examined(study, plan, (texts[BOOK], texts[ROUNDS]), marks)
    of = (study, plan, (found.steps, found.ledger))
    _check_beside(folder.parent / result_of(plan), found.model, of)
    return found


def examined(study: Study, plan: Plan, texts: tuple[str, str], marks: Any) -> Verified:  # noqa: ANN401  any JSON
    """Check what a study left: its ledger and its rounds, line by line, and the signatures on them.

    Guarantee: every entry and step is in its place, the charges are those of the plan that the study names, and
    each counted signature is a site's own. Errors: ArtifactError.
    """
    if plan.hash != study.plan:
        raise ArtifactError("the plan in the folder is not the one that the study names")
    ledger, steps = Ledger.parse(texts[0]), parse_steps(texts[1])
    composed = _check_charges(plan, ledger)
    _check_steps(study, plan, steps)
    try:
        model, ends_of = str(marks["model"]), dict(marks["ended"])
        books = {str(head): dict(names) for head, names in marks["charged"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(_UNREAD) from None
    if set(books) - {entry.hash for entry in ledger.entries} or len(marks) != 3:
        raise ArtifactError("something was signed that is not in the ledger; restore a copy")
    signed = {
        entry.hash: _signers(study, charged(study, entry.hash), books.get(entry.hash, {}))
        for entry in ledger.entries
    }
    over = _signers(study, ended(study, head_of(steps), ledger.head, model), ends_of)
    return Verified(study, plan, ledger, tuple(steps), signed, tuple(over), composed, model, marks)


def _check_beside(path: Path, signed: str, of: tuple[Study, Plan, tuple[Sequence[Step], Ledger]]) -> None:
    """Hold what a study ended with, where it lies beside its ledger, against what was signed. Errors: ArtifactError."""
    if not path.is_file():
        return
    content = files.content(path)
    if hashlib.sha256(content).hexdigest() != signed:
        raise ArtifactError(f"{path.name} beside the ledger is not the one that was signed; restore a copy")
    if of[1].recipe == RECIPE:
        check_evaluation(*of, content)


def _check_charges(plan: Plan, ledger: Ledger) -> int:
    """Hold every charge against the plan; of how many epsilon was composed anew. Errors: ArtifactError.

    All of up to _COMPOSED charges, else the ends of phases and every so many. Those in between are held by these, for
    epsilon falls from charge to charge by no more than a coarser lattice adds.
    """
    if (ledger.delta, ledger.unit) != (plan.delta, plan.unit):
        raise ArtifactError("the ledger is at another delta, or of another unit, than the plan")
    charges, done = charges_of(ledger), Counter[str]()
    every, composed, before = -(-len(charges) // _COMPOSED), 0, 0.0
    right = ledger.relation == "add_or_remove" and follows(charges, plan)
    for k, (entry, (phase, event)) in enumerate(zip(ledger.entries, charges, strict=True)):
        done[phase] += event.steps
        planned, added = plan.phase(phase), plan.delta_threshold + plan.delta_sampler
        due = {**event.to_dict(), "added_delta": 0.0 if k else added}
        named = (entry.plan_hash, entry.schema_hash, entry.attempt, entry.event)
        right = right and named == (plan.hash, plan.schema_hash, 1, due) and entry.epsilon >= before / _COARSE
        whole, before = planned is not None and done[phase] == planned.steps, entry.epsilon
        if right and (whole or k % every == 0 or k == len(charges) - 1):
            events = [charged for _, charged in charges[: k + 1]]
            told = accountant.epsilon(events, plan.delta - added, fine=whole)
            right = entry.epsilon == told or abs(entry.epsilon - told) <= _CLOSE * told
            composed += 1
        if not right:
            raise ArtifactError(f"entry {entry.index} of the ledger does not follow from the plan")
    return composed


def _check_steps(study: Study, plan: Plan, steps: Sequence[Step]) -> None:
    """Hold the rounds against the plan and the study. Errors: ArtifactError."""
    told = [(step.phase, step.step) for step in steps if step.kind != "agreed"]
    planned = ((phase.name, number) for phase in plan.phases for number in range(phase.steps))
    if told != list(islice(planned, len(told))):
        raise ArtifactError("the rounds do not follow from the plan")
    for step in steps:
        few = any(len({*c.names} & {*step.sites}) < c.need for c in study.circles(step.index))
        if step.kind != "agreed" and (few or not {*step.sites} <= {*study.sites}):
            raise ArtifactError(f"round {step.index} is of fewer sites than the study allows")


def _signers(study: Study, statement: bytes, marks: Mapping[str, str]) -> list[str]:
    """Who signed a statement. Errors: ArtifactError for a signature that is not what it says."""
    for name, mark in marks.items():
        if name not in study.sites or not keys.check(study.sites[name], str(mark), statement):
            raise ArtifactError(f"a signature of {name} does not hold; do not trust this ledger")
    return list(marks)
