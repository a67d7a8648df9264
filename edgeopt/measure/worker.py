"""Run a subject in a process of its own, whose idle threads, memory and allocator do not affect another's."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeopt.errors import EdgeoptError, MeasurementError, ending
from edgeopt.measure.subject import Nanoseconds, Subject

_IDLE_S = 600.0
"""Time limit of opening a subject, of which the time does not count in which its process computes: an engine that is
built at first load may take longer on a small board."""
_LOOK_EVERY_S = 2.0
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
            self._wait_until_ready()
            self._stages = self._answer()
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
        return self._answer()

    def _wait_until_ready(self) -> None:
        """Wait for the first answer, as long as the child computes."""
        assert self._pipe is not None
        idle_s, computed_s = 0.0, _processor_s(self.pid)
        while not self._pipe.poll(_LOOK_EVERY_S):
            now_s = _processor_s(self.pid)
            idle_s = idle_s + _LOOK_EVERY_S if now_s is None or now_s == computed_s else 0.0
            computed_s = now_s
            if idle_s >= _IDLE_S:
                raise MeasurementError(
                    f"a measured process did not get ready, and did nothing for {idle_s:.0f} s. Try the model alone"
                )

    def _answer(self) -> Any:
        assert self._pipe is not None
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
            f"a measured process {ending(self._process.exitcode)} while it was measured. Try the model alone with: "
            "edgeopt benchmark"
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


def _processor_s(pid: int) -> float | None:
    """Processor time that a process has used (proc(5): utime and stime); None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


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
