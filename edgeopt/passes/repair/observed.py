"""List the tensors that a calibration has to observe: those whose range a quantizer may take, or equalization reads.

Observing costs a pass over every value and the memory of the tensor. Most tensors of a network are never quantized:
those between a convolution and what it fuses with, the inside of attention and of normalizations, masks and shapes.
The network's outputs are looked at as well: one that is not finite is a finding, and makes every comparison void.
"""

from __future__ import annotations

import contextlib

import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import SCHEMES, Additional
from edgeopt.passes.repair.equalize import read_by_equalization
from edgeopt.spec import replace


def observed_tensors(model: ir.Model, also: tuple[Additional, ...] = ()) -> set[str]:
    """Return the names of the tensors that quantizing `model` may need the range of, in any scheme.

    Layers that stay float by a pattern, by a repair or by a search leave no other tensor to be quantized than these.

    Args:
        model: optimized.
        also: inputs that are quantized beside those that the schemes' kernels need.
    """
    names = read_by_equalization(model)
    computed = (value for value in model.graph.outputs if value.producer() is not None)
    names.update(value.name or "" for value in computed if value.dtype == ir.DataType.FLOAT)
    for scheme in SCHEMES.values():
        with contextlib.suppress(ModelError):  # one scheme's kernels may want none of its layers
            # Which side of an Add one scheme leaves float depends on the layers that are quantized.
            placement = place(model, replace(scheme, residual="both", also=also))
            names.update(tensor for group in placement.groups for tensor in group)
    return names
