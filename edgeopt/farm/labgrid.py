"""Places of a labgrid farm, by its own client: acquired while a board is measured, and always released.

labgrid (https://labgrid.readthedocs.io) is not imported: whoever has a farm has ``labgrid-client``, and the
coordinator's address in the environment. What it prints is that of labgrid 26.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from edgeopt.errors import ConfigError, EdgeoptError
from edgeopt.farm.errors import BoardError
from edgeopt.farm.processes import Stop, finish

CLIENT = "labgrid-client"
_ANSWER_S = 60.0
"""Longest answer of the coordinator, and of a power switch."""
_RESOURCE = re.compile(r"^Acquired resource '.*' \(.*/NetworkService/.*\):\n((?: .*\n?)+)", re.MULTILINE)
_TOKEN = re.compile(r"LG_TOKEN=(\S+)")
_ACQUIRED = re.compile(r"^acquired place (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Held:
    """A place that is ours for now."""

    name: str
    service: dict[str, Any] | None
    """Parameters of its NetworkService: address, username, port; None where it has none."""


def is_there() -> bool:
    """Return True if labgrid's client is installed."""
    return shutil.which(CLIENT) is not None


def required(place: str) -> str:
    """Return a place or filter, if labgrid's client can be asked for it.

    Raises:
        ConfigError: it is not installed.
    """
    if not is_there():
        raise ConfigError(
            f"'{place}' is labgrid's, and {CLIENT} is not installed. Install it with: pip install labgrid"
        )
    return place


@contextmanager
def held(place: str, *, reserved: bool, wait_s: float, stop: Stop) -> Iterator[Held]:
    """Hold a place.

    Args:
        place: its name, or ``KEY=VALUE`` where it is to be reserved.
        reserved: any place with that tag, as soon as one is free.
        wait_s: longest time to wait for a reservation.
        stop: ends the wait.

    Raises:
        BoardError: somebody else has it, there is none, or the coordinator does not answer.
    """
    token = ""
    try:
        if reserved:
            answer = _client(["reserve", "--shell", place], stop)
            found = _TOKEN.search(answer)
            if found is None:
                raise BoardError(f"{CLIENT} gave no reservation of {place}: {answer.strip()!r:.200}. Is it labgrid 26?")
            token = found[1]
            _client(["wait", token], stop, wait_s, advice="Wait longer with --wait")
            place = f"+{token}"
        name = _acquired(place)
        try:
            yield Held(name, _service(_client(["-p", name, "show"], stop)))
        finally:
            _undone(["-p", name, "release"])
    finally:
        if token:
            _undone(["cancel-reservation", token])


def cycle_power(place: str, stop: Stop) -> None:
    """Switch a place off and on.

    Raises:
        BoardError: it has no switch, or the switch does not answer.
    """
    _client(["-p", place, "power", "cycle"], stop, advice="Check its power switch, and run again")


def _acquired(place: str) -> str:
    """Acquire a place, and return its name.

    Nothing but its time limit ends this: of a client that was cut off nobody knows if the place is ours, and labgrid
    also releases one that the same user holds elsewhere.
    """
    try:
        answer = _client(["-p", place, "acquire"], Stop())
    except _TooLongError:  # the coordinator may have granted it
        _undone(["-p", place, "release"])
        raise
    found = _ACQUIRED.search(answer)
    return place if found is None else found[1].strip()


class _TooLongError(BoardError):
    """labgrid's client was ended, and nobody knows what it has done."""


def _client(
    arguments: list[str],
    stop: Stop,
    limit_s: float = _ANSWER_S,
    *,
    advice: str = "Check labgrid's coordinator, and run again",
) -> str:
    done = finish([CLIENT, *arguments], stop, limit_s)
    if done.code is None:
        raise _TooLongError(f"{CLIENT} {' '.join(arguments)} did not end within {limit_s:.0f} s. {advice}")
    if done.code:
        words = done.errors.strip().splitlines() or [f"exit status {done.code}"]
        raise BoardError(f"{CLIENT} {' '.join(arguments)}: {words[-1].strip().rstrip('.')}")
    return done.output.decode(errors="replace")


def _undone(arguments: list[str]) -> None:
    """Give back, also while everything is being stopped; what fails here must not hide what happened before."""
    with suppress(EdgeoptError, OSError, subprocess.SubprocessError):
        _client(arguments, Stop())


def _service(shown: str) -> dict[str, Any] | None:
    """Read the parameters of a NetworkService from what ``show`` prints."""
    found = _RESOURCE.search(shown)
    if found is None:
        return None
    try:
        resource = ast.literal_eval(found[1].strip())
    except (ValueError, SyntaxError):
        return None
    parameters = resource.get("params") if isinstance(resource, dict) else None
    return parameters if isinstance(parameters, dict) and "address" in parameters else None
