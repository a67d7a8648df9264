"""Derive the ModelSpec of an ``.onnx`` file from its graph."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgeopt.config import ModelConfig
from edgeopt.graph.ending import applied_activation, are_distributions
from edgeopt.passes.rewrite.put_tail import put_tail
from edgeopt.source.interface import find_inputs, find_outputs
from edgeopt.source.onnx_file import read_onnx
from edgeopt.source.plugin import cut_plugin
from edgeopt.source.specification import read_labels, specify
from edgeopt.source.tail import cut_tail
from edgeopt.spec import ClassificationDecoding, DetectionDecoding, ModelSpec, replace


def open_onnx(path: Path, model: ModelConfig, root: Path, labels: tuple[str, ...]) -> tuple[ir.Model, ModelSpec]:
    """Read an ``.onnx`` and derive its ModelSpec.

    Raises:
        ModelError: damaged or incomplete file, custom operators, no input of images of one size, or too little said
            about it in the recipe.
    """
    ends: list[DetectionDecoding | None] = []
    network = read_onnx(path, (lambda graph: ends.append(cut_plugin(graph))) if model.tail == "cut" else None)
    if ends and ends[0] is not None:
        model = replace(model, tail="keep", decoding=ends[0])
    names = read_labels(model, root) or labels
    network_input, auxiliary = find_inputs(network, model, path)
    network_input, auxiliary, outputs, scores = find_outputs(network, network_input, auxiliary, path)
    applied = applied_activation(network.graph.outputs[0])
    if applied == "none" and scores.ndim == 2 and are_distributions(scores):
        applied = "softmax"  # written out, or moved behind by a pooling
    is_applied = applied != "none" and len(outputs) == 1 and len(outputs[0].shape) == 2
    decoding = ClassificationDecoding(activation="none", applied=applied) if is_applied else None
    spec = specify(model, path.stem, names, network_input, outputs, auxiliary=auxiliary, decoding=decoding)
    if model.tail == "cut":
        return cut_tail(network, spec)
    return (network, spec) if model.tail == "keep" else put_tail(network, spec, model.tail)
