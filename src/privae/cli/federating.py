"""The verbs of a study: what its terms cost, all of it in one process, its kits, a site's key, and the run itself."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from privae.cli import examples, federated
from privae.cli import options as given
from privae.cli.terminal import Terminal, aligned
from privae.errors import UsageError

if TYPE_CHECKING:
    from privae.federated.study import Study
    from privae.plan import Plan

_EVERY = 10.0  # seconds between lines of a long phase, where there is no terminal to draw on

StudyFile = Annotated[Path, given.argument("STUDY", "Who fits together, and on which terms (.toml).")]
AgreedPlan = Annotated[
    Path, given.argument("PLAN", "The plan that the study names, written by: privae plan -o.")
]
KeyFile = Annotated[Path, given.argument("KEY", "The file of the key; made if it is not there.")]
Shared = Annotated[
    bool,
    given.option(
        "--consortium",
        text="Make a key that all sites share, for sums on ciphertexts; never for the coordinator.",
    ),
]
Kit = Annotated[Path, given.option("--kit", text="The admin's folder, of those that init wrote.")]
KitFolder = Annotated[Path, given.option("--output", "-o", text="A new folder for the kits. Default: kits.")]
Results = Annotated[
    Path, given.option("--output", "-o", text="A folder for the results. Default: federated.")
]
Host = Annotated[
    str, given.option("--host", text="The coordinator's machine, as the sites reach it. Default: localhost.")
]
Port = Annotated[int, given.option("--port", text="The one port that the coordinator opens. Default: 8002.")]

AllData = Annotated[Path, given.option("--data", text="The records of all sites: a table, or images.")]
Split = Annotated[
    str, given.option("--split", text="Who gets which: even, label, or a column that names the sites.")
]
Simulated = Annotated[Path, given.option("--output", "-o", text="A new folder for the results.")]


@federated.command(epilog=examples("privae federated plan study.toml"))
def plan(study: StudyFile, quiet: given.Quiet = False, as_json: given.AsJson = False) -> None:
    """Say what a study's terms cost: its noise beside a central fit's, and epsilon against those who collude."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {study.name}"):
        from privae.federated.study import Terms

        terms = Terms.load(study)
        nobody = {name: f"the key of {name}" for name in terms.sites}
        agreed, made = terms.study(nobody, "not made yet"), terms.plan_of()
        text, fields = _text(agreed, made), agreed.facts(made, "")
    out.answer(text, {name: value for name, value in fields.items() if name not in ("rounds", "study")})


@federated.command(
    epilog=examples(
        "privae federated simulate study.toml --data all.csv --split site",
        "privae federated simulate study.toml --data digits.npz --split label -o trial",
    )
)
def simulate(  # noqa: PLR0913  one parameter an option
    study: StudyFile,
    data: AllData,
    split: Split = "even",
    identifier_ok: given.IdentifierOk = None,
    output: Simulated = Path("simulated"),
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Fit a study in one process: the same code and the same messages, without a network."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {study.name}") as watch:
        from privae import files
        from privae.cli import request
        from privae.deidentify.table import check_learned
        from privae.federated.study import Terms
        from privae.sealing.identities import check_reopened
        from privae.transport.simulate import parted
        from privae.transport.simulate import simulate as simulated

        check_reopened("the result of a study")

        _check_new(output)
        files.check_writable(output / "model.privae") if output.is_dir() else files.check_writable(output)
        terms = Terms.load(study)
        facts = terms.schema_of()
        watch.phase(f"reading {data.name}", 1)
        records = request.read(data)
        check_learned(records[0], facts, identifier_ok or ())
        parts = parted(records, tuple(terms.sites), split, facts)
        made = simulated(terms, parts, output, watch)
        said, told = _result(output, made.coordinator.plan)
    fields: dict[str, Any] = made.study.facts(made.coordinator.plan, "")
    done = f"{said}\nand {output / 'ledger'}; check it with:"
    text = f"{_text(made.study, made.coordinator.plan)}\n\n{done} privae ledger verify {output / 'ledger'}"
    out.report(text, {**fields, **told, "ledger": output / "ledger"})


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists, and results are never overwritten; name another folder with -o")


def _text(study: "Study", plan: "Plan") -> str:
    from privae.cli import telling

    least = min(circle.need for circle in study.circles(0))
    rows = [("terms", "")]
    rows += [
        ("plan", f"{plan.recipe}, epsilon {plan.epsilon:g}, delta {plan.delta:g}, hash {plan.hash[:16]}"),
        ("each sum", f"of at least {least} of {len(study.sites)} sites; {study.dropouts} may vanish"),
        ("gradients train", study.share if any(p.kind == "gradients" for p in plan.phases) else "nothing"),
    ]
    return f"study {study.name}\n{aligned(rows)}\n{telling.federation_text(study.facts(plan, ''))}"


@federated.command(
    epilog=examples(
        "privae federated init study.toml --host fit.example.org",
        "privae federated run plan.toml --kit kits/admin",
    )
)
def init(
    study: StudyFile,
    output: KitFolder = Path("kits"),
    host: Host = "localhost",
    port: Port = 8002,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Make one folder for each who takes part: a site, the coordinator, and the admin."""
    out = Terminal(quiet, as_json)
    with out.progress(f"making kits from {study.name}"):
        from privae.transport import kits

        made = kits.provision(study, output, host, port)
    todo = "its administrator edits local/site.toml, and runs startup/start.sh"
    rows = [("folder", "what happens with it")]
    rows += [
        (str(kit), todo + (" with the site's own key" if name in made.own else ""))
        for name, kit in made.sites.items()
    ]
    rows += [
        (str(made.coordinator), f"runs on {host}: startup/start.sh"),
        (str(made.admin), "stays with you"),
    ]
    then = f"then: privae federated run PLAN --kit {made.admin}"
    fields = {
        "study": made.study.hash,
        "sites": made.sites,
        "coordinator": made.coordinator,
        "admin": made.admin,
    }
    out.report(f"{aligned(rows)}\n{then}", fields)


@federated.command(
    epilog=examples("privae federated key site.key", "privae federated key consortium.key --consortium")
)
def key(
    path: KeyFile, consortium: Shared = False, quiet: given.Quiet = False, as_json: given.AsJson = False
) -> None:
    """Make a site's own signing key, and print the public key that goes into the study.

    With --consortium: the key that all sites share where the study says sum = "encrypted". One site makes it, and
    gives the file to the other sites, never to the coordinator; its name goes into the study, as consortium.
    """
    from privae.ckks.summation import name_of
    from privae.custody.keys import signing_key
    from privae.federated.policy import consortium_key

    out = Terminal(quiet, as_json)
    if consortium:
        created = not path.exists()
        name = name_of(consortium_key(path, make=created))
        out.answer(name, {"key": path, "consortium": name, "created": created})
        return
    made = signing_key(path)
    out.answer(made.public, {"key": path, "public": made.public, "created": made.created})


@federated.command(epilog=examples("privae federated run plan.toml --kit kits/admin -o results"))
def run(
    plan: AgreedPlan,
    kit: Kit,
    output: Results = Path("federated"),
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Fit with all sites, and fetch the model; the same command again goes on after a crash or an interrupt."""
    out = Terminal(quiet, as_json)
    with out.progress(f"reading {plan.name}"):
        from privae.plan import Plan
        from privae.sealing.identities import check_reopened
        from privae.transport import apps, jobs

        check_reopened("the result of a study")
        job = _job(plan, kit, output)
    last: dict[str, Any] = {}
    with (
        board(out) as shown,
        closing(apps.AdminDesk(kit)) as desk,
        closing(jobs.run(desk, job, output)) as told,
    ):
        for last in told:
            shown.show(last)
    said, fields = _result(output, Plan.load(plan))
    out.report(said, {**last, **fields, "ledger": output / "ledger"})


def _result(folder: Path, plan: "Plan") -> tuple[str, dict[str, Any]]:
    """What a study ended with, as text and fields: a model, or what was found of one."""
    from privae import files
    from privae.cli import request, telling
    from privae.federated.chain import result_of

    path = folder / result_of(plan)
    promise = plan.guarantee().sentence()
    if path.suffix == ".json":
        figures = json.loads(files.content(path))["figures"]
        text = f"{telling.evaluation_text(figures)}\n\nwrote {path}: {promise}"
        return text, {"evaluation": path, "figures": figures, "guarantee": promise}
    promise = request.load(path).guarantee.sentence()
    return f"wrote {path}: {promise}", {"model": path, "guarantee": promise}


def _job(plan: Path, kit: Path, output: Path) -> Any:  # noqa: ANN401  a jobs.Job, which is not loaded for --help
    """The job of the kit's study. Errors: UsageError where the results are to go over those of another study."""
    from privae import files
    from privae.federated.study import Study
    from privae.plan import Plan
    from privae.transport.jobs import Job

    study, agreed = Study.loads(files.text_in(kit / "local" / "study.toml")), Plan.load(plan)
    study.check(agreed)
    before = output / "study.toml"
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is not a folder; name one for the results")
    if before.exists() and files.text_in(before) != study.dumps():
        raise UsageError(f"{output} holds the results of another study; name a new folder with -o")
    return Job.of(study, agreed, files.text_in(plan))


class Board:
    """What the sites of a running study do: drawn on a terminal, in lines where there is none, or not at all."""

    def __init__(self, out: Terminal, live: Live | None) -> None:
        self._out, self._live = out, live
        self._before: dict[str, str] = {}
        self._last = 0.0

    def show(self, status: Mapping[str, Any]) -> None:
        """Show a status."""
        if self._live:
            self._live.update(drawn(status))
            return
        rows = {"": _head(status), "note": str(status.get("note") or ""), **_trouble(status)}
        news = [f"{name}: {text}".removeprefix(": ") for name, text in rows.items() if self._new(name, text)]
        for line in news:
            self._out.note(line)
        self._before |= rows

    def _new(self, name: str, text: str) -> bool:
        """Whether a line is to be told: once, and of the head now and then."""
        if not text or self._before.get(name) == text:
            return False
        if name or time.monotonic() - self._last > _EVERY:
            self._last = self._last if name else time.monotonic()
            return True
        return False


@contextmanager
def board(out: Terminal) -> Iterator[Board]:
    """A board on which to show what a study does."""
    if out.quiet or out.as_json or not sys.stderr.isatty():
        yield Board(out, None)
        return
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        yield Board(out, live)


def drawn(status: Mapping[str, Any]) -> Group:
    """A status as a person sees it."""
    table = Table.grid(padding=(0, 2))
    for name, word in status.get("sites", {}).items():
        bad = str(word).startswith(("refuses", "does not", "away"))
        table.add_row("", Text(str(name)), Text(str(word), style="yellow" if bad else "green"))
    note = str(status.get("note") or "")
    return Group(Text(_head(status), style="bold"), table, *([Text(note, style="yellow")] if note else []))


def _head(status: Mapping[str, Any]) -> str:
    """The phase, the step, and what was spent so far.

    >>> _head({"phase": "moments", "step": 0, "steps": 1, "stage": "keys", "epsilon": 0.5, "unit": "record"})
    'moments, keys; epsilon so far 0.5 for a record'
    """
    if status.get("done"):
        return "done"
    if not status.get("phase"):
        return "the coordinator computes" if status.get("query") else "starting"
    steps = int(status.get("steps") or 1)
    step = f", step {int(status.get('step') or 0) + 1} of {steps}" if steps > 1 else ""
    stage = f", {status['stage']}" if status.get("stage") else ""
    epsilon = float(status.get("epsilon") or 0)
    spent = (
        f"epsilon so far {epsilon:.3g} for a {status.get('unit')}"
        if math.isfinite(epsilon)
        else "without noise"
    )
    return f"{status['phase']}{step}{stage}; {spent}"


def _trouble(status: Mapping[str, Any]) -> dict[str, str]:
    """Sites that refuse, or are away, and what they say."""
    words = {str(name): str(word) for name, word in status.get("sites", {}).items()}
    return {name: word for name, word in words.items() if word.startswith(("refuses", "does not", "away"))}
