"""A Ray cluster: connecting to it, and giving one piece of work after another to workers that are opened once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from edgeopt.errors import ConfigError, DataError, EdgeoptError, requires_extra

ATTEMPTS = 3
"""Attempts at a piece whose worker dies."""


class Worker(Protocol):
    """Work in a process of Ray's, which is opened once."""

    def work(self, piece: Any, /) -> Any:
        """Return what came of a piece."""


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
        # Without an address Ray would join a cluster that happens to run here.
        ray.init(address=address or "local", logging_level="error", log_to_driver=False, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().rstrip(".")
        if address is None:
            raise ConfigError(
                f"Ray cannot be started on this machine: {reason}. Work without it: --on local"
            ) from error
        raise ConfigError(
            f"no Ray cluster answers at '{address}': {reason}. Start one with `ray start --head`"
        ) from error
    return ray


class Cluster:
    """Workers of a Ray cluster; a context manager.

    One that is started on this machine runs only while it has work: it would disturb what is measured afterwards.

    Args:
        address: of the cluster, as ``ray://host:10001`` or ``auto``; None starts one on this machine.
        count: most workers. Default, and never more: as many as the cluster has processor cores.
    """

    def __init__(self, address: str | None, count: int | None) -> None:
        self._address, self._count = address, count
        self._ray: Any = None

    def __enter__(self) -> Cluster:
        """Connect, or see that one can be started.

        Raises:
            MissingExtraError: as of `connected`.
            ConfigError: no cluster answers.
        """
        if self._address is None:
            requires_extra("ray", "sweep")
        else:
            self._ray = connected(self._address, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ray is not None:
            self._ray.shutdown()

    def spread(
        self, kind: type[Worker], arguments: tuple[Any, ...], pieces: Iterable[tuple[int, Any]], named: str
    ) -> Iterator[tuple[int, Any]]:
        """Give numbered pieces to workers, and return what came of each as it is done.

        A worker that dies is started anew, and its piece given to it again.

        Args:
            kind: class of the workers.
            arguments: what each is opened with.
            pieces: read as workers are free.
            named: word for a piece, for messages.

        Raises:
            EdgeoptError: from a worker.
            DataError: workers died over a piece again and again.
            ConfigError: none can be started here.
        """
        if self._address is not None:
            yield from self._spread(kind, arguments, pieces, named)
            return
        self._ray = connected(None, self._count)
        try:
            yield from self._spread(kind, arguments, pieces, named)
        finally:
            self._ray.shutdown()
            self._ray = None

    def _spread(
        self, kind: type[Worker], arguments: tuple[Any, ...], pieces: Iterable[tuple[int, Any]], named: str
    ) -> Iterator[tuple[int, Any]]:
        cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        free = min(self._count or cores, cores)  # one more would wait for a core, and its piece with it
        actor = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(_Worker)
        # Once a machine, not once a worker; and with each piece, as Ray warns of large ones that a worker starts with.
        shared = [self._ray.put(argument) for argument in arguments]
        idle: list[Any] = []
        waiting, busy = iter(pieces), dict[Any, tuple[int, Any]]()
        while True:
            while (idle or free) and (next_one := next(waiting, None)) is not None:
                number, piece = next_one
                if not idle:
                    idle.append(actor.remote(kind))
                    free -= 1
                worker = idle.pop()
                busy[worker.work.remote(piece, shared)] = (number, worker)
            if not busy:
                return
            (ready, *_), _ = self._ray.wait(list(busy), num_returns=1)
            number, worker = busy.pop(ready)
            yield number, self._answer(ready, f"{named} {number}")
            idle.append(worker)

    def _answer(self, ready: Any, piece: str) -> Any:
        try:
            return self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, EdgeoptError) else error) from error
        except self._ray.exceptions.RayError as error:
            raise DataError(
                f"no worker finished {piece}: {str(error).strip().splitlines()[-1]}. What is done is kept; take "
                "smaller pieces, or fewer workers, where memory ran out"
            ) from error


class _Worker:
    """A process of Ray's. It opens with its first piece, whose error tells what is wrong; its start tells nothing."""

    def __init__(self, kind: type[Worker]) -> None:
        self._kind = kind
        self._opened: Worker | None = None

    def work(self, piece: Any, arguments: list[Any]) -> Any:
        """Return what came of a piece; `arguments` are references to what the worker is opened with."""
        if self._opened is None:
            ray: Any = requires_extra("ray", "sweep")
            self._opened = self._kind(*ray.get(arguments))
        return self._opened.work(piece)
