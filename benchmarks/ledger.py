"""The log that participants verify: seconds for a study of 1,000 rounds of 5 sites, and for a ledger of 1,000 plans.

Parts (--only NAME measures one again, in the place of what results/ledger.json holds of it):
  study      the folder of a study, its export, and what a replica needs to grow: in one process, and as a command
  ledger     the ledger of a data set with 1,000 plans: verified; each entry proved and verified; roots of all sizes
The study is made up and validly signed by five keys, through the library's own functions: statistics and 1,000 steps of
gradients at the block size of fits, each round with one of five sites away in turn. `ratio` is over verifying its
Ed25519 signatures alone, which nobody can save.
"""

import hashlib
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

NAMES, ROUNDS, PLANS, BAR = ("ares", "bion", "ceto", "doris", "eris"), 1000, 1000, 2.0


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
                there = [name for i, name in enumerate(NAMES) if i != len(steps) % (2 * len(NAMES))]
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


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """The least seconds of so many runs, and what came of the last."""
    found, result = [], None
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        found.append(time.perf_counter() - start)
    return min(found), result


def command(*words: str | Path) -> float:
    """Seconds of a command from nothing, with the imports."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "privae", *map(str, words), "--quiet"], check=True, capture_output=True
    )
    return time.perf_counter() - start


def cold() -> None:
    """Forget what the accountant remembers, as at the start of a process."""
    from privae.privacy import accountant

    for remembered in (accountant._loss, accountant._step_loss, accountant._renyi_of):
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
        alone, _ = timed(lambda: [keys.check(hands["ares"].public, by_hand, b"x") for _ in range(signatures)])

        def verify(path: Path) -> Any:
            cold()
            return leaves.read(str(path))

        for what, path in (("folder", folder), ("export", exported)):
            seconds, found = timed(lambda path=path: verify(path))
            again, _ = timed(lambda path=path: leaves.read(str(path)))
            report.row(
                part="study",
                of=what,
                rounds=rounds,
                sites=len(NAMES),
                leaves=found.log.size,
                kilobytes=exported.stat().st_size / 1024,
                signatures=signatures,
                seconds=seconds,
                seconds_warm=again,
                ratio=seconds / alone,
            )
            report.check(f"seconds to verify a study of {rounds} rounds, {what}", seconds, BAR, "at_most")
            whole = min(command("ledger", "verify", path) for _ in range(3))
            start = min(command("--version") for _ in range(3))
            report.row(
                part="study", of=f"command, {what}", rounds=rounds, seconds=whole, of_which_starting=start
            )
            report.check(
                f"seconds of the command from nothing, {rounds} rounds, {what}", whole, BAR, "at_most"
            )
        half = logs.Log("study", first.leaves[: first.size // 2])
        grown, _ = timed(lambda: logs.extended(half, logs.parse(exported.read_bytes(), "log")))
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
        loading, _ = timed(lambda: Ledger.load(path))
        seconds, found = timed(lambda: (cold(), leaves.read(str(path)))[1])
        report.row(
            part="ledger",
            of="verify",
            plans=plans,
            entries=found.log.size,
            epsilon_recomputed=found.recomputed[0],
            seconds=seconds,
            ratio=seconds / loading,
        )
        report.check(f"seconds to verify a ledger of {plans} plans", seconds, BAR, "at_most")
        log = found.log
        proving, proofs = timed(lambda: [log.inclusion(k) for k in range(log.size)], 1)
        checking, _ = timed(lambda: [proof.held() for proof in proofs], 1)
        rooting, _ = timed(lambda: [log.tree.root(k) for k in range(1, log.size + 1)], 1)
        for of, took in (
            ("prove an entry", proving),
            ("verify a proof", checking),
            ("root of a size", rooting),
        ):
            report.row(part="ledger", of=of, entries=log.size, microseconds=1e6 * took / log.size)


PARTS: tuple[Part, ...] = (study, ledger)


def main() -> None:
    run("ledger", PARTS, parser(__doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
