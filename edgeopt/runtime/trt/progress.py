"""Progress of a build, and a build that Ctrl-C can stop.

TensorRT builds inside one C++ call of seconds to many minutes. Python handles signals only between its own
instructions and only in the main thread, so the call runs in a second thread while the first waits for it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edgeopt.spec import Struct

Result = TypeVar("Result")

_INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + SIGINT."""


class BuildProgress(Struct):
    """One step of a phase is done; phases are TensorRT's own and nest."""

    phase: str
    step: int
    steps: int


ProgressCallback = Callable[[BuildProgress], None]


def make_monitor(module: Any, report: ProgressCallback | None, cancel: threading.Event) -> Any:
    """Return an IProgressMonitor that reports steps and stops the build once `cancel` is set.

    TensorRT calls it from its own threads. An exception cannot cross its C++ frames, so `report` should raise none:
    one that does stops the build.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, _parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if report is not None and not cancel.is_set():
                try:
                    report(BuildProgress(phase=phase_name, step=step + 1, steps=self.steps.get(phase_name, step + 1)))
                except BaseException as error:  # noqa: BLE001 (kept and raised again where Python can see it)
                    self.error = error
                    cancel.set()
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


class _Call(threading.Thread, Generic[Result]):
    """A function in a thread of its own, with its result or its exception."""

    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(name="tensorrt-build", daemon=True)
        self._work = work
        self.result: Result | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            self.error = error


def _abandon(call: threading.Thread) -> None:
    """Let the process end at once while TensorRT still builds.

    An interpreter that finalizes unwinds a thread inside C++ when that asks for the GIL, which ends in
    ``terminate called`` and a core dump. Handlers run in the reverse order of their registration: this one runs first,
    and those of others do not run, which is the price.
    """

    def end() -> None:
        if call.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_INTERRUPTED)

    atexit.register(end)


def run_cancellable(work: Callable[[], Result], cancel: threading.Event, *, stoppable: bool) -> Result | None:
    """Run `work` so that Ctrl-C reaches the caller.

    Args:
        work: the blocking call.
        cancel: set on Ctrl-C, for the call's progress monitor to see.
        stoppable: whether the call will notice `cancel`. If so, its end is awaited, so that nothing of it is left; if
            not (TensorRT 8 has no monitor), it is abandoned to a daemon thread and the process may end.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    call = _Call(work)
    call.start()
    try:
        while call.is_alive():
            call.join(timeout=0.1)
    except KeyboardInterrupt:
        cancel.set()
        if stoppable:
            call.join()
        else:
            _abandon(call)
        raise
    if call.error is not None:
        raise call.error
    return call.result
