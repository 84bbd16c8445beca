"""Keys come from files of their owner's alone, the environment or the keyring, and are never shown."""

import os
import stat
import sys

import pytest

from privae.errors import ArtifactError, UsageError
from privae.sealing import at_hand, from_place, identities, keep, public_of, recipients
from privae.sealing.envelope import fresh

MINE, OTHER = fresh(), fresh()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (identities.SECRET, identities.PLACE, identities.PASSPHRASE, identities.SEAL_TO):
        monkeypatch.delenv(name, raising=False)


def test_a_key_is_kept_for_its_owner_alone_and_never_over_another(tmp_path):
    path = tmp_path / "k.key"
    before = os.umask(0)
    try:
        assert keep(MINE, path) == public_of(MINE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert from_place(path).secrets == (MINE,)
    with pytest.raises(UsageError, match="never overwritten"):
        keep(OTHER, path)
    assert from_place(path).publics == (public_of(MINE),)
    with pytest.raises(UsageError, match="no key can be written"):
        keep(MINE, tmp_path / "no" / "k.key")


def test_a_key_that_others_may_read_a_link_and_a_file_without_keys_are_refused(tmp_path):
    path = tmp_path / "k.key"
    keep(MINE, path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match=r"others may read the key .*chmod 600"):
        from_place(path)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UsageError, match="symbolic link"):
        from_place(tmp_path / "link")
    with pytest.raises(UsageError, match="cannot be read"):
        from_place(tmp_path / "absent")
    with pytest.raises(UsageError, match="not the key itself") as caught:
        from_place(MINE)
    assert MINE not in str(caught.value)
    for content in (
        b"",
        b"# nothing\n",
        b"\xff\xfe",
        b"age1abc\n",
        MINE[:-4].encode(),
        (MINE + "\n" + MINE[:40]).encode(),
    ):
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            from_place(path)
        assert MINE[20:36] not in str(caught.value)
        assert caught.value.__cause__ is None


def test_several_keys_and_comments_in_one_file(tmp_path):
    (tmp_path / "k").write_text(f"# mine\n\n {MINE} \r\n#{OTHER}\n{OTHER}\n")
    (tmp_path / "k").chmod(0o600)
    assert from_place(tmp_path / "k").secrets == (MINE, OTHER)


def test_keys_come_from_the_environment(tmp_path, monkeypatch):
    assert not at_hand()
    monkeypatch.setenv(identities.SECRET, MINE)
    keep(OTHER, tmp_path / "k")
    monkeypatch.setenv(identities.PLACE, str(tmp_path / "k"))
    monkeypatch.setenv(identities.PASSPHRASE, "correct horse")
    assert (at_hand().secrets, at_hand().passphrase) == ((MINE, OTHER), "correct horse")
    monkeypatch.setenv(identities.SECRET, MINE[:-1])
    with pytest.raises(ArtifactError, match="PRIVAE_IDENTITY holds a line") as caught:
        at_hand()
    assert MINE[20:36] not in str(caught.value)


def test_keys_are_kept_in_the_keyring(monkeypatch):
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked

    class Memory(KeyringBackend):
        priority = 1
        kept, locked = {}, False

        def get_password(self, service, name):
            if self.locked:
                raise KeyringLocked
            return self.kept.get((service, name))

        def set_password(self, service, name, secret):
            self.kept[service, name] = secret

    before, ring = keyring.get_keyring(), Memory()
    keyring.set_keyring(ring)
    try:
        assert keep(MINE, "keyring:clinic") == public_of(MINE)
        assert from_place("keyring:clinic").secrets == (MINE,)
        assert ring.kept == {("privae", "clinic"): MINE}
        with pytest.raises(UsageError, match="never overwritten"):
            keep(OTHER, "keyring:clinic")
        with pytest.raises(UsageError, match="there is no keyring:other; make it"):
            from_place("keyring:other")
        ring.locked = True
        with pytest.raises(UsageError, match="unlock"):
            from_place("keyring:clinic")
    finally:
        keyring.set_keyring(before)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UsageError, match=r"privae\[keyring\]"):
        from_place("keyring:clinic")


def test_public_keys_are_given_as_such_or_in_files(tmp_path, monkeypatch):
    mine, other = public_of(MINE), public_of(OTHER)
    (tmp_path / "k.pub").write_text(f"# both\n{other}\n\n{mine}\n")
    assert recipients([mine, tmp_path / "k.pub", mine]) == (mine, other)
    monkeypatch.setenv(identities.SEAL_TO, f" {mine}, {other}")
    assert identities.towards() == (mine, other)
    (tmp_path / "secret").write_text(MINE)
    (tmp_path / "empty").write_text("\n")
    wrong = {
        MINE: "secret key; seal to its public key",
        str(tmp_path / "secret"): "holds a secret key",
        str(tmp_path / "empty"): "holds no public key",
        str(tmp_path / "absent"): "neither a public key",
        mine[:-1]: "no public key",
        "age1": "no public key",
    }
    for text, match in wrong.items():
        with pytest.raises(UsageError, match=match) as caught:
            recipients([text])
        assert MINE[20:] not in str(caught.value)


def test_what_is_read_again_needs_a_key_that_opens_it(monkeypatch):
    identities.check_reopened("a stream")
    monkeypatch.setenv(identities.SEAL_TO, public_of(MINE))
    with pytest.raises(UsageError, match=r"a stream is read again in its use: .*--identity"):
        identities.check_reopened("a stream")
    monkeypatch.setenv(identities.SECRET, OTHER)
    with pytest.raises(UsageError, match="a stream is read again"):
        identities.check_reopened("a stream")
    monkeypatch.setenv(identities.SECRET, MINE)
    identities.check_reopened("a stream")
