"""Time of the repairs: what each will need, what is left for it, and how far all of them are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from edgeopt.progress import Update

_MINUTE_S = 60.0
_PROBE = 384
"""Side of the matrix whose product tells how fast this machine multiplies."""


class Allowance:
    """The most time that repairs may take together, and their progress in it.

    Args:
        minutes: for all of them; None: as long as they need.
        update: told how far they are, in seconds of the time that was expected.
        begun: of `clock`, from when on time counts. Default: now.
        clock: in seconds.
    """

    def __init__(
        self,
        minutes: float | None = None,
        update: Update | None = None,
        begun: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._update = clock, update
        self._end = None if minutes is None else (clock() if begun is None else begun) + minutes * _MINUTE_S
        self._expected: dict[str, float] = {}

    def plan(self, expected: Mapping[str, float]) -> None:
        """Set what is to be done: expected seconds by name, in order."""
        self._expected = dict(expected)

    @property
    def is_over(self) -> bool:
        """True when the time is up."""
        return self._end is not None and self._clock() >= self._end

    def refuses(self, name: str) -> str:
        """Say why a repair is not begun, for it would not be done in time; empty where it is."""
        if self._end is None:
            return ""
        needed, left = self._expected[name], self._end - self._clock()
        if needed <= left:
            return ""
        remainder = f"{_duration(left)} of the time were left" if left > 0.0 else "the time was up"
        return f"it would have needed about {_duration(needed)}, and {remainder}"

    def step(self, name: str) -> Update:
        """Begin a repair; those before it are done. What is told of it is passed on as its part of the whole."""
        before = 0.0
        for each, seconds in self._expected.items():
            if each == name:
                break
            before += seconds
        expected, total = self._expected[name], sum(self._expected.values())

        def update(done: float, of: float = 1.0, text: str = "", /) -> None:
            if self._update is not None:
                self._update(before + expected * min(1.0, done / max(of, 1e-9)), total, text or name)

        update(0.0)
        return update


def multiplications_per_second() -> float:
    """Measure how many a matrix product makes in a second here, in float32."""
    square = np.ones((_PROBE, _PROBE), np.float32)
    square @ square
    begun = time.perf_counter()
    square @ square
    return float(_PROBE**3 / max(time.perf_counter() - begun, 1e-6))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MINUTE_S else f"{seconds / _MINUTE_S:.1f} minutes"
