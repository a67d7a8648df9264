"""The stage that holds a pruned network's finished engine to its goal of latency.

The search for the goal times networks before they are trained and repaired. Repairs leave layers in float and insert
multiplications, so that the finished engine takes another time, and it alone tells if the goal is reached. So do those
of the unpruned network, whose engine with its repairs is what would ship without pruning: a share is one of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeopt.bundle.records import StageRecords
from edgeopt.hardware import machine
from edgeopt.pipeline.compression import AGAIN, beside, cost, measured_engine
from edgeopt.pipeline.graphs import FEEDS, feeds
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.variants import BuiltVariant, engine_code
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.spec import replace
from edgeopt.targets import find_target


def held_engine(job: Job, pruned: Artifact | None, engines: Sequence[BuiltVariant]) -> BuiltVariant | None:
    """Return the finished engine that a goal of latency is about.

    None where no latency was asked for, or what it was asked of is not built or cannot run here.

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
    return None if engine is None or engine.absent else engine


def held_to_goal(job: Job, pruned: Artifact, engine: BuiltVariant, unpruned: BuiltVariant) -> Artifact:
    """Return the record of the pruning, with the finished engine's latency beside the unpruned network's.

    Args:
        job: the build.
        pruned: what `compressed` made.
        engine: the one that `held_engine` found.
        unpruned: the unpruned network's, made as the other was.
    """
    config = job.config.compress
    assert config is not None
    dataset = job.split("test").subset([0])

    def make(_folder: Path, _scratch: Path) -> Made:
        (_, tensors), *_ = feeds(dataset, engine.spec)
        with unpruned.session(reuse_outputs=True) as before, engine.session(reuse_outputs=True) as finished:
            latency = beside(before, finished, tensors, job.config.benchmark, AGAIN)
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
        "unpruned": unpruned.compiled.key,
        "benchmark": job.config.benchmark,
        "machine": machine(),
        "data": dataset.fingerprint(),
    }
    code = ("edgeopt.benchmark", "edgeopt.runtime", *FEEDS, engine_code(engine.target))
    return job.stage("goal", determinants, make, find_target(engine.target).distributions, code)
