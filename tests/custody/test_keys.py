"""Signing keys: one file, its owner's alone at every moment, one key for all who race, and no odd file is read."""

import base64
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privae.custody import keys
from privae.errors import ArtifactError, ResourceError, UsageError
from privae.sealing import secrets

PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "settings" / "privae" / "signing.key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kept(path: Path, content: bytes) -> Path:
    """A file of its owner's alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_key_is_made_on_first_use_and_kept(place):
    made, again = keys.signing_key(place), keys.signing_key(place)
    assert (made.created, again.created) == (True, False)
    assert made.public == again.public
    assert (mode(place), mode(place.parent), mode(place.parent.parent)) == (0o600, 0o700, 0o700)
    assert [path.name for path in place.parent.iterdir()] == ["signing.key"]


def test_the_key_file_is_the_users_own_place(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.PLACE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")  # to be ignored, says the standard
    assert keys.key_file() == tmp_path / ".config" / "privae" / "signing.key"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    assert keys.key_file() == tmp_path / "x" / "privae" / "signing.key"
    monkeypatch.setenv(keys.PLACE, str(tmp_path / "y.key"))
    assert keys.signing_key().path == tmp_path / "y.key"
    monkeypatch.setenv(keys.PLACE, "y.key")
    with pytest.raises(UsageError, match="absolute"):
        keys.key_file()


def test_without_a_home_the_key_must_be_named(monkeypatch):
    monkeypatch.delenv(keys.PLACE, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match=keys.PLACE):
        keys.key_file()


def test_no_moment_shows_the_key_to_others(place, monkeypatch):
    seen, real = [], {name: getattr(os, name) for name in ("fchmod", "fsync", "link")}

    def watched(name):
        def call(*arguments, **options):
            seen.extend(mode(path) for path in place.parent.iterdir())
            done = real[name](*arguments, **options)
            seen.extend(mode(path) for path in place.parent.iterdir())
            return done

        return call

    for name in real:
        monkeypatch.setattr(os, name, watched(name))
    before = os.umask(0)
    try:
        keys.signing_key(place)
    finally:
        os.umask(before)
    assert len(seen) >= 6
    assert set(seen) == {0o600}
    assert mode(place.parent) == 0o700


def test_threads_that_race_get_one_key(place):
    start = threading.Barrier(12)

    def made(_):
        start.wait()
        return keys.signing_key(place)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(made, range(12)))
    assert len({key.public for key in found}) == 1
    assert sum(key.created for key in found) == 1
    assert [path.name for path in place.parent.iterdir()] == ["signing.key"]


def test_processes_that_race_get_one_key(place):
    code = "import sys; from privae.custody.keys import signing_key; input(); print(signing_key().public)"
    env = {**os.environ, keys.PLACE: str(place)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    running = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert answers == {keys.signing_key(place).public + "\n"}


def test_one_that_came_second_takes_the_key_that_is_there(place, monkeypatch):
    first = keys.signing_key(place)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    assert keys.signing_key(place).public == first.public
    assert not keys.signing_key(place).created


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_key_that_others_may_reach_is_refused(place, bits):
    keys.signing_key(place)
    place.chmod(bits)
    with pytest.raises(UsageError, match=r"others may read the key .*chmod 600"):
        keys.signing_key(place)


def test_a_link_in_the_keys_place_is_refused(place, tmp_path):
    real = keys.signing_key(tmp_path / "real" / "signing.key").path
    place.parent.mkdir(parents=True, mode=0o700)
    for target in (real, tmp_path / "nowhere"):
        place.symlink_to(target)
        with pytest.raises(UsageError, match="symbolic link"):
            keys.signing_key(place)
        place.unlink()
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_regular_file_is_refused_at_once(place):
    place.mkdir(parents=True)
    with pytest.raises(UsageError, match="not a regular file"):
        keys.signing_key(place)
    place.rmdir()
    os.mkfifo(place, 0o600)  # one would wait for a writer
    with pytest.raises(UsageError, match="not a regular file"):
        keys.signing_key(place)


def test_a_key_or_a_folder_of_another_user_is_refused(place, monkeypatch):
    keys.signing_key(place)
    mine = os.geteuid()
    monkeypatch.setattr(secrets.os, "geteuid", lambda: mine + 1)
    with pytest.raises(UsageError, match=r"belongs to another user|others may replace"):
        keys.signing_key(place)


def test_a_folder_in_which_others_may_replace_files_is_refused(place):
    keys.signing_key(place)
    place.parent.chmod(0o777)
    with pytest.raises(UsageError, match="others may replace files"):
        keys.signing_key(place)
    with pytest.raises(UsageError, match="others may replace files"):
        keys.signing_key(place.with_name("new.key"))
    assert not place.with_name("new.key").exists()
    place.parent.chmod(0o1777)  # as /tmp: there, only the owner may
    assert not keys.signing_key(place).created


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_a_truncated_key_is_refused_and_left_alone(place, part):
    whole = keys.signing_key(place).path.read_bytes()
    place.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ArtifactError, match="holds no key, or a part of one"):
        keys.signing_key(place)
    assert place.read_bytes() == whole[: int(part * len(whole))]


def test_keys_of_other_kinds_are_refused(place):
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(*PEM, serialization.NoEncryption())
    with pytest.raises(ArtifactError, match="another kind"):
        keys.signing_key(kept(place, other))
    locked = Ed25519PrivateKey.generate().private_bytes(
        *PEM, serialization.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(ArtifactError, match="holds no key"):
        keys.signing_key(kept(place, locked))
    with pytest.raises(ArtifactError, match="holds no key"):
        keys.signing_key(kept(place, b"\x00" * 2**16))


@pytest.mark.parametrize(("number", "error"), [(28, ResourceError), (1, UsageError)])
def test_where_no_key_can_be_written_nothing_is_left(place, monkeypatch, number, error):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(error):
        keys.signing_key(place)
    assert list(place.parent.iterdir()) == []


def test_a_key_that_cannot_be_read_is_an_error_of_one_line(place, monkeypatch):
    keys.signing_key(place)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(secrets.os, "open", refuse)
    with pytest.raises(UsageError, match="cannot be read: permission denied"):
        keys.signing_key(place)


def test_a_signature_holds_for_its_message_and_key_alone(place):
    key, other = keys.signing_key(place), keys.signing_key(place.with_name("other.key"))
    signature = key.sign(b"message")
    assert keys.check(key.public, signature, b"message")
    assert not keys.check(key.public, signature, b"messagf")
    assert not keys.check(other.public, signature, b"message")
    assert not keys.check(key.public, other.sign(b"message"), b"message")


def test_a_signature_has_one_text(place):
    key = keys.signing_key(place)
    signature = key.sign(b"message")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = signature[:-3] + letters[letters.index(signature[-3]) ^ 1] + "=="
    assert base64.b64decode(twin) == base64.b64decode(signature)  # the last bits of base64 say nothing
    for text in (
        twin,
        signature + "\n",
        " " + signature,
        signature.rstrip("="),
        signature[:-4],
        "",
        "é",
        "%",
    ):
        assert not keys.check(key.public, text, b"message")
    for text in ("", key.public + "=", key.public[:-2], "A" * 44, "é" * 44):
        assert not keys.check(text, signature, b"message")


def test_nothing_that_is_printed_shows_the_secret(place):
    key = keys.signing_key(place)
    secret = key._secret.private_bytes_raw()
    shown = repr(key) + str(key) + key.public + key.fingerprint
    assert "_secret" not in shown
    assert base64.b64encode(secret).decode() not in shown
    assert secret.hex() not in shown


def test_a_pin_is_a_key_or_enough_digits_of_its_hash(place):
    key, other = keys.signing_key(place), keys.signing_key(place.with_name("other.key"))
    for given in (key.public, key.fingerprint, key.fingerprint.upper(), f" {key.fingerprint} "):
        assert keys.matches(keys.pinned(given), key.public)
        assert not keys.matches(keys.pinned(given), other.public)
    for given in ("", "abc", key.fingerprint[:-1], key.fingerprint + "g", key.public[:-1], "ab" * 33):
        with pytest.raises(UsageError, match="--key"):
            keys.pinned(given)
    with pytest.raises(ArtifactError, match="does not read"):
        keys.fingerprint("no key")


@pytest.mark.parametrize("top", [0, 2**255])
@pytest.mark.parametrize("number", [keys._PRIME, keys._PRIME + 1, *sorted(keys._SMALL)])
def test_under_a_key_of_small_order_nothing_is_signed(number, top):
    public = base64.b64encode((number + top).to_bytes(32, "little")).decode()
    anybodys = base64.b64encode((1).to_bytes(64, "little")).decode()  # R: the neutral point; s: 0
    assert not any(keys.check(public, anybodys, bytes([of])) for of in range(32))


def test_the_points_of_small_order_are_those_of_the_curve():
    prime = keys._PRIME
    bent = -121665 * pow(121666, -1, prime) % prime
    for one in keys._SMALL:
        y = one
        square = (y * y - 1) * pow(bent * y * y + 1, -1, prime) % prime
        x = pow(square, (prime + 3) // 8, prime)
        x = x if x * x % prime == square else x * pow(2, (prime - 1) // 4, prime) % prime
        assert x * x % prime == square
        at = x, y
        for _ in range(3):  # doubled thrice, it is the neutral point (0, 1)
            x, y = at
            both = bent * x * x * y * y
            at = (
                2 * x * y * pow(1 + both, -1, prime) % prime,
                (y * y + x * x) * pow(1 - both, -1, prime) % prime,
            )
        assert at == (0, 1)
