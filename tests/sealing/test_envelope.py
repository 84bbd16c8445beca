"""Sealed streams: they open with their keys, and nothing that was changed, cut, moved or added to opens."""

import random
import shutil
import subprocess
from io import BytesIO
from itertools import pairwise

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import ArtifactError, UsageError
from privae.sealing import Keys, envelope, fresh, header, is_sealed, public_of, reseal, seal, unseal

CHUNK = 64 * 1024 + 16
MINE, OTHER = fresh(), fresh()
WORDS = "correct horse battery"


def sealed(clear, *publics, passphrase=None):
    out = BytesIO()
    seal(BytesIO(clear), out, publics or (() if passphrase else (public_of(MINE),)), passphrase)
    return out.getvalue()


def opened(content, *secrets, passphrase=None):
    out = BytesIO()
    unseal(BytesIO(content), out, Keys(secrets or (() if passphrase else (MINE,)), passphrase), "f")
    return out.getvalue()


def payload(content):
    """Where the payload begins, after the header."""
    return content.index(b"\n", content.index(b"\n---") + 1) + 1


@given(st.integers(0, 3), st.integers(-2, 2))
@settings(max_examples=8)
def test_whatever_the_size_what_was_sealed_comes_back(chunks, more):
    clear = random.Random(0).randbytes(max(0, chunks * 64 * 1024 + more))
    content = sealed(clear, public_of(OTHER), public_of(MINE))
    assert opened(content) == opened(content, OTHER) == opened(content, fresh(), MINE) == clear
    assert len(clear) < 40 or clear[:40] not in content


def test_another_key_and_no_key_open_nothing():
    content = sealed(b"clear")
    with pytest.raises(ArtifactError, match="f does not open: it is sealed to other keys"):
        opened(content, OTHER)
    with pytest.raises(
        ArtifactError, match=r"f is sealed; name the key .* --identity, or in PRIVAE_IDENTITY_FILE"
    ):
        unseal(BytesIO(content), BytesIO(), Keys(passphrase="words"), "f")


@pytest.mark.parametrize("size", [0, 60])
def test_every_byte_that_is_flipped_is_noticed(size):
    content = sealed(bytes(size))
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        with pytest.raises(ArtifactError) as caught:
            opened(changed)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def large():
    """Three chunks and a bit, and where they begin in the sealed file, after the nonce."""
    content = sealed(random.Random(1).randbytes(3 * 64 * 1024 + 100))
    start = payload(content) + 16
    return content, [*range(start, len(content), CHUNK), len(content)]


def test_bytes_that_are_flipped_in_any_chunk_are_noticed(large):
    content, ends = large
    places = [
        place + move for place in ends for move in (-17, -1, 0, 1, 30_000) if place + move < len(content)
    ]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ArtifactError, match="f was changed or cut off after it was sealed"):
            opened(bytes(changed))


def test_chunks_that_are_swapped_doubled_or_left_out_are_noticed(large):
    content, ends = large
    front = content[: ends[0]]
    chunks = [content[a:b] for a, b in pairwise(ends)]
    for order in (
        [1, 0, 2, 3],
        [0, 2, 1, 3],
        [0, 1, 2],
        [0, 1, 3],
        [1, 2, 3],
        [3],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 3],
        [],
    ):
        with pytest.raises(ArtifactError):
            opened(front + b"".join(chunks[i] for i in order))
    other = sealed(bytes(3 * 64 * 1024 + 100))
    at = payload(other) + 16
    with pytest.raises(ArtifactError):
        opened(front + other[at : at + CHUNK] + b"".join(chunks[1:]))


def test_a_file_cut_anywhere_is_noticed(large):
    small, (content, ends) = sealed(b"clear"), large
    for cut in range(len(small)):
        with pytest.raises(ArtifactError):
            opened(small[:cut])
    for end in ends:
        for cut in {end - 1, end, end + 1, end + 16} - {len(content), len(content) + 1, len(content) + 16}:
            with pytest.raises(ArtifactError):
                opened(content[:cut])


@pytest.mark.parametrize("size", [5, 64 * 1024])
def test_bytes_that_are_added_are_noticed(size):
    content = sealed(bytes(size))
    for more in (b"x", bytes(16), content[-30:], bytes(CHUNK)):
        with pytest.raises(ArtifactError):
            opened(content + more)
        with pytest.raises(ArtifactError):
            opened(more + content)


def test_stanzas_that_are_taken_away_or_added_are_noticed():
    content = sealed(b"clear", public_of(MINE), public_of(OTHER))
    lines = content[: payload(content)].split(b"\n")
    stanza = [i for i, line in enumerate(lines) if line.startswith(b"-> X25519")]
    for i in stanza:
        changed = b"\n".join(lines[:i] + lines[i + 2 :]) + content[payload(content) :]
        for secret in (MINE, OTHER):
            with pytest.raises(ArtifactError):
                opened(changed, secret)


def test_what_is_no_sealed_file_is_named_so():
    for content in (b"", b"a,b\n1,2\n", b"PK\x03\x04"):
        with pytest.raises(
            ArtifactError, match="was changed or cut" if not content else "is not a sealed file"
        ):
            opened(content)
    armored = pyrage.encrypt(b"x", [pyrage.x25519.Recipient.from_str(public_of(MINE))], armored=True)
    with pytest.raises(ArtifactError, match="armored"):
        opened(armored)


def test_a_passphrase_seals_and_opens_as_that_of_age_does(monkeypatch):
    monkeypatch.setattr(header, "_WORK", 10)
    clear = random.Random(2).randbytes(100_000)
    content = sealed(clear, passphrase=WORDS)
    assert opened(content, passphrase=WORDS) == clear == pyrage.passphrase.decrypt(content, WORDS)
    with pytest.raises(ArtifactError, match="does not open"):
        opened(content, passphrase="other words")
    with pytest.raises(ArtifactError, match="under a passphrase; give it in PRIVAE_PASSPHRASE"):
        opened(content, MINE)
    for broken in (content[:-1], content[:200] + bytes([content[200] ^ 1]) + content[201:]):
        with pytest.raises(ArtifactError):
            opened(broken, passphrase=WORDS)


def test_a_file_has_either_public_keys_or_a_passphrase():
    for publics, words in (((), None), ((public_of(MINE),), WORDS)):
        with pytest.raises(UsageError, match="name one of the two"):
            seal(BytesIO(), BytesIO(), publics, words)


def test_resealed_it_opens_with_the_new_keys_only_and_its_payload_is_the_same(monkeypatch):
    clear = random.Random(3).randbytes(200_000)
    content, third = sealed(clear, public_of(MINE), public_of(OTHER)), fresh()
    out = BytesIO()
    reseal(BytesIO(content), out, Keys((MINE,)), [public_of(third)])
    anew = out.getvalue()
    assert anew[payload(anew) :] == content[payload(content) :]
    assert opened(anew, third) == clear
    for old in (MINE, OTHER):
        with pytest.raises(ArtifactError, match="does not open"):
            opened(anew, old)
    with pytest.raises(ArtifactError, match="does not open"):
        reseal(BytesIO(content), BytesIO(), Keys((third,)), [public_of(third)])
    monkeypatch.setattr(header, "_WORK", 4)
    out = BytesIO()
    reseal(BytesIO(sealed(clear, passphrase=WORDS)), out, Keys(passphrase=WORDS), [public_of(third)])
    assert opened(out.getvalue(), third) == clear


class Failing(BytesIO):
    """A file that fails at the nth call."""

    def __init__(self, content, error, after):
        super().__init__(content)
        self.error, self.left = error, after

    def _step(self):
        self.left -= 1
        if self.left < 0:
            raise self.error

    def read(self, *size):
        self._step()
        return super().read(*size)

    def write(self, content):
        self._step()
        return super().write(content)


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("after", [0, 2])
def test_what_goes_wrong_at_a_file_is_raised_as_it_is(error, after):
    content, publics = sealed(bytes(300_000)), (public_of(MINE),)
    calls = (
        lambda: seal(Failing(bytes(300_000), error, after), BytesIO(), publics),
        lambda: seal(BytesIO(bytes(300_000)), Failing(b"", error, after), publics),
        lambda: unseal(BytesIO(content), Failing(b"", error, after), Keys((MINE,))),
        lambda: unseal(Failing(content, error, after), BytesIO(), Keys((MINE,))),
    )
    for call in calls:
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error


def test_progress_tells_of_every_byte():
    seen = []
    out = BytesIO()
    seal(BytesIO(bytes(3_000_000)), out, (public_of(MINE),), told=seen.append)
    assert sum(seen) == 3_000_000
    unseal(BytesIO(out.getvalue()), BytesIO(), Keys((MINE,)), told=seen.append)
    assert sum(seen) == 3_000_000 + len(out.getvalue())


def test_no_key_is_shown():
    assert MINE not in repr(Keys((MINE,), WORDS))
    assert WORDS not in repr(Keys((MINE,), WORDS))
    broken = MINE[:-3]
    for call in (
        lambda: public_of(broken),
        lambda: envelope.public(MINE),
        lambda: envelope.public("age1" + MINE),
    ):
        with pytest.raises((ArtifactError, UsageError)) as caught:
            call()
        assert broken[20:] not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.skipif(
    shutil.which("age") is None, reason="the standard tool age is not installed (Debian: age)"
)
def test_the_standard_tool_opens_what_is_sealed_and_seals_what_opens(tmp_path):
    clear = random.Random(4).randbytes(150_000)
    (tmp_path / "k").write_text(MINE + "\n")
    (tmp_path / "f.age").write_bytes(sealed(clear, public_of(OTHER), public_of(MINE)))
    assert is_sealed(tmp_path / "f.age")
    told = subprocess.run(["age", "-d", "-i", "k", "f.age"], cwd=tmp_path, capture_output=True, check=True)
    assert told.stdout == clear
    command = ["age", "-r", public_of(OTHER), "-r", public_of(MINE)]
    made = subprocess.run(command, input=clear, capture_output=True, check=True).stdout
    assert opened(made) == clear
    out = BytesIO()
    reseal(BytesIO(made), out, Keys((OTHER,)), [public_of(MINE)])
    (tmp_path / "f.age").write_bytes(out.getvalue())
    again = subprocess.run(["age", "-d", "-i", "k", "f.age"], cwd=tmp_path, capture_output=True, check=True)
    assert again.stdout == clear
