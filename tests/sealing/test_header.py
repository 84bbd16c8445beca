"""Headers of age, held against pyrage, against a file written by hand from the specification, and against changes."""

import base64
import hashlib
import hmac
from io import BytesIO

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.sealing import envelope, header

KEY = bytes(range(16))


def encoded(content):
    return base64.b64encode(content).rstrip(b"=")


def hkdf(secret, salt, info):
    """RFC 5869 by hand, one block."""
    extracted = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def by_hand(secret, clear, chunk=64 * 1024):
    """A file of age as its specification says, with no code of pyrage or of privae."""
    own, once = (
        X25519PrivateKey.from_private_bytes(secret),
        X25519PrivateKey.from_private_bytes(bytes(range(32))),
    )
    share, public = (one.public_key().public_bytes_raw() for one in (once, own))
    shared = once.exchange(X25519PublicKey.from_public_bytes(public))
    wrapping = hkdf(shared, share + public, b"age-encryption.org/v1/X25519")
    body = ChaCha20Poly1305(wrapping).encrypt(bytes(12), KEY, None)
    text = b"age-encryption.org/v1\n-> X25519 " + encoded(share) + b"\n" + encoded(body) + b"\n---"
    mac = hmac.digest(hkdf(KEY, b"", b"header"), text, hashlib.sha256)
    nonce, sealed = bytes(16), b""
    payload = ChaCha20Poly1305(hkdf(KEY, nonce, b"payload"))
    starts = range(0, max(len(clear), 1), chunk)
    for number, start in enumerate(starts):
        last = bytes([start + chunk >= len(clear)])
        sealed += payload.encrypt(number.to_bytes(11, "big") + last, clear[start : start + chunk], None)
    return text + b" " + encoded(mac) + b"\n" + nonce + sealed


def unsealed(sealed, secret):
    out = BytesIO()
    envelope.unseal(BytesIO(sealed), out, envelope.Keys((secret,)))
    return out.getvalue()


@pytest.mark.parametrize("size", [0, 5, 65536, 65537, 200_000])
def test_a_file_written_by_hand_from_the_specification_opens(size):
    secret, clear = envelope.fresh(), bytes(i % 251 for i in range(size))
    assert unsealed(by_hand(envelope._raw(secret), clear), secret) == clear


def test_the_bytes_of_a_key_are_those_of_its_text():
    for secret in (envelope.fresh() for _ in range(5)):
        own = X25519PrivateKey.from_private_bytes(envelope._raw(secret))
        assert envelope._raw(envelope.public_of(secret)) == own.public_key().public_bytes_raw()


def test_a_header_gives_its_file_key_to_each_recipient_and_to_nobody_else():
    secrets = [envelope._raw(envelope.fresh()) for _ in range(3)]
    publics = [X25519PrivateKey.from_private_bytes(one).public_key().public_bytes_raw() for one in secrets]
    read = header.read(BytesIO(header.for_keys(KEY, publics[:2]) + b"payload"))
    assert [header.file_key(read, [secret]) for secret in secrets] == [KEY, KEY, None]
    assert header.file_key(read, [secrets[2], secrets[1]]) == KEY
    assert header.file_key(read, [], "passphrase") is None


def test_a_passphrase_is_alone_and_its_work_is_bounded(monkeypatch):
    monkeypatch.setattr(header, "_WORK", 4)
    made = header.for_passphrase(KEY, "correct horse")
    read = header.read(BytesIO(made))
    assert read.by_passphrase
    assert header.file_key(read, [bytes(32)], "correct horse") == KEY
    assert header.file_key(read, [], "other words") is None
    for work in (b"0", b"21", b"64", b"-1", b"x", b"4 4", b"\xff"):
        changed = made.replace(b" 4\n", b" " + work + b"\n")
        try:
            assert header.file_key(header.read(BytesIO(changed)), [], "correct horse") is None
        except ValueError:
            assert work == b"\xff"
    stanza = made[made.index(b"->") : made.index(b"---")]
    double = header.read(BytesIO(made.replace(stanza, stanza + stanza)))
    assert header.file_key(double, [], "correct horse") is None  # age: a passphrase is the only recipient


def test_what_pyrage_seals_is_read_and_what_is_written_pyrage_opens(monkeypatch):
    one = pyrage.x25519.Identity.generate()
    sealed = pyrage.encrypt(b"clear", [one.to_public()])
    rest = BytesIO(sealed)
    key = header.file_key(header.read(rest), [envelope._raw(str(one))])
    other = pyrage.x25519.Identity.generate()
    anew = header.for_keys(key, [envelope._raw(str(other.to_public()))]) + rest.read()
    assert pyrage.decrypt(anew, [other]) == b"clear"
    monkeypatch.setattr(header, "_WORK", 4)
    words = header.for_passphrase(key, "correct horse") + anew[anew.index(b"\n", anew.index(b"---")) + 1 :]
    assert pyrage.passphrase.decrypt(words, "correct horse") == b"clear"


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_whatever_follows_the_first_line_is_read_or_refused(content):
    with pytest.raises(ValueError, match=r"no |too many|codec"):
        header.read(BytesIO(header.MAGIC + content.replace(b"---", b"-")))


def test_a_header_without_end_is_refused():
    for endless in (b"a" * 5000, b"-> X25519 " + b"A" * 5000, b"-> a\n" + (b"A" * 64 + b"\n") * 10_001):
        with pytest.raises(ValueError, match=r"no|too many"):
            header.read(BytesIO(header.MAGIC + endless))


def test_any_bit_of_a_header_that_changes_shuts_the_file():
    secret = envelope.fresh()
    made = header.for_keys(KEY, [envelope._raw(envelope.public_of(secret))])
    for place in range(len(made)):
        changed = made[:place] + bytes([made[place] ^ (1 << place % 8)]) + made[place + 1 :]
        try:
            found = header.file_key(header.read(BytesIO(changed)), [envelope._raw(secret)])
        except ValueError:
            found = None
        assert found is None
