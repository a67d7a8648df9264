"""Evaluate shards on a cluster: each worker opens the bundle once, and gets one piece of the data after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.cluster import Cluster
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.evaluate.shards import ShardEvaluator


@dataclass(frozen=True)
class SpreadEvaluation:
    """Workers that have the bundle and the images under the same paths.

    Attributes:
        cluster: where they are, connected.
        bundle: path of the bundle.
        config: filtering of detections.
        variant: only this one and the baseline; None: all that run on the workers.
        threads: threads of the engines; 0: one, as a worker has one core.
    """

    cluster: Cluster
    bundle: Path
    config: EvaluateConfig
    variant: str | None = None
    threads: int = 0

    def __call__(self, parts: Iterable[tuple[int, Dataset]]) -> Iterator[tuple[int, bytes]]:
        """Evaluate numbered pieces; raises as of `Cluster.spread` and `ShardEvaluator`."""
        arguments = (str(self.bundle.absolute()), self.config, self.variant, self.threads or 1)
        return self.cluster.spread(_Worker, arguments, parts, "shard")


class _Worker:
    """A process with the bundle's variants open."""

    def __init__(self, bundle: str, config: EvaluateConfig, variant: str | None, threads: int) -> None:
        self._stack = ExitStack()
        evaluator = ShardEvaluator(Bundle.open(Path(bundle)), config, variant, threads)
        self._evaluator = self._stack.enter_context(evaluator)

    def work(self, piece: Dataset, /) -> bytes:
        """Return the content of a piece's file."""
        return self._evaluator.evaluate(piece)
