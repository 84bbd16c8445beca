"""What a site's message gives away, and what hiding it costs, for benchmarks/federated.py."""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from federated_data import DELTA, assembled, image_schema, mnist
from harness import Report

from privae import VAE, Training
from privae.attacks import transcripts
from privae.attacks.inversion import inversion_of
from privae.custody.keys import signing_key
from privae.federated import masking, messages
from privae.federated import round as stages
from privae.federated.round import Circle, Round, Seat
from privae.models.likelihoods import Bernoulli
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import GRADIENTS, default_network
from privae.recipes.target import target_of

CONFIDENCE = 0.95
RECORDS, BATCH = 64, 4
NETWORK = Training(latent=20, hidden=(400,), steps=2)  # 652,824 numbers for images of 28 x 28 without labels
OPEN = "a decoder's gradient over a few records determines them once the encoder is known, as here by gradient matching"
NUMBERS, SITES, REPEATS = 652_824, 10, 9


def leak(report: Report, options: Any) -> None:
    """Records of batches of four read off what the coordinator sees of one site, each protection alone."""
    count = RECORDS // (4 if options.quick else 1)
    images, _ = mnist(count)
    rows = torch.from_numpy(images).flatten(1).float() / 255.0
    schema = image_schema(None)
    plan = VAE(1.0, DELTA, rows=10_000, recipe="gradients", training=NETWORK, schema=schema).plan()
    phase = plan.phase(GRADIENTS)
    assert phase is not None
    target = target_of(default_network(784, 1, NETWORK), Bernoulli(784), NETWORK.latent)
    shares = {}
    for mode in transcripts.MODES:
        whose, view = transcripts.seen(mode, target, phase, NoiseSource())
        start = time.monotonic()
        found = inversion_of(whose, rows, BATCH, replace(view, epsilon=plan.epsilon), CONFIDENCE)
        shares[mode] = found.value
        report.row(
            part="leak",
            mode=mode,
            recovered=found.details["recovered"],
            records=found.details["records"],
            batch=BATCH,
            share=found.value,
            low=found.low,
            high=found.high,
            seconds=time.monotonic() - start,
        )
    report.check("share of records recovered from plain gradients", shares.pop("plain"), 0.9, "at_least")
    for mode, share in shares.items():
        report.check(f"share of records recovered: {mode}", share, 0.0, "at_most")
        if mode == "decoder only" and share:
            report.checks[-1]["reason"] = OPEN


def cost(report: Report, options: Any) -> None:
    """Secure aggregation alone, in this process; traffic is of a study's own messages, signatures and all."""
    for sites in (3, SITES):
        taken = [timed(sites) for _ in range(2 if options.quick else REPEATS)]
        each = {name: statistics.median(one["site"][name] for one in taken) for name in taken[0]["site"]}
        site = statistics.median(sum(one["site"].values()) for one in taken)
        least = min(sum(one["site"].values()) for one in taken)
        report.row(
            part="cost",
            what="secure aggregation, 4-byte words",
            sites=sites,
            numbers=NUMBERS,
            site_cpu_ms=site,
            site_cpu_ms_least=least,
            server_cpu_ms=statistics.median(one["server"] for one in taken),
            **{f"{name}_ms": value for name, value in each.items()},
        )
    name = f"processor time of a site at {SITES} sites, ms: the median site, the median of {len(taken)} runs"
    report.check(name, site, 30.0, "at_most")
    ratio = traffic(report)
    report.check("traffic of a site in a round, over 4 bytes a number", ratio, 1.1, "at_most")


def timed(sites: int) -> dict[str, Any]:
    """Milliseconds of processor time of one sum: each stage of a site (the median one), and the coordinator's."""
    names = tuple(f"s{index:02}" for index in range(sites))
    with tempfile.TemporaryDirectory() as folder:
        keys = {name: signing_key(Path(folder) / name) for name in names}
    publics = {name: key.public for name, key in keys.items()}
    circle = Circle(names, publics, sites // 2 + 1, sites, "benchmark")
    seats = {n: Seat(circle, n, masking.derive(bytes(32), n), keys[n].sign) for n in names}
    rng = np.random.default_rng(0)
    words = {name: rng.integers(0, 2**32, NUMBERS, np.uint32) for name in names}
    server = Round(circle, NUMBERS, 4)
    answers: dict[str, Callable[[str, Any], tuple[Any, bytes]]] = {
        "open": lambda n, _: ({"keys": stages.advertise(seats[n])}, b""),
        "keys": lambda n, asked: (stages.share_keys(seats[n], asked), b""),
        "shares": lambda n, asked: ({}, stages.contribute(seats[n], asked, words[n])),
        "agree": lambda n, asked: (stages.agree(seats[n], asked), b""),
        "unmask": lambda n, asked: (stages.reveal(seats[n], asked), b""),
    }
    # what one place has checked of signatures, another has not
    known = {name: lru_cache(4096)(messages.signed.__wrapped__) for name in names}
    spent: dict[str, list[float]] = {stage: [] for stage in answers}
    total = 0.0
    while not server.done:
        stage, start = server.stage, time.process_time()
        asked = server.requests()
        total += time.process_time() - start
        for name, request in asked.items():
            with patch.object(stages, "signed", known[name]):
                start = time.process_time()
                answer = answers[stage](name, request)
                spent[stage].append(1e3 * (time.process_time() - start))
            start = time.process_time()
            server.take(name, answer)
            total += time.process_time() - start
        start = time.process_time()
        server.advance()
        total += time.process_time() - start
    exact = sum(words.values())
    assert server.total is not None
    assert np.array_equal(server.total, exact)
    return {"site": {k: statistics.median(v) for k, v in spent.items()}, "server": 1e3 * total}


def traffic(report: Report) -> float:
    """Bytes up and down of a site in a round, signatures and all, but for sums it is told: the model's download."""
    schema, images = image_schema(None), mnist(10 * SITES)[0]
    training = replace(NETWORK, steps=3, batch=50)
    names = tuple(f"s{index:02}" for index in range(SITES))
    plan = VAE(8.0, DELTA, rows=600, recipe="gradients", training=training, schema=schema).plan()
    made = assembled(plan, schema, (images, None), "even", names, share="all")
    sent: dict[str, float] = defaultdict(float)

    def carried(name: str, message: bytes) -> bytes:
        answer = made.sites[name].answer(message)
        asked = messages.read(message, {messages.COORDINATOR: made.study.coordinator})
        if asked.stage != "finish":
            sent["down"] += len(message) - len(asked.body)
            sent["told"] += len(asked.body)
            sent["up"] += len(answer)
        return answer

    while not made.coordinator.done:
        found = {name: carried(name, message) for name, message in made.coordinator.outbox().items()}
        made.coordinator.take(found)
    rounds = [json.loads(step.line()) for step in made.coordinator.steps]
    each = {kind: value / len(rounds) / SITES for kind, value in sent.items()}
    report.row(
        part="cost",
        what="messages of a study, bytes a site and round",
        sites=SITES,
        numbers=NUMBERS,
        word=rounds[0]["word"],
        rounds=len(rounds),
        bytes_up=each["up"],
        bytes_down=each["down"],
        bytes_told=each["told"],
    )
    return (each["up"] + each["down"]) / (4 * NUMBERS)
