"""What a chain is shown of a ledger: nothing that can be guessed or linked, and nothing that can be exchanged later."""

import hashlib
import hmac
import stat
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.custody.blinded import Anchors, Head, Place, check
from privae.errors import ArtifactError, UsageError
from privae.privacy.ledger import Ledger

FIRST = bytes(range(32))


def roots(leaves):
    """Stands in for a Merkle tree: any function of exactly the first entries."""
    return lambda size: hashlib.sha256(b"\n".join(leaves[:size])).digest()


def test_one_ledger_has_another_name_under_every_salt(tmp_path):
    first = bytes.fromhex(Ledger.open(tmp_path / "one", 4.0, 1e-6).head)
    assert Anchors.fresh().log(first) != Anchors.fresh().log(first)


def test_what_is_sent_are_hmacs_as_documented():
    anchors = Anchors(salt="ab" * 32)
    head = anchors.head(FIRST, 3, roots([b"x", b"y", b"z"]))
    root = roots([b"x", b"y", b"z"])(3)
    said = b"privae anchor name\0" + FIRST, b"privae anchor root\0" + (3).to_bytes(8, "big") + root
    assert (head.log, head.root) == tuple(hmac.new(b"\xab" * 32, x, "sha256").digest() for x in said)
    assert head.size == 3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5))
def test_a_change_of_an_anchored_entry_is_found_and_later_entries_are_free(size, changed):
    leaves = [b"%d" % i for i in range(6)]
    anchors = Anchors.fresh()
    head = anchors.head(FIRST, size, roots(leaves))
    assert check([head], anchors, 6, roots(leaves)) == (True,)
    leaves[changed] += b"!"
    assert check([head], anchors, 6, roots(leaves)) == (changed >= size,)
    assert check([head], Anchors.fresh(), 6, roots(leaves)) == (False,)


def test_a_ledger_that_lost_its_end_and_an_empty_head_do_not_hold():
    anchors, whole = Anchors.fresh(), roots([b"x", b"y"])
    odd = [anchors.head(FIRST, 2, whole), SimpleNamespace(size=0, root=bytes(32))]
    assert check(odd, anchors, 1, whole) == (False, False)


@pytest.mark.parametrize("parts", [(b"x", 1, bytes(32)), (bytes(32), 0, bytes(32)), (bytes(32), 1, b"")])
def test_what_is_no_head_is_refused(parts):
    with pytest.raises(UsageError, match="32 bytes"):
        Head(*parts)


def test_the_salt_is_kept_for_its_owner_and_is_in_no_repr(tmp_path):
    place = Place(chain=1, contract="0x1", writer="0x2")
    made = Anchors.fresh().at(place).at(place)
    made.save(tmp_path / "a")
    assert Anchors.load(tmp_path / "a") == made
    assert made.places == (place,)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert made.salt not in repr(made)


def test_a_damaged_file_is_refused_without_its_content(tmp_path):
    Anchors.fresh().save(tmp_path / "a")
    text = (tmp_path / "a").read_text()
    for broken in (
        "",
        text[:40],
        text.replace("anchors/1", "anchors/2"),
        text.replace('"salt":"', '"salt":"x'),
        "[]",
    ):
        (tmp_path / "a").write_text(broken)
        with pytest.raises(ArtifactError) as caught:
            Anchors.load(tmp_path / "a")
        assert text[30:50] not in str(caught.value)
        assert caught.value.__suppress_context__
    with pytest.raises(UsageError, match="salt"):
        Anchors.load(tmp_path / "none")
