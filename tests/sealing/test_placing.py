"""Files appear whole: without a name until all is there, with an old one whole until then, and nothing left behind."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from privae.sealing import placing

WAITS = """
import sys, time
from pathlib import Path
from privae.sealing import placing

def write(file):
    file.write(b"planted plaintext" * 1000)
    file.flush()
    print("written", flush=True)
    time.sleep(60)

placing.place(Path(sys.argv[1]), write, 0o600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["unnamed", "named"])
def kind(request, monkeypatch):
    if not request.param:
        real = os.open

        def without(path, flags, *mode, **more):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return real(path, flags, *mode, **more)

        monkeypatch.setattr(placing.os, "open", without)
    return request.param


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_whole_and_has_its_permissions(tmp_path, kind, old):
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append((names(tmp_path), path.read_bytes() if path.exists() else None))

    placing.place(path, write, 0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["a"]
    shown, content = seen[0]
    assert content == old
    assert not kind or shown == ([] if old is None else ["a"])


@pytest.mark.parametrize("old", [None, b"old"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, kind, old):
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        placing.place(path, write, 0o600)
    assert names(tmp_path) == ([] if old is None else ["a"])


def test_a_link_in_its_place_is_replaced_and_its_target_stays(tmp_path, kind):
    (tmp_path / "target").write_bytes(b"target")
    for name in ("target", "nowhere"):
        (tmp_path / "a").symlink_to(tmp_path / name)
        placing.place(tmp_path / "a", lambda file: file.write(b"new"), 0o600)
        assert (tmp_path / "a").read_bytes() == b"new"
        assert not (tmp_path / "a").is_symlink()
        (tmp_path / "a").unlink()
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_bytes() == b"target"


def unnamed_files(folder):
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_process_that_is_killed_leaves_no_plaintext(tmp_path, old):
    if not unnamed_files(tmp_path):
        pytest.skip("this file system has no files without a name")
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    running = subprocess.Popen([sys.executable, "-c", WAITS, str(path)], stdout=subprocess.PIPE)
    assert running.stdout.readline() == b"written\n"
    assert names(tmp_path) == ([] if old is None else ["a"])
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(0.01)
    assert names(tmp_path) == ([] if old is None else ["a"])
    assert old is None or path.read_bytes() == old
    running.stdout.close()
