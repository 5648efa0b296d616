"""That one leaf is in a Merkle tree: audit paths as in RFC 6962 section 2.1.1, over the tree of policy/provenance.py.

Who holds a root and a leaf needs only the path, some hashes long, and none of the other leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


class MerkleTree:
    """A tree kept whole, for the paths of many leaves. `root` is `policy.provenance.merkle_root` of the same leaves."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            pairs = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            level = pairs + ([level[-1]] if len(level) % 2 else [])
            self._levels.append(level)

    @property
    def root(self) -> str:
        [*_, top] = self._levels
        return top[0].hex() if top else hashlib.sha256(b"").hexdigest()

    def path(self, index: int) -> tuple[str, ...]:
        """The hashes, in hex, that lead from leaf `index` up to the root. IndexError: there is no such leaf."""
        if not 0 <= index < len(self._levels[0]):
            raise IndexError(f"there is no leaf {index} of {len(self._levels[0])}")
        found = []
        for level in self._levels[:-1]:
            if (beside := index ^ 1) < len(level):
                found.append(level[beside].hex())
            index //= 2
        return tuple(found)


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[str]) -> str:
    """The root, in hex, of a tree of `size` leaves in which this leaf stands at `index` with this path.

    ValueError: the path is not as long as one of such a tree, or no hex.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} of {size}")
    node, beside = hashlib.sha256(b"\x00" + leaf).digest(), [bytes.fromhex(each) for each in path]
    while size > 1:
        if index % 2 or index + 1 < size:
            if not beside:
                raise ValueError("the path is too short")
            other = beside.pop(0)
            node = _node(other, node) if index % 2 else _node(node, other)
        index, size = index // 2, (size + 1) // 2
    if beside:
        raise ValueError("the path is too long")
    return node.hex()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
