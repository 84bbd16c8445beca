"""Signed heads: whoever signs one growing log is never named, and whoever signs two versions of it always is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from privae.custody import heads, keys
from privae.custody.heads import Evidence, Head, SignedHead
from privae.errors import ArtifactError, UsageError
from privae.log.tree import Tree

LOG = "ab" * 32


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return tuple(keys.signing_key(folder / f"{name}.key") for name in "ab")


def tree_of(size, forked_at=None):
    return Tree(b"%d%s" % (i, b"!" if forked_at is not None and i >= forked_at else b"") for i in range(size))


def head(tree, size, log=LOG, date="2026-11-30"):
    return Head(log=log, size=size, root=tree.root(size).hex(), date=date)


def test_a_statement_says_what_it_is_and_all_that_is_signed(two) -> None:
    found = head(tree_of(3), 3)
    said = json.loads(found.statement)
    assert said == {"format": "privae-head/1", **found.model_dump()}
    made = heads.signed(found, two[0])
    assert made.held() == made
    for change in ({"log": "ba" * 32}, {"size": 4}, {"root": "00" * 32}, {"date": "2026-12-01"}):
        other = made.model_copy(update={"head": found.model_copy(update=change)})
        with pytest.raises(ArtifactError, match="does not hold"):
            other.held()


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": True}, {"size": 2.0}, {"log": "AB" * 32}, {"date": "2026-02-30"}, {"x": 1}],
)
def test_a_head_is_strict(change) -> None:
    with pytest.raises(ValidationError):
        Head.model_validate({**head(tree_of(2), 2).model_dump(), **change})


def test_a_file_of_heads_is_one_text_and_no_byte_of_it_can_be_changed(two) -> None:
    tree = tree_of(5)
    every = [heads.signed(head(tree, size), key) for size in (5, 2) for key in two]
    content = heads.dumps(every)
    assert heads.read(content, "h") == heads.joined(every) == heads.joined([*every[::-1], *every])
    assert [one.head.size for one in heads.read(content, "h")] == [2, 5]
    for place, byte in enumerate(content):
        changed = content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :]
        with pytest.raises(ArtifactError):
            heads.read(changed, "h")
    said = json.loads(content)
    swapped = {**said, "heads": said["heads"][::-1]}
    twice = {**said, "heads": [said["heads"][0], *said["heads"]]}
    for other in (b"", b"[]", b"{", content[:-1], content + b"\n", b"[" * 9999, b"\xff" + content):
        with pytest.raises(ArtifactError):
            heads.read(other, "h")
    for other in (swapped, twice, {**said, "heads": []}, {**said, "more": 1}, {**said, "format": "x"}):
        with pytest.raises(ArtifactError):
            heads.read(json.dumps(other, sort_keys=True, separators=(",", ":")).encode() + b"\n", "h")


def test_a_key_signs_once_and_in_its_place(two) -> None:
    made = heads.joined(heads.signed(head(tree_of(1), 1), key) for key in two)[0]
    for marks in (made.signatures[::-1], made.signatures[:1] * 2, ()):
        with pytest.raises(ValidationError):
            SignedHead(head=made.head, signatures=marks)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_signers_of_one_growing_log_are_never_named(two, m, n, with_log) -> None:
    tree = tree_of(40)
    low, high = sorted((m, n))
    one, other = heads.signed(head(tree, m), two[0]), heads.signed(head(tree, n, date="2026-12-01"), two[0])
    assert heads.compare(one, other, tree if with_log else tree.consistency(low, high)) is None
    # nobody can make evidence of them: no path leads from the signed root to another beginning
    first, second = sorted((one, other), key=lambda found: found.head.size)
    forked = tree_of(40, forked_at=low - 1)
    for path in ((), tree.beginning(low, high), forked.beginning(low, high), tree.consistency(low, high)):
        evidence = Evidence(first=first, second=second, path=tuple(found.hex() for found in path))
        with pytest.raises(ArtifactError):
            evidence.held()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_who_signs_two_versions_is_named_to_anybody(two, m, n, data) -> None:
    low, high = sorted((m, n))
    tree, forked = tree_of(40), tree_of(40, forked_at=data.draw(st.integers(0, low - 1)))
    one = heads.joined(heads.signed(head(tree, low), key) for key in two)[0]
    other = heads.signed(head(forked, high), two[1])
    path = forked.consistency(low, high)
    for between in (forked, forked.beginning(low, high)):
        evidence = heads.compare(one, other, between)
        assert evidence is not None
        assert evidence.signers == (two[1].public,)
        assert two[1].fingerprint in evidence.sentence()
        assert two[0].fingerprint not in evidence.sentence()
        content = heads.canonical(evidence)
        assert heads.parsed(Evidence, content, "e").held() == evidence
    if low < high and low & (low - 1) == 0:
        with pytest.raises(ArtifactError, match="proves nothing against anybody"):
            heads.compare(one, other, path)  # RFC 6962 leaves out the old root, which is in dispute
    place = data.draw(st.integers(0, len(content) - 1))
    changed = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
    with pytest.raises(ArtifactError):
        heads.parsed(Evidence, changed, "e").held()


def test_two_versions_with_signers_of_their_own_are_a_fork_that_names_both_sides(two) -> None:
    one, other = heads.signed(head(tree_of(3), 3), two[0]), heads.signed(head(tree_of(3, 1), 3), two[1])
    evidence = heads.compare(one, other)
    assert evidence is not None
    assert evidence.signers == ()
    assert "shown in two versions" in evidence.sentence()
    assert heads.Equivocation(evidence).exit_code == 6
    assert len(str(heads.Equivocation(evidence)).splitlines()) == 1


def test_heads_that_cannot_be_compared(two) -> None:
    tree = tree_of(4)
    one = heads.signed(head(tree, 2), two[0])
    with pytest.raises(UsageError, match="two logs"):
        heads.compare(one, heads.signed(head(tree, 2, log="cd" * 32), two[0]))
    with pytest.raises(ArtifactError, match="not the one that the larger head is of"):
        heads.compare(one, heads.signed(head(tree_of(4, 0), 4), two[0]), tree)
    with pytest.raises(ArtifactError, match="proves nothing"):
        heads.compare(one, heads.signed(head(tree, 4), two[0]), [bytes(32)])
    forged = one.model_copy(update={"signatures": heads.signed(head(tree, 3), two[0]).signatures})
    with pytest.raises(ArtifactError, match="does not hold"):
        heads.compare(one, forged)


def test_formats_are_read_off_the_first_line() -> None:
    assert heads.format_of(b'{"format":"x/1"}\n{}') == "x/1"
    for content in (
        b"",
        b"{}",
        b"[1]",
        b'{"format":1}',
        b"{" * 5000,
        b"\xff\xfe",
        b'{"a":',
        b"SQLite format 3\0",
    ):
        assert heads.format_of(content) == ""
