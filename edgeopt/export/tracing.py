"""Trace torch to ONNX by torch.export and its translation, without output to the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeopt.errors import ModelError
from edgeopt.export.regions import TRANSLATIONS
from edgeopt.passes.rewrite.lower_opset import LOWERED_OPSET, lower_opset
from edgeopt.spec import ModelSpec

_MESSAGE_LENGTH = 600
_NOISY = ("torch", "onnxscript", "onnx_ir")


def trace(module: nn.Module, spec: ModelSpec) -> ExportedProgram:
    """Trace `module` in evaluation mode, with a dynamic batch.

    Raises:
        ModelError: torch.export cannot follow the module, or the module fixes the batch size.
    """
    # Two images: torch.export treats a size of 1 as a constant.
    images = torch.zeros(2, *(int(side) for side in spec.input.shape[1:]))
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module.eval(), (images,), dynamic_shapes=({0: Dim("N")},))
    except Exception as error:  # torch.export raises whatever the module's own code raises
        raise ModelError(
            f"torch.export cannot follow {spec.name}: {_first_lines(error)}. Its forward must take one tensor "
            "(N, ...) of any N and must not branch on values"
        ) from error


def translate(program: ExportedProgram, spec: ModelSpec, opset: int) -> ir.Model:
    """Translate `program` to simplified ONNX, with the names and the batch dimension of `spec`.

    Raises:
        ModelError: an operator that ONNX cannot express at `opset`.
    """
    try:
        with _quiet():
            result = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=TRANSLATIONS,
                opset_version=opset,
                input_names=[spec.input.name],
                output_names=[output.name for output in spec.outputs],
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # torch.onnx wraps errors of any kind
        raise ModelError(f"torch.onnx cannot express {spec.name} in opset {opset}: {_first_lines(error)}") from error
    assert result is not None
    model = result.model
    if opset == LOWERED_OPSET:  # torch.onnx writes 18, and its converter cannot go back for every operator
        model = lower_opset(model, spec.name)
    found = model.graph.opset_imports.get("")
    if found != opset:
        raise ModelError(f"torch.onnx gave opset {found} for {spec.name} instead of {opset}. Set [export] opset to it")
    _name_batch(model, spec)
    return model


def _name_batch(model: ir.Model, spec: ModelSpec) -> None:
    """Call the batch dimension N in all recorded shapes; torch numbers its symbols.

    Any other is unknown: the product of batch and heads of an attention, for one, is not the batch.
    """
    batch = None if model.graph.inputs[0].shape is None else model.graph.inputs[0].shape[0]
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape(_renamed(side, batch) for side in value.shape)
    for value, tensor in zip((*model.graph.inputs, *model.graph.outputs), (spec.input, *spec.outputs), strict=True):
        value.shape = ir.Shape(tensor.shape)


def _renamed(side: int | ir.SymbolicDim, batch: int | ir.SymbolicDim | None) -> int | str | None:
    if isinstance(side, int):
        return side
    return "N" if side == batch else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and log messages about torch's own internals; failures still come as errors."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_lines(error: BaseException) -> str:
    """Return the innermost cause on one line of bounded length."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_MESSAGE_LENGTH]}"
