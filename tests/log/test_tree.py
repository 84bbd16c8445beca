"""Merkle trees of RFC 6962: published roots and proofs, a naive definition beside them, and no forged proof holds."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.log import tree
from privae.log.tree import Tree

# the eight leaves of Certificate Transparency's reference implementation, and the roots and proofs published for them
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A, B = (
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
)
C, D = (
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
)
E, F = (
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
)
INCLUSION = {
    (0, 1): [],
    (0, 2): [A],
    (1, 2): [ROOTS[1]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], B, C],
    (0, 8): [A, B, E],
    (5, 8): [C, D, ROOTS[4]],
}
CONSISTENCY = {(1, 1): [], (1, 8): [A, B, E], (2, 5): [B, C], (6, 8): [F, D, ROOTS[4]]}


def naive(leaves):
    """MTH as section 2.1 writes it."""
    if len(leaves) < 2:
        return hashlib.sha256(b"\0" + leaves[0] if leaves else b"").digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + naive(leaves[:k]) + naive(leaves[k:])).digest()


def path_of(m, leaves):
    """PATH as section 2.1.1 writes it."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*path_of(m, leaves[:k]), naive(leaves[k:])]
    return [*path_of(m - k, leaves[k:]), naive(leaves[:k])]


def subproof(m, leaves, whole):
    """SUBPROOF as section 2.1.2 writes it."""
    if m == len(leaves):
        return [] if whole else [naive(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], whole), naive(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), naive(leaves[:k])]


def made(count):
    return [b"leaf %d" % i for i in range(count)]


def test_roots_are_the_published_ones_at_every_size() -> None:
    whole = Tree(LEAVES)
    for size, root in enumerate(ROOTS):
        assert (
            tree.root_of(LEAVES[:size]).hex() == whole.root(size).hex() == naive(LEAVES[:size]).hex() == root
        )


def test_proofs_are_the_published_ones() -> None:
    whole = Tree(LEAVES)
    for (index, size), path in INCLUSION.items():
        assert [h.hex() for h in whole.inclusion(index, size)] == path
    for (first, second), path in CONSISTENCY.items():
        assert [h.hex() for h in whole.consistency(first, second)] == path


def test_every_root_and_proof_of_every_size_is_that_of_the_definition_and_holds() -> None:
    leaves = made(33)
    whole = Tree(leaves)
    for n in range(1, 34):
        root = naive(leaves[:n])
        assert whole.root(n) == root
        for m in range(n):
            path = whole.inclusion(m, n)
            assert path == path_of(m, leaves[:n])
            assert tree.verify_inclusion(leaves[m], (m, n), path, root)
        for m in range(1, n + 1):
            path = whole.consistency(m, n)
            assert path == subproof(m, leaves[:n], True)
            assert tree.verify_consistency((m, n), path, (whole.root(m), root))
            if m < n:
                assert tree.roots_along((m, n), whole.beginning(m, n)) == (whole.root(m), root)


def variants(path, bit):
    """A path with one bit flipped, shortened at either end, lengthened, and two hashes exchanged."""
    for i, one in enumerate(path):
        changed = bytearray(one)
        changed[bit // 8 % 32] ^= 1 << bit % 8
        yield [*path[:i], bytes(changed), *path[i + 1 :]]
        yield [*path[:i], one[:31], *path[i + 1 :]]
        if i and path[i - 1] != one:
            yield [*path[: i - 1], one, path[i - 1], *path[i + 1 :]]
    yield from ([path[1:], path[:-1]] if path else [])
    yield from ([*path, bytes(32)], [bytes(32), *path])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_other_proof_holds(data) -> None:
    n = data.draw(st.integers(2, 70))
    leaves, bit = made(n), data.draw(st.integers(0, 255))
    whole, m = Tree(leaves), data.draw(st.integers(0, n - 1))
    root, path = whole.root(), whole.inclusion(m)
    flipped = bytes([root[0] ^ 1]) + root[1:]
    assert not tree.verify_inclusion(leaves[m], (m, n), path, flipped)
    assert not tree.verify_inclusion(b"other", (m, n), path, root)
    assert not any(tree.verify_inclusion(leaves[m], (k, n), path, root) for k in range(-1, n + 2) if k != m)
    # sizes of one shape share proofs of their first leaves: that is why heads sign the size beside the root
    depth = len(path)
    for size in range(n + 40):
        if size > m and len(Tree(made(size)).inclusion(m)) != depth:
            assert not tree.verify_inclusion(leaves[m], (m, size), path, root)
    assert not any(tree.verify_inclusion(leaves[m], (m, n), other, root) for other in variants(path, bit))
    first = data.draw(st.integers(1, n - 1))
    roots, path = (whole.root(first), root), whole.consistency(first)
    assert not any(tree.verify_consistency((first, n), other, roots) for other in variants(path, bit))
    assert not tree.verify_consistency((first, n), path, (flipped, root))
    assert not tree.verify_consistency((first, n), path, (roots[0], flipped))
    assert not any(tree.verify_consistency((k, n), path, roots) for k in range(-1, n + 2) if k != first)
    forked = Tree([b"other", *leaves[1:]])
    assert not tree.verify_consistency((first, n), forked.consistency(first), (roots[0], forked.root()))


def test_what_is_not_there_is_no_proof() -> None:
    whole = Tree(made(5))
    for ask in (
        lambda: whole.root(6),
        lambda: whole.root(-1),
        lambda: whole.inclusion(5),
        lambda: whole.inclusion(-1),
        lambda: whole.consistency(0),
        lambda: whole.consistency(4, 3),
    ):
        with pytest.raises(ValueError, match=r"leaf|leaves"):
            ask()
    root = whole.root()
    assert not tree.verify_consistency((0, 5), [], (tree.EMPTY, root))
    assert not tree.verify_consistency((5, 5), [root], (root, root))
    assert not tree.verify_consistency((5, 5), [], (root, whole.root(4)))
    assert tree.roots_along((3, 5), []) is None
    assert tree.roots_along((5, 5), [root]) is None


def test_a_log_that_grows_costs_two_hashes_a_leaf(monkeypatch) -> None:
    counted, real = [0], tree.node_hash
    monkeypatch.setattr(tree, "node_hash", lambda a, b: counted.__setitem__(0, counted[0] + 1) or real(a, b))
    whole = Tree(made(1024))
    assert counted[0] == 1023
    for size in range(1, 1025):
        whole.root(size)
    assert counted[0] < 1023 + 1024 * 10
