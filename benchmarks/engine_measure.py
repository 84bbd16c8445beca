"""One process of benchmarks/engine.py: times engines side by side, or measures the memory of each in a child.

`python engine_measure.py '{"question": "time", "model": "mlp", "batch": 256, ...}'` prints a JSON object a row.
"""

import json
import math
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from engine_models import KINDS, model_of, product_flops, records_of
from engine_steps import ENGINES, PLAIN, Case, Cost, Run, load_compiled, loss_of
from torch.profiler import ProfilerActivity, profile

from privae.training.launch import keep_freed_memory

Row = dict[str, Any]
_BURST = 0.1  # seconds of a burst of the base: the machine must not change its speed within a pair
_MOST_STEPS, _LEAST_ROUNDS, _MOST_ROUNDS = 16, 3, 12
_SLOW = 8.0  # times the base: such an engine runs one step a burst, in the first rounds only
_PATIENCE = 20.0  # seconds for the bursts of a slow engine, but two at least
_PRODUCTS = {
    f"aten::{name}" for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "mv", "addmv_")
}
_SIDE = 1024  # of the square matrices whose product is the roof


@dataclass(frozen=True)
class Job:
    """What one process measures.

    base: the engine that ratios refer to. seconds: for the rounds of all engines. before: steps of a burst that are
    not timed; none where a step takes so long that starting costs nothing beside it.
    """

    question: str
    model: str
    batch: int
    threads: int = 1
    engines: tuple[str, ...] = ()
    base: str = PLAIN
    seconds: float = 6.0
    before: int = 1
    profiled: tuple[str, ...] = ()

    @property
    def case(self) -> Case:
        """The cell of the benchmark."""
        return Case(self.model, self.batch)

    @property
    def fields(self) -> Row:
        """What every row of this job repeats."""
        return {"model": self.model, "batch": self.batch, "threads": self.threads, "base": self.base}


@dataclass(frozen=True)
class Pair:
    """Costs of a step of an engine and of the base, in bursts one right after the other."""

    own: Cost
    base: Cost


def settle() -> None:
    """Wait until no thread of this process works any more, so that an engine's background is not on another's bill."""
    for _ in range(1000):
        before = time.process_time()
        time.sleep(0.002)
        if time.process_time() - before < 0.0003:
            return


def burst(run: Run, steps: int, before: int = 1) -> Cost:
    """Cost of a step, of `steps` after `before` untimed ones: caches and prefetched noise are as in the long run."""
    settle()
    cost = run(before, steps)
    return Cost(cost.cpu / steps, cost.wall / steps)


def interleave(runs: dict[str, Run], base: Run, seconds: float, before: int = 1) -> dict[str, list[Pair]]:
    """Bursts of every engine, each right after a burst of the base, in rounds until the seconds are over."""
    first = burst(base, 2)
    steps = min(math.ceil(_BURST / first.wall), _MOST_STEPS)
    slow = {name for name, run in runs.items() if _is_slow(run, first)}
    found: dict[str, list[Pair]] = {name: [] for name in runs}
    start, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or (rounds < _MOST_ROUNDS and time.perf_counter() - start < seconds):
        for name, run in runs.items():
            if name in slow and _enough(found[name]):
                continue
            reference = burst(base, steps, before)
            own = burst(run, 1, 0) if name in slow else burst(run, steps, before)
            found[name].append(Pair(own, reference))
        rounds += 1
    return found


def _is_slow(run: Run, base: Cost) -> bool:
    """Whether a step takes many times the base's; a first step that does may only have been loading libraries."""
    return all(burst(run, 1, 0).cpu > _SLOW * base.cpu for _ in range(2))


def _enough(pairs: list[Pair]) -> bool:
    return len(pairs) >= _LEAST_ROUNDS or (
        len(pairs) > 1 and sum(pair.own.wall for pair in pairs) > _PATIENCE
    )


def times(pairs: list[Pair]) -> Row:
    """Ratios (median over the rounds of a burst to the base's burst before it) and milliseconds (the least)."""
    return {
        "cpu_ms": 1e3 * min(pair.own.cpu for pair in pairs),
        "wall_ms": 1e3 * min(pair.own.wall for pair in pairs),
        "cpu_ratio": median(pair.own.cpu / pair.base.cpu for pair in pairs),
        "wall_ratio": median(pair.own.wall / pair.base.wall for pair in pairs),
        "rounds": len(pairs),
    }


class Roof:
    """The rate of a large matrix product, as one more engine that takes its turn."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.left = torch.randn(_SIDE, _SIDE).to(dtype)
        self.right = torch.randn(_SIDE, _SIDE).to(dtype)

    def __call__(self, before: int, steps: int) -> Cost:
        """See Run."""
        for _ in range(before):
            self.left @ self.right
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            self.left @ self.right
        return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def _rate(row: Row) -> float:
    return 2e-6 * _SIDE**3 / float(row["cpu_ms"])  # GFLOP a second of processor time


def measure(job: Job) -> Iterator[Row]:
    """Rows of a timing job: one an engine, failures as reasons, and profiles."""
    runs: dict[str, Run] = {}
    for name in (job.base, *job.engines):
        try:
            runs[name] = ENGINES[name](job.case)
            runs[name](0, 1)
        except Exception as error:  # noqa: BLE001 - an engine that cannot train this model is a finding
            runs.pop(name, None)
            yield {"question": "failed", **job.fields, "engine": name, "reason": _reason(error)}
    if job.base not in runs:
        return
    roofs: dict[str, Run] = {"float32": Roof(torch.float32), "bfloat16": Roof(torch.bfloat16)}
    base = runs.pop(job.base)
    found = interleave({**runs, **roofs}, base, job.seconds, job.before)
    rates = {name: _rate(times(found.pop(name))) for name in roofs}
    every = [pair.base for pairs in found.values() for pair in pairs]
    found = {job.base: [Pair(cost, cost) for cost in every], **found}
    flops = product_flops(job.model, job.batch)
    for name, pairs in found.items():
        row = times(pairs)
        rate = rates["bfloat16" if "bfloat16" in name else "float32"]
        share = flops / (1e6 * row["cpu_ms"] * rate)
        yield {"question": job.question, **job.fields, "engine": name, **row, "roof_share": share}
    yield {
        "question": "roof",
        **job.fields,
        "gflop": flops / 1e9,
        **{f"{k}_gflops": v for k, v in rates.items()},
    }
    milliseconds = {name: times(pairs)["cpu_ms"] for name, pairs in found.items()}
    yield from _profiles(job, {job.base: base, **runs}, milliseconds)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _profiles(job: Job, runs: dict[str, Run], milliseconds: dict[str, float]) -> Iterator[Row]:
    """Where the processor time of a step goes, beside the base's: milliseconds of each operation of torch."""
    if not set(job.profiled) & set(runs):
        return
    steps = 3 if job.before else 1
    base = _operations(runs[job.base], steps, milliseconds[job.base])
    for name in job.profiled:
        if name in runs:
            own = _operations(runs[name], steps, milliseconds[name])
            beyond = {op: own.get(op, 0.0) - base.get(op, 0.0) for op in own.keys() | base.keys()}
            top = sorted(beyond, key=lambda op: -beyond[op])[:8]
            table = [[op, round(own.get(op, 0.0), 3), round(base.get(op, 0.0), 3)] for op in top]
            yield {"question": "profile", **job.fields, "engine": name, "operations": table}


def _operations(run: Run, steps: int, milliseconds: float) -> dict[str, float]:
    """Milliseconds of each operation in a step (its own, without those it calls), and of what is not torch's."""
    with warnings.catch_warnings(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as events:
        warnings.simplefilter("ignore")
        run(0, steps)
    found: dict[str, float] = {}
    for event in events.key_averages():
        name = "matrix products" if event.key in _PRODUCTS else event.key
        found[name] = found.get(name, 0.0) + event.self_cpu_time_total / 1e3 / steps
    return {**found, "outside torch (Python, keystream)": max(milliseconds - sum(found.values()), 0.0)}


def memory(job: Job) -> Iterator[Row]:
    """Rows of extra peak memory: each engine alone in forked children of this process, which has computed nothing.

    Extra: the largest resident set while training beyond the one once model, records and optimizer are there. In a
    fresh child that includes the libraries' code and scratch on first use; in a warm one a tiny model paid for it.
    """
    import torch._dynamo  # noqa: F401 - torch.optim loads it on first use; it is no engine's own

    if (job.model, job.batch) == ("mlp", 256):  # once
        yield {"question": "compiler", **job.fields, "megabytes": _in_child(_compiler)}
    for name in (job.base, *job.engines):
        row: Row = {"question": "memory", **job.fields, "engine": name}
        for field, warm in (("extra_megabytes", False), ("extra_megabytes_warm", True)):
            row[field] = _in_child(_extra, job, name, warm)
            if isinstance(row[field], str):
                row |= {"question": "failed", "reason": row[field]}
        yield row


def _in_child(work: Callable[..., float], *given: Any) -> float | str:
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_sent, args=(send, work, given))
    child.start()
    send.close()
    try:
        result: float | str = receive.recv()
    except EOFError:
        result = "the process was ended, probably out of memory"
    child.join()
    return result


def _sent(send: Any, work: Callable[..., float], given: tuple[Any, ...]) -> None:
    try:
        send.send(work(*given))
    except Exception as error:  # noqa: BLE001 - as above
        send.send(_reason(error))


def _extra(job: Job, name: str, warm: bool) -> float:
    if warm:
        _warm_up()
    run = ENGINES[name](job.case)
    before = _resident()
    run(1, 1)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def _compiler() -> float:
    """What numba takes once in a process that draws so much noise that it is loaded."""
    before = _resident()
    load_compiled()
    return (_resident() - before) / 1e6


def _warm_up() -> None:
    """Make torch load what it takes on first use, by a model too small to leave memory behind."""
    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(2):
        x = torch.rand(64, 8)
        lost = torch.nn.functional.binary_cross_entropy_with_logits(layer(x).relu(), x)
        torch.autograd.backward(lost + layer(x).exp().square().sum())
        optimizer.step()
    _ = torch.rand(64, 64) @ torch.rand(64, 64)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def paths(job: Job) -> Iterator[Row]:
    """Path and block that privae's own checks choose for the model before a training, and how long they take."""
    from privae.privacy.gradients import Summation
    from privae.recipes.gradients import checked

    probe = (records_of(job.model, 6), torch.randn(6, KINDS[job.model].latent))
    start = time.perf_counter()
    found = checked(model_of(job.model), loss_of(job.model), probe, Summation("by rule", "proved", 512))
    seconds = time.perf_counter() - start
    yield {
        "question": "path",
        **job.fields,
        "path": found.path,
        "block": found.micro_batch,
        "seconds": seconds,
        "weights": sum(parameter.numel() for parameter in model_of(job.model).parameters()),
    }


_ANSWERS = {"time": measure, "noise": measure, "memory": memory, "path": paths}


def main(fields: str) -> None:
    """Print the rows of one job, given as JSON."""
    warnings.simplefilter("ignore")
    values: dict[str, Any] = json.loads(fields)
    for name in ("engines", "profiled"):
        values[name] = tuple(values.get(name, ()))
    job = Job(**values)
    keep_freed_memory()
    torch.set_num_threads(job.threads)
    if hasattr(os, "sched_setaffinity"):  # as many cores as threads: what another core would do is not free
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    for row in _ANSWERS[job.question](job):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
