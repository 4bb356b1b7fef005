"""The Merkle tree of RFC 6962: leaves and nodes, its root, and proofs that a leaf is part of it."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 32
# Every eighth level is stored: a proof reads at most 256 hashes a level.
TILE = 8
EMPTY_ROOT = sha256().digest()

# Reads hashes of a level, from an index, so many of them; level 0 has the leaves.
Read = Callable[[int, int, int], Awaitable[Sequence[bytes]]]


class Node(NamedTuple):
    """The hash of a complete subtree of 2 ** level leaves."""

    level: int
    place: int
    value: bytes


def leaf_hash(salt: bytes, facts: bytes) -> bytes:
    """Return the hash of a leaf; the salt leaves nothing to guess from once it is deleted."""
    return sha256(b"\x00" + salt + facts).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node."""
    return sha256(b"\x01" + left + right).digest()


@dataclass
class Tree:
    """The frontier of a tree: the roots of its complete subtrees, the largest first."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, size: int, peaks: bytes) -> "Tree":
        """Continue a tree of this size, whose peaks are these bytes."""
        return cls(size, [peaks[start : start + HASH_BYTES] for start in range(0, len(peaks), HASH_BYTES)])

    def extend(self, leaves: Iterable[bytes]) -> list[Node]:
        """Append hashes of leaves; return the new nodes that are stored."""
        stored, peaks, size = [], self.peaks, self.size
        for leaf in leaves:
            level, found = 0, leaf
            while size >> level & 1:
                found = sha256(b"\x01" + peaks.pop() + found).digest()
                level += 1
                if level % TILE == 0:
                    stored.append(Node(level, size >> level, found))
            peaks.append(found)
            size += 1
        self.size = size
        return stored

    @property
    def root(self) -> bytes:
        """The root of the tree."""
        if not self.peaks:
            return EMPTY_ROOT
        found = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            found = node_hash(peak, found)
        return found


async def inclusion(read: Read, index: int, size: int) -> list[bytes]:
    """Return the audit path of a leaf in the tree of the first `size` leaves (RFC 6962, section 2.1.1)."""
    path: list[tuple[int, int]] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _largest_power(end - begin)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    return [await _root_of(read, *part) for part in reversed(path)]


def _largest_power(size: int) -> int:
    """Return the largest power of two that is smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


async def _root_of(read: Read, begin: int, end: int) -> bytes:
    size = end - begin
    if size & (size - 1):
        middle = begin + _largest_power(size)
        left = await _root_of(read, begin, middle)
        return node_hash(left, await _root_of(read, middle, end))
    level = size.bit_length() - 1
    stored = level - level % TILE
    tree = Tree()
    tree.extend(await read(stored, begin >> stored, size >> stored))
    return tree.root
