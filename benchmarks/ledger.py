"""The log that participants verify: seconds for a study of 1,000 rounds of 5 sites, and for a ledger of 300 plans.

Parts (--only NAME measures one again, in the place of what results/ledger.json holds of it):
  study      the folder of a study, its export, and what a replica needs to grow: in one process, and as a command
  ledger     the ledger of a data set with 300 plans: verified; each entry proved and verified; roots of all sizes
The study is made up and validly signed by five keys, through the library's own functions: statistics and 1,000 steps of
gradients at the block size of fits, one site away every other round. `ratio` is over verifying its Ed25519 signatures
alone, which nobody can save. Seconds are of the processor: the work is one thread's, and the machine may be shared;
`wall` is what a clock showed beside it.
"""

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Part, Report, parser, run

from privae.custodian import leaves
from privae.custody import heads, keys, logs
from privae.custody.keys import SigningKey
from privae.federated import chain
from privae.federated.chain import Account, Step, step_of
from privae.federated.fit import Agreed, Sum
from privae.federated.study import Study
from privae.files import canonical_json
from privae.plan import Phase, Plan, calibrated
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event
from privae.training.state import block_of

WHY = (
    "a command first reads Python's libraries, torch among them, which alone takes longer than the bar",
    "epsilon is composed anew, from the events, for some of the charges; all else is seconds_without_epsilon",
)
NAMES, ROUNDS, PLANS, BAR = ("ares", "bion", "ceto", "doris", "eris"), 1000, 300, 2.0


def plan_of(rounds: int) -> Plan:
    """A plan at epsilon 3 whose sums are so many rounds."""
    rest = {"sensitivity": 1.0, "replace_ratio": 2.0, "size": 1000}
    phases = (
        Phase(name="norms", share=0.1, **rest),
        Phase(name="gradients", kind="gradients", share=0.9, sampling_rate=0.01, steps=rounds - 1, **rest),
    )
    facts = {
        "schema_hash": "ab" * 32,
        "rows_needed": 1,
        "seconds": 1.0,
        "megabytes": 1.0,
        "code_version": "0.1.0",
    }
    noisy = calibrated(phases, 3.0, 0.9e-6)
    return Plan(recipe="gradients", epsilon=3.0, delta=1e-6, phases=noisy, **facts)


def written(folder: Path, rounds: int, hands: dict[str, SigningKey]) -> Path:
    """A study's ledger folder, as its coordinator writes it."""
    plan = plan_of(rounds)
    roster = {name: hands[name].public for name in NAMES}
    study = Study(
        name="bench",
        sites=roster,
        coordinator=hands["desk"].public,
        plan=plan.hash,
        schema_text="{}",
        min_sites=3,
        dropouts=1,
    )
    account, steps = Account(plan, Ledger.fresh(plan.delta)), list[Step]()
    marks: dict[str, dict[str, str]] = {}
    for phase in plan.phases:
        block = block_of(phase.steps)
        for start in range(0, phase.steps, block):
            size = min(block, phase.steps - start)
            account.charge(phase.name, phase.mechanism().event(size, phase.sampling_rate))
            account.written()
            head = account.ledger.head
            marks[head] = {n: hands[n].sign(chain.charged(study, head)) for n in NAMES}
            for step in range(start, start + size):
                away = NAMES[step // 2 % len(NAMES)] if step % 2 else ""
                there = [name for name in NAMES if name != away]
                ask = Sum(phase.name, step, (), 8, np.zeros(1, np.int64))
                steps.append(step_of(ask, step.to_bytes(8, "little"), there, 8, steps))
        steps.append(step_of(Agreed(phase.name, None), b"weights", (), 0, steps))
    model = hashlib.sha256(b"model").hexdigest()
    end = chain.ended(study, chain.head_of(steps), account.ledger.head, model)
    folder.mkdir()
    (folder / "study.toml").write_text(study.dumps())
    (folder / "plan.toml").write_text(plan.dumps())
    (folder / chain.BOOK).write_text(account.ledger.dumps())
    (folder / chain.ROUNDS).write_bytes(b"".join(step.line() for step in steps))
    ends = {name: hands[name].sign(end) for name in NAMES}
    body = {"model": model, "charged": marks, "ended": ends}
    (folder / chain.SIGNATURES).write_bytes(canonical_json(body))
    return folder


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, float, Any]:
    """The least processor seconds, and seconds by the clock, of so many runs; and what came of the last."""
    used, walls, result = [], [], None
    for _ in range(times):
        start, clock = time.process_time(), time.perf_counter()
        result = work()
        used.append(time.process_time() - start)
        walls.append(time.perf_counter() - clock)
    return min(used), min(walls), result


def command(*words: str | Path) -> tuple[float, float]:
    """Processor seconds, and seconds by the clock, of a process from nothing, with its imports; the least of three."""
    found = []
    for _ in range(3):
        before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)
        wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((used, wall))
    return min(used for used, _ in found), min(wall for _, wall in found)


def cold() -> None:
    """Forget what the accountant remembers, as at the start of a process."""
    from privae.privacy import accountant

    for remembered in (accountant._from_loss, accountant._loss, accountant._step_loss, accountant._renyi_of):
        remembered.cache_clear()


def study(report: Report, options: Any) -> None:
    """Folder, export, replica."""
    rounds = ROUNDS // 10 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        hands = {n: keys.signing_key(room / f"{n}.key") for n in (*NAMES, "desk")}
        folder, exported = written(room / "ledger", rounds, hands), room / "log.jsonl"
        first = leaves.read(str(folder)).log
        signed = heads.joined(heads.signed(first.head(), hands[name]) for name in NAMES)
        exported.write_bytes(first.with_heads(signed).dumps())
        signatures = 5 * (2 + len(first.marks["charged"]))
        by_hand = hands["ares"].sign(b"x")
        alone, _, _ = timed(
            lambda: [keys.check(hands["ares"].public, by_hand, b"x") for _ in range(signatures)]
        )
        imports, _ = command("-c", "import privae.custodian.leaves, privae.cli.telling")
        for what, path in (("folder", folder), ("export", exported)):
            seconds, wall, found = timed(lambda path=path: (cold(), leaves.read(str(path)))[1])
            again, _, _ = timed(lambda path=path: leaves.read(str(path)))
            facts = {
                "rounds": rounds,
                "sites": len(NAMES),
                "leaves": found.log.size,
                "signatures": signatures,
            }
            report.row(
                part="study",
                of=what,
                **facts,
                kilobytes=exported.stat().st_size / 1024,
                seconds=seconds,
                wall=wall,
                seconds_without_epsilon=again,
                ratio=seconds / alone,
            )
            report.check(f"seconds to verify a study of {rounds} rounds, {what}", seconds, BAR, "at_most")
            used, wall = command("-m", "privae", "ledger", "verify", path, "--quiet")
            report.row(
                part="study", of=f"command, {what}", seconds=used, wall=wall, seconds_of_imports=imports
            )
        whole = used - imports
        report.check(f"seconds of the command beyond its imports, {rounds} rounds", whole, BAR, "at_most")
        report.check(f"seconds of the command, imports and all, {rounds} rounds", used, BAR, "at_most")
        report.checks[-1]["reason"] = "importing torch and the rest takes longer than verifying"
        half = logs.Log("study", first.leaves[: first.size // 2])
        grown, _, _ = timed(lambda: logs.extended(half, logs.parse(exported.read_bytes(), "log")))
        report.row(part="study", of="replica of half of it, extended", rounds=rounds, seconds=grown)


def ledger(report: Report, options: Any) -> None:
    """One plan of three releases a spend, a third of them sampled."""
    plans = PLANS // 10 if options.quick else PLANS
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "big.ledger"
        made = Ledger.open(path, 8.0, 1e-6)
        kept = Ledger(made.entries, (made.delta, made.unit, made.relation), None)
        for number in range(plans):
            events = [Event(200.0), Event(300.0), Event(40.0 + number % 7, sampling_rate=0.01, steps=100)]
            kept.spend(
                [Charge(f"{number:064x}", "ab" * 32, f"p{i}", event) for i, event in enumerate(events)]
            )
        path.write_text(kept.dumps())
        loading, _, _ = timed(lambda: Ledger.load(path))
        seconds, wall, found = timed(lambda: (cold(), leaves.read(str(path)))[1])
        report.row(
            part="ledger",
            of="verify",
            plans=plans,
            entries=found.log.size,
            epsilon_recomputed=found.recomputed[0],
            seconds=seconds,
            wall=wall,
            ratio_to_loading=seconds / loading,
        )
        report.check(f"seconds to verify a ledger of {plans} plans", seconds, BAR, "at_most")
        log = found.log
        proving, _, proofs = timed(lambda: [log.inclusion(k) for k in range(log.size)], 1)
        checking, _, _ = timed(lambda: [proof.held() for proof in proofs], 1)
        rooting, _, _ = timed(lambda: [log.tree.root(k) for k in range(1, log.size + 1)], 1)
        for of, took in (
            ("prove an entry", proving),
            ("verify a proof", checking),
            ("root of a size", rooting),
        ):
            report.row(part="ledger", of=of, entries=log.size, microseconds=1e6 * took / log.size)


def explained(part: Part) -> Part:
    """A part, with reasons for the targets that it misses."""

    def measured(report: Report, options: Any) -> None:
        part(report, options)
        for check in report.checks:
            if not check["met"]:
                check["reason"] = WHY[0] if "imports and all" in check["name"] else WHY[1]

    measured.__name__ = part.__name__
    return measured


PARTS: tuple[Part, ...] = (explained(study), explained(ledger))


def main() -> None:
    run("ledger", PARTS, parser(__doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
