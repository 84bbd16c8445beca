"""One verb a function. A verb imports what it needs when it runs, so that --help does not wait for torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from privae.cli import app, checks, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import UsageError

if TYPE_CHECKING:
    from privae.audit.coins import Coins
    from privae.audit.suite import Audit, Level
    from privae.plan import Plan
    from privae.privacy.ledger import Ledger
    from privae.training.group import Group
    from privae.training.watch import Watch
    from privae.vae import VAE


@app.command(
    epilog=examples(
        "privae demo                   a table of people", "privae demo digits            images of digits"
    )
)
def demo(
    example: given.Which = given.Example.ADULT,
    output: given.Folder = Path("demo"),
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Fit packaged public data, and show real beside synthetic."""
    from privae.cli import demo as shown

    show = shown.digits if example is given.Example.DIGITS else shown.adult
    show(Terminal(quiet, as_json), output)


@app.command(
    epilog=examples(
        "privae schema patients.csv -o patients.schema.toml",
        "privae schema public_sample.csv --public -o s.toml",
    )
)
def schema(
    table: given.Table,
    public: given.Public = False,
    output: given.MaybeOutput = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Draft the public facts of a table, for you to complete, and say which columns look like identifiers."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {table.name}") as watch:
        from privae import files
        from privae.cli import request
        from privae.data.drafting import draft, draft_toml
        from privae.data.tables import read_table
        from privae.deidentify import detect

        if request.is_images(table):
            raise UsageError("images need no schema; declare their labels with --classes, if they have any")
        request.check_outputs(output, (".toml",), [table], replace=False)
        frame = read_table(table)
        findings = detect.detect(frame, watch)
        looks = detect.beside(findings)
        drafted = draft(frame, public=public, looks=looks)
        text = draft_toml(drafted, looks)
        if output is not None:
            files.write_atomically(output, lambda file: file.write(text.encode()))
    found = [finding.to_dict() for finding in findings]
    fields = {"schema": drafted.to_dict(), "origin": drafted.origin, "output": output, "findings": found}
    if output is None:
        out.answer(text.rstrip(), fields)
        return
    todo = "check what was read from the rows" if public else "declare the bounds and categories in it"
    then = f"wrote {output}: {todo}, then:\n  privae plan {table} --schema {output} --epsilon 1"
    seen = detect.summary(findings)
    out.report(f"{seen}\n\n{then}" if seen else then, fields)


@app.command(
    epilog=examples(
        "privae plan patients.csv --schema patients.schema.toml --epsilon 3 --rows 20000 -o plan.toml",
        "privae plan digits.npz --classes 10 --epsilon 1 --delta 1e-5 --rows 60000",
        "privae plan patients.schema.toml --epsilon 3 --rows 900 -o plan.toml",
        "privae plan patients.privae --epsilon 0.5 --rows 900 -o evaluation.toml",
    )
)
def plan(  # noqa: PLR0913  one parameter an option
    data: given.Planned,
    schema: given.SchemaFile = None,
    epsilon: given.Epsilon = None,
    delta: given.Delta = None,
    rows: given.Rows = None,
    classes: given.Classes = None,
    recipe: given.HowToFit = None,
    fidelity: given.Fidelity = None,
    activation: given.Activated = None,
    share: given.Shared = None,
    local_steps: given.LocalSteps = None,
    strict: given.Strict = False,
    output: given.MaybeOutput = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Say what a fit would spend, and whether it can work. Reads the header and no record."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading the header of {data.name}") as watch:
        from privae import files
        from privae.cli import request, telling

        between = share, local_steps
        asked = request.Request(
            data, schema, epsilon, delta, rows, classes, recipe, fidelity, strict, activation, between
        )
        request.check_outputs(output, (".toml",), [data, schema])
        made = asked.plan(watch)
        if output is not None:
            made.save(output)
    checks.say_delta(out, delta)
    text, fields = telling.plan_text(made), {**telling.plan_fields(made), "output": output}
    if output is None:
        out.answer(text, fields)
        return
    option = f" --schema {schema}" if schema else f" --classes {classes}" if classes else ""
    then = f"privae fit {data}{option} --plan {output}"
    shared = files.inner(data).suffix in (".toml", ".privae")
    then = f'name it in a study: plan = "{output}"' if shared else f"follow it with: {then}"
    out.report(f"{text}\n\nwrote {output}; {then}", fields)


@app.command(
    epilog=examples(
        "privae fit patients.csv --schema patients.schema.toml --epsilon 3 --rows 20000 -o patients.privae",
        "privae fit patients.csv --schema patients.schema.toml --plan plan.toml --ledger hospital.ledger",
        "privae fit patients.csv --schema patients.schema.toml --epsilon 1 --ledger hospital.ledger --grant cardiology",
        "privae fit digits.npz --classes 10 --epsilon 1 --delta 1e-5 --rows 60000 -o digits.privae",
        "privae fit patients.csv --schema patients.schema.toml --plan plan.toml --resume",
    )
)
def fit(  # noqa: PLR0913  one parameter an option
    data: given.Data,
    schema: given.SchemaFile = None,
    epsilon: given.Epsilon = None,
    delta: given.Delta = None,
    rows: given.Rows = None,
    classes: given.Classes = None,
    plan: given.PlanFile = None,
    ledger: given.Charged = None,
    grant: given.Granted = "",
    recipe: given.HowToFit = None,
    fidelity: given.Fidelity = None,
    strict: given.Strict = False,
    resume: given.Resume = False,
    device: given.Device = "cpu",
    audit: given.AuditOf = given.AuditKind.QUICK,
    holdout: given.Holdout = None,
    identifier_ok: given.IdentifierOk = None,
    output: given.ModelOutput = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Spend the budget once, and write a model; everything afterwards is free. Exit code 5: its audit failed."""
    with (out := Terminal(quiet, as_json)).progress(f"reading the header of {data.name}") as watch:
        from privae.cli import request
        from privae.training.group import processes

        asked = request.Request(data, schema, epsilon, delta, rows, classes, recipe, fidelity, strict)
        with processes(device) as group:
            kept = {"resume": resume, "identifier_ok": identifier_ok or ()}
            target, places = _places((output, data), [schema, plan, holdout], (ledger, grant), group, kept)
            facts, model, agreed = asked.made(plan, watch)
            watch.phase(f"reading {data.name}", 1)
            (x, y), held = request.read(data), request.read_alike(holdout, data, facts)
            checks.say_delta(out, delta if plan is None else agreed.delta)
            coins = _coins(out, audit, agreed, target, (holdout is None, resume))
            with request.resumable(places["checkpoint"], out.note):
                model.fit(x, y, schema=facts, plan=agreed, watch=watch, device=device, coins=coins, **places)
                _save(model, target, coins, places["ledger"], out, watch)
        done = _audited(model, target, (x, y, held), audit, coins, watch)
    _say_fitted(out, model, target, done, ledger)


@app.command(
    epilog=examples(
        "privae sample patients.privae -n 10000 -o synthetic.csv      (.parquet, too)",
        "privae sample digits.privae -n 60000 -o synthetic.npz",
    )
)
def sample(
    model: given.Model,
    output: given.Output,
    count: given.Count = None,
    seed: given.Seed = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Draw synthetic records."""
    out = Terminal(quiet, as_json)
    with out.progress(f"loading {model.name}") as watch:
        from privae.cli import request
        from privae.data.images import write_images
        from privae.data.tables import write_table

        request.check_outputs(output, (*request.TABLES, *request.IMAGES), [model])
        fitted = request.load(model)
        request.check_kind(fitted, output, "makes")
        watch.phase("drawing records", 1)
        made = fitted.sample(count, seed)
        if request.is_images(output):
            write_images(output, *(made if isinstance(made, tuple) else (made, None)))
        else:
            write_table(made, output)
    drawn, promise = len(made[0] if isinstance(made, tuple) else made), fitted.guarantee.sentence()
    warning = "" if fitted.guarantee.holds else f"{promise}\n"
    fields = {"output": output, "records": drawn, "guarantee": promise}
    what = "rows" if fitted.fitted_.kind in ("ratings", "series") else "records"
    out.report(f"{warning}wrote {drawn} synthetic {what} to {output}", fields)


@app.command(epilog=examples("privae inspect patients.privae", "privae inspect patients.privae --json"))
def inspect(model: given.Model, quiet: given.Quiet = False, as_json: given.AsJson = False) -> None:
    """Say what a model is: its guarantee, its plan, the head of its ledger."""
    out = Terminal(quiet, as_json)
    with out.progress(f"loading {model.name}"):
        from privae.cli import request, telling

        fitted = request.load(model)
    out.answer(telling.model_text(fitted, model), telling.model_fields(fitted))


def _places(
    written: tuple[Path | None, Path],
    others: list[Path | None],
    charged: tuple[str | None, str],
    group: "Group",
    how: dict[str, Any],
) -> tuple[Path, dict[str, Any]]:
    """Where a fit writes its model, and what it is kept in: the ledger, or a grant of it, and the checkpoint."""
    from privae.cli import request
    from privae.custody import budgets
    from privae.log import store

    target = request.target_of(*written, [*others, store.file_of(charged[0])])
    shared = budgets.to_charge(*charged, group)
    kept = request.checkpoint_of(target, resume=how["resume"])
    return target, {"ledger": shared, "checkpoint": kept, **how}


def _save(
    model: "VAE", target: Path, coins: "Coins | None", shared: "Ledger | None", out: Terminal, watch: "Watch"
) -> None:
    """Write a model, and into the ledger which charge it is of."""
    from privae.cli import auditing
    from privae.custody import budgets

    auditing.save(model, target, coins, watch)
    budgets.note_release(shared, target, out.note)


def _coins(
    out: Terminal, audit: given.AuditKind, plan: "Plan", target: Path, how: tuple[bool, bool]
) -> "Coins | None":
    """The coins of a fit whose audit plants canaries. how: whether they split a hold-out off, and resume a fit."""
    from privae.audit.persons import UNDECLARED
    from privae.cli import auditing
    from privae.privacy.sampling import PERSON
    from privae.recipes.phases import CATEGORIES

    planting, (split, resume) = audit is given.AuditKind.STANDARD, how
    if planting and plan.unit == PERSON and plan.phase(CATEGORIES) is not None:
        raise UsageError(UNDECLARED)  # before coins are thrown and kept
    coins = auditing.coins_for(plan.rows, target, planting=planting, split=split, resume=resume)
    if coins is not None:
        out.note(auditing.coins_text(coins, plan.delta))
    return coins


def _audited(
    model: "VAE",
    target: Path,
    data: tuple[Any, Any, Any],
    audit: given.AuditKind,
    coins: "Coins | None",
    watch: "Watch",
) -> "Audit | None":
    """The audit that ends a fit."""
    from privae.cli import auditing

    levels: dict[given.AuditKind, Level] = {
        given.AuditKind.QUICK: "quick",
        given.AuditKind.STANDARD: "standard",
    }
    return auditing.after_fit(model, target, data, levels.get(audit), coins, watch)


def _say_fitted(out: Terminal, model: "VAE", target: Path, done: "Audit | None", ledger: str | None) -> None:
    from privae.cli import auditing, telling
    from privae.log import store

    plan = model.plan_
    fields = {"model": target, "guarantee": telling.guarantee_fields(model.guarantee), "notes": plan.notes}
    text = telling.fitted_text(model, target)
    if done is not None:
        text = f"{text}\n\n{telling.audit_line(done, auditing.audit_file(target))}"
    # privacy: findings on records stay in their file, for what is printed may be a job's log
    found = None if done is None else {"passed": done.passed, "file": auditing.audit_file(target)}
    out.report(
        text, {**fields, "plan_hash": plan.hash, "ledger": ledger and store.shown(ledger), "audit": found}
    )
    checks.verdict(done)
