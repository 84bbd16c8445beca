"""Law: a service of `privae encrypted` holds no secret key, and no row: not in its memory, its files or on the wire."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from privae import VAE
from privae.ckks import residues
from privae.encrypted import keys, scoring
from privae.encrypted.offer import Offer

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="reads a process's memory as Linux shows it"
)

SIDE = 8
MARK = np.random.default_rng(7).integers(
    1, 255, (SIDE, SIDE), dtype=np.uint8
)  # a record that is like no other
PAGE = 4096
WINDOW = 6  # numbers in a row, which chance does not bring


def forms(row):
    """A record in every form that code of this house gives it: bytes, and numbers of each width and order."""
    numbers = row.reshape(-1) / 255.0
    kinds = [row.tobytes(), numbers.tobytes(), numbers.astype(np.float32).tobytes()]
    kinds += [row.reshape(-1).astype(kind).tobytes() for kind in (np.int64, np.float64, np.float32)]
    kinds.append(np.rint(numbers * 2.0**30).astype(np.int64).tobytes())
    sizes = [len(kind) // row.size * WINDOW for kind in kinds]
    return [
        kind[i : i + size] for kind, size in zip(kinds, sizes, strict=True) for i in (0, len(kind) - size)
    ]


def memory(process):
    """Every mapping of a process that it can have written to, without pages of zeros."""
    with Path(f"/proc/{process}/maps").open() as maps, Path(f"/proc/{process}/mem").open("rb", 0) as content:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is None:
                continue
            start, end = (int(place, 16) for place in found.groups())
            try:
                content.seek(start)
                pages = np.frombuffer(content.read(end - start), np.uint64).reshape(-1, PAGE // 8)
                yield pages[pages.any(1)].tobytes()
            except (OSError, OverflowError, ValueError):
                continue


def shows(blocks, patterns):
    return any(contains(block, patterns) for block in blocks)


def contains(block, patterns):
    """Whether one of the patterns is there; one that is mostly zeros, which memory is full of, at whole words only."""
    sparse = [pattern for pattern in patterns if pattern.count(0) > len(pattern) / 2]
    if any(pattern in block for pattern in patterns if pattern not in sparse):
        return True
    words = np.frombuffer(block, np.uint64, len(block) // 8)
    for pattern in sparse:
        first = np.flatnonzero(words == np.frombuffer(pattern, np.uint64, 1)[0])
        if any(block[8 * i : 8 * i + len(pattern)] == pattern for i in first):
            return True
    return False


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service in a process of its own that scored the marked record, and what went over the wire."""
    folder = tmp_path_factory.mktemp("served")
    draw = np.random.default_rng(0)
    x = (draw.random((400, SIDE, SIDE)) * draw.random((400, 1, 1)) * 255).astype(np.uint8)
    VAE(20.0, 1e-5, fidelity=False).fit(x).save(folder / "m.privae")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "privae", "encrypted", "serve", "m.privae", "--port", str(port)]
    with (folder / "stderr").open("wb") as told:
        settings = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, cwd=folder, stderr=told, env=settings)
    try:
        url, wire = f"http://127.0.0.1:{port}", []
        for _ in range(600):
            try:
                known = Offer.from_dict(httpx.get(f"{url}/v1/model").json())
                break
            except httpx.HTTPError:
                assert process.poll() is None
                time.sleep(0.1)
        ring, public = keys.KeyRing.made(known.parameters, known.rotations[1])
        packed = scoring.pack(known, ring, MARK[None], 1)
        for path, content in (("keys", public.dumps()), ("score", packed.dumps())):
            answer = httpx.post(f"{url}/v1/{path}", content=content, timeout=60)
            assert answer.status_code == 200
            wire += [content, answer.content]
        yield SimpleNamespace(process=process.pid, folder=folder, wire=wire, ring=ring)
    finally:
        process.kill()
        process.wait()


def test_no_record_and_no_secret_key_is_in_its_memory_its_files_or_on_the_wire(served):
    """One test, so that one service is started."""
    secret = served.ring.holder.residues
    packed = residues.written(secret[None], served.ring.holder.primes)
    parts = [row.tobytes()[:32] for row in secret] + [packed[i : i + 32] for i in (0, 4096)]
    files = [path.read_bytes() for path in served.folder.rglob("*") if path.is_file()]
    assert not shows([*files, *served.wire], forms(MARK) + parts)
    assert not shows(memory(served.process), forms(MARK) + parts)


def test_the_search_finds_a_record_that_is_there():
    """The same search on a process that does hold it: bytes, then numbers."""
    plant = "import sys, numpy as np; x = np.random.default_rng(7).integers(1, 255, (8, 8), dtype=np.uint8);"
    for form in ("x", "x / 255.0", "x.astype(np.float32)", "x.astype(np.int64)"):
        code = f"{plant} kept = {form}; del x; print('ready', flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            assert shows(memory(process.pid), forms(MARK))
            process.stdin.close()
