"""Train an INT8 graph: its integers, scales and biases learn from labels and a float teacher, through fake quantizers.

The graph itself runs in torch, so that what is written computes what training saw: the placement of Q/DQ, the number
formats and the bounds of a scheme's integers are the graph's own (`passes.repair.fine_tune.network`). Training starts
from what calibration and repairs left, with scales that learn by the gradients of LSQ (Esser et al., arXiv 1902.08153).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgeopt.config import QuantizedTraining, TrainConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import ModelError
from edgeopt.passes.gradients.attributes import UnsupportedOperatorError
from edgeopt.passes.gradients.interpreter import Interpreter
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.fine_tune.network import LearnedNetwork
from edgeopt.spec import ClassificationDecoding, DetectionDecoding, ModelSpec, replace
from edgeopt.train.assess import validation_loss
from edgeopt.train.loop import Trained, TrainProgress, train
from edgeopt.train.objective import is_yolox, yolox_strides

_LEAST = 1e-7
"""Smallest probability whose logit is taken, and least distance from 1."""


class GraphNetwork(nn.Module):
    """An ONNX graph as a torch module of its kind: in training it gives what the losses want.

    Args:
        run: the graph, as a function of its inputs.
        spec: its specification.
        learned: its parameters.
    """

    def __init__(
        self,
        run: Callable[[Mapping[str, Tensor]], list[Tensor]],
        spec: ModelSpec,
        learned: Sequence[nn.Parameter] = (),
    ) -> None:
        super().__init__()
        self._run, self._spec = run, spec
        self._learned = nn.ParameterList(learned)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return the first output, in training as logits; that of a YOLOX as its levels (N, 5 + C, h, w)."""
        output = self._output(images)
        if not self.training:
            return output
        match self._spec.decoding:
            case ClassificationDecoding(activation="none", applied="softmax"):
                return output.clamp_min(_LEAST).log()
            case ClassificationDecoding(activation="none", applied="sigmoid"):
                return torch.logit(output, _LEAST)
        return _levels(output, self._spec, yolox_strides(self._spec)) if is_yolox(self._spec) else output

    def _output(self, images: Tensor) -> Tensor:
        """Run the images, one after another where the graph takes one at a time."""
        counted = self._spec.input.shape[0]
        size = counted if isinstance(counted, int) else len(images)
        parts = [self._run({self._spec.input.name: part.contiguous()})[0] for part in torch.split(images, size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _levels(predictions: Tensor, spec: ModelSpec, strides: Sequence[int]) -> list[Tensor]:
    """Take (N, anchors, 5 + C) apart into levels of offsets and logits."""
    assert isinstance(spec.decoding, DetectionDecoding)
    if spec.decoding.activation == "none":  # the graph has applied it
        predictions = torch.cat((predictions[..., :4], torch.logit(predictions[..., 4:], _LEAST)), dim=2)
    shape = spec.input.shape
    height, width = (int(side) for side in (shape[1:3] if spec.preprocessing.layout == "NHWC" else shape[2:4]))
    sizes = [(height // stride, width // stride) for stride in strides]
    parts = torch.split(predictions.transpose(1, 2), [rows * columns for rows, columns in sizes], dim=2)
    return [part.reshape(*part.shape[:2], *size) for part, size in zip(parts, sizes, strict=True)]


@dataclass(frozen=True)
class QuantizedTrained:
    """Result of `train_quantized`.

    Attributes:
        model: the graph with what was learnt, whether it is better or not.
        trained: what training says of itself.
        losses: mean loss on the validation images, before and after.
    """

    model: ir.Model
    trained: Trained
    losses: tuple[float, float]


def train_quantized(
    model: ir.Model,
    quantized: ir.Model,
    scheme: QuantScheme,
    spec: ModelSpec,
    images: Dataset,
    validation: Dataset,
    config: TrainConfig,
    work: Path,
    progress: Callable[[TrainProgress], None],
) -> QuantizedTrained:
    """Train a Q/DQ graph with labels, and with the float graph as its teacher.

    Args:
        model: the float graph.
        quantized: what it became; not modified.
        scheme: scheme that it was quantized for, which bounds the integers.
        spec: specification of both.
        images: training set.
        validation: set that chooses the epoch.
        config: the recipe's ``[train]``, with its `quantize`.
        work: folder of the checkpoint; called again with the same arguments, the training goes on from there.
        progress: called after every step, and while validating.

    Raises:
        ModelError: the graph has an operator that gradients cannot flow through, or a detector that is not trained
            here; and as `train`.
        DataError: as `train`.
    """
    settings = quantized_settings(config)
    try:
        learned, exact = LearnedNetwork(quantized, scheme), Interpreter(model.graph)
    except UnsupportedOperatorError as error:
        raise ModelError(f"'{spec.name}' cannot be trained in INT8 through {error}. Remove [train] quantize") from error
    module = GraphNetwork(learned.run, spec, learned.parameters())
    teacher = (GraphNetwork(exact.run, spec), settings.teacher)
    learning = replace(
        config,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        optimizer="adamw",
        weight_decay=0.0,
        warmup_epochs=min(config.warmup_epochs, 0.1 * settings.epochs),
        no_augmentation_epochs=min(config.no_augmentation_epochs, settings.epochs // 2),
        freeze=(),
        freeze_batchnorm=True,  # the graph has none left
        validate_every=1,
        quantize=False,
        device="cpu",  # where the interpreter keeps its constants
        precision="fp32",
        processes=1,
    )

    before = validation_loss(module, spec, validation, learning, teacher)
    result = train(module, spec, images, validation, learning, work, progress, teacher=teacher)
    after = validation_loss(module, spec, validation, learning, teacher)
    return QuantizedTrained(learned.model(), result, (before, after))


def quantized_settings(config: TrainConfig) -> QuantizedTraining:
    """Return the settings of ``[train] quantize``, of which `true` means the defaults."""
    return config.quantize if isinstance(config.quantize, QuantizedTraining) else QuantizedTraining()
