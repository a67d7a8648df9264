"""Quantize a float model anew beside one that somebody quantized, to see what edgeopt's own repairs would do."""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx_ir as ir

from edgeopt.calibrate.tap import Feeds, outputs_as_written
from edgeopt.config import CalibrateConfig, QuantizeConfig
from edgeopt.diagnose import Outputs, Remake
from edgeopt.errors import ModelError
from edgeopt.metrics import Discrepancy
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.split import Split
from edgeopt.pipeline.quantizing import quantize_graph

_LEAST_IMAGES = 4
"""Fewer cannot fit repairs and judge them."""


def quantized_anew(
    baseline: ir.Model,
    quantized: ir.Model,
    scheme: QuantScheme,
    images: Sequence[tuple[str, Feeds]],
    reference: Outputs,
    discrepancy: Discrepancy,
) -> Remake | str:
    """Quantize and repair the float model as edgeopt does by default, on images that are here.

    Args:
        baseline: the optimized float model; not modified.
        quantized: what is there.
        scheme: for the kernels that `quantized` is for.
        images: name and network inputs, batch 1.
        reference: the float model's outputs on these.
        discrepancy: cost of an error of them.

    Returns:
        Both on the images that no repair was fitted on, or why there is nothing to compare.
    """
    if len(images) < _LEAST_IMAGES:
        return f"edgeopt's own repairs were not tried: they need {_LEAST_IMAGES} images or more"
    try:
        calibration = CalibrateConfig(images=len(images), minimum_images=1)
        anew = quantize_graph(baseline, images, calibration, QuantizeConfig(), scheme.name, discrepancy.readings)
    except ModelError as error:
        return f"edgeopt's own repairs were not tried: {error}"
    split = Split.of(range(len(images)))
    judges = [images[index][1] for index in split.judge]
    kept = [name for helped in anew.helped for name in helped.split(" ")[0].split("+")]
    command = f"edgeopt quantize --scheme {scheme.name} --repairs {','.join(kept) or 'none'}"
    return Remake(
        repair=", ".join(kept) or "no repair",
        setting=f"{command}, or [quantize] repairs = {json.dumps(kept)}",
        reference=[reference[index] for index in split.judge],
        before=outputs_as_written(quantized, judges),
        after=outputs_as_written(anew.model, judges),
    )
