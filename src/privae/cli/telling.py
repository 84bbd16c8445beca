"""Plans, models and ledgers in words, and as fields of a JSON object."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from privae.attacks.finding import CHANNELS
from privae.audit.suite import Audit
from privae.cli.terminal import aligned
from privae.custody.budgets import Account, accounts
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.log import grants
from privae.log.tree import root_of
from privae.plan import Plan
from privae.privacy.guarantee import Guarantee, rounded_up
from privae.privacy.ledger import Entry, Ledger
from privae.privacy.sampling import plural
from privae.series.schema import SeriesSchema
from privae.vae import VAE

_SHORT = 12  # characters of a hash in a table


def plan_text(plan: Plan, *, promise: bool = True) -> str:
    """A plan for a person: phases, noise, expected cost, whether it can work, and what it promises."""
    rows = [("phase", "share", "noise std", "steps", "sampling rate", "numbers")]
    rows += [
        (
            p.name,
            f"{p.share:.0%}",
            f"{p.mechanism().std:.4g}",
            str(p.steps),
            f"{p.sampling_rate:.4g}",
            f"{p.size:,}",
        )
        for p in plan.phases
    ]
    declared = "not declared" if plan.rows is None else f"about {plan.rows:,}"
    lines = [
        f"recipe {plan.recipe}: epsilon {plan.epsilon:g}, delta {plan.delta:g}, {_rows(plan)} {declared}",
        aligned(rows),
        f"expected: about {duration(plan.seconds)} and {plan.megabytes / 1000:.1f} GB of memory, on two cores",
        verdict(plan),
        *(f"note: {note}" for note in plan.notes if not note.startswith("weak:")),
    ]
    return "\n".join([*lines, "", plan.guarantee().sentence()] if promise else lines)


def _rows(plan: Plan) -> str:
    return plural(plan.unit)


def verdict(plan: Plan) -> str:
    """Whether this epsilon can work with the declared rows."""
    if not math.isfinite(plan.epsilon):
        return "can it work: yes, and it is NOT PRIVATE"
    need = f"about {plan.rows_needed:,} {_rows(plan)}"
    if plan.rows is None:
        return f"can it work: from {need} on; declare --rows to be told"
    if plan.rows < plan.rows_needed:
        others = {
            "evaluation": "raise epsilon, or evaluate more",
            "detection": "raise epsilon, or keep fewer columns",
            "ratings": "popularity will recommend",
            "series": "raise epsilon, or find more units",
        }
        instead = others.get(plan.recipe, "raise epsilon, or declare fewer bins")
        return f"can it work: hardly: it needs {need}, and noise will dominate; {instead}"
    return f"can it work: yes; it needs {need}"


def duration(seconds: float) -> str:
    """A rough time.

    >>> duration(8.2), duration(300)
    ('8 s', '5 min')
    """
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def plan_fields(plan: Plan) -> dict[str, Any]:
    """A plan as JSON, with what follows from it."""
    return {
        "plan": plan.model_dump(mode="python"),
        "plan_hash": plan.hash,
        "promise": guarantee_fields(plan.guarantee()),
        "can_work": None if plan.rows is None else plan.rows >= plan.rows_needed,
    }


def guarantee_fields(guarantee: Guarantee) -> dict[str, Any]:
    """A guarantee as JSON, its sentence included."""
    return {"sentence": guarantee.sentence(), **guarantee.to_dict()}


def fitted_text(model: VAE, path: Path) -> str:
    """What a fit ends with: the guarantee in full, notes, and what to do next."""
    image = model.fitted_.kind == "image"
    new, made = ("new.npz", "synthetic.npz") if image else ("new.csv", "synthetic.csv")
    notes = [f"note: {note}\n" for note in (*model.plan_.notes, *getattr(model.fitted_, "notes", ()))]
    return (
        f"{''.join(notes)}{model.guarantee}\n\nwrote {path}; from here on nothing costs budget:\n"
        f"  privae sample {path} -n 1000 -o {made}\n"
        f"  privae score {path} {new} --top 20"
    )


def model_text(model: VAE, path: Path) -> str:
    """What a model is: its records, guarantee, plan and ledger head."""
    facts = model.fitted_.schema
    if isinstance(facts, Schema):
        names = [column.name for column in facts.kept]
        what = f"a table of {len(names)} columns: {', '.join(names)}"
    elif isinstance(facts, SeriesSchema):
        names = [column.name for column in facts.channels]
        what = f"time series, one {facts.unit} a unit: windows of {facts.window} of {', '.join(names)}"
    elif isinstance(facts, RatingSchema):
        by = (
            "what a person likes"
            if model.of_ratings().model.personal
            else "popularity alone: noise hides the rest"
        )
        what = f"preferences among {len(facts.items)} items; it recommends by {by}"
    else:
        labels = f", labels {', '.join(facts.classes)}" if isinstance(facts.classes, tuple) else ""
        what = f"images of {facts.height} x {facts.width} pixels{labels}"
    plan = plan_text(model.plan_, promise=False)
    sites = f"\n\n{federation_text(model.federation_)}" if model.federation_ else ""
    notes = "".join(f"\nnote: {note}" for note in getattr(model.fitted_, "notes", ()))
    return f"{path}: a model of {what}\n\n{model.guarantee}\n\n{plan}{notes}{sites}\n\nledger head: {model.ledger.head}"


def federation_text(facts: Mapping[str, Any]) -> str:
    """How several sites fitted a model, what it cost in noise, and epsilon against those who collude."""
    against = [
        f"{bad}: {rounded_up(float(epsilon))}" for bad, epsilon in facts["epsilon_against_coalitions"].items()
    ]
    found, most = facts.get("epsilon_for_a_person"), facts.get("sites_a_person")
    person = (
        f"\nepsilon for a person with a record at each of {most} sites: {rounded_up(float(found))}"
        if found
        else ""
    )
    masks = "under masks" if facts["masking"] else "WITHOUT masks"
    masks = "on ciphertexts" if facts.get("sum") == "encrypted" else masks
    return (
        f"together: {len(facts['sites'])} sites ({', '.join(facts['sites'])}), summed {masks}, "
        f"each sum of at least {facts['min_sites']}\n"
        f"noise over that of a central fit: {facts['noise_over_central']:.3f} times\n"
        f"epsilon against so many sites and the coordinator: {', '.join(against)}{person}"
    )


def evaluation_text(figures: Mapping[str, Any]) -> str:
    """What noisy counts of scores say of a model, with 95 % intervals over noise and chance."""

    def shown(name: str, found: Mapping[str, float] | None, how: str = ".3f") -> tuple[str, str, str]:
        if found is None:
            return name, "not to be told", ""
        return name, f"{found['value']:{how}}", f"{found['low']:{how}} to {found['high']:{how}}"

    rows = [("figure", "value", "95 %")]
    for name, found in figures["records"].items():
        rows.append((f"records, {name}", f"{found['value']:,.0f}", f"noise of {found['noise_95']:,.0f}"))
    for share, found in figures["stranger_than_own"].items():
        rows.append(shown(f"stranger than {1 - float(share):.0%} of the model's own samples", found))
    for share, found in figures["thresholds"].items():
        rows.append(shown(f"score that {float(share):.0%} are below", found, "g"))
    rows += [shown(f"AUC of strangeness, {name}", found) for name, found in figures["auc"].items()]
    return aligned(rows)


def model_fields(model: VAE) -> dict[str, Any]:
    """A model as JSON: everything in it but its weights."""
    schema = model.fitted_.schema
    facts = schema.to_dict() if isinstance(schema, Schema) else schema.model_dump()
    own = {"kind": model.fitted_.kind, "schema": facts, "guarantee": guarantee_fields(model.guarantee)}
    ledger = {"ledger_head": model.ledger.head, "ledger": entries(model.ledger)}
    federation = {"federation": model.federation_ or None}
    return {**own, **plan_fields(model.plan_), **ledger, **federation}


def ledger_text(ledger: Ledger) -> str:
    """The entries of a ledger, what was spent, what is left, its grants, and its head."""
    rows = [("entry", "date", "phase", "plan", "attempt", "epsilon so far")]
    rows += [
        (str(e.index), e.time, _phase(e), e.plan_hash[:_SHORT] or "-", str(e.attempt), f"{e.epsilon:.4g}")
        for e in ledger.entries
    ]
    spent = f"spent: epsilon {ledger.epsilon:.4g} at delta {ledger.delta:g}"
    if ledger.cap is not None:
        of = "for one more plan" + (", of what no grant has set aside" if ledger.grants else "")
        spent += f", of {ledger.cap.epsilon:g}\nremaining: epsilon {ledger.remaining:.4g}, {of}"
        spent += "\nclosed: nothing may be charged any more" if grants.closing(ledger.entries) else ""
        spent += _grants_text(accounts(ledger))
    size = f"{len(ledger.entries)} entries, Merkle root {_root(ledger)}"
    return f"{aligned(rows)}\n\n{spent}\nhead: {ledger.head}\n{size}"


def _phase(entry: Entry) -> str:
    """What an entry is about, and the grant that it was charged to."""
    name = grants.under(entry)
    return f"{entry.phase} [{name}]" if name else entry.phase


def _grants_text(found: Sequence[Account]) -> str:
    rows = [("grant", "epsilon", "delta", "spent", "left")]
    rows += [
        (
            a.grant.name,
            f"{a.grant.epsilon:g}",
            f"{a.grant.delta:g}",
            f"{a.spent:.4g}",
            "closed" if a.grant.closed else f"{a.left:.4g}",
        )
        for a in found
    ]
    return f"\n\n{aligned(rows)}\n" if found else ""


def ledger_fields(ledger: Ledger) -> dict[str, Any]:
    """A ledger as JSON."""
    cap = ledger.cap
    figures = {
        "epsilon": ledger.epsilon,
        "remaining": ledger.remaining,
        "delta": ledger.delta,
        "head": ledger.head,
        "closed": bool(grants.closing(ledger.entries)),
        "grants": [asdict(a.grant) | {"spent": a.spent, "left": a.left} for a in accounts(ledger)],
        "size": len(ledger.entries),
        "root": _root(ledger),
    }
    return {**figures, "cap": None if cap is None else cap.epsilon, "entries": entries(ledger)}


def _root(ledger: Ledger) -> str:
    return root_of(entry.line() for entry in ledger.entries).hex()


def entries(ledger: Ledger) -> list[dict[str, Any]]:
    """The entries of a ledger as JSON."""
    return [entry.model_dump(mode="python") for entry in ledger.entries]


def audit_text(audit: Audit) -> str:
    """An audit for the data holder: its verdict, a line a finding, what failed in words, and what did not run."""
    rows = [("channel", "attack", "measure", "value", "interval", "could show", "")]
    rows += [
        (
            CHANNELS[f.channel]["en"],
            f.title["en"],
            f.measure,
            "none to test" if math.isnan(f.value) else f"{f.value:.3g}",
            f"{f.low:.3g} to {f.high:.3g}",
            "" if f.power is None else f"{f.power:.3g}",
            "FAILED" if f.failed else "ok",
        )
        for f in audit.findings
    ]
    accounted = "" if audit.epsilon is None else f", accounted epsilon {audit.epsilon:.4g}"
    if audit.epsilon == math.inf:
        accounted = ", nothing is promised (epsilon inf), so no lower bound can fail"
    head = f"audit ({audit.level}): {'passed' if audit.passed else 'FAILED'}{accounted}, {duration(audit.seconds)}"
    lines = [f"{head}; for the data holder only", aligned(rows)]
    lines += [f"FAILED: {finding.meaning['en']}" for finding in audit.findings if finding.failed]
    lines += [f"not run: {skipped.attack}: {skipped.reason['en']}" for skipped in audit.skipped]
    return "\n".join(lines)


def audit_line(audit: Audit, written: Path) -> str:
    """The audit that ended a fit, in a line, and what failed in words."""
    missing = sum("--holdout" in skipped.reason["en"] for skipped in audit.skipped)
    nothing = " (nothing is promised, so no lower bound can fail)" if audit.epsilon == math.inf else ""
    lacks = f", {missing} attacks need records that were kept out (--holdout FILE)" if missing else ""
    line = (
        f"audit ({audit.level}): {'passed' if audit.passed else 'FAILED'}{nothing}: {len(audit.findings)} findings"
        f"{lacks}; for the data holder only: {written}"
    )
    return "\n".join([line, *(f"FAILED: {f.meaning['en']}" for f in audit.findings if f.failed)])
