"""Disjoint sets of names (union-find): what shares a scale, what is scaled alike, what must move together."""

from __future__ import annotations

from collections.abc import Iterable


class DisjointSets:
    """Names in sets that only grow together; a name that is asked for for the first time is a set of its own."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._leader = {name: name for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._leader

    def find(self, name: str) -> str:
        """The name that stands for the set of `name`."""
        leader = self._leader.setdefault(name, name)
        while self._leader[leader] != leader:
            leader = self._leader[leader]
        self._leader[name] = leader
        return leader

    def join(self, first: str, second: str) -> None:
        """Make one set of two; the second's leader stands for both."""
        self._leader[self.find(first)] = self.find(second)

    def leaders(self) -> dict[str, str]:
        """By name the one that stands for its set, in the order in which the names came."""
        return {name: self.find(name) for name in self._leader}

    def sets(self) -> tuple[tuple[str, ...], ...]:
        """All sets, each and all in the order in which their names came."""
        members: dict[str, list[str]] = {}
        for name, leader in self.leaders().items():
            members.setdefault(leader, []).append(name)
        return tuple(tuple(names) for names in members.values())
