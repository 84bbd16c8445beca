"""The certificate: what a model claims and every event behind it, signed, so that an outsider can recompute it."""

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from privae import files
from privae.attacks.finding import Finding
from privae.audit import canaries
from privae.custody import keys
from privae.custody.keys import SigningKey
from privae.errors import ArtifactError, PrivacyRefused, PrivaeError, UsageError
from privae.plan import MOST_NUMBERS, Plan, sampler_delta
from privae.privacy import accountant
from privae.privacy.guarantee import Guarantee, rounded_up
from privae.privacy.ledger import Entry, Ledger
from privae.recipes.phases import CATEGORIES
from privae.report.form import (
    FORMAT,
    Body,
    Opened,
    charged,
    claimed,
    demand,
    dumps,
    opened,
    planned,
    read,
    shown,
    written,
)
from privae.training.books import charges_of, follows

__all__ = ["Check", "Facts", "Verdict", "dumps", "issue", "sha256", "verify"]

_MOST_PHASES, _MOST_STEPS = 50, 2**20  # of a plan: what costs a verifier seconds, and not days
_CLOSE = 1e-9  # relative: what another machine may make of the last bits of a sum
_NO_CANARIES = "no canaries were planted in this fit: the claims rest on the events alone"
_CANARIES = "made-up records were planted by secret coins; each finding bounds epsilon from below, at most by its power"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Facts:
    """What a certificate says of a model. schema_hash: of the schema in its file; findings: of its canaries."""

    plan: Plan
    guarantee: Guarantee
    ledger: Ledger
    kind: str
    schema_hash: str
    sha256: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and how it came out."""

    name: str
    ok: bool
    explanation: str


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. unchecked: what no certificate can show; claims: None unless everything holds."""

    checks: tuple[Check, ...]
    unchecked: tuple[str, ...] = (
        "anything else: what fails is not examined further, and not to be relied on",
    )
    fingerprint: str = ""
    claims: Guarantee | None = None

    @property
    def holds(self) -> bool:
        """Whether every check came out well."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        promise = None if self.claims is None else claimed(self.claims)
        return {
            "holds": self.holds,
            "claims": promise,
            "fingerprint": self.fingerprint,
            "checks": [asdict(check) for check in self.checks],
            "not_checked": list(self.unchecked),
        }


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file; of a sealed one, of what is in it, so that it stays the same under other keys."""
    try:
        with files.opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown reason').lower()}") from None


def issue(facts: Facts, key: SigningKey) -> dict[str, Any]:
    """The certificate of a model, signed; it is verified before it is returned.

    Guarantee: it holds numbers of the plan, hashes, and findings about canaries: nothing that reads real records.
    Errors: PrivacyRefused for any other finding, or one that contradicts the guarantee; ArtifactError for facts that
        do not follow from each other.
    """
    if any(finding.public is not True for finding in facts.findings):
        # privacy: a finding on real records is an un-noised release (guarantees.md rule 22)
        raise PrivacyRefused("a finding on real records is for the data holder only; certify without it")
    if any(map(partial(_contradicts, facts.guarantee), facts.findings)):
        raise PrivacyRefused("an attack on canaries contradicts the guarantee; do not publish this model")
    body = json.loads(files.canonical_json({**_body(facts), "public_key": key.public}))
    made = {**body, "signature": key.sign(files.canonical_json(body))}
    for check in verify(dumps(made), facts).checks:
        if not check.ok:
            raise ArtifactError(
                f"the model's {check.name} does not hold, so it gets no certificate: {check.explanation}"
            )
    return made


def verify(content: bytes | str, facts: Facts | None = None, signer: str | None = None) -> Verdict:
    """Check a certificate by itself, and against a model if one is given; the claims are recomputed from the events.

    signer: public key, or fingerprint, that must have signed. After a check of form or signature has failed, no
    other is made: what a stranger wrote is not worth computing.
    Errors: UsageError for a signer that is no key. What does not hold is in the verdict.
    """
    pin = None if signer is None else keys.pinned(signer)
    form, body = _tried("form", partial(_form, content))
    if body is None:
        return Verdict((form,))
    checks = [form, _check("signature", partial(_signature, body))]
    if pin is not None:
        checks.append(_check("signer", partial(_signer, body, pin)))
    if not all(check.ok for check in checks):
        return Verdict(tuple(checks))
    contents, inside = _tried("contents", partial(_contents, body))
    checks.append(contents)
    if inside is not None:
        checks += _examined(inside, facts)
    held = inside if all(check.ok for check in checks) else None
    print_ = keys.fingerprint(body.public_key)
    if held is None:
        return Verdict(tuple(checks), fingerprint=print_)
    return Verdict(tuple(checks), _unchecked(held, facts, pin), print_, held.claims)


def _examined(given: Opened, facts: Facts | None) -> list[Check]:
    """The checks of a certificate that its signer wrote; epsilon is computed only of events that are a plan's."""
    checks = [_check(name, partial(test, given)) for name, test in _TESTS.items()]
    if not all(check.ok for check in checks):
        return checks
    checks += [_check(name, partial(test, given)) for name, test in _SUMS.items()]
    if facts is not None:
        checks += [_check(name, partial(test, given, facts)) for name, test in _MODEL_TESTS.items()]
    return checks


def _body(facts: Facts) -> dict[str, Any]:
    findings = written(facts.findings)
    return {
        "format": FORMAT,
        # privacy: a finer clock would tell how long things took
        "issued": datetime.now(UTC).date().isoformat(),
        "claims": claimed(facts.guarantee),
        "model": {"kind": facts.kind, "sha256": facts.sha256, "schema_hash": facts.schema_hash},
        "schema_hash": facts.plan.schema_hash,
        "plan_hash": facts.plan.hash,
        "plan": planned(facts.plan),
        "events": charged(facts.ledger),
        "ledger_head": facts.ledger.head,
        "canaries": {"findings": findings, "sentence": _CANARIES if findings else _NO_CANARIES},
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    own = {"privae": files.code_version(), "python": platform.python_version()}
    return own | {"torch": version("torch"), "dp_accounting": version("dp-accounting")}


def _tried(name: str, made: Callable[[], tuple[str, _Result]]) -> tuple[Check, _Result | None]:
    """A check that also gives what the next ones need; None where it failed."""
    try:
        explanation, result = made()
    except PrivaeError as error:
        return Check(name, False, str(error)), None
    except Exception as error:  # noqa: BLE001  whatever a forged certificate sets off is a no
        return Check(name, False, f"it does not compute ({type(error).__name__})"), None
    return Check(name, True, explanation), result


def _check(name: str, test: Callable[[], str]) -> Check:
    return _tried(name, lambda: (test(), True))[0]


def _form(content: bytes | str) -> tuple[str, Body]:
    body = read(content)
    return f"{FORMAT}, issued {body.issued}", body


def _contents(body: Body) -> tuple[str, Opened]:
    inside = opened(body)
    return f"a plan, and {len(inside.ledger.entries)} hash-chained events", inside


def _signature(body: Body) -> str:
    held = keys.check(body.public_key, body.signature, body.signed())
    demand(held, "the text is not the one that was signed, or another key signed it")
    return f"Ed25519, by the key {keys.fingerprint(body.public_key)}"


def _signer(body: Body, pin: str) -> str:
    demand(keys.matches(pin, body.public_key), "another key than the one you named signed it")
    return "it is the key that you named"


def _plan(given: Opened) -> str:
    hashes = {given.plan.hash, given.body.plan_hash, *(entry.plan_hash for entry in given.ledger.entries)}
    demand(len(hashes) == 1, "its events or its plan hash are of another plan")
    small = len(given.plan.phases) <= _MOST_PHASES and sum(p.steps for p in given.plan.phases) <= _MOST_STEPS
    demand(small, "it has more phases or steps than can be recomputed in reasonable time")
    drawn = sum(p.steps * p.size for p in given.plan.phases if p.kind == "gradients" and p.noise_multiplier)
    demand(drawn <= MOST_NUMBERS, "it draws more noise than its delta pays for")
    return f"{given.plan.hash[:12]}..., named by every event"


def _schema(given: Opened) -> str:
    hashes = {given.body.schema_hash, given.plan.schema_hash, *(e.schema_hash for e in given.ledger.entries)}
    demand(len(hashes) == 1, "its events or its plan are of another schema")
    bought = given.plan.phase(CATEGORIES) is not None
    demand(bought or hashes == {given.body.model.schema_hash}, "the model has another schema than the plan")
    return f"{given.body.schema_hash[:12]}..." + (
        ", completed by categories that were bought" if bought else ""
    )


def _events(given: Opened) -> str:
    plan, ledger = given.plan, given.ledger
    demand(ledger.cap is None, "they are of a data set's ledger, not of one model's")
    whole = all(ledger.charged(phase.name) == phase.steps for phase in plan.phases)
    held = whole and follows(charges_of(ledger), plan, whole=True)
    demand(held, "they are not those of the plan, whole and alone")
    terms = (ledger.delta, ledger.unit, ledger.relation)
    demand(terms == (plan.delta, given.claims.unit, given.claims.relation), "they are charged at other terms")
    demand(
        _added(ledger.entries) == plan.delta_threshold + plan.delta_sampler,
        "they add something else to delta",
    )
    return "they are those of the plan, in its order, whole and alone"


def _added(entries: Sequence[Entry]) -> float:
    return math.fsum(float(entry.event["added_delta"]) for entry in entries)


def _epsilon(given: Opened) -> str:
    """Epsilon of add-or-remove, from the events alone."""
    events, left = given.ledger.events, given.ledger.delta - _added(given.ledger.entries)
    found = accountant.epsilon(events, left)
    demand(_equal(given.claims.epsilon, found), "the events cost another epsilon than is claimed")
    noted = all(
        _equal(entry.epsilon, own) for entry, own in zip(given.ledger.entries, _so_far(given), strict=True)
    )
    demand(noted, "an event notes another epsilon so far than the events up to it cost")
    return f"recomputed from the events: {rounded_up(found)} ({accountant.method(events, left)})"


def _so_far(given: Opened) -> Iterator[float]:
    """Epsilon up to each event, on the lattice that a fit notes it on: the fine one where a phase is complete."""
    entries, events, done = given.ledger.entries, given.ledger.events, Counter[str]()
    for count, (entry, event) in enumerate(zip(entries, events, strict=True), 1):
        done[entry.phase] += event.steps
        phase = given.plan.phase(entry.phase)
        fine = phase is not None and done[entry.phase] == phase.steps
        left = given.ledger.delta - _added(entries[:count])
        yield accountant.epsilon(events[:count], left, fine=fine)


def _replaced(given: Opened) -> str:
    """Epsilon of replacing one, from the events: no less than at the delta that the claim itself leaves."""
    claim = given.claims.epsilon_replace_one
    added = 2 * given.plan.delta_threshold + sampler_delta(claim)
    left = min(given.plan.delta - added, given.claims.delta_accountant)
    found = accountant.epsilon(given.ledger.events, left, "replace_one")
    demand(claim == found or claim >= found * (1 - _CLOSE), "replacing one costs more than is claimed")
    demand(_equal(claim, given.plan.guarantee().epsilon_replace_one), "the plan gives another figure")
    return f"recomputed from the events: {rounded_up(claim)}"


def _guarantee(given: Opened) -> str:
    own, claims = asdict(given.plan.guarantee()), asdict(given.claims)
    items, listed = own.pop("not_covered"), claims.pop("not_covered")
    more = listed[: len(listed) - len(items)]
    demand(listed == (*more, *items), "it leaves out what the plan does not cover")
    same = all(_equal(claims[name], value) for name, value in own.items())
    demand(same, "the plan promises something else")
    also = f"; it excludes, too: {shown('; '.join(more))}" if more else ""
    return (
        f"delta {own['delta']:.3g} and its parts, unit, relation and assumptions are those of the plan{also}"
    )


def _equal(claim: Any, own: Any) -> bool:  # noqa: ANN401  a number or a text
    if isinstance(own, float) and isinstance(claim, float):
        return claim == own or math.isclose(claim, own, rel_tol=_CLOSE)
    return type(claim) is type(own) and bool(claim == own)


def _planted(given: Opened) -> str:
    findings, claims = given.findings, given.claims
    demand(all(finding.public for finding in findings), "a finding on real records must not be published")
    demand(
        all(canaries.recount(finding, given.plan) for finding in findings),
        "a finding does not follow from its number of right guesses",
    )
    demand(not any(_contradicts(claims, f) for f in findings), "an attack on canaries contradicts the claims")
    sentence = _CANARIES if findings else _NO_CANARIES
    demand(given.body.canaries.sentence == sentence, "they are not described as they are")
    if not findings:
        return "none were planted"
    low, power = max(f.low for f in findings), max(f.power or 0.0 for f in findings)
    return f"an attack showed epsilon at least {low:.3g}, and could have shown {power:.3g} at most"


def _contradicts(claims: Guarantee, finding: Finding) -> bool:
    bound = finding.low if finding.measure == "epsilon lower bound" else -math.inf
    return finding.failed or not bound <= claims.epsilon


def _file(given: Opened, facts: Facts) -> str:
    demand(
        given.body.model.sha256 == facts.sha256, "it is about another file, or the model was changed since"
    )
    return f"it is the one that was certified: {facts.sha256[:12]}..."


def _same(given: Opened, facts: Facts) -> str:
    body, own = given.body, _body(facts)
    mine = {**body.model_dump(include={"plan", "events", "claims"}), "schema": body.model.schema_hash}
    mine |= {"kind": body.model.kind, "canaries": body.canaries.findings}
    theirs = {**own, "schema": facts.schema_hash, "kind": facts.kind, "canaries": own["canaries"]["findings"]}
    other = [name for name, value in mine.items() if files.digest(value) != files.digest(theirs[name])]
    demand(not other, f"the model's {', '.join(other)} differ from the certificate's")
    return "its plan, events, claims, schema and canaries are those of the certificate"


_TESTS: dict[str, Callable[[Opened], str]] = {
    "plan": _plan,
    "schema": _schema,
    "events": _events,
}
_SUMS: dict[str, Callable[[Opened], str]] = {
    "epsilon": _epsilon,
    "epsilon if one is replaced": _replaced,
    "guarantee": _guarantee,
    "canaries": _planted,
}
_MODEL_TESTS: dict[str, Callable[[Opened, Facts], str]] = {"model file": _file, "model's contents": _same}


def _unchecked(given: Opened, facts: Facts | None, pin: str | None) -> tuple[str, ...]:
    print_ = keys.fingerprint(given.body.public_key)
    whose = (
        f"whose key {print_} is: compare it with the signer's by another channel, or name it with --key"
        if pin is None
        else f"who holds the key {print_}: you named it"
    )
    return (
        whose,
        *(() if facts else ("the model: no file was given",)),
        "that the code that ran was privae's, unchanged, and released nothing but these events",
        "that bounds and categories of the schema were declared, and not read from the data",
        "that the declared number of rows is public",
        "that nothing else was released of these data: no other fit, under no other ledger",
        "the date, the versions, and the words (not the figures) of findings: they are the signer's",
        *(("that canaries were planted and read as stated",) if given.findings else ()),
    )
