"""What a log is made of, and what it says: the entries of a data set's ledger, or those of a study of several sites.

Of a ledger, leaf k is entry k, as its line. Of a study: the study itself (roster, terms, schema, the plan's hash); the
plan; then charges and rounds as they came, each charge before the first round that it covers; at the end the hash of
what the study ended with. A place charges, signs and then sums, with nothing told in between, so this order is that
in which things happened, and a function of the files: a study under way has the beginning of its later leaves.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from privae import files
from privae.custody import keys, logs
from privae.custody.heads import MOST, SignedHead, format_of
from privae.custody.logs import Log
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.federated import chain
from privae.federated.chain import Step, Verified, examined, head_of
from privae.federated.study import Study
from privae.log import store
from privae.plan import Plan, finite
from privae.privacy import accountant
from privae.privacy.ledger import Entry, Ledger

_CLOSE = 1e-6  # relative; processors differ in the last bits of epsilon
_COARSE = 1.05  # a model's own ledger notes some epsilons on a coarser lattice, which is above the finer one
_EFFORT = 30_000  # events that are composed anew, over all entries
_ORDER = "the entries of the study are not in the order in which a study runs; restore a copy"


def read(source: str, heads: Sequence[SignedHead] = ()) -> "Checked":
    """The log that is named: a ledger, a study's folder, or a file that `Log.dumps` wrote; see `checked`."""
    if store.is_url(source):
        return checked(of_ledger(Ledger.load(source)), heads)
    path = Path(source)
    if path.is_dir():
        found = chain.verify(path)
        return checked(of_study(found), heads, found)
    content = content_of(path)
    form = format_of(content)
    if form == logs.FORMAT:
        return checked(logs.parse(content, source), heads)
    if form:
        raise UsageError(
            f"{source} is no log, but a file of {form}; see it with: privae ledger verify {source}"
        )
    return checked(of_ledger(Ledger.load(source)), heads)


def content_of(path: Path) -> bytes:
    """The bytes of a file that begins like JSON; none of another one, or of one that is not there."""
    if not path.is_file():
        return b""
    try:
        with files.opened(path) as file:
            start = file.read(1)
            content = start + file.read(logs.MOST) if start == b"{" else b""
    except OSError:
        return b""
    if len(content) > (logs.MOST if format_of(content) == logs.FORMAT else MOST):
        raise ArtifactError(f"{path} is larger than any ledger or file of heads; do not trust it")
    return content


def of_ledger(ledger: Ledger) -> Log:
    """The log of a data set's ledger."""
    if not ledger.entries:
        raise UsageError("the ledger has no entries; open it with: privae ledger open")
    return Log("ledger", tuple(entry.line() for entry in ledger.entries))


def of_study(found: Verified) -> Log:
    """The log of a study, as far as it got."""
    parts = found.study, found.plan, found.ledger.entries, found.steps, found.model
    marks = {"charged": found.marks["charged"], "ended": found.marks["ended"]}
    return Log("study", tuple(leaves_of(*parts)), marks=marks)


def leaves_of(
    study: Study, plan: Plan, entries: Sequence[Entry], steps: Sequence[Step], model: str
) -> Iterator[bytes]:
    """The leaves of a study. model: SHA-256 of what it ended with; "" while it runs.

    Errors: ArtifactError for a round that no charge covers.
    """
    facts = study.model_dump(mode="json")
    # canonical JSON sorts names, and who sums with whom follows from their order
    yield _line({"kind": "study", "hash": study.hash, "roster": list(study.sites), "study": facts})
    yield _line({"kind": "plan", "plan": finite(plan.model_dump(mode="python"))})
    left, covered = iter(entries), dict[str, int]()
    for step in steps:
        while step.kind != "agreed" and covered.get(step.phase, 0) <= step.step:
            entry = next(left, None)
            if entry is None:
                raise ArtifactError(f"round {step.index} of '{step.phase}' was summed and never charged")
            covered[entry.phase] = covered.get(entry.phase, 0) + int(entry.event["steps"])
            yield entry.line()
        yield step.line()
    for entry in left:
        yield entry.line()
    if model:
        last = entries[-1].hash if entries else chain.GENESIS
        yield _line({"kind": "end", "model": model, "rounds": head_of(steps), "ledger": last})


@dataclass(frozen=True)
class Checked:
    """What a log was found to say. roster: names by public key, of a study; recomputed: spends, of how many."""

    log: Log
    ledger: Ledger
    recomputed: tuple[int, int]
    study: Verified | None = None
    roster: Mapping[str, str] = field(default_factory=dict)

    @property
    def signed(self) -> dict[str, int]:
        """By public key, how many entries were signed for: by heads, or by the end of a study, which fixes all."""
        found = dict.fromkeys(self._ended, self.log.size)
        for one in self.log.heads:
            for key in one.signers:
                found[key] = max(found.get(key, 0), one.head.size)
        return found

    @property
    def _ended(self) -> list[str]:
        names = self.study.ended if self.study else ()
        return [key for key, name in self.roster.items() if name in names]

    def require(self, pins: Sequence[str]) -> None:
        """Refuse a log that not every one of these keys signed to its last entry; pins: see `keys.pinned`.

        Errors: UsageError for texts that name no key; ArtifactError.
        """
        for pin in map(keys.pinned, pins):
            most = max((size for key, size in self.signed.items() if keys.matches(pin, key)), default=0)
            if most < self.log.size:
                upto = f"signed for {most} of {self.log.size} entries only" if most else "signed nothing here"
                raise ArtifactError(f"the key {pin[:16]} {upto}; ask its holder for a head of the whole log")

    def called(self, key: str) -> str:
        """Whose key it is, or its fingerprint."""
        return self.roster.get(key) or keys.fingerprint(key)

    def lines(self) -> Iterator[str]:
        """In words, one line a fact."""
        if self.study:
            yield from self.study.lines()
        else:
            last, cap = self.ledger.entries[-1], self.ledger.cap
            of = "" if cap is None else f", of {cap.epsilon:g}"
            yield f"ledger: epsilon {last.epsilon:.4g} at delta {self.ledger.delta:g}{of}"
        yield f"log {self.log.name}"
        yield f"{self.log.size} entries, Merkle root {self.log.root()}"
        whole = [self.called(key) for key, size in self.signed.items() if size == self.log.size]
        yield f"all of it is signed by: {', '.join(sorted(whole)) or 'nobody'}"
        for key, size in sorted(self.signed.items(), key=lambda item: item[1]):
            if size < self.log.size:
                yield f"the first {size} entries are signed by: {self.called(key)}"
        yield "checked: every hash and signature; that the cap or plan holds; epsilon from the events, " + (
            f"of {self.recomputed[0]} of {self.recomputed[1]} charges"
        )

    def fields(self) -> dict[str, Any]:
        """JSON-ready."""
        signed = [
            {
                "fingerprint": keys.fingerprint(key),
                "public_key": key,
                "name": self.roster.get(key),
                "size": size,
            }
            for key, size in self.signed.items()
        ]
        found = {"kind": self.log.kind, "log": self.log.name, "size": self.log.size, "root": self.log.root()}
        done, of = self.recomputed
        counts = {"signatures": signed, "charges": of, "epsilon_recomputed": done}
        return {**self._said(), **found, **counts}

    def _said(self) -> dict[str, Any]:
        """What the entries say."""
        book, study = self.ledger, self.study
        cap, last = book.cap, book.entries[-1]
        found: dict[str, Any] = {"epsilon": last.epsilon, "delta": book.delta, "head": book.head}
        found["cap"] = None if cap is None else cap.epsilon
        found["entries"] = [entry.model_dump() for entry in book.entries]
        if study is None:
            return found
        rounds = [step.model_dump() for step in study.steps]
        named = {"study": study.study.hash, "plan": study.plan.hash, "rounds": rounds}
        return {**named, "signed": study.signed, "ended": study.ended, **found}


def checked(log: Log, heads: Sequence[SignedHead] = (), known: Verified | None = None) -> Checked:
    """Check all that a log says, with more signed heads of it; known: the study that it was just made of.

    Guarantee: the chain of hashes holds; of a ledger, what its events cost is within its cap, and epsilon in its
        entries is what follows from them (of the last entry, and of others as far as that is fast); of a study, as
        `chain.examined`, the leaves are in their order, and every round was charged before; every signature holds, and
        heads of a study are signed by its sites.
    Errors: ArtifactError, UsageError for a study or plan that does not read; Equivocation.
    """
    log = log.with_heads(heads)
    if log.kind == "ledger":
        try:
            ledger = Ledger.parse(b"".join(log.leaves).decode())
        except UnicodeDecodeError:
            raise ArtifactError("an entry of the log does not read; restore a copy") from None
        if log.marks:
            raise ArtifactError("the log of a ledger has heads alone; somebody put more signatures there")
        return Checked(log, ledger, recomputed(ledger))
    found = known or _study_of(log)
    roster = {key: name for name, key in found.study.sites.items()}
    for one in log.heads:
        for key in one.signers:
            if key not in roster:
                raise ArtifactError(
                    f"a head is signed by {keys.fingerprint(key)}, which is no site of the study"
                )
    count = found.composed, len(found.ledger.entries)
    return Checked(log, found.ledger, count, found, roster)


def recomputed(ledger: Ledger) -> tuple[int, int]:
    """Check what the events of a ledger cost: of how many charges epsilon was composed anew, and how many there are.

    Errors: ArtifactError for an epsilon that does not follow from the events, or a cap that does not hold.
    """
    _check_cap(ledger)
    spends = [list(of) for _, of in groupby(_charges(ledger), key=_spend_of(ledger))]
    effort, done = 0, 0
    for spend in [*spends[-1:], *spends[:-1]]:
        effort += spend[-1].index
        if done and effort > _EFFORT:
            break
        terms = ledger.delta, ledger.unit, ledger.relation
        told = Ledger(ledger.entries[: spend[-1].index + 1], terms, None).epsilon
        most = told * (1 + _CLOSE) if ledger.cap else told * _COARSE
        for entry in spend:
            if entry.epsilon != told and not told * (1 - _CLOSE) <= entry.epsilon <= most:
                raise ArtifactError(
                    f"entry {entry.index}: epsilon is not what its events cost; do not trust it"
                )
        done += 1
    return done, len(spends)


def _charges(ledger: Ledger) -> list[Entry]:
    """The entries that stand for events; the others are terms."""
    return [entry for entry in ledger.entries if "noise_multiplier" in entry.event]


def _spend_of(ledger: Ledger) -> Any:  # noqa: ANN401  a key of groups
    """What charges of one spend have in common: under a cap a spend is one whole plan."""
    return lambda entry: (entry.plan_hash, entry.attempt) if ledger.cap else entry.index


def _check_cap(ledger: Ledger) -> None:
    """Errors: ArtifactError where more was spent than the ledger's cap admits (see `Ledger`)."""
    cap, events, entries = ledger.cap, ledger.events, _charges(ledger)
    if cap is None or not events:
        return
    added = math.fsum(float(entry.event.get("added_delta", 0)) for entry in entries)
    if added <= accountant.ADDED_SHARE * cap.delta and cap.used(events, ledger.relation) <= 1 + _CLOSE:
        return
    alone = len({(entry.plan_hash, entry.attempt) for entry in entries}) == 1
    if not alone or accountant.epsilon(events, cap.delta - added, ledger.relation) > cap.epsilon * (
        1 + _CLOSE
    ):
        raise ArtifactError("more was charged than the ledger's cap admits; do not trust it")


def _study_of(log: Log) -> Verified:
    try:
        said = [json.loads(leaf) for leaf in log.leaves]
        facts = said[0]["study"]
        facts["sites"] = {name: facts["sites"][name] for name in said[0]["roster"]}
        study, plan = Study.model_validate(facts), Plan.model_validate(said[1]["plan"])
        model = str(said[-1]["model"]) if said[-1].get("kind") == "end" else ""
        books = b"".join(
            leaf for leaf, one in zip(log.leaves, said, strict=True) if "plan_hash" in one
        ).decode()
        kinds = ("sum", "texts", "agreed")
        told = b"".join(
            leaf for leaf, one in zip(log.leaves, said, strict=True) if one.get("kind") in kinds
        ).decode()
    except (ValueError, ValidationError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ArtifactError("an entry of the study's log does not read; restore a copy") from None
    try:
        found = examined(study, plan, (books, told), {**log.marks, "model": model})
        again = tuple(leaves_of(study, plan, found.ledger.entries, found.steps, model))
    except (UsageError, PrivacyRefused) as error:  # of a study or plan that no privae wrote
        raise ArtifactError(f"the study's log does not hold: {error}") from None
    if log.leaves != again:
        raise ArtifactError(_ORDER)
    if found.ended and not model:
        raise ArtifactError("the end of the study was signed, and is not there; restore a copy")
    return found


def _line(fields: Mapping[str, Any]) -> bytes:
    return files.canonical_json(fields) + b"\n"
