"""Export: turn any source into one clean ONNX graph that provably computes the same."""

from __future__ import annotations

from edgeopt.export.exporting import Exported, export

__all__ = ["Exported", "export"]
