"""OpenSSH's own client as transport: keys, ssh-agent, jump hosts and names are as the user set them up.

Nothing is asked (BatchMode), and a board that is switched off or unplugged ends every command within `_SILENCE_S`.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from typing import IO

from edgeopt.farm.boards import Address
from edgeopt.farm.errors import BoardError, Stopped
from edgeopt.farm.processes import Finished, Stop, end_process, finish, started

CONNECT_S = 10
_ALIVE_S, _ALIVE_COUNT = 5, 3
_SILENCE_S = _ALIVE_S * _ALIVE_COUNT
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ConnectionAttempts": "1",
    "ServerAliveInterval": str(_ALIVE_S),
    "ServerAliveCountMax": str(_ALIVE_COUNT),
    "ClearAllForwardings": "yes",
    "LogLevel": "INFO",  # as which it says that a board does not answer any more
}
_FAILED = 255
"""Exit code of ssh itself."""
_POLL_S = 0.2
_RELEASE_S = 5.0
"""Time that a board has to let go by itself."""
_UNREACHABLE = "it cannot be reached ({last}). Check that it is on, and its address"
_REASONS = {
    "Could not resolve hostname": "no machine has this name ({last}). Check the address",
    "IDENTIFICATION HAS CHANGED": "its host key is not the known one: another machine may answer in its place. If it "
    "was set up anew, remove the old key with: ssh-keygen -R {host}",
    "Host key verification failed": "its host key is not known here. Connect once by hand, and compare it: ssh "
    "{target}",
    "Permission denied": "it takes none of your keys ({last}). Load one with ssh-add, or add it with: ssh-copy-id "
    "{target}",
    "not responding|Connection to .* timed out": f"it has not answered for {_SILENCE_S} s: unplugged, "
    "switched off or hung. Look at it, and run again",
    "Connection refused": "nothing listens there ({last}). Start its SSH server, or check the port",
    "timed out": _UNREACHABLE,
    "No route to host": _UNREACHABLE,
    "unreachable": _UNREACHABLE,
}
"""Patterns of what ssh prints, and what to say of it; the first that fits."""


class Ssh:
    """Commands of ``board.sh`` on one board.

    Args:
        address: of the board.
        stop: ends everything.
    """

    def __init__(self, address: Address, stop: Stop) -> None:
        self._address, self._stop = address, stop

    def run(
        self,
        action: Sequence[str],
        limit_s: float,
        source: IO[bytes] | None = None,
        *,
        command: str | None = None,
        advice: str = "Check the board and its network, and run again",
    ) -> Finished:
        """Do something on the board.

        Args:
            action: of ``board.sh``, with its arguments.
            limit_s: longest time that it may take.
            source: file of its standard input.
            command: what the user knows it by. Default: the action's name.
            advice: what to do where time is up.

        Raises:
            BoardError: the board cannot be reached, the connection broke, or time is up.
            ConfigError: ssh is not installed.
            Stopped: everything is to end.
        """
        done = finish(self._command(action), self._stop, limit_s, source)
        if done.code is None:
            raise BoardError(f"'{command or action[0]}' did not end within {limit_s:.0f} s. {advice}")
        if done.code == _FAILED:
            raise BoardError(self._reason(done.errors))
        return done

    def hold(self, who: str) -> Hold:
        """Lock the board until the hold is closed.

        Raises:
            BoardError: as of `run`; also with the board's own words and its exit code, where it refused.
        """
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = started(self._command(["hold", who]), **pipes)
        try:
            return self._held(process)
        except BaseException:
            end_process(process)
            raise

    def _held(self, process: subprocess.Popen[bytes]) -> Hold:
        assert process.stdout is not None
        assert process.stderr is not None
        said, end = b"", time.monotonic() + CONNECT_S + _SILENCE_S
        while time.monotonic() < end:
            if self._stop.is_set():
                raise Stopped
            if not select.select([process.stdout], [], [], _POLL_S)[0]:
                continue
            piece = os.read(process.stdout.fileno(), 4096)
            said += piece
            held = [line for line in said.split(b"\n")[:-1] if line.startswith(b"held ")]
            if held:
                return Hold(process, int(held[0].split()[1]))
            if not piece:
                errors = process.stderr.read().decode(errors="replace")
                code = process.wait()
                if code == _FAILED:
                    raise BoardError(self._reason(errors))
                raise RefusedError(code, said.decode(errors="replace").strip(), errors)
        raise BoardError(f"it has not answered for {CONNECT_S + _SILENCE_S} s. Look at it, and run again")

    def _command(self, action: Sequence[str]) -> list[str]:
        script = files("edgeopt.farm").joinpath("board.sh").read_text(encoding="utf-8")
        options = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
        where = [
            *(["-p", str(self._address.port)] if self._address.port else []),
            *(["-l", self._address.user] if self._address.user else []),
            "--",
            self._address.host,
        ]
        return ["ssh", "-T", *options, *where, shlex.join(["exec", "sh", "-c", script, "edgeopt-farm", *action])]

    def _reason(self, errors: str) -> str:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        last = (lines[-1] if lines else "ssh said nothing").removeprefix("ssh: ").rstrip(".")
        target = shlex.join([*(["-p", str(self._address.port)] if self._address.port else []), self._destination()])
        for said, meaning in _REASONS.items():
            if re.search(said, errors):
                return meaning.format(last=last, host=shlex.quote(self._known_as()), target=target)
        return f"the connection broke ({last}). Look at the board, and run again"

    def _destination(self) -> str:
        return f"{self._address.user}@{self._address.host}" if self._address.user else self._address.host

    def _known_as(self) -> str:
        """Name in known_hosts."""
        return f"[{self._address.host}]:{self._address.port}" if self._address.port else self._address.host


class RefusedError(BoardError):
    """A board that answered, and cannot be held."""

    def __init__(self, code: int, said: str, errors: str) -> None:
        super().__init__(errors.strip() or said or f"exit status {code}")
        self.code, self.said, self.errors = code, said, errors


class Hold:
    """A board that is locked; a context manager that lets go of it.

    Attributes:
        pid: of the process there that holds it.
    """

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self._process, self.pid = process, pid

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process.stdin is not None
        with suppress(OSError, subprocess.TimeoutExpired):  # of a board that is gone
            process.stdin.close()
            process.wait(_RELEASE_S)
        end_process(process)
