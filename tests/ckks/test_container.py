"""Files of ciphertexts: whole, of their kind, and of strong parameters, or refused in one line."""

import json

import pytest

from privae.ckks import container
from privae.ckks.container import Container
from privae.ckks.parameters import Parameters
from privae.errors import ArtifactError, UsageError

MADE = Container("records", Parameters(8192, (40, 30, 40)), "a" * 64, {"rows": 3}, b"body" * 100)


def test_a_file_comes_back(tmp_path):
    MADE.write(tmp_path / "a.pvhe")
    assert container.load(tmp_path / "a.pvhe", "records") == MADE
    assert "body" not in repr(MADE)


@pytest.mark.parametrize("place", [0, 9, 20, 200, -40, -1])
def test_a_changed_byte_is_refused(place):
    content = bytearray(MADE.dumps())
    content[place] ^= 1
    with pytest.raises(ArtifactError):
        container.loads(bytes(content), "a.pvhe")


@pytest.mark.parametrize("length", [0, 7, 12, 100, -33, -1])
def test_a_truncated_file_is_refused(length):
    with pytest.raises(ArtifactError, match=r"a\.pvhe"):
        container.loads(MADE.dumps()[:length], "a.pvhe")


def resealed(change):
    """A file with another header, and a right hash: made on purpose, not damaged."""
    import hashlib

    content = MADE.dumps()
    size = int.from_bytes(content[8:12], "big")
    header = json.loads(content[12 : 12 + size])
    change(header)
    raw = json.dumps(header).encode()
    body = content[:8] + len(raw).to_bytes(4, "big") + raw + MADE.body
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header.pop("kind"), "does not read"),
        (lambda header: header.update(about=[1]), "does not read"),
        (lambda header: header.update(bytes=3), "truncated"),
        (lambda header: header["parameters"].update(bits=[40, 60, 60, 60]), "refused"),
        (lambda header: header["parameters"].update(degree=1024), "refused"),
        (lambda header: header.update(kind="keys"), "holds keys, not records"),
    ],
)
def test_a_header_made_on_purpose_is_refused(change, says):
    with pytest.raises(ArtifactError, match=says):
        container.loads(resealed(change), "a.pvhe", "records")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        container.load(tmp_path / "none.pvhe")
