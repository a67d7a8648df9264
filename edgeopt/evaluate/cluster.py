"""Evaluate shards on a Ray cluster: each worker opens the bundle once, and gets one piece of the data after another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgeopt.bundle import Bundle
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import ConfigError, DataError, EdgeoptError, requires_extra
from edgeopt.evaluate.shards import ShardEvaluator

ATTEMPTS = 3
"""Attempts at a piece whose worker dies."""


def connected(address: str | None, cores: int | None, resources: Mapping[str, float] | None = None) -> Any:
    """Connect to a Ray cluster, or start one that ends with this process; return the module.

    Args:
        address: as ``ray://host:10001`` or ``auto``; None starts one on this machine.
        cores: processor cores of the one that is started. Default: all.
        resources: labels of the one that is started, with their amounts.

    Raises:
        MissingExtraError: Ray is not installed, or its client.
        ConfigError: no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # whoever wants to report to Ray's makers says so
    ray: Any = requires_extra("ray", "sweep")
    if address is not None and address.startswith("ray://"):
        requires_extra("grpc", "sweep")  # Ray's client speaks by it, and Ray alone does not bring it
    here = {"num_cpus": cores, "resources": resources, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "this machine" if address is None else f"'{address}'"
        reason = str(error).strip().rstrip(".")
        raise ConfigError(f"no Ray cluster answers at {where}: {reason}. Start one with `ray start --head`") from error
    return ray


class RayEvaluation:
    """Workers of a Ray cluster, which have the bundle and the images under the same paths; a context manager.

    Args:
        bundle: path of the bundle.
        config: filtering of detections.
        variant: only this one and the baseline. Default: all that run on the workers.
        threads: threads of the engines; 0 keeps the bundle's setting.
        address: of the cluster, as ``ray://host:10001`` or ``auto``; None starts one on this machine.
        count: workers. Default: as many as the cluster has processor cores.
    """

    def __init__(
        self,
        bundle: Path,
        config: EvaluateConfig,
        variant: str | None,
        threads: int,
        address: str | None,
        count: int | None,
    ) -> None:
        self._asked = (str(bundle.absolute()), config, variant, threads)
        self._address, self._count = address, count

    def __enter__(self) -> RayEvaluation:
        """Connect; raises as `connected`."""
        self._ray = connected(self._address, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def evaluate(self, parts: Iterable[tuple[int, Dataset]]) -> Iterator[tuple[int, bytes]]:
        """Evaluate numbered pieces; a worker that dies is started anew, and its piece given to it again.

        Raises:
            EdgeoptError: as of `ShardEvaluator`, from a worker.
            DataError: workers died over a piece again and again.
        """
        count = self._count or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        actor = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(_Worker)
        idle = [actor.remote(*self._asked) for _ in range(count)]
        waiting, busy = iter(parts), dict[Any, tuple[int, Any]]()
        while True:
            while idle and (part := next(waiting, None)) is not None:
                number, dataset = part
                worker = idle.pop()
                busy[worker.evaluate.remote(dataset)] = (number, worker)
            if not busy:
                return
            (ready, *_), _ = self._ray.wait(list(busy), num_returns=1)
            number, worker = busy.pop(ready)
            yield number, self._answer(ready, number)
            idle.append(worker)

    def _answer(self, ready: Any, number: int) -> bytes:
        try:
            content: bytes = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, EdgeoptError) else error) from error
        except self._ray.exceptions.RayError as error:
            raise DataError(
                f"no worker evaluated shard {number}: {str(error).strip().splitlines()[-1]}. What is done is kept; "
                "take smaller shards where memory ran out"
            ) from error
        return content


class _Worker:
    """A process of Ray's with the bundle's variants open."""

    def __init__(self, bundle: str, config: EvaluateConfig, variant: str | None, threads: int) -> None:
        self._stack = ExitStack()
        evaluator = ShardEvaluator(Bundle.open(Path(bundle)), config, variant, threads)
        self._evaluator = self._stack.enter_context(evaluator)

    def evaluate(self, dataset: Dataset) -> bytes:
        """Return the content of a piece's file."""
        return self._evaluator.evaluate(dataset)
