"""Disjoint sets of names (union-find), for tensors that share a scale or must move together."""

from __future__ import annotations

from collections.abc import Iterable


class DisjointSets:
    """Sets of names that only grow together. A new name is a set of its own."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._leader = {name: name for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._leader

    def find(self, name: str) -> str:
        """Return the name that stands for the set of `name`."""
        self._leader.setdefault(name, name)
        while (leader := self._leader[name]) != name:
            self._leader[name] = self._leader[leader]  # halves the way of each name on it, for the next time
            name = leader
        return name

    def join(self, first: str, second: str) -> None:
        """Join two sets; the second's leader stands for both."""
        self._leader[self.find(first)] = self.find(second)

    def leaders(self) -> dict[str, str]:
        """Return the leader of each name, in the order in which the names came."""
        return {name: self.find(name) for name in self._leader}

    def sets(self) -> tuple[tuple[str, ...], ...]:
        """Return all sets, each and all in the order in which their names came."""
        members: dict[str, list[str]] = {}
        for name, leader in self.leaders().items():
            members.setdefault(leader, []).append(name)
        return tuple(tuple(names) for names in members.values())
