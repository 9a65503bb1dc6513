"""What is passed on has the paths of the plain Merkle tree (protocol.md §12.4.5)."""

import os

import pytest

from secagg.masked.messages import SharedBox, leaf_data
from secagg.masked.passing import Post, all_paths
from secagg.merkle import leaf_hash, path, root_of, verify_path


@pytest.mark.parametrize("count", range(1, 20))
def test_all_paths_are_those_made_one_by_one(count: int) -> None:
    leaves = [os.urandom(32) for _ in range(count)]
    assert all_paths(leaves) == (root_of(leaves), [path(leaves, index) for index in range(count)])


def test_everybody_gets_what_is_for_it_and_nothing_else() -> None:
    trees = {s: tuple(SharedBox(r, os.urandom(32), os.urandom(64)) for r in range(5) if r != s) for s in (0, 2, 4)}
    post = Post(trees)
    assert {passed.sender for passed in post.to(2)} == {0, 4}
    assert list(post.to(9)) == []
    for passed in post.to(1):
        hashes = [leaf_hash(leaf_data(leaf.commitment, leaf.box)) for leaf in trees[passed.sender]]
        assert passed.leaf.receiver == 1
        data = leaf_data(passed.leaf.commitment, passed.leaf.box)
        verify_path(data, passed.place, len(hashes), passed.path, root_of(hashes))
