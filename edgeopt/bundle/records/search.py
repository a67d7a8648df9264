"""Results of a search, with every figure that they rest on."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgeopt.errors import AccuracyError
from edgeopt.intervals import Interval
from edgeopt.spec import Struct

Status: TypeAlias = Literal["met", "no_plan", "refused"]


class Point(Struct):
    """One plan on the way from all groups quantized to none."""

    quantized: tuple[str, ...]
    """Groups, in the problem's order."""
    predicted_ms: float
    """Latency, from the groups' measured gains."""
    predicted_discrepancy: float
    """Discrepancy of the outputs on the worst items, predicted from the groups' sensitivities."""
    value: float | None = None
    """The metric by full validation; None: not validated."""
    drop: Interval | None = None
    """Drop of the metric below the baseline's, with its paired bootstrap interval."""
    ratio: Interval | None = None
    """Measured latency over the float model's."""


class SearchResult(Struct):
    """The outcome of a search."""

    status: Status
    """``no_plan``: nothing faster than float keeps the budget. ``refused``: INT8 itself is not faster here."""
    reason: str
    """One sentence for people."""
    best: Point
    """Plan to ship, if ``met``. Otherwise the best that was found; float ships."""
    allowed_drop: float | None
    """The budget in points of the metric; None: only latency was limited."""
    certain: bool
    """The whole interval of the best plan's drop lies inside the budget, not only the estimate."""
    curve: tuple[Point, ...]
    """Plans from all groups quantized to none, in the order in which groups are given up."""
    sensitivity: dict[str, float]
    """Discrepancy that vanishes on the worst items when this group alone goes back to float."""
    gain_ms: dict[str, Interval]
    """Latency that quantizing this group saves."""
    validations: int
    """Full validations that were made, the float model's not counted."""

    @property
    def front(self) -> tuple[Point, ...]:
        """Validated plans that no other validated plan beats in both latency and drop, the fastest first."""
        measured = sorted(
            (point for point in self.curve if point.drop is not None),
            key=lambda point: (point.predicted_ms, _drop(point)),
        )
        kept: list[Point] = []
        for point in measured:
            if not kept or _drop(point) < _drop(kept[-1]):
                kept.append(point)
        return tuple(kept)

    def require(self) -> Point:
        """Return the plan to ship.

        Raises:
            AccuracyError: no plan keeps the budget; the message holds the best one's figures. A refusal is none: float
                ships, and `best` is not to be used.
        """
        if self.status == "no_plan":
            raise AccuracyError(self.reason)
        return self.best


def _drop(point: Point) -> float:
    assert point.drop is not None
    return point.drop.estimate
