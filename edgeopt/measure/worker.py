"""Run a subject in a process of its own, whose idle threads, memory and allocator do not affect another's."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from edgeopt.errors import EdgeoptError, MeasurementError
from edgeopt.measure.subject import Nanoseconds, Subject

_OPENING_S = 600.0
"""Time limit of opening a subject; an engine may have to be built at first load."""
_STOPPING_S = 10.0


class Worker:
    """Context manager around a subject that lives in a child process.

    While one worker runs a block, the others wait in a read of their pipe and take no processor time.

    Args:
        make: makes the subject; called in the child, so it must be picklable (a `functools.partial` of a function at
            the top of a module).
    """

    def __init__(self, make: Callable[[], Subject]) -> None:
        self._make = make
        self._process: Any = None
        self._pipe: Connection[Any, Any] | None = None
        self._stages: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """The subject's stages."""
        return self._stages

    @property
    def pid(self) -> int:
        """Process number of the child."""
        return int(self._process.pid)

    def run(self, first: int, queries: int) -> Nanoseconds:
        """Run queries in the child; return (queries, stages) ns by its clock."""
        samples: Nanoseconds = np.frombuffer(self._ask((first, queries)), dtype=np.int64)
        return samples.reshape(queries, len(self._stages))

    def __enter__(self) -> Worker:
        self.start()
        return self.opened()

    def start(self) -> None:
        """Start the child without waiting for it, so that several open at the same time."""
        # spawn: a forked child would share the parent's engine threads' locks, which nobody holds there any more.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._make, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def opened(self) -> Worker:
        """Wait until the child has made its subject.

        Raises:
            MeasurementError: it did not get ready, or ended.
            EdgeoptError: what making the subject raised.
        """
        try:
            self._stages = self._answer(_OPENING_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, question: tuple[int, int]) -> Any:
        if self._pipe is None:
            raise MeasurementError("the worker is not running: use it inside 'with'")
        try:
            self._pipe.send(question)
        except OSError as problem:
            raise self._died() from problem
        return self._answer(None)

    def _answer(self, timeout_s: float | None) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(timeout_s):
            raise MeasurementError(f"a measured process did not get ready in {timeout_s:.0f} s. Try the model alone")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as problem:
            raise self._died() from problem
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _died(self) -> MeasurementError:
        self._process.join(_STOPPING_S)
        return MeasurementError(
            f"a measured process ended with exit code {self._process.exitcode} while it was measured. "
            "Out of memory? Try the model alone with: edgeopt benchmark"
        )

    def stop(self) -> None:
        """End the child by closing the pipe; kill one that hangs in an engine."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self._process.join(_STOPPING_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(make: Callable[[], Subject], pipe: Connection[Any, Any]) -> None:
    """Body of the child: make the subject, then answer questions until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which closes the pipe
    try:
        subject = make()
        pipe.send(subject.stages)
        while True:
            first, queries = pipe.recv()
            pipe.send(subject.run(first, queries).astype(np.int64).tobytes())
    except EdgeoptError as error:
        pipe.send(error)
    except (EOFError, ConnectionError):  # reset where the parent closed it with an answer unread
        return
