import contextlib
import errno
import os
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from privae import files
from privae.errors import ArtifactError, ResourceError, UsageError
from privae.sealing import placing

MEMBERS = {"a.json": b'{"x": 1}', "b.bin": bytes(range(100)), "empty": b""}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(number):
    def write(file):
        file.write(b"half of the new")
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize("old", [None, b"the whole old"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, old, number):
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    expected = UsageError if number == errno.EIO else ResourceError
    with pytest.raises(expected) as caught:
        files.write_atomically(path, failing(number))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ([] if old is None else ["a"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_at_any_step_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    path.write_bytes(b"the whole old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else files.Path, step, full)
    with pytest.raises(ResourceError, match="the disk is full"):
        files.write_archive(path, MEMBERS)
    monkeypatch.undo()
    assert path.read_bytes() == b"the whole old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("named", [False, True])
def test_no_room_for_the_temporary_file_is_a_full_disk(tmp_path, monkeypatch, named):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(placing.os, "open", full)
    if named:
        monkeypatch.delattr(placing.os, "O_TMPFILE")
        monkeypatch.setattr(placing.tempfile, "mkstemp", full)
    with pytest.raises(ResourceError):
        files.write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    assert names(tmp_path) == []


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"the whole old")

    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, interrupted)
    assert path.read_bytes() == b"the whole old"
    assert names(tmp_path) == ["a"]


def test_a_write_replaces_the_file_with_ordinary_permissions(tmp_path):
    path = tmp_path / "a"
    files.write_atomically(path, lambda file: file.write(b"one"))
    files.write_atomically(path, lambda file: file.write(b"two"))
    current = os.umask(0)
    os.umask(current)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o666 & ~current
    assert names(tmp_path) == ["a"]


def test_places_that_cannot_be_written_are_refused_early(tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        files.check_writable(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        files.check_writable(tmp_path / "no" / "a")
    with pytest.raises(UsageError, match="too long"):
        files.check_writable(tmp_path / ("a" * 300))
    files.check_writable(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"")
    for name in ("a/b", "a/b/c"):
        with pytest.raises(UsageError, match="a is not a folder"):
            files.check_writable(tmp_path / name)


def test_an_archive_comes_back_and_is_the_same_twice(tmp_path):
    for name in ("a", "b"):
        files.write_archive(tmp_path / name, MEMBERS)
    assert files.read_archive(tmp_path / "a") == MEMBERS
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.testzip() is None


def test_an_archive_that_is_not_packed_holds_its_members_as_they_are(tmp_path):
    members = {"zeros": bytes(10_000), "a b/c d": bytes(range(256)) * 5000}
    for packed in (True, False):
        files.write_archive(tmp_path / "a", members, packed=packed)
        assert files.read_archive(tmp_path / "a") == members
        assert (members["zeros"] in (tmp_path / "a").read_bytes()) is not packed


@pytest.mark.parametrize("packed", [True, False])
def test_any_single_flipped_byte_is_refused(tmp_path, packed):
    path = tmp_path / "a"
    files.write_archive(path, MEMBERS, packed=packed)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with pytest.raises(ArtifactError):
            files.read_archive(path)


def test_any_truncation_or_addition_is_refused(tmp_path):
    path = tmp_path / "a"
    files.write_archive(path, MEMBERS)
    content = path.read_bytes()
    for broken in (*(content[:end] for end in range(0, len(content), 7)), content + b"x", b"x" + content):
        path.write_bytes(broken)
        with pytest.raises(ArtifactError):
            files.read_archive(path)


def resealed(members, manifest):
    """An archive by someone who knows the format, seal included."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = bytes(64)
        for name, body in {"manifest.json": manifest, **members}.items():
            archive.writestr(name, body)
    body = buffer.getvalue()[:-64]
    return body + files._seal(body)


def test_members_must_be_those_of_the_manifest(tmp_path):
    path = tmp_path / "a"
    hashes = {name: files.hashlib.sha256(body).hexdigest() for name, body in MEMBERS.items()}
    good = files.canonical_json({"format": files.FORMAT, "sha256": hashes})
    path.write_bytes(resealed(MEMBERS, good))
    assert files.read_archive(path) == MEMBERS
    fewer = {name: body for name, body in MEMBERS.items() if name != "empty"}
    for members, manifest in (
        (MEMBERS | {"extra": b""}, good),
        (fewer, good),
        (MEMBERS | {"a.json": b"{}"}, good),
        (MEMBERS, good.replace(b"privae/1", b"privae/9")),
        (MEMBERS, b"[]"),
        (MEMBERS, b"null"),
        (MEMBERS, b"{"),
    ):
        path.write_bytes(resealed(members, manifest))
        with pytest.raises(ArtifactError):
            files.read_archive(path)


def test_other_files_are_refused(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello\n"), ("zip", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="not a privae model file"):
            files.read_archive(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read"):
        files.read_archive(tmp_path / "absent")


def test_digests_follow_the_value_and_not_its_order():
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest({"b": [1, 2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.digest(float("nan"))


# --- locks ------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_and_a_file_owned_by_one(tmp_path):
    path = tmp_path / "a"
    with files.owned(path):
        with pytest.raises(UsageError, match="in use by another process"), files.owned(path):
            pass
        assert names(tmp_path) == ["a.lock"]
    assert names(tmp_path) == []
    with files.locked(path):
        pass
    assert names(tmp_path) == ["a.lock"]  # waiting processes may have it open
    with files.owned(path):
        pass
    assert names(tmp_path) == []


def test_an_owner_that_ends_in_an_error_lets_go_and_its_error_through(tmp_path):
    for error in (FileNotFoundError, BlockingIOError, KeyboardInterrupt):
        with pytest.raises(error), files.owned(tmp_path / "a"):
            raise error
    assert names(tmp_path) == []


def test_whoever_waits_at_a_lock_that_is_removed_does_not_own_the_file(tmp_path, monkeypatch):
    """The first owner ends between another's open and lock; a third may own a new lock by then."""
    opened, path = os.open, tmp_path / "a"

    def late(name, *more):
        handle = opened(name, *more)
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        return handle

    monkeypatch.setattr(files.os, "open", late)
    with pytest.raises(UsageError, match="in use"), files.owned(path):
        pass


def test_a_folder_that_takes_no_lock_is_refused(tmp_path):
    for hold in (files.owned, files.locked):
        with pytest.raises(ResourceError, match="lock"), hold(tmp_path / "no" / "a"):
            pass


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a[1].x7", ".a[1].lock2", "a[1]", "a[1].lock", ".a1.x7", ".b.x7"):
        (tmp_path / name).write_bytes(b"")
    files.remove_remains(tmp_path / "a[1]")
    assert names(tmp_path) == [".a1.x7", ".b.x7", "a[1]", "a[1].lock"]


@pytest.mark.parametrize("installed", [True, False])
def test_the_version_is_that_of_the_installed_package(monkeypatch, installed):
    def version(name):
        if installed:
            return "9.9"
        raise files.PackageNotFoundError(name)

    monkeypatch.setattr(files, "version", version)
    assert files.code_version() == ("9.9" if installed else "source")


def test_a_secret_file_is_its_owners_alone_and_the_mask_comes_back(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o644)
    before = os.umask(0o022)
    try:
        files.write_secretly(path, b"new")
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
        with pytest.raises(UsageError):
            files.write_secretly(tmp_path / "no" / "secret", b"new")
        files.write_atomically(tmp_path / "open", lambda file: file.write(b"x"))
        assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_who_waited_for_a_lock_that_its_owner_removed_holds_the_one_that_is_there(tmp_path):
    path, held, over = tmp_path / "h", threading.Event(), threading.Event()

    def wait():
        with files.locked(path):
            held.set()
            over.wait(5)

    waiting = threading.Thread(target=wait)
    with files.owned(path):
        waiting.start()
        time.sleep(0.1)  # until it waits
        assert not held.is_set()
    try:
        assert held.wait(5)
        with pytest.raises(UsageError, match="in use"), files.owned(path):
            pass
    finally:
        over.set()
        waiting.join()
