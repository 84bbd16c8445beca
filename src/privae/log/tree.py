"""A Merkle tree over the lines of a log, as in RFC 6962: one root names all lines, and short proofs say what is in it.

The hash of a leaf d is SHA-256(0x00 d), that of a node SHA-256(0x01 left right), and n > 1 leaves are split at the
largest power of two below n. So a root of n leaves is that of no other leaves, short of a collision of SHA-256.
"""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY = hashlib.sha256(b"").digest()
"""The root of no leaves."""

_SIZE = 32  # bytes of a hash


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf. Source: RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two. Source: RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of leaves, 32 bytes.

    >>> root_of([]).hex()[:16], root_of([b""]).hex()[:16]
    ('e3b0c44298fc1c14', '6e340b9cffb37a98')
    """
    return Tree(leaves).root()


class Tree:
    """A growing list of leaves, of which only hashes are kept: those of all complete subtrees, about two a leaf.

    Appending costs two hashes on average; a root or a proof of any size so far costs about log2(size) of them.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]  # levels[h][i]: the subtree of leaves i 2^h to (i + 1) 2^h
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add a leaf at the end."""
        made, height = leaf_hash(leaf), 0
        self._levels[0].append(made)
        while len(self._levels[height]) % 2 == 0:
            made, height = node_hash(*self._levels[height][-2:]), height + 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(made)

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves, of all by default. Errors: ValueError for more than there are."""
        size = self._checked(size)
        return self._over(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that leaf `index` is among the first `size`: the roots beside its way up, the lowest first.

        Errors: ValueError for a leaf or a size that is not there. Source: RFC 6962 section 2.1.1.
        """
        size = self._checked(size)
        if not 0 <= index < size:
            raise ValueError("there is no such leaf")
        path, low, high = [], 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """The proof that the first `first` leaves are the beginning of the first `second`.

        Errors: ValueError unless 0 < first <= second. Source: RFC 6962 section 2.1.2.
        """
        path = self.beginning(first, second)
        return path[1:] if _is_power(first) else path

    def beginning(self, first: int, second: int | None = None) -> list[bytes]:
        """The same, never short of its lowest root: what fixes the root of the first `first` from that of `second`.

        RFC 6962 leaves the lowest root out where it is the old root itself, for who checks has that. Who wants to
        show that the old root is another one has to give it. Empty where first = second. Errors: as `consistency`.
        """
        second = self._checked(second)
        if not 0 < first <= second:
            raise ValueError("a tree of no leaves, or a larger one, is the beginning of none")
        if first == second:
            return []
        path, low, high = [], 0, second
        while first != high:
            middle = low + _split(high - low)
            if first <= middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low = middle
        return [self._over(low, high), *path[::-1]]

    def _checked(self, size: int | None) -> int:
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError("there are fewer leaves")
        return size

    def _over(self, low: int, high: int) -> bytes:
        """The root of leaves low to high, where low is a multiple of a power of two that is at least high - low."""
        frontier = []
        while low < high:
            height = (high - low).bit_length() - 1
            frontier.append(self._levels[height][low >> height])
            low += 1 << height
        made = frontier.pop()
        while frontier:
            made = node_hash(frontier.pop(), made)
        return made


def verify_inclusion(leaf: bytes, place: tuple[int, int], path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path proves that `leaf` is leaf `index` of the `size` that a root is of; place: (index, size).

    Source: RFC 9162 section 2.1.3.2.
    """
    index, size = place
    if not 0 <= index < size or not _hashes([*path, root]):
        return False
    at, last, found = index, size - 1, leaf_hash(leaf)
    for beside in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(beside, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(sizes: tuple[int, int], path: Sequence[bytes], roots: tuple[bytes, bytes]) -> bool:
    """Whether a path proves that what the first root is of is the beginning of what the second one is of.

    Edges: the beginning of no leaves proves nothing, and is refused. Source: RFC 9162 section 2.1.4.2.
    """
    first, second = sizes
    if not 0 < first <= second or not _hashes([*path, *roots]):
        return False
    if first == second:
        return not path and roots[0] == roots[1]
    whole = [roots[0], *path] if _is_power(first) else path
    return roots_along(sizes, whole) == roots


def roots_along(sizes: tuple[int, int], path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """The roots of the first and of all leaves that follow from a whole path (`Tree.beginning`); None from no path.

    Guarantee: where the second one is a log's root, the first one is that of its first leaves, short of a collision
        of SHA-256: every hash of the path goes into the second root, at a place that the sizes fix.
    """
    first, second = sizes
    if not 0 < first < second or not path or not _hashes(path):
        return None
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for beside in path[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            old, new = node_hash(beside, old), node_hash(beside, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, beside)
        at, last = at >> 1, last >> 1
    return (old, new) if last == 0 else None


def _split(count: int) -> int:
    """The largest power of two below a count of at least two."""
    return 1 << ((count - 1).bit_length() - 1)


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0


def _hashes(found: Sequence[bytes]) -> bool:
    return all(len(one) == _SIZE for one in found)
