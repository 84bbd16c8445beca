"""Updates of ten sites added as ciphertexts: processor seconds of each part, and bytes over those of float32.

The peer is TenSEAL's `ckks_vector` at the parameters of its own tutorials, degree 8192 and primes of 60, 40 and 60
bits; it is left out where TenSEAL is not installed.
"""

import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Report

from privae.ckks.bits import parameters_for
from privae.ckks.summation import Gathering, Party, told
from privae.federated.round import Circle

NUMBERS, SITES, RUNS = 207_920, 10, 5
FLOAT32 = 4
PEER = {"poly_modulus_degree": 8192, "coeff_mod_bit_sizes": [60, 40, 60]}


def measure(numbers: int = NUMBERS, sites: int = SITES) -> dict[str, Any]:
    """Medians of runs, with the least: seconds of one site, and of the coordinator for all sites."""
    runs = [_once(numbers, sites, seed) for seed in range(RUNS)]
    found: dict[str, Any] = {"numbers": numbers, "sites": sites, "bits": parameters_for(sites).bits[0]}
    for name in runs[0]:
        values = [run[name] for run in runs]
        found[name] = statistics.median(values)
        if name.endswith("_s"):
            found[f"{name}_least"] = min(values)
    found["halves_of_8_bytes_up"] = _once(numbers // 4, sites, 0, 8)["up_ratio"]
    if importlib.util.find_spec("tenseal"):
        found["tenseal"] = _peer(numbers, sites)
    return found


def _once(numbers: int, sites: int, seed: int, word: int = FLOAT32) -> dict[str, float]:
    names = tuple(f"site-{number}" for number in range(sites))
    circle = Circle(names, {}, 1, sites, f"benchmark/{seed}")
    one, rng = Gathering(circle, numbers, word), np.random.default_rng(seed)
    parties = [Party(circle, name, one.form, bytes(32)) for name in names]
    words = [rng.integers(0, 2 ** (8 * word) - 1, numbers, np.uint64).astype(f"<u{word}") for _ in names]
    sent, sealing = _timed(
        lambda: [p.contribution(w, p.name.encode().ljust(32)) for p, w in zip(parties, words, strict=True)]
    )

    def add() -> bytes:
        for party, answer in zip(parties, sent, strict=True):
            one.take(party.name, answer)
        assert one.advance()
        return one.body

    body, adding = _timed(add)
    asked = one.requests()
    back, opening = _timed(
        lambda: [
            told(p.decrypted(asked[p.name], body, a[0]["seed"]), asked[p.name])
            for p, a in zip(parties, sent, strict=True)
        ]
    )
    for party, answer in zip(parties, back, strict=True):
        one.take(party.name, answer)
    assert one.advance()
    assert one.total is not None
    assert (one.total == np.sum(words, axis=0, dtype=np.uint64).astype(f"<u{word}")).all()
    up = max(_size(mine) + _size(told) for mine, told in zip(sent, back, strict=True))
    return {
        "encrypt_s": sealing / sites,
        "add_s": adding,
        "decrypt_s": opening / sites,
        "up_bytes": up,
        "down_bytes": _size((asked[names[1]], body)),
        "up_ratio": up / (word * numbers),
        "down_ratio": _size((asked[names[1]], body)) / (word * numbers),
    }


def _size(answer: tuple[Any, bytes]) -> int:
    return len(json.dumps(answer[0])) + len(answer[1])


def _peer(numbers: int, sites: int) -> dict[str, Any]:
    """TenSEAL: vectors of 4096 slots, encrypted under the secret's public key, serialized, added, decrypted."""
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, **PEER, n_threads=1)
    context.global_scale = 2**40
    slots = PEER["poly_modulus_degree"] // 2
    update = np.random.default_rng(0).normal(size=numbers)
    parts = [update[start : start + slots].tolist() for start in range(0, numbers, slots)]

    def sealed() -> list[bytes]:
        return [tenseal.ckks_vector(context, part).serialize() for part in parts]

    def added() -> list[bytes]:
        sums = []
        for raw in raws:
            total = tenseal.ckks_vector_from(context, raw)
            for _ in range(sites - 1):
                total += tenseal.ckks_vector_from(context, raw)
            sums.append(total.serialize())
        return sums

    raws, encrypt = _timed(sealed)
    sums, add = _timed(added)
    back, decrypt = _timed(
        lambda: [one for raw in sums for one in tenseal.ckks_vector_from(context, raw).decrypt()]
    )
    return {
        "encrypt_s": encrypt,
        "add_s": add,
        "decrypt_s": decrypt,
        "up_ratio": sum(map(len, raws)) / (FLOAT32 * numbers),
        "down_ratio": sum(map(len, sums)) / (FLOAT32 * numbers),
        "largest_error": float(np.abs(np.array(back)[:numbers] - sites * update).max()),
        "version": tenseal.__version__,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it makes, and processor seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def aggregation(report: Report, _: Any) -> None:
    """Bytes of a site over those of float32, and each part's processor time."""
    found = measure()
    peer = found.pop("tenseal", None)
    report.row(part="aggregation", who="privae", **found)
    if peer is None:
        report.not_measured.append({"name": "TenSEAL's aggregation", "reason": "not installed"})
    else:
        report.row(part="aggregation", who="TenSEAL", **peer)
    report.check(
        "aggregation: bytes up over float32, of the site with most", found["up_ratio"], 2.0, "at_most"
    )
    report.check("aggregation: bytes down a site over float32", found["down_ratio"], 2.0, "at_most")
