"""Compare graphs by what they compute: the one that is quantized with the file's, and the quantized one with both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.tap import Feeds, Outputs, outputs_as_written
from edgeopt.errors import AccuracyError, ModelError, ParityError
from edgeopt.metrics import OutputReading
from edgeopt.metrics.discrepancy import ClassReading, RawReading
from edgeopt.source.tail import ends_in_choice

_LOG = logging.getLogger(__name__)
_SAME = {np.dtype(np.float16): 2e-2}
"""Relative error that rounding in another order may cause, by type of the output."""
_SAME_FLOAT = 1e-3
_ROUNDING = 1e-6
"""Root mean square of errors that are rounding whatever they are rounded from: 1e-7 is what a sigmoid of float32 errs
by, and all there is in a map of what an image does not show."""
_MOST_ROWS = 0.98
"""Share of the rows of a network that chooses them, at least, that a rewritten graph gives too."""
_OLDEST = 7
"""Lowest opset whose operators onnxruntime has."""
_FEW = 2
"""Feeds on which an older file is compared."""
LARGEST_OF_NUMBERS = 0.03
"""Most noise power over signal power of an output that is neither classes nor boxes: it is 17 % off."""
DOUBTFUL = 0.01
"""Discrepancy above which a result is kept with a warning: for numbers it means 10 % off."""
LARGEST_OF_SCORES = 0.1
"""Most KL divergence of classes in nats, and most relative squared error of a detector: both change answers by then."""
LARGEST_OF_PLACES = 0.3
"""The same of classes at each of many places: a line of text whose mean is 0.1 still has 98 % of its characters."""


def require_same(original: ir.Model, prepared: ir.Model, feeds: Sequence[Feeds], name: str) -> Outputs:
    """Check that raising the opset and optimizing left a network's function alone; return the prepared one's outputs.

    Args:
        original: as the file has it.
        prepared: made from it, with the same interface.
        feeds: inputs of the network.
        name: of the file.

    Raises:
        ParityError: an output differs.
        ModelError: onnxruntime cannot run one of them.
    """
    made = outputs_as_written(prepared, feeds)
    for exact, found in zip(_as_filed(original, feeds, name), made, strict=False):
        for output, first, second in zip(original.graph.outputs, exact, found, strict=True):
            problem = _difference(first, second)
            if problem and not (ends_in_choice(original) and _same_rows(first, second)):
                raise ParityError(
                    f"{name}: output '{output.name}' {problem} once its opset is raised and its graph optimized, so it "
                    "is not quantized. Simplify the model with another tool or export it with opset 18, and please "
                    "report it"
                )
    return made


def _same_rows(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Return True if nearly all rows of an output (1, rows, columns) are in the other too, in whatever order.

    Scores that are equal but for their last bits change places, and the last row may be another one.
    """
    if first.shape != second.shape or first.ndim < 2:
        return False
    rows = [array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (first, second)]
    size = max(1.0, float(np.abs(rows[0]).max(initial=0.0)))
    apart = np.abs(rows[0][:, None] - rows[1][None]).max(axis=2) / size
    near = [(apart.min(axis=axis) <= _SAME_FLOAT).mean() for axis in (0, 1)]
    return bool(min(near) >= _MOST_ROWS)


def _as_filed(original: ir.Model, feeds: Sequence[Feeds], name: str) -> Outputs:
    """Return the outputs of a file's own graph; of a few feeds only where it is older than onnxruntime's operators.

    Those are computed by onnx's reference implementation, which is slow.
    """
    try:
        return outputs_as_written(original, feeds)
    except ModelError as error:
        opset = original.opset_imports.get("", _OLDEST)
        if opset >= _OLDEST:
            raise
        from onnx.reference import ReferenceEvaluator

        try:
            reference = ReferenceEvaluator(ir.to_proto(original))
            found: Any = [reference.run(None, dict(each)) for each in feeds[:_FEW]]
            return list(found)
        except Exception as other:  # the reference raises whatever numpy does
            raise ModelError(
                f"{name} is of opset {opset}, which neither onnxruntime ({error}) nor onnx's reference ({other}) can "
                "run, so that a raised one could not be compared with it. Export the model again with opset 13 or later"
            ) from other


def _difference(exact: NDArray[Any], found: NDArray[Any]) -> str:
    """Say how two arrays differ; empty if only by rounding."""
    if exact.shape != found.shape:
        return f"has the shape {found.shape} instead of {exact.shape}"
    if exact.dtype.kind != "f" or not exact.size:
        return ""
    finite = np.isfinite(exact)
    if not np.array_equal(finite, np.isfinite(found)):
        return "has other places that are not finite"
    first, second = exact[finite].astype(np.float64), found[finite].astype(np.float64)
    apart = float(np.linalg.norm(second - first))
    if apart <= _ROUNDING * np.sqrt(first.size):
        return ""
    error = apart / max(float(np.linalg.norm(first)), 1e-12)
    return f"is {error:.2%} off" if error > _SAME.get(exact.dtype, _SAME_FLOAT) else ""


def allowed(readings: Sequence[OutputReading]) -> float:
    """Return the largest discrepancy at which a quantized network is still of use, by what its outputs mean."""
    limits = [_allowed(each) for each in readings]
    return sum(limits) / len(limits)


def _allowed(reading: OutputReading) -> float:
    if isinstance(reading, ClassReading) and reading.is_of_places:
        return LARGEST_OF_PLACES
    return LARGEST_OF_NUMBERS if isinstance(reading, RawReading) and not reading.rows_vary else LARGEST_OF_SCORES


def require_close(discrepancy: float, limit: float, *, repaired: bool = True) -> None:
    """Check that quantizing left the outputs what they were.

    Args:
        discrepancy: of the quantized network's outputs.
        limit: the largest that is allowed.
        repaired: repairs were tried.

    Raises:
        AccuracyError: it did not.
    """
    if DOUBTFUL < discrepancy <= limit:
        _LOG.warning(
            "the quantized outputs are rather far from the float ones: discrepancy %.3g on held-out calibration "
            "samples. Measure what that costs; `edgeopt diagnose` shows which layers do it",
            discrepancy,
        )
    if not discrepancy <= limit:  # nor if it is NaN
        raise AccuracyError(
            f"the quantized network's outputs are too far from the float ones: discrepancy {discrepancy:.3g}, of "
            f"at most {limit:.3g}, on held-out calibration samples. "
            f"{'Give' if repaired else 'Let repairs run (--repairs fast), give'} more or truer samples, leave layers "
            "float (--exclude), say what the outputs mean (--outputs), or allow it with --max-discrepancy and see "
            "with `edgeopt diagnose` which layers do it"
        )
