"""Zips and folders: read in memory, one by one; what leads out, bombs and links are refused; folders appear whole."""

import io
import os
import signal
import stat
import struct
import subprocess
import sys
import zipfile

import pytest

from privae.errors import DataError, UsageError
from privae.imaging import archives


def zipped(*members, method=zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def source(tmp_path):
    """A function that writes bytes to a zip, and opens it."""

    def opened(content: bytes):
        path = tmp_path / "in.zip"
        path.write_bytes(content)
        return archives.source_of(path)

    return opened


def test_members_come_in_the_order_of_their_names_without_hidden_ones(source) -> None:
    found = source(
        zipped(("b/2", b"two"), ("a", b"one"), ("__MACOSX/._a", b"x"), (".DS_Store", b"x"), ("c/", b""))
    )
    assert found.names == ("a", "b/2")
    assert list(found) == [b"one", b"two"]
    assert found.skipped == 2


def link(name: str, mode: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o777) << 16
    return info


BAD = {
    "out": (zipped(("../../etc/passwd", b"x")), "leads out"),
    "inside out": (zipped(("a/../../b", b"x")), "leads out"),
    "absolute": (zipped(("/etc/passwd", b"x")), "leads out"),
    "backslash": (zipped(("..\\b", b"x")), "leads out"),
    "drive": (zipped(("C:b", b"x")), "leads out"),
    "control": (zipped(("a\x1b[2Jb", b"x")), "control characters"),
    "link": (zipped((link("a"), "/etc/passwd")), "a link or a device"),
    "device": (zipped((link("a", stat.S_IFCHR), b"")), "a link or a device"),
    "bomb": (zipped(("a", bytes(2**27))), "bomb"),
    "nested": (zipped(("a", zipped(("b", b"x")))), "a zip in a zip"),
    "method": (zipped(("a", b"x"), method=zipfile.ZIP_BZIP2), "rare method"),
    "cut": (zipped(("a", b"x" * 99))[:-30], "damaged or truncated"),
    "sign": (b"PK\x03\x04" + bytes(90), "damaged or truncated"),
}


@pytest.mark.parametrize("case", BAD)
def test_odd_zips_are_refused_in_one_line(source, case) -> None:
    content, part = BAD[case]
    with pytest.raises(DataError, match=part) as error:
        list(source(content))
    text = str(error.value)
    assert "\n" not in text
    assert "passwd" not in text
    assert "\x1b" not in text


def test_twins_encryption_and_headers_that_lie_are_refused(source) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        twins = zipped(("a", b"x"), ("a", b"y"))
    with pytest.raises(DataError, match="one name"):
        source(twins)
    plain = zipped(("a", b"xyz" * 50))
    central = plain.index(b"PK\x01\x02")
    locked = bytearray(plain)
    locked[6], locked[central + 8] = 1, 1
    with pytest.raises(DataError, match="encrypted"):
        source(bytes(locked))
    for said in (10, 10**6):
        lying = bytearray(plain)
        lying[central + 24 : central + 28] = struct.pack("<L", said)
        with pytest.raises(DataError, match=r"damaged, or larger|shorter"):
            list(source(bytes(lying)))
    flipped = bytearray(plain)
    flipped[central - 5] ^= 0x40
    with pytest.raises(DataError, match="damaged"):
        list(source(bytes(flipped)))


def test_too_many_and_too_large_are_refused(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match="more than 2 members"):
        source(zipped(("a", b""), ("b", b""), ("c", b"")))
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        source(zipped(("a", bytes(1001))))
    (tmp_path / "many").mkdir()
    for name in "abc":
        (tmp_path / "many" / name).write_bytes(bytes(1001))
    with pytest.raises(DataError, match="more than 2 files"):
        archives.source_of(tmp_path / "many")
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        archives.source_of(tmp_path / "many" / "a")


def test_folders_are_read_below_and_links_are_not_followed(tmp_path) -> None:
    folder, secret = tmp_path / "in", tmp_path / "secret"
    (folder / "sub").mkdir(parents=True)
    secret.mkdir()
    (secret / "s").write_bytes(b"secret")
    (folder / "sub" / "b").write_bytes(b"two")
    (folder / "a").write_bytes(b"one")
    (folder / ".hidden").write_bytes(b"x")
    (folder / "link").symlink_to(secret / "s")
    (folder / "loop").symlink_to(folder)
    found = archives.source_of(folder)
    assert found.names == ("a", "sub/b")
    assert list(found) == [b"one", b"two"]
    assert found.skipped == 3
    (folder / "a").unlink()
    (folder / "a").symlink_to(secret / "s")
    with pytest.raises(UsageError, match="symbolic link"):
        found.read(0)
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match="regular file"):
        list(archives.source_of(folder / "pipe"))
    with pytest.raises(UsageError, match="does not exist"):
        archives.source_of(tmp_path / "nothing")


def test_a_folder_appears_whole_or_not_at_all(tmp_path) -> None:
    with archives.staged(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_bytes() == b"x"
    with pytest.raises(UsageError, match="exists"), archives.staged(tmp_path / "out"):
        raise AssertionError
    with pytest.raises(DataError), archives.staged(tmp_path / "other"):
        raise DataError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_process_leaves_no_folder_of_that_name(tmp_path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from privae.imaging import archives\n"
        "with archives.staged(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
