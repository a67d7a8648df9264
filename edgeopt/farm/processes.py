"""Other programs, in bounded time, until everything is stopped."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from edgeopt.errors import ConfigError
from edgeopt.farm.errors import Stopped

Stop = threading.Event
"""Set when everything is to end; one that nobody sets lets a program end by itself."""
_POLL_S = 0.2
_END_S = 5.0


@dataclass(frozen=True)
class Finished:
    """A program that ended.

    Attributes:
        code: its exit status, or None where it took too long.
        output: standard output.
        errors: standard error.
    """

    code: int | None
    output: bytes
    errors: str


def started(command: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, which Ctrl-C does not reach: a board is given back first.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return subprocess.Popen([*command], start_new_session=True, **streams)
    except FileNotFoundError as error:
        raise ConfigError(f"the program '{command[0]}' is not installed, or not on PATH. Install it") from error


def finish(command: Sequence[str], stop: Stop, limit_s: float, source: IO[bytes] | None = None) -> Finished:
    """Run a program to its end.

    Args:
        command: it with its arguments.
        stop: ends it.
        limit_s: longest time that it may take.
        source: file of its standard input. Default: nothing.

    Raises:
        ConfigError: it is not installed.
        Stopped: everything is to end.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = started(command, stdin=source or subprocess.DEVNULL, stdout=output, stderr=errors)
        end = time.monotonic() + limit_s
        try:
            while process.poll() is None:
                if stop.is_set():
                    raise Stopped
                if time.monotonic() > end:
                    return Finished(None, b"", "")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            end_process(process)
        output.seek(0)
        errors.seek(0)
        return Finished(process.returncode, output.read(), errors.read().decode(errors="replace"))


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a program, by force where it does not by itself, and close its pipes."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):  # what was not written yet has no reader
                stream.close()
