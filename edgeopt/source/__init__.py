"""Source: turn a model reference into a torch module, a torch.export program or an ONNX graph, with its ModelSpec."""

from __future__ import annotations

from edgeopt.source.reference import Source, classes_in_weights, resolve, source_files
from edgeopt.source.weights import find_weights, load_weights, read_weights

__all__ = ["Source", "classes_in_weights", "find_weights", "load_weights", "read_weights", "resolve", "source_files"]
