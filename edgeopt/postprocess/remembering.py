"""Remember what was made from a model's specification, by its identity, which is cheaper to find than its hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from edgeopt.spec import ModelSpec

_T = TypeVar("_T")
_MOST = 16


class Remembered(Generic[_T]):
    """Calls a function of a specification once for each that was asked for of late."""

    def __init__(self, make: Callable[[ModelSpec], _T]) -> None:
        self._make = make
        self._made: dict[int, tuple[ModelSpec, _T]] = {}

    def __call__(self, spec: ModelSpec) -> _T:
        """Return what the function returned, or returns, for `spec`."""
        found = self._made.get(id(spec))
        if found is not None and found[0] is spec:
            return found[1]
        if len(self._made) >= _MOST:
            self._made.clear()
        value = self._make(spec)
        self._made[id(spec)] = spec, value
        return value
