"""The stage that makes float16 of what is not quantized, for GPU targets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.bundle.records import StageRecords
from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.rewrite.float16 import SCALE_OPSET, Float16Result, float16
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.pipeline.graphs import FEEDS, feeds, read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.spec import replace

GUARD_IMAGES = 64
"""Calibration images that overflow is measured on: the bound is a hundredth of float16's range, so extremes of a few
images more would decide nothing."""
_NAMED = 3
"""Nodes that a line of the build's output names; the bundle names them all."""


def in_float16(job: Job, graph: Artifact) -> Artifact:
    """`graph` (float or Q/DQ) in float16 inside, but for the nodes that measured overflow keeps in float32."""
    dataset = job.split("calibration")

    def make(folder: Path, _scratch: Path) -> Made:
        spec = read_spec(graph)
        images = itertools.islice(feeds(dataset, spec), GUARD_IMAGES)
        result = to_float16(read_graph(graph), images, job.config.calibrate)
        write_graph(folder, result.model, spec)
        summary = f"{len(result.model.graph)} nodes, {describe_kept(result.kept)}"
        return Made(summary, StageRecords(kept_float32=result.kept))

    determinants = {"graph": graph.key, "data": dataset.fingerprint(), "images": GUARD_IMAGES}
    code = ("edgeopt.passes.rewrite.float16", "edgeopt.passes.rewrite.opset", "edgeopt.calibrate", *FEEDS)
    return job.stage("float16", determinants, make, ("onnx", "onnx-ir", "onnxruntime"), code, after=graph)


def to_float16(
    model: ir.Model, images: Iterable[tuple[str, dict[str, NDArray[Any]]]], config: CalibrateConfig
) -> Float16Result:
    """Measure `model` on `images` and turn it into float16.

    Args:
        model: optimized, float or with Q/DQ; one of an old opset is raised where float16 needs it.
        images: name and network inputs of each.
        config: how images are observed; its numbers of images do not count.

    Raises:
        DataError: an activation is NaN or infinite.
        ModelError: the graph cannot become float16, or onnxruntime cannot run it.
    """
    quantized = any(node.op_type == "DequantizeLinear" for node in model.graph)
    if quantized:
        model = raise_opset(model, SCALE_OPSET, "the quantized graph", lowest=SCALE_OPSET)
    unlimited = replace(config, images=GUARD_IMAGES, minimum_images=1)
    return float16(model, calibrate(model, images, unlimited))


def describe_kept(kept: dict[str, str]) -> str:
    """Describe in a line which nodes stay float32, and why."""
    if not kept:
        return "none kept in float32"
    named = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(kept.items(), _NAMED))
    more = f"; and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
    return f"{len(kept)} kept in float32 ({named}{more})"
