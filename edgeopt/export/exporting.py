"""The export stage: trace or take over the graph, bring it into one form, and compare it with its source."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir
from torch import nn
from torch.export import ExportedProgram

from edgeopt.config import ExportConfig
from edgeopt.errors import ModelError, ParityError
from edgeopt.export.clean import clean
from edgeopt.export.parity import Reference, difference, onnx_reference, torch_reference
from edgeopt.export.tracing import trace, translate
from edgeopt.graph.ending import with_applied
from edgeopt.passes.rewrite.free_batch import fixed_batch, free_batch
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.spec import ModelSpec, TensorSpec, has_batch, replace

_log = logging.getLogger(__name__)


class Exportable(Protocol):
    """The part of a source that this stage needs: one of three kinds of model, and its specification."""

    @property
    def spec(self) -> ModelSpec:
        """Specification of the model's inputs and outputs."""

    @property
    def module(self) -> nn.Module | None:
        """A torch network."""

    @property
    def program(self) -> ExportedProgram | None:
        """A traced torch network."""

    @property
    def onnx(self) -> ir.Model | None:
        """A graph from a file."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of `export`."""

    model: ir.Model
    """Standard operators; one float32 or uint8 image input of known size; uniquely named nodes; no metadata."""
    spec: ModelSpec
    """Specification of `model`. Its batch dimension is ``N`` unless the source has a fixed batch of 1 built in."""
    parity: float
    """Largest difference between the outputs of the source and of `model`, relative to the largest output above 1."""


def export(source: Exportable, config: ExportConfig) -> Exported:
    """Export any source to ONNX.

    The same source gives the same bytes every time. A torch model is exported at ``config.opset``; a graph from a file
    keeps its opset where that is 13 or more, which quantization per channel needs, and is raised to ``config.opset``
    otherwise. A fixed batch dimension becomes dynamic where the graph allows it.

    Args:
        source: what `edgeopt.source.resolve` returns, its module trained or loaded.
        config: the recipe's ``[export]``.

    Raises:
        ModelError: torch or the ONNX version converter cannot express the model, or its decoding applies an activation
            that the network applies already.
        ParityError: the graph computes something else than the source, by more than ``config.tolerance``.
    """
    model, reference = _graph(source, config)
    spec = source.spec
    batch = spec.input.shape[0]
    if isinstance(batch, str):
        parity = difference(reference, model, spec, config.tolerance)
    else:
        parity = difference(reference, model, spec, config.tolerance, counts=[batch])
        batched = all(has_batch(spec, output) for output in spec.outputs)  # others tell no image from the next
        if batched and fixed_batch(model) is not None:
            model, spec = _with_free_batch(model, spec, config.tolerance, batch)
    return Exported(model=clean(model, spec.name), spec=with_applied(spec, model.graph.outputs), parity=parity)


def _graph(source: Exportable, config: ExportConfig) -> tuple[ir.Model, AbstractContextManager[Reference]]:
    """Return the graph in its first form, and the reference that it must agree with."""
    name = source.spec.name
    if source.module is not None:
        program = trace(source.module, source.spec)
        return translate(program, source.spec, config.opset), torch_reference(source.module)
    if source.program is not None:
        return translate(source.program, source.spec, config.opset), torch_reference(source.program.module())
    if source.onnx is None:
        raise ModelError(f"{name} has nothing to export. Give [model] source")
    return raise_opset(source.onnx, config.opset, name), onnx_reference(source.onnx, source.spec)


def _with_free_batch(model: ir.Model, spec: ModelSpec, tolerance: float, batch: int) -> tuple[ir.Model, ModelSpec]:
    """Free the batch dimension of `model` if the result proves right; keep a model that takes one image at a time."""
    free = free_batch(model)
    for value, tensor in zip(free.graph.outputs, spec.outputs, strict=True):
        value.shape = ir.Shape(["N", *tensor.shape[1:]])
    free_spec = replace(
        spec,
        input=_free(spec.input),
        auxiliary=tuple(replace(each, shape=("N", *each.shape[1:])) for each in spec.auxiliary),
        outputs=tuple(_free(output) for output in spec.outputs),
    )
    try:
        difference(onnx_reference(model, spec), free, free_spec, tolerance, counts=[batch, 3 * batch])
    except (ModelError, ParityError) as error:
        if batch != 1:
            raise ModelError(
                f"{spec.name} takes exactly {batch} images at once. Export it again with a dynamic batch, or one of 1"
            ) from error
        _log.warning("%s keeps its fixed batch of 1, because a dynamic one changes what it computes", spec.name)
        return model, spec
    return free, free_spec


def _free(tensor: TensorSpec) -> TensorSpec:
    return replace(tensor, shape=("N", *tensor.shape[1:]))
