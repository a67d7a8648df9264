"""Sets that only grow together: equal to a plain partition, whatever is joined."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeopt.graph.disjoint_sets import DisjointSets

names = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(names, names)))
def test_joining_merges_sets_as_a_partition_does(pairs):
    tied = DisjointSets("abcdefgh")
    partition = [{name} for name in "abcdefgh"]
    for first, second in pairs:
        tied.join(first, second)
        merged = set().union(*(part for part in partition if first in part or second in part))
        partition = [part for part in partition if not part & merged] + [merged]
    assert {frozenset(members) for members in tied.sets()} == {frozenset(part) for part in partition}
    assert all((tied.find(one) == tied.find(other)) for members in tied.sets() for one in members for other in members)


def test_sets_and_their_names_keep_the_order_in_which_they_came():
    tied = DisjointSets()
    for name in ("c", "a", "b"):
        tied.find(name)
    tied.join("b", "c")
    assert tied.sets() == (("c", "b"), ("a",))
    assert "d" not in tied
