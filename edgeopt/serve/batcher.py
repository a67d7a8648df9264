"""One thread that runs the network, on as many pictures at once as wait for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.preprocess import Geometry
from edgeopt.runtime import Inferred, Predictor, Prepared
from edgeopt.serve.limits import UNMEASURED_BATCH, Limits, Refused
from edgeopt.spec import ModelSpec, has_batch

Array: TypeAlias = NDArray[Any]


@dataclass(eq=False)
class Row:
    """One picture's input of the network, and its way back."""

    tensor: Array
    """(1, ...) as the network takes it."""
    geometry: Geometry
    deadline: float
    """Moment of `time.monotonic` after which nobody waits for it."""
    answer: Future[Inferred] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Ran:
    """One run of the network."""

    rows: int
    waited_s: tuple[float, ...]
    """Time that each row waited."""
    took_s: float


def most_at_once(spec: ModelSpec, largest: int) -> int:
    """Return how many pictures the network takes at once: its own batch where that is fixed, at most `largest` else.

    One where an output has no dimension for the image, so that it cannot be told whose it is.
    """
    if not all(has_batch(spec, output) for output in spec.outputs):
        return 1
    batch = spec.input.shape[0]
    return batch if isinstance(batch, int) else largest


class Batcher:
    """Rows in, answers out, in the order in which they came.

    A batch runs when it is full, or when its first row has waited as long as `limits` say. Rows that nobody waits for
    any more are dropped before they cost anything.

    Args:
        predictor: what runs them.
        limits: of the batch, the queue and the wait.
        ran: told of every run.
    """

    def __init__(self, predictor: Predictor, limits: Limits, ran: Callable[[Ran], object] = lambda _: None) -> None:
        self._predictor = predictor
        self._limits = limits
        self._ran = ran
        self.largest = most_at_once(predictor.spec, limits.largest_batch or UNMEASURED_BATCH)
        """Rows of a batch."""
        self._waiting: deque[Row] = deque()
        self._changed = Condition()
        self._ending = False
        self._thread = Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """True while rows are run."""
        return self._thread.is_alive() and not self._ending

    def submit(self, rows: Sequence[Row]) -> None:
        """Let rows wait, all or none.

        Raises:
            Refused: there are too many, or the server ends.
        """
        if len(rows) > self._limits.queue:
            raise Refused(413, f"{len(rows)} pictures in one request; {self._limits.queue} are the most")
        with self._changed:
            if self._ending:
                raise Refused(503, "the server ends")
            if len(self._waiting) + len(rows) > self._limits.queue:
                raise Refused(503, "too many requests wait", 1.0)
            self._waiting.extend(rows)
            self._changed.notify()

    def close(self) -> None:
        """Run what waits, then end."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[Row]:
        """Wait for a batch; empty in the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return []
                until = self._waiting[0].arrived + self._limits.batch_wait_s
                while len(self._waiting) < self.largest and not self._ending:
                    if (left := until - time.monotonic()) <= 0 or not self._changed.wait(left):
                        break
                taken = [self._waiting.popleft() for _ in range(min(self.largest, len(self._waiting)))]
            if batch := [row for row in taken if _is_wanted(row)]:
                return batch

    def _run(self, batch: list[Row]) -> None:
        started = time.monotonic()
        try:
            parts = self._infer(batch)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, and the thread goes on
            for row in batch:
                row.answer.set_exception(error)
            return
        finally:
            waited = tuple(started - row.arrived for row in batch)
            self._ran(Ran(len(batch), waited, time.monotonic() - started))
        for row, part in zip(batch, parts, strict=True):
            row.answer.set_result(part)

    def _infer(self, batch: list[Row]) -> list[Inferred]:
        geometries = tuple(row.geometry for row in batch)
        if len(batch) == 1 and len(batch[0].tensor) == len(self._predictor.buffer()):
            return [self._predictor.infer(Prepared(batch[0].tensor, geometries), copy=True)]
        tensor = self._predictor.buffer(len(batch))
        np.concatenate([row.tensor for row in batch], out=tensor[: len(batch)])
        found = self._predictor.infer(Prepared(tensor, geometries), copy=True).outputs
        return [Inferred(_part(found, number), (row.geometry,)) for number, row in enumerate(batch)]


def _part(outputs: Mapping[str, Array], number: int) -> dict[str, Array]:
    return {name: array[number : number + 1] for name, array in outputs.items()}


def _is_wanted(row: Row) -> bool:
    """Return True if a row's answer is waited for; it then cannot be cancelled any more."""
    if not row.answer.set_running_or_notify_cancel():
        return False
    if time.monotonic() <= row.deadline:
        return True
    row.answer.set_exception(Refused(504, "the request took too long, and was dropped before it ran"))
    return False
