"""Measure a bundle on many boards over SSH, and gate a candidate on all of them at once."""

from edgeopt.farm.boards import Board, Farm, boards_of, read_farm
from edgeopt.farm.gating import FarmVerdict, gate_farm, verdict_to_markdown
from edgeopt.farm.results import Asked, BoardResult
from edgeopt.farm.run import Measured, Missing, run_farm

__all__ = [
    "Asked",
    "Board",
    "BoardResult",
    "Farm",
    "FarmVerdict",
    "Measured",
    "Missing",
    "boards_of",
    "gate_farm",
    "read_farm",
    "run_farm",
    "verdict_to_markdown",
]
