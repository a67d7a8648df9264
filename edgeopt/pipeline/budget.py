"""The stage that fits a quantized graph into the recipe's ``[budget]``, for one target."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edgeopt.config import BudgetConfig, TargetName
from edgeopt.hardware import machine
from edgeopt.pipeline.graphs import REPAIRS, read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.plans import Subject, search_plan
from edgeopt.pipeline.workspace import Artifact
from edgeopt.search import Budget, SearchResult

SEARCH = "search.json"


def searched(job: Job, budget: BudgetConfig, exact: Artifact, quantized: Artifact, target: TargetName) -> Artifact:
    """The graph of the fastest plan inside the budget, searched on the validation images.

    Where INT8 is refused because it is not faster, the graph is the quantized one and the bundle says so.

    Raises:
        AccuracyError: nothing faster than float keeps the budget; the message holds the best plan's figures.
        DataError: the recipe has no validation images.
        TargetError: the target's engine does not run here.
    """
    dataset = job.split("validation")

    def make(folder: Path, scratch: Path) -> str:
        config, spec = job.config, read_spec(exact)
        subject = Subject(
            read_graph(exact), read_graph(quantized), spec, target, dataset, config.evaluate, config.benchmark
        )
        result, graph = search_plan(subject, Budget.parse(str(budget.max_drop), budget.latency_ms), scratch)
        result.require()
        write_graph(folder, subject.quantized if result.status == "refused" else graph, spec)
        shutil.copyfile(quantized.file(REPAIRS), folder / REPAIRS)
        (folder / SEARCH).write_bytes(msgspec.json.encode(result))
        return f"{target}: {result.reason}; {result.validations} full validations"

    determinants = {
        "exact": exact.key,
        "quantized": quantized.key,
        "target": target,
        "budget": budget,
        "evaluate": job.config.evaluate,
        "benchmark": job.config.benchmark,
        "data": dataset.fingerprint(),
        "machine": machine(),
    }
    return job.stage("search", determinants, make, ("onnx-ir", "onnxruntime", "openvino"))


def read_search(graph: Artifact) -> SearchResult | None:
    """What the search found, where `graph` is the result of one."""
    path = graph.file(SEARCH)
    return msgspec.json.decode(path.read_bytes(), type=SearchResult) if path.exists() else None
