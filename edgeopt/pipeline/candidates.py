"""The stage that makes candidates of an INT8 variant, between which only a device can decide (`edgeopt tune`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgeopt.bundle.records import CandidateOf, StageRecords
from edgeopt.config import CandidateName, SchemeName
from edgeopt.graph.operators import DEQUANTIZE
from edgeopt.passes.qdq.candidates import candidate, left_float, raises
from edgeopt.passes.quantize.coverage import coverage
from edgeopt.passes.quantize.scheme import VARIATIONS
from edgeopt.passes.quantize.scheme import scheme as named
from edgeopt.pipeline.graphs import read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.quantized_training import quantized_and_trained
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.targets import find_target

MOST = 3
"""Candidates of one variant, unless a recipe names them: each is a file in the bundle, an evaluation, and an engine to
build on the device."""
FLOAT32: CandidateName = "float32"
"""The one whose float part, scales included, does not become float16."""
_LOG = logging.getLogger(__name__)
_WHY = "a candidate leaves it float, for the device to measure"


def candidate_graphs(
    job: Job, baseline: Artifact, quantized: Artifact, calibration: Artifact, scheme: SchemeName, target: str
) -> dict[CandidateOf, Artifact]:
    """Return the graphs that answer a target's questions differently, as far as this network raises them.

    Args:
        job: the build. Within a budget, whose search would begin again, none is quantized anew.
        baseline: the float graph.
        quantized: the INT8 graph of the default variant, before anything becomes FP16.
        calibration: that of the INT8 graph.
        scheme: that of the INT8 graph.
        target: whose questions.
    """
    model, float_model = read_graph(quantized), read_graph(baseline)
    if not any(node.op_type == DEQUANTIZE for node in model.graph):
        return {}  # the search within a budget left everything float
    found, config, asked = find_target(target), job.config, job.config.compile.candidates
    made, seen = dict[CandidateOf, Artifact](), set[frozenset[str]]()
    for question in found.questions if asked is True else (name for name in asked or () if name in found.questions):
        floats = frozenset[str]()
        make: Callable[[CandidateOf], Artifact] = lambda _: quantized  # noqa: E731
        if question == FLOAT32:
            is_raised = found.reduced(config.precision) == "fp16"
        elif question in VARIATIONS:
            exclude = config.quantize.exclude
            is_raised = config.budget is None and raises(model, float_model, named(scheme), question, exclude)
            make = partial(_quantized_anew, job, baseline, calibration, scheme)
        else:
            floats = left_float(model, question)
            is_raised = bool(floats) and floats not in seen
            make = partial(_left_float, job, baseline, quantized)
        if is_raised and (asked is not True or len(made) < MOST):
            seen.add(floats)
            difference = CandidateOf(of=f"{found.name}-int8", question=question, floats=tuple(sorted(floats)))
            made[difference] = make(difference)
        elif asked is not True:
            _LOG.warning("'%s' has no candidate '%s': the network does not raise that question", target, question)
    return made


def _quantized_anew(
    job: Job, baseline: Artifact, calibration: Artifact, scheme: SchemeName, asked: CandidateOf
) -> Artifact:
    return quantized_and_trained(job, baseline, calibration, scheme, asked.question)


def _left_float(job: Job, baseline: Artifact, quantized: Artifact, asked: CandidateOf) -> Artifact:
    def make(folder: Path, _scratch: Path) -> Made:
        graph = candidate(read_graph(quantized), read_graph(baseline), asked.floats)
        write_graph(folder, graph, read_spec(quantized))
        before = {} if quantized.records.coverage is None else quantized.records.coverage.reasons
        covered = coverage(graph, before, _WHY)
        return Made(f"{asked.question}: {covered.summary()}", StageRecords(coverage=covered))

    determinants = {"baseline": baseline.key, "quantized": quantized.key, "floats": asked.floats}
    code = ("edgeopt.passes.qdq.candidates", "edgeopt.passes.quantize.coverage")
    return job.stage("candidate", determinants, make, ("onnx-ir",), code, after=quantized)
