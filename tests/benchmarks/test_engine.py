"""The arithmetic of benchmarks/engine.py: ratios, shares, targets met and missed, and the page that shows them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def module(folder: str, name: str):
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def checks():
    return module("benchmarks", "engine_checks")


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found = module("benchmarks", "engine_measure")
    monkeypatch.setattr(found, "settle", lambda: None)
    return found


def row(engine, cpu_ratio=1.0, wall_ratio=1.0, question="time", batch=256, threads=1, **more):
    return {
        "question": question,
        "model": "mlp",
        "batch": batch,
        "threads": threads,
        "engine": engine,
        "cpu_ratio": cpu_ratio,
        "wall_ratio": wall_ratio,
        **more,
    }


CELL = ("mlp", 256)


def test_times_faster_is_the_quotient_of_two_ratios_to_plain(checks):
    table = checks.Table([row("privae float32", 1.25), row("Opacus hooks", 90.0)])
    assert table.faster_than(CELL, "privae float32", "Opacus hooks") == 72.0


def test_the_share_of_noise_is_of_the_noisy_step_on_two_threads(checks):
    table = checks.Table([row("privae float32", 1.6, 1.25, question="noise", threads=2)])
    assert table.noise_share(CELL, "wall_ratio") == pytest.approx(0.2)
    assert table.noise_share(CELL, "cpu_ratio") == pytest.approx(0.375)


def test_memory_is_over_plains_and_over_a_dense_tensor(checks):
    rows = [
        row(name, question="memory", extra_megabytes=mb) for name, mb in (("plain", 50.0), ("ours", 60.0))
    ]
    table = checks.Table(rows)
    assert table.memory_over_plain(CELL, "ours") == pytest.approx(1.2)
    # 256 x 1,000 x 100 float32 numbers are 102.4 MB
    assert table.memory_of_dense(CELL, "ours", items=1000, hidden=100) == pytest.approx(60 / 102.4)


def test_rows_of_another_question_thread_count_or_batch_are_not_taken(checks):
    table = checks.Table([row("privae float32", 3.0, question="noise"), row("privae float32", batch=2048)])
    with pytest.raises(KeyError):
        table.over_plain(CELL, "privae float32")
    with pytest.raises(KeyError):
        table.wall_over_plain(("mlp", 2048), "privae float32")


def test_each_target_reads_its_own_engine_cell_and_figure(checks):
    """Every row's figure says which row it is, so that a closure over the wrong cell would show."""
    rows, value = [], iter(range(1, 10_000))
    for question, threads in (("time", 1), ("time", 2), ("noise", 2), ("memory", 1)):
        for model in ("mlp", "tab", "conv", "gru", "items"):
            for batch in (256, 1024, 2048):
                for engine in (checks.PLAIN, checks.OURS, checks.NO_NOISE, checks.PROVED, checks.BFLOAT16):
                    figures = {k: float(next(value)) for k in ("cpu_ratio", "wall_ratio", "extra_megabytes")}
                    about = {"question": question, "model": model, "batch": batch, "threads": threads}
                    rows.append({**about, "engine": engine, **figures})
    table = checks.Table(rows)
    compared = [t for t in checks.targets(1000, 10) if "Opacus" not in t.name and "over" in t.name]
    for target in compared:
        if "dense" in target.name:
            continue
        question = "memory" if "memory" in target.name else "time"
        threads = 2 if "2 threads" in target.name else 1
        field = {"memory": "extra_megabytes", "time": "wall_ratio" if threads == 2 else "cpu_ratio"}[question]
        expected = table.figure(question, target.cell, target.engine, field, threads)
        if question == "memory":
            expected /= table.figure(question, target.cell, "plain", field)
        assert target.value(table) == expected, target.name
        assert target.name.startswith(f"{target.cell[0]} at {target.cell[1]}: {target.engine}")
    assert len({target.value(table) for target in compared}) == len(compared)


def test_every_target_of_the_issue_is_there_once(checks):
    found = list(checks.targets(20_000, 600))
    bars = {target.name: (target.bar, target.sense) for target in found}
    assert len(bars) == len(found)
    assert bars["mlp at 256: privae float32, processor time over plain, 1 thread"] == (1.35, "at_most")
    assert bars["mlp at 2048: privae float32, processor time over plain, 1 thread"] == (1.15, "at_most")
    assert bars["tab at 2048: privae float32, processor time over plain, 1 thread"] == (1.30, "at_most")
    assert bars["tab at 256: privae float32, wall time over plain, 2 threads"] == (1.20, "at_most")
    assert bars["conv at 256: privae float32, processor time over plain, 1 thread"] == (1.35, "at_most")
    assert bars["tab at 256: privae proved, processor time over plain, 1 thread"] == (2.0, "at_most")
    assert bars["tab at 2048: privae proved, processor time over plain, 1 thread"] == (1.7, "at_most")
    assert bars["mlp at 2048: privae bfloat16, processor time over plain, 1 thread"] == (0.70, "at_most")
    assert bars["mlp at 256: privae float32, times faster than Opacus hooks, 1 thread"] == (40, "at_least")
    assert bars["conv at 256: privae float32, times faster than Opacus hooks, 1 thread"] == (5, "at_least")
    assert bars["mlp at 256: privae proved, times faster than Opacus ghost, 1 thread"] == (1, "at_least")
    assert bars["mlp at 256: share of wall time that secure noise costs, 2 threads"] == (0.15, "at_most")
    assert bars["mlp at 1024: share of wall time that secure noise costs, 2 threads"] == (0.05, "at_most")
    assert bars["mlp at 2048: share of processor time that secure noise costs, 2 threads"] == (
        0.35,
        "at_most",
    )


def test_every_target_has_a_job_that_measures_it(checks, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    engine = module("benchmarks", "engine")
    figures = {"cpu_ratio": 1.0, "wall_ratio": 1.0, "extra_megabytes": 1.0}
    rows = []
    for job in (*engine.timing_jobs(engine.CELLS, 1.0), *engine.other_jobs(engine.CELLS)):
        about = {name: job.get(name, 1) for name in ("question", "model", "batch", "threads")}
        engines = (job.get("base", "plain"), *job.get("engines", ()))
        rows += [{**about, "engine": name, **figures} for name in engines]
    table = checks.Table(rows)
    assert all(target.value(table) >= 0 for target in checks.targets(engine.ITEMS, engine.ITEMS_HIDDEN))


def test_a_reason_names_the_operations_that_take_longer_than_in_the_base(checks):
    target = next(iter(checks.targets(1000, 10)))
    profile = {
        "question": "profile",
        "model": target.cell[0],
        "batch": target.cell[1],
        "engine": target.engine,
        "base": "plain",
        "operations": [["aten::mm", 5.0, 3.5], ["aten::add", 1.0, 2.0]],
    }
    assert checks.profile_of(target, [row("plain"), profile]) is profile
    assert checks.profile_of(target, [{**profile, "batch": 1}]) is None
    assert checks.profile_of(target, [{**profile, "base": checks.NO_NOISE}]) is None
    assert checks.reason(profile) == "beyond plain: aten::mm +1.5 ms"


def test_a_ratio_is_the_median_over_rounds_and_milliseconds_the_least(measure):
    cost = measure.Cost
    pairs = [
        measure.Pair(cost(0.012, 0.020), cost(0.010, 0.010)),
        measure.Pair(cost(0.030, 0.010), cost(0.010, 0.010)),
        measure.Pair(cost(0.026, 0.030), cost(0.020, 0.010)),
    ]
    assert measure.times(pairs) == {
        "cpu_ms": pytest.approx(12.0),
        "wall_ms": pytest.approx(10.0),
        "cpu_ratio": pytest.approx(1.3),
        "wall_ratio": pytest.approx(2.0),
        "rounds": 3,
    }


def test_every_burst_follows_one_of_the_base_and_slow_engines_run_single_steps(measure):
    calls = []

    def engine(name, seconds):
        def run(before, steps):
            calls.append((name, before, steps))
            return measure.Cost(seconds * steps, seconds * steps)

        return run

    base, runs = engine("base", 0.05), {"fast": engine("fast", 0.06), "slow": engine("slow", 5.0)}
    found = measure.interleave(runs, base, seconds=0.0)
    timed = calls[4:]  # before: the base once, and single steps to see who is slow
    assert timed == [("base", 1, 2), ("fast", 1, 2), ("base", 1, 2), ("slow", 0, 1)] * 3
    assert found["fast"][0].own.cpu == pytest.approx(0.06)
    assert found["slow"][2].base.wall == pytest.approx(0.05)
    calls.clear()
    measure.interleave({"very slow": engine("very slow", 50.0)}, engine("base", 1.0), seconds=0.0, before=0)
    assert (
        calls[3:] == [("base", 0, 1), ("very slow", 0, 1)] * 2
    )  # two bursts are enough of an engine like that


def test_the_clock_of_a_training_times_its_middle_steps_only(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    steps = module("benchmarks", "engine_steps")
    now = [0.0]
    monkeypatch.setattr(steps.time, "process_time", lambda: now[0])
    monkeypatch.setattr(steps.time, "perf_counter", lambda: 2 * now[0])
    clock = steps._Clock(before=2, steps=3)
    for seconds in (1000.0, 100.0, 1.0, 2.0, 4.0, 10.0):
        now[0] += seconds
        clock.advance(1)
    assert clock.cost == steps.Cost(7.0, 14.0)


def test_the_figures_of_the_engine_page_are_those_that_were_measured():
    figures = module("scripts", "figures")
    _, inside, _ = figures.split(figures.ENGINE.read_text(encoding="utf-8"))
    results = figures.stored(figures.ENGINE_RESULTS)
    assert inside == figures.render_engine(results), "run: python scripts/figures.py"


def test_the_engine_page_shows_rows_targets_and_what_was_missed():
    target = {"name": "mlp at 256: time", "value": 1.5, "bar": 1.35, "sense": "at_most", "met": False}
    results = {
        "machine": "a machine",
        "versions": {"torch": "2.13.0"},
        "seconds": 120.0,
        "rows": [
            row("plain", cpu_ms=11.234),
            row("privae float32", 1.5),
            {"question": "versions", "opacus": "1.6.0"},
        ],
        "checks": [{**target, "reason": "beyond plain: aten::mm +1.5 ms"}],
        "not_measured": [{"name": "fastDP", "reason": "it does not install"}],
    }
    figures = module("scripts", "figures")
    text = figures.render_engine(json.loads(json.dumps(results)))
    assert "| processor time of a step, 1 thread | mlp 256 |" in text
    assert "| plain | 11.2 ms |" in text
    assert "| privae float32 | 1.5 |" in text
    assert "| mlp at 256: time | 1.5 | at most 1.35 | **missed** |" in text
    assert "- Missed: mlp at 256: time: beyond plain: aten::mm +1.5 ms." in text
    assert "- Not measured: fastDP: it does not install." in text
    assert "wall time" not in text
    assert figures.render_engine(None) == "not measured yet"
