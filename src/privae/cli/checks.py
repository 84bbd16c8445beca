"""The verbs that check: audit tries to break a model, report shows what came of it, certificate and verify prove."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from privae.cli import app, examples, ledgers
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import ArtifactError, AuditFailed, UsageError

if TYPE_CHECKING:
    from privae.audit.suite import Audit
    from privae.report.certificate import Facts, Verdict

_MOST = 2**24  # bytes of a certificate


@app.command(
    epilog=examples(
        "privae audit patients.privae --data patients.csv --holdout holdout.csv --level standard",
        "privae audit patients.privae --data patients.csv -o audit.json      (with the coins of: fit --audit standard)",
        "privae audit --synthetic other_tool.csv --data patients.csv --holdout holdout.csv --schema s.toml",
    )
)
def audit(  # noqa: PLR0913  one parameter an option
    model: given.MaybeModel = None,
    data: given.Members = None,
    holdout: given.Holdout = None,
    synthetic: given.Synthetic = None,
    schema: given.SchemaFile = None,
    level: given.Level = given.AuditLevel.QUICK,
    epsilon: given.Claimed = None,
    delta: given.Delta = None,
    output: given.AuditOutput = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Attack a model, or any tool's synthetic rows, with the data that they were made from. Exit code 5: it failed."""
    out = Terminal(quiet, as_json)
    if data is None:
        raise UsageError(
            "an audit needs --data: the records that the model or the synthetic rows were made from"
        )
    known = schema is not None or epsilon is not None or delta is not None
    if model is not None and (synthetic is not None or known):
        raise UsageError(
            "a model is audited as it is; leave out --synthetic, --schema, --epsilon and --delta"
        )
    with out.progress(f"reading {data.name}") as watch:
        from privae.cli import auditing, request

        request.check_outputs(output, (".json",), [model, data, holdout, synthetic, schema])
        if model is not None:
            done = auditing.of_model(request.load(model), (model, data, holdout), level.value, watch)
        else:
            claim = request.claim_of(epsilon, delta)
            done = auditing.of_samples((data, holdout, synthetic, schema), claim, level.value, watch)
        if output is not None:
            auditing.write(done, output)
    conclude(out, done, output)


@app.command(
    epilog=examples(
        "privae report patients.privae -o report.html --public      (a page to publish)",
        "privae report patients.privae --data patients.csv --holdout holdout.csv -o report.html",
        "privae report patients.privae --data patients.csv --findings audit.json -o report.html --lang zh",
    )
)
def report(  # noqa: PLR0913  one parameter an option
    model: given.Model,
    output: given.Output,
    data: given.Members = None,
    holdout: given.Holdout = None,
    findings: given.FindingsFile = None,
    language: given.Lang = given.Language.EN,
    public: given.Publishable = False,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Write one page that a data-protection officer can read: promise, audit, utility. Needs no network."""
    out = Terminal(quiet, as_json)
    if holdout is not None and data is None:
        raise UsageError("--holdout is compared with --data: give both")
    with out.progress(f"loading {model.name}") as watch:
        from privae import files
        from privae.cli import auditing, request
        from privae.report.page import render

        request.check_outputs(output, (".html",), [model, data, holdout, findings])
        fitted = request.load(model)
        contents = auditing.contents(fitted, auditing.Sources(model, data, holdout, findings), watch)
        watch.phase("drawing the page", 1)
        page = render(contents, language.value, public)
        secret = not public and (data is not None or findings is not None)
        if secret:
            files.write_secretly(output, page.encode())
        else:
            files.write_atomically(output, lambda file: file.write(page.encode()))
    whom = "may be published" if public else "for the data holder only, where it says so"
    out.report(f"wrote {output} ({whom}); open it in a browser", {"output": output, "public": public})


def conclude(out: Terminal, done: "Audit", output: Path | None) -> None:
    """Say what an audit found, and end with exit code 5 if it failed."""
    from privae.cli import telling

    text = telling.audit_text(done) + (f"\nwrote {output}" if output is not None else "")
    out.answer(text, {**done.to_dict(), "output": output})
    verdict(done)


def verdict(done: "Audit | None") -> None:
    """End with exit code 5 if an audit failed."""
    if done is None or done.passed:
        return
    failed = next(finding for finding in done.findings if finding.failed)
    typer.echo(f"privae: the audit failed: {failed.title['en'].lower()}; do not publish this", err=True)
    raise typer.Exit(AuditFailed.exit_code)


@app.command(epilog=examples("privae certificate patients.privae -o certificate.json"))
def certificate(
    model: given.Model, output: given.Output, quiet: given.Quiet = False, as_json: given.AsJson = False
) -> None:
    """Write what a model claims and every event behind it, signed: a file to publish."""
    out = Terminal(quiet, as_json)
    with out.progress(f"loading {model.name}") as watch:
        from privae import files
        from privae.cli import request
        from privae.custody import keys
        from privae.report import certificate as paper

        request.check_outputs(output, (".json",), [model])
        facts = _facts(model)
        key = keys.signing_key()
        if key.created:
            watch.note(f"a signing key was created: {key.path} (keep it, and keep it secret)")
        text = paper.dumps(paper.issue(facts, key))
        files.write_atomically(output, lambda file: file.write(text.encode()))
    signer = {"public_key": key.public, "fingerprint": key.fingerprint}
    kept = {"key_file": key.path, "key_created": key.created}
    promise = facts.guarantee.sentence()
    said = f"{promise}\nwrote {output}, signed by the key {key.fingerprint}; anyone can check it with:\n"
    command = f"  privae verify {output} {model} --key {key.fingerprint}"
    out.report(said + command, {"certificate": output, "sentence": promise, **signer, **kept})


@app.command(
    epilog=examples(
        "privae verify certificate.json patients.privae",
        "privae verify certificate.json patients.privae --key 3f2a90c1d4e5b677",
        "privae verify certificate.json",
    )
)
def verify(
    certificate: given.CertificateFile,
    model: given.MaybeModel = None,
    key: given.Signer = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Check a certificate: who signed, that epsilon follows from its events, and that the model is the one."""
    out = Terminal(quiet, as_json)
    with out.progress(f"checking {certificate.name}"):
        from privae.custody import keys
        from privae.report import certificate as paper

        if key is not None:
            keys.pinned(key)
        content = _content(certificate)
        facts = None if model is None else _facts(model)
        verdict = paper.verify(content, facts, key)
    if verdict.holds:
        out.answer(_told(certificate, verdict), verdict.to_dict())
        return
    _refuse(out, certificate, verdict)


def _refuse(out: Terminal, path: Path, verdict: "Verdict") -> None:
    failed = next(check for check in verdict.checks if not check.ok)
    error = ArtifactError(f"{path} does not hold: {failed.name}: {failed.explanation}")
    fields: dict[str, Any] = {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code,
    }
    out.answer(_told(path, verdict), {**verdict.to_dict(), "error": fields})
    if not out.as_json:
        raise error
    typer.echo(f"privae: {error}", err=True)  # as `fail` does, which would print a second object
    raise typer.Exit(error.exit_code)


def _told(path: Path, verdict: "Verdict") -> str:
    first = f"{path} DOES NOT HOLD" if verdict.claims is None else verdict.claims.sentence()
    checks = [f"  {'ok' if c.ok else 'NO'}  {c.name}: {c.explanation}" for c in verdict.checks]
    return "\n".join(
        [first, "checked:", *checks, "not checked:", *(f"  -   {item}" for item in verdict.unchecked)]
    )


def _facts(path: Path) -> "Facts":
    """What a model file says of itself, and its hash, both of the same bytes."""
    from privae.cli import request
    from privae.report.certificate import Facts, sha256

    before = sha256(path)
    model = request.load(path)
    if sha256(path) != before:
        raise ArtifactError(f"{path} was replaced while it was read; run again")
    fitted, findings = model.fitted_, tuple(model.canary_findings_)
    facts = (model.plan_, model.guarantee, model.ledger, fitted.kind, fitted.schema.hash, before)
    return Facts(*facts, findings=findings)


def _content(path: Path) -> bytes:
    from privae import files

    if files.inner(path).suffix == ".privae":
        raise UsageError(
            f"{path} is a model; name the certificate first: privae verify certificate.json {path}"
        )
    try:
        with files.opened(path) as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'unknown reason').lower()}") from None
    if len(content) > _MOST:
        raise ArtifactError(f"{path} is too large for a certificate; ask for it again")
    return content


@ledgers.command(
    "open",
    epilog=examples(
        "privae ledger open hospital.ledger --epsilon 10 --delta 1e-5",
        "privae ledger open 'postgresql://me@db.example/privacy?ledger=hospital' --epsilon 10 --delta 1e-5",
        "privae fit patients.csv --schema patients.schema.toml --epsilon 3 --ledger hospital.ledger",
    ),
)
def open_ledger(  # noqa: PLR0913  one parameter an option
    place: given.LedgerPlace,
    epsilon: given.Cap,
    delta: given.Delta = None,
    composition: given.HowToAdd = given.Composition.RENYI,
    unit: given.Protected = given.Unit.RECORD,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Start the ledger of a data set: a cap on what all of its fits together may spend.

    A file is one of SQLite, or of lines if its name ends in .jsonl.
    """
    out = Terminal(quiet, as_json)
    with out.progress("opening the ledger"):
        from privae.cli import request
        from privae.log import store
        from privae.privacy.ledger import Ledger

        request.check_outputs(store.file_of(place), (), [])
        made = Ledger.open(place, epsilon, request.delta_of(delta), composition.value, unit=unit.value)
    say_delta(out, delta)
    name = store.shown(place)
    text = f"wrote {name}: fits with --ledger {name} may together spend epsilon {epsilon:g}, delta {made.delta:g}"
    out.report(text, {"ledger": name, "epsilon": epsilon, "delta": made.delta, "head": made.head})


@ledgers.command("show", epilog=examples("privae ledger show hospital.ledger"))
def show_ledger(place: given.LedgerPlace, quiet: given.Quiet = False, as_json: given.AsJson = False) -> None:
    """Show what was spent and granted, what remains, and the head that names the whole ledger."""
    out = Terminal(quiet, as_json)
    with out.progress("reading the ledger"):
        from privae.cli import telling
        from privae.privacy.ledger import Ledger

        read = Ledger.load(place)
    out.answer(telling.ledger_text(read), telling.ledger_fields(read))


def say_delta(out: Terminal, delta: float | None) -> None:
    """Say which delta is used where none was given."""
    if delta is None:
        out.note(
            "delta was not given: 1e-06 is used, which the promise adds to every probability; choose it with --delta"
        )
