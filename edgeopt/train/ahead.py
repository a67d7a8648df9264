"""Batches that threads prepare while the network learns from earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_AHEAD = 2
"""Batches of each thread that may wait: more would only fill the memory."""


class Ahead(Generic[T]):
    """Items made in order, some of them before they are asked for; a context manager.

    OpenCV and numpy leave Python's lock while they decode and resize, so that threads suffice, which share the pictures
    that are kept in memory. Who is slow is waited for: at most two items a thread are kept.

    Args:
        make: makes item `number`, the same whenever it is asked.
        count: number of items.
        workers: threads; 0 makes each item when it is asked for.
    """

    def __init__(self, make: Callable[[int], T], count: int, workers: int) -> None:
        self._make, self._count, self._room = make, count, _AHEAD * workers
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._waiting: deque[tuple[int, Future[T]]] = deque()

    def take(self, number: int) -> T:
        """Return item `number`; any number may follow any other, the next one is there soonest."""
        if self._pool is None:
            return self._make(number)
        if not self._waiting or self._waiting[0][0] != number:
            self._drop()
        following = self._waiting[-1][0] + 1 if self._waiting else number
        for each in range(following, min(number + self._room, self._count)):
            self._waiting.append((each, self._pool.submit(self._make, each)))
        return self._waiting.popleft()[1].result()

    def _drop(self) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
