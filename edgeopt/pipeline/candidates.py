"""The stage that makes candidates of an INT8 variant, between which only a device can decide (`edgeopt tune`)."""

from __future__ import annotations

from pathlib import Path

from edgeopt.bundle.records import CandidateOf, StageRecords
from edgeopt.config import SchemeName
from edgeopt.graph.operators import DEQUANTIZE
from edgeopt.passes.qdq.candidates import candidate, left_float, raises
from edgeopt.passes.quantize.coverage import coverage
from edgeopt.passes.quantize.scheme import VARIATIONS
from edgeopt.pipeline import graphs
from edgeopt.pipeline.graphs import read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.targets import find_target

MOST = 3
"""Candidates of one variant: each is a file in the bundle, an evaluation, and an engine to build on the device."""
_WHY = "a candidate leaves it float, for the device to measure"


def candidate_graphs(
    job: Job,
    baseline: Artifact,
    quantized: Artifact,
    target: str,
    calibration: Artifact | None = None,
    scheme: SchemeName | None = None,
) -> dict[CandidateOf, Artifact]:
    """Return the graphs that answer a target's questions differently, as far as this network raises them.

    Args:
        job: the build.
        baseline: the float graph.
        quantized: the INT8 graph of the default variant, before anything becomes FP16.
        target: whose questions.
        calibration: that of the INT8 graph; without, or within a budget, whose search would begin again, none is
            quantized anew.
        scheme: that of the INT8 graph.
    """
    model, made, seen = read_graph(quantized), dict[CandidateOf, Artifact](), set[frozenset[str]]()
    if not any(node.op_type == DEQUANTIZE for node in model.graph):
        return {}  # the search within a budget left everything float
    for question in find_target(target).questions:
        if question in VARIATIONS:
            if calibration is None or scheme is None or job.config.budget is not None:
                continue
            if len(made) < MOST and raises(model, question):
                asked = CandidateOf(of=f"{find_target(target).name}-int8", question=question, floats=())
                made[asked] = graphs.quantized(job, baseline, calibration, scheme, question)
            continue
        floats = left_float(model, question)
        if floats and floats not in seen and len(made) < MOST:
            seen.add(floats)
            asked = CandidateOf(of=f"{find_target(target).name}-int8", question=question, floats=tuple(sorted(floats)))
            made[asked] = _made(job, baseline, quantized, asked)
    return made


def _made(job: Job, baseline: Artifact, quantized: Artifact, asked: CandidateOf) -> Artifact:
    def make(folder: Path, _scratch: Path) -> Made:
        graph = candidate(read_graph(quantized), read_graph(baseline), asked.floats)
        write_graph(folder, graph, read_spec(quantized))
        before = {} if quantized.records.coverage is None else quantized.records.coverage.reasons
        covered = coverage(graph, before, _WHY)
        return Made(f"{asked.question}: {covered.summary()}", StageRecords(coverage=covered))

    determinants = {"baseline": baseline.key, "quantized": quantized.key, "floats": asked.floats}
    code = ("edgeopt.passes.qdq.candidates", "edgeopt.passes.quantize.coverage")
    return job.stage("candidate", determinants, make, ("onnx-ir",), code, after=quantized)
