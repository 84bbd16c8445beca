"""Scoring on ciphertexts: one record and a batch beside peers, and two models from records to scores."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import seal
from harness import SHARED, Report
from sklearn.metrics import roc_auc_score

from privae import VAE
from privae.ckks.clear import Clear
from privae.ckks.parameters import Parameters
from privae.ckks.scheme import Evaluation, Holder, context, primes_of
from privae.encrypted import features, scoring
from privae.encrypted.circuit import Affine, Circuit, Schedule, Square
from privae.encrypted.keys import KeyRing
from privae.encrypted.offer import numbers_of, served
from privae.recipes.gradients import Training

PARAMETERS = Parameters(8192, (40, 30, 30, 30, 40))
SCALE = 2.0**30


@contextmanager
def seconds(into: dict[str, float], name: str) -> Iterator[None]:
    """Processor seconds of a block."""
    start = time.process_time()
    yield
    into[name] = time.process_time() - start


def encoder(seed: int = 0) -> tuple[Circuit, dict[str, Any]]:
    """A 784-128-32 encoder with one polynomial activation 0.25 u^2 + 0.5 u, and records like digits."""
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=(128, 784)) / 28, draw.normal(size=(32, 128)) / 11
    shift, last = draw.normal(size=128) / 10, draw.normal(size=32) / 10
    folded = Affine(((2, 0.25 * second),), last - 0.25 * second.sum(1))
    steps = (Affine(((0, first),), shift + 1.0), Square(1), folded)
    weights = {"first": first, "second": second, "shift": shift, "last": last}
    circuit = Circuit(np.zeros(784), np.ones(784), steps, {"codes": 3})
    return circuit, {**weights, "x": draw.random((10, 784)) * (draw.random((10, 784)) < 0.2)}


def single(report: Report, _: Any) -> None:
    """One record: ours, and TenSEAL's, in one process."""
    circuit, made = encoder()
    schedule = Schedule(circuit, PARAMETERS, primes_of(PARAMETERS), SCALE)
    program = features.Program(schedule, features.Layout.of(circuit, PARAMETERS.slots, 1))
    holder, rotations = Holder(PARAMETERS), sorted(program.rotations())
    galois = holder.galois_keys(rotations)
    server = Evaluation(PARAMETERS, holder.relinearization_key(), galois)
    right, spent, errors, times = circuit.evaluate(made["x"])["codes"], {}, [], []
    for i, record in enumerate(made["x"]):
        packed = holder.encrypt(program.layout.packed(record[None]), SCALE)
        with seconds(spent, "ours"):
            found = program.run(server, packed, ("codes",))["codes"]
        times.append(spent["ours"])
        errors.append(np.abs(program.layout.read(holder.decrypt(found), 32, 1)[0] - right[i]).max())
    twin = Clear(PARAMETERS, primes_of(PARAMETERS))
    fresh = features.Program(schedule, program.layout)
    bound = fresh.run(twin, twin.encrypt(program.layout.packed(made["x"][:1]), SCALE), ("codes",))["codes"]
    ours = float(np.median(times[1:]))
    off, predicted = 1e6 * float(max(errors)), 1e6 * float(bound.error.max())
    sizes = {"rotations": len(rotations), "galois_megabytes": len(galois) / 1e6}
    report.row(
        part="single", who="privae", milliseconds=1e3 * ours, error_e6=off, predicted_e6=predicted, **sizes
    )
    report.check("single: error over its predicted bound", off / predicted, 1.0, "at_most")
    try:
        theirs, off = _tenseal(made, right)
    except ImportError:
        report.not_measured.append({"name": "TenSEAL", "reason": "not installed"})
        return
    report.row(part="single", who="TenSEAL mm", milliseconds=1e3 * theirs, error_e6=1e6 * off)
    report.check("single: TenSEAL's processor time over ours", theirs / ours, 80.0, "at_least")


def _tenseal(made: dict[str, Any], right: Any) -> tuple[float, float]:
    """The same encoder with TenSEAL's vectors, as its tutorial writes it: seconds, and how far off it is."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, PARAMETERS.degree, coeff_mod_bit_sizes=list(PARAMETERS.bits), n_threads=1
    )
    context.global_scale = SCALE
    context.generate_galois_keys()
    first, second = made["first"].T.tolist(), (0.25 * made["second"]).T.tolist()
    last = (made["last"] - 0.25 * made["second"].sum(1)).tolist()
    vector, spent = tenseal.ckks_vector(context, made["x"][0].tolist()), {}
    with seconds(spent, "theirs"):
        hidden = vector.mm(first) + (made["shift"] + 1.0).tolist()
        found = (hidden * hidden).mm(second) + last
    return spent["theirs"], float(np.abs(np.array(found.decrypt()) - right[0]).max())


def batch(report: Report, _: Any) -> None:
    """One layer of a batch: exact products of residues, and SEAL's products with encoded weights."""
    _, made = encoder()
    holder, server = Holder(PARAMETERS), Evaluation(PARAMETERS)
    columns = np.random.default_rng(1).random((784, PARAMETERS.slots))
    fresh = [holder.encrypt(column, SCALE) for column in columns]
    for value in fresh:
        assert value.residues.size
    weights, spent = made["first"], {}
    prime = primes_of(PARAMETERS)[-1]
    with seconds(spent, "ours"):
        found = server.combine(fresh, np.rint(weights * prime), SCALE * prime, np.zeros(128))
    right, few = weights @ columns, 2
    library, objects = seal.Evaluator(context(PARAMETERS)), [value.object for value in fresh]
    encoder_ = seal.CKKSEncoder(context(PARAMETERS))
    with seconds(spent, "theirs"):
        for row in weights[:few]:
            total = None
            for weight, value in zip(row, objects, strict=True):
                part = library.multiply_plain(value, encoder_.encode(float(weight), float(prime)))
                total = part if total is None else (library.add_inplace(total, part), total)[1]
    theirs = spent["theirs"] / few * len(weights)
    errors = [float(np.abs(holder.decrypt(found[i]) - right[i]).max()) for i in range(0, 128, 16)]
    decrypted = encoder_.decode(seal.Decryptor(context(PARAMETERS), holder._key).decrypt(total))
    other = float(np.abs(decrypted - right[few - 1]).max())
    slots = PARAMETERS.slots
    report.row(part="batch", who="privae", seconds=spent["ours"], milliseconds=1e3 * spent["ours"] / slots)
    report.row(part="batch", who="SEAL multiply_plain", seconds=theirs, from_outputs=few)
    report.row(part="batch", error_e6=1e6 * max(errors), error_of_seal_e6=1e6 * other)
    report.check("batch: SEAL's processor time over ours", theirs / spent["ours"], 20.0, "at_least")


def pipeline(report: Report, options: Any) -> None:
    """A polynomial VAE of digits 0 to 7, fitted at epsilon 8; 8,192 test digits, of which 8 and 9 are strange."""
    loaded = np.load(SHARED / "mnist.npz")
    x, y = loaded["x_train"], loaded["y_train"]
    kept = x[y < 8]
    training = Training(latent=16, hidden=(128,), activation="square", learning_rate=5e-3)
    model = VAE(8.0, 1e-5, rows=48_000, recipe="gradients", training=training).fit(kept)
    count = 512 if options.quick else 8192
    _measured(report, ("pipeline", model), loaded["x_test"][:count], loaded["y_test"][:count] >= 8)


def linear(report: Report, _: Any) -> None:
    """The linear model of normal chest X-rays at epsilon 8; test scans, of which pneumonia is strange."""
    loaded = np.load(SHARED / "pneumoniamnist.npz")
    normal = loaded["x_train"][loaded["y_train"] == 0]
    model = VAE(8.0, 1e-5, fidelity=False).fit(normal)
    _measured(report, ("linear", model), loaded["x_test"], loaded["y_test"] == 1)


def _measured(report: Report, what: tuple[str, VAE], x: Any, strange: Any) -> None:
    """Records to scores by the messages of `privae encrypted`, and the clear circuit beside it."""
    (part, model), spent = what, {}
    with seconds(spent, "compile"):
        made = served(model.fitted_, model.identity)
    offer = made.offer
    with seconds(spent, "keys"):
        ring, public = KeyRing.made(offer.parameters)
    with seconds(spent, "pack"):
        records = scoring.pack(offer, ring, x, 0)
    keys = scoring.Keys.of(public, offer)
    with seconds(spent, "score"):
        results = scoring.score(made, keys, records)
    with seconds(spent, "unpack"):
        found = scoring.unpack(offer, ring, results)["score"]
    right = made.compiled.evaluate(numbers_of(offer.schema, x))["score"]
    off = np.abs(found - right)
    rows = len(x)
    report.row(part=part, rows=rows, degree=offer.parameters.degree, bits=offer.parameters.total, **spent)
    sizes = {"up": len(records.body) / rows / 1e3, "down": len(results.body) / rows / 1e3}
    report.row(part=part, kilobytes_a_record=sizes, milliseconds=1e3 * spent["score"] / rows)
    relative, bound = float(off.max() / np.abs(right).max()), offer.outputs["score"].error
    report.row(part=part, error=float(off.max()), predicted=bound, largest=float(np.abs(right).max()))
    aucs = [float(roc_auc_score(strange, scores)) for scores in (found, right)]
    report.row(part=part, auc=aucs[0], auc_clear=aucs[1])
    if part == "pipeline":
        report.check(
            f"{part}: milliseconds of processor a record", 1e3 * spent["score"] / rows, 4.0, "at_most"
        )
    report.check(f"{part}: score error over the largest score, in 1e-4", relative * 1e4, 1.0, "at_most")
    report.check(f"{part}: AUC off the clear model's", abs(aucs[0] - aucs[1]), 0.001, "at_most")
    report.check(f"{part}: score error over its predicted bound", float(off.max()) / bound, 1.0, "at_most")
