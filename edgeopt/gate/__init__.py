"""Gate: decide whether the candidate is slower or less accurate than the baseline.

The answer is pass, fail or invalid, never a guess.
"""

from __future__ import annotations

from edgeopt.gate.bundles import Side, Stored, gate_bundles, gate_file, read_stored
from edgeopt.gate.outputs import to_json, to_junit, to_markdown
from edgeopt.gate.run import Opened, gate
from edgeopt.gate.stored import gate_stored
from edgeopt.gate.verdict import EXIT_CODES, AccuracyFinding, GateConfig, LatencyFinding, OperatingFinding, Verdict

__all__ = [
    "EXIT_CODES",
    "AccuracyFinding",
    "GateConfig",
    "LatencyFinding",
    "Opened",
    "OperatingFinding",
    "Side",
    "Stored",
    "Verdict",
    "gate",
    "gate_bundles",
    "gate_file",
    "gate_stored",
    "read_stored",
    "to_json",
    "to_junit",
    "to_markdown",
]
