"""Gradients of a class to the features that it is made from, by running the rest of the graph in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.errors import ModelError
from edgeopt.explain.features import FeatureMap
from edgeopt.passes.gradients.attributes import UnsupportedOperatorError
from edgeopt.passes.gradients.interpreter import Interpreter
from edgeopt.passes.gradients.straight_through import quantizers_by_node
from edgeopt.postprocess.parts import named_output
from edgeopt.spec import ClassificationDecoding, ModelSpec

_SMALLEST = 1e-12
"""Probabilities below count as this before their logarithm is taken."""


class Tail:
    """The part of a classifier's graph behind its feature maps.

    Args:
        model: the graph with its feature maps as outputs.
        maps: the feature maps.
        spec: the model's.

    Raises:
        ModelError: it is no classifier of logits or probabilities, its classes are read from more than these maps, or
            through an operator that no gradient flows through.
    """

    def __init__(self, model: ir.Model, maps: Sequence[FeatureMap], spec: ModelSpec) -> None:
        decoding = spec.decoding
        if not isinstance(decoding, ClassificationDecoding):
            raise ModelError(
                f"'{spec.name}' gives no scores of classes that a gradient could follow. Use eigen_cam or rise"
            )
        self._maps, self._decoding = tuple(maps), decoding
        output = named_output(decoding.output, spec.outputs).name
        try:
            graph = ir.convenience.extract(model.graph, [each.source for each in maps], [output])
            self._run = Interpreter(graph, quantizers_by_node(graph)).run
        except ValueError as error:
            raise ModelError(
                f"the classes of '{spec.name}' are read from more than its last feature map: {error}. Use eigen_cam or "
                "rise"
            ) from error
        except UnsupportedOperatorError as error:
            raise ModelError(
                f"gradients cannot flow through '{error}' of '{spec.name}'. Use eigen_cam or rise"
            ) from error

    def gradients(self, features: Sequence[NDArray[Any]], number: int) -> list[NDArray[Any]]:
        """Return the gradient of one class's logit to each map, of the map's shape.

        Args:
            features: of one image, (1, ...) each.
            number: of the class.
        """
        leaves = [torch.tensor(each, dtype=torch.float32, requires_grad=True) for each in features]
        with torch.enable_grad():
            feeds = {each.source: leaf for each, leaf in zip(self._maps, leaves, strict=True)}
            scores: Tensor = self._run(feeds)[0].flatten(1)
            if self._decoding.activation == "none" and self._decoding.applied != "none":
                scores = scores.clamp_min(_SMALLEST).log()
            found = torch.autograd.grad(scores[0, number], leaves, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        return [(torch.zeros_like(leaf) if each is None else each).numpy() for each, leaf in pairs]
