"""The last stage: engines, measurements and golden outputs become one bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.benchmark import LatencyResult
from edgeopt.bundle import Bundle, Golden, Manifest, Precision, Variant, pack, write_bundle
from edgeopt.bundle.records import Acceptance, Measured, StageRecords, now
from edgeopt.bundle.splits import SPLITS_FILE, pack_splits
from edgeopt.calibrate import CalibrationTable
from edgeopt.config import EvaluateConfig
from edgeopt.errors import BundleError
from edgeopt.evaluate import Accuracy, accept
from edgeopt.hardware import ThisMachine
from edgeopt.passes.qdq.overflow import safe_processors
from edgeopt.passes.rewrite.tensor_float import round_operands
from edgeopt.pipeline.calibration_check import examined
from edgeopt.pipeline.graphs import feeds, read_graph, read_spec
from edgeopt.pipeline.job import Job, version
from edgeopt.pipeline.published import published
from edgeopt.pipeline.sources import named_hashes
from edgeopt.pipeline.variants import BuiltVariant
from edgeopt.runtime.choice import identity_of_target
from edgeopt.runtime.golden import answers_difference, record_answers, record_outputs, record_picture
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.session import Array
from edgeopt.spec import ModelSpec, replace
from edgeopt.targets import find_target

GOLDEN_IMAGES = 4
_TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2, "int8": 1e-1}
"""Rounding flips of INT8 depend on the processor's kernels: one value that falls to the other side moves all after it.
Kernels that are right change .02 of YOLOX-nano's scores, as `answers_difference` counts them, INT8 itself .15, and
saturating ones .9 (AMD EPYC with AVX2, 16 calibration images)."""
_TENSOR_FLOAT_MARGIN = 4.0
"""Factor from the emulated effect of TensorFloat-32 to the tolerance: a GPU sums in another order too."""
_LIBRARIES = ("edgeopt", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
"""Beside those of the targets."""
_GOLDEN_INPUTS = "golden/inputs.npz"
_GOLDEN_PICTURE = "golden/picture.npz"


@dataclass(frozen=True)
class Result:
    """An engine with what was measured on it."""

    engine: BuiltVariant
    accuracy: Accuracy
    latency: LatencyResult | None
    """Latency; None if it cannot run on this machine."""
    records: StageRecords
    """Records of the stages on its way."""
    here: Accuracy | None = None
    """Measurements by this machine's kernels, if they compute other numbers than are written."""


def is_current(path: Path, key: str) -> bool:
    """Return True if `path` is a whole bundle that a build with this key wrote."""
    try:
        return Bundle.open(path).manifest.build_key == key
    except BundleError:
        return False


def assemble(
    job: Job,
    path: Path,
    key: str,
    measured: Sequence[Result],
    calibration: CalibrationTable | None,
    parity: float,
) -> Bundle:
    """Write the bundle.

    Raises:
        BundleError: `path` is something other than a bundle.
        StorageError: the disk refused.
    """
    spec = read_spec(measured[0].engine.graph)
    inputs = _golden_inputs(job, spec)
    files: dict[str, bytes | Path] = {_GOLDEN_INPUTS: pack(inputs), _GOLDEN_PICTURE: pack(record_picture(spec))}
    here, variants = ThisMachine(), []
    on_gpu = _tolerance_on_gpus(measured, inputs, spec)
    for each in measured:
        variant = _variant(each, job.config.evaluate, here, on_gpu)
        files[variant.file] = each.engine.file
        assert variant.golden is not None
        outputs = _golden_outputs(each, inputs)
        files[variant.golden.outputs] = pack(outputs)
        aligned = spec if variant.alignment is None else replace(spec, alignment=variant.alignment)
        if (answers := record_answers(outputs, aligned)) is not None:
            around = f"variants/{variant.name}/answers.npz"
            files[around] = pack(answers)
            variant = replace(variant, golden=replace(variant.golden, picture=_GOLDEN_PICTURE, answers=around))
        variants.append(variant)
    if (keep := job.config.data.record_splits) != "none":
        files[SPLITS_FILE] = pack_splits(job.splits.present(), keep)
    targets = [find_target(each.engine.target) for each in measured]
    libraries = dict.fromkeys((*_LIBRARIES, *(name for target in targets for name in target.distributions)))
    manifest = Manifest(
        name=job.config.name,
        created=now(),
        spec=spec,
        baseline=measured[0].engine.name,
        variants=tuple(variants),
        calibration=None if calibration is None else examined(job, calibration, [each.engine for each in measured]),
        versions={name: found for name in libraries if (found := version(name))},
        machine=here.whole,
        parity=parity,
        datasets={name: dataset.fingerprint() for name, dataset in job.splits.present().items()},
        sources=named_hashes(job.config.model, job.root),
        notes=job.notes,
        recipe=published(job.config, job.root),
        build_key=key,
    )
    return write_bundle(path, manifest, files)


def _tolerance_on_gpus(measured: Sequence[Result], inputs: dict[str, Array], spec: ModelSpec) -> float:
    """Return what engines on GPUs may differ by because they round operands; 0.0 if there are none.

    It depends on the network: 1e-2 of a detector's raw outputs, a thousandth of that for some classifiers.
    """
    if not any(find_target(each.engine.target).accelerated for each in measured):
        return 0.0
    model = read_graph(measured[0].engine.graph)
    outputs = []
    for change in (lambda _: None, round_operands):
        change(model)
        with OrtSession(ir.to_proto(model).SerializeToString()) as session:
            outputs.append(record_outputs(session, inputs))
    as_written, rounded = outputs
    largest = answers_difference(as_written, rounded, spec, "fp32")
    return _TENSOR_FLOAT_MARGIN * largest if np.isfinite(largest) else 0.0


def _variant(each: Result, limits: EvaluateConfig, machine: ThisMachine, on_gpu: float) -> Variant:
    engine = each.engine
    found, judged = each.records.search, accept(each.accuracy, limits, engine.precision)
    if found is not None and found.status == "refused":
        judged = Acceptance(accepted=False, verdict=found.reason)
    arithmetic = each.records.arithmetic
    if arithmetic is not None and (refusal := arithmetic.refusal()):
        judged = Acceptance(accepted=False, verdict=refusal)
    folder = f"variants/{engine.name}"
    graph = read_graph(engine.graph)
    operators = Counter(node.op_type for node in graph.graph)
    accelerated = find_target(engine.target).accelerated
    on_processor = engine.precision == "int8" and not accelerated
    tolerance = max(_TOLERANCE[engine.precision], on_gpu if accelerated else 0.0)
    return Variant(
        name=engine.name,
        target=engine.target,
        precision=engine.precision,
        scheme=engine.scheme,
        processors=safe_processors(graph) if on_processor else None,
        alignment=engine.alignment,
        candidate=engine.candidate,
        engine=engine.settings,
        file=f"{folder}/engine{find_target(engine.target).file_suffix}",
        stages=each.records,
        nodes=dict(sorted(operators.items())),
        golden=Golden(inputs=_GOLDEN_INPUTS, outputs=f"{folder}/golden.npz", tolerance=tolerance),
        accuracy=each.accuracy,
        accepted=judged.accepted,
        verdict=judged.verdict,
        certain=judged.certain,
        measured=_measured_here(each, limits, machine),
    )


def _measured_here(result: Result, limits: EvaluateConfig, machine: ThisMachine) -> dict[str, Measured]:
    """Return this machine's measurements, if the engine runs here."""
    if result.latency is None and result.here is None:
        return {}
    identity = identity_of_target(result.engine.target, machine)
    found = Measured(machine=identity, recorded=now(), latency=result.latency)
    if result.here is not None:
        judged = accept(result.here, limits, result.engine.precision)
        found = replace(found, accuracy=result.here, acceptance=judged)
    return {identity.fingerprint: found}


def _golden_inputs(job: Job, spec: ModelSpec) -> dict[str, Array]:
    """Network inputs of a few test images, evenly spaced over the set."""
    dataset = job.split("test")
    rows = np.linspace(0, len(dataset) - 1, min(GOLDEN_IMAGES, len(dataset))).astype(int)
    fed = [tensors for _, tensors in feeds(dataset.subset(rows), spec)]
    return {name: np.concatenate([each[name] for each in fed]) for name in fed[0]}


def _golden_outputs(result: Result, inputs: dict[str, Array]) -> dict[str, Any]:
    """Return what every machine should answer: the graph as written, if this machine's kernels differ from it."""
    engine = result.engine
    with engine.session() if result.here is None else engine.written() as session:
        return record_outputs(session, inputs)
