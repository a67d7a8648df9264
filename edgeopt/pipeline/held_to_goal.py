"""The stage that holds a pruned network's finished engine to its goal of latency.

The search for the goal times networks before they are trained and repaired. Repairs leave layers in float and insert
multiplications, so that the finished engine takes another time, and it alone tells if the goal is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeopt.bundle.records import StageRecords
from edgeopt.hardware import machine
from edgeopt.pipeline.compression import AGAIN, beside, cost, measured_engine, unpruned_engine
from edgeopt.pipeline.graphs import FEEDS, feeds
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.variants import BuiltVariant, engine_code
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.runtime.session import open_session
from edgeopt.spec import replace
from edgeopt.targets import find_target


def held_to_goal(job: Job, pruned: Artifact | None, engines: Sequence[BuiltVariant]) -> Artifact | None:
    """Return the record of the pruning, with the finished engine's latency beside the unpruned network's.

    None where no latency was asked for, or what it was asked of is not built or cannot run here: then the record
    stays at what was measured in the search.

    Args:
        job: the build.
        pruned: what `compressed` made.
        engines: finished ones; candidates of a variant are not looked at.
    """
    config = job.config.compress
    if pruned is None or config is None or config.latency is None:
        return None
    asked = measured_engine(job.config)
    found = (each for each in engines if (each.target, each.precision) == asked and each.candidate is None)
    engine = next(found, None)
    if engine is None or engine.absent:
        return None
    dataset = job.split("test").subset([0])

    def make(_folder: Path, _scratch: Path) -> Made:
        (_, tensors), *_ = feeds(dataset, engine.spec)
        before = open_session(
            unpruned_engine(pruned, engine.target), engine.target, settings=engine.settings, reuse_outputs=True
        )
        with before as unpruned, engine.session(reuse_outputs=True) as finished:
            latency = beside(unpruned, finished, tensors, job.config.benchmark, AGAIN)
        record = pruned.records.compression
        assert record is not None
        record = replace(
            record,
            reached=cost(config, latency) <= config.goal[1],
            finished=latency.ratio,
            finished_ms=latency.end_to_end.p50_ms,
        )
        return Made(record.summary(), StageRecords(compression=record))

    determinants = {
        "pruned": pruned.key,
        "engine": engine.compiled.key,
        "benchmark": job.config.benchmark,
        "machine": machine(),
        "data": dataset.fingerprint(),
    }
    code = ("edgeopt.benchmark", "edgeopt.runtime", *FEEDS, engine_code(engine.target))
    return job.stage("goal", determinants, make, find_target(engine.target).distributions, code)
