"""Trees of shares on their way from senders to holders, through the coordinator (protocol.md §12.4.5, §12.5.1)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from secagg.masked.messages import SharedBox, leaf_data
from secagg.merkle import leaf_hash, root_of


class Passed(NamedTuple):
    """One leaf on its way: who sent it, its place in the sender's tree, the leaf, and its path to the root."""

    sender: int
    place: int
    leaf: SharedBox
    path: tuple[bytes, ...]


class Post:
    """Finds what is for whom. Each tree is hashed once, whatever the number of holders."""

    __slots__ = ("_paths", "_places", "_trees")

    def __init__(self, trees: Mapping[int, tuple[SharedBox, ...]]) -> None:
        self._trees = dict(trees)
        self._paths = dict[int, list[tuple[bytes, ...]]]()
        self._places = dict[int, list[tuple[int, int]]]()
        for sender, leaves in self._trees.items():
            for index, leaf in enumerate(leaves):
                self._places.setdefault(leaf.receiver, []).append((sender, index))

    def to(self, receiver: int) -> Iterator[Passed]:
        """Every leaf that is for `receiver`."""
        for sender, index in self._places.get(receiver, []):
            leaves = self._trees[sender]
            if sender not in self._paths:
                self._paths[sender] = all_paths([leaf_hash(leaf_data(x.commitment, x.box)) for x in leaves])[1]
            yield Passed(sender, index, leaves[index], self._paths[sender][index])


def all_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """The root over leaf hashes and every leaf's path, as `merkle.path` gives them one by one."""
    if len(leaves) == 1:
        return leaves[0], [()]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    left, left_paths = all_paths(leaves[:half])
    right, right_paths = all_paths(leaves[half:])
    steps = [(*steps, right) for steps in left_paths] + [(*steps, left) for steps in right_paths]
    return root_of([left, right]), steps
