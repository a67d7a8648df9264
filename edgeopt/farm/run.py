"""Measure a bundle on many boards at once, each by itself: one that fails leaves the others' results."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeopt.bundle import Bundle
from edgeopt.bundle.records import LatencyResult, now
from edgeopt.errors import when_stopped
from edgeopt.farm.boards import Board
from edgeopt.farm.errors import BoardError, Stopped
from edgeopt.farm.processes import Stop
from edgeopt.farm.results import Asked, BoardResult, read_result, write_result
from edgeopt.farm.visiting import Copy, Visit, copied, digest_of, visiting
from edgeopt.progress import Tell
from edgeopt.typed import from_json

BENCHMARK = "benchmark"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Terms:
    """Terms of visits to boards.

    Attributes:
        timeout_s: longest time that one command may take on a board.
        wait_s: longest time to wait for a reservation of labgrid's.
        power_cycle: switch each board off and on before.
        tell: told what each board does.
    """

    timeout_s: float
    wait_s: float
    power_cycle: bool
    tell: Tell


@dataclass(frozen=True)
class Missing:
    """A board without a result."""

    board: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """A board with its result.

    Attributes:
        result: of the board.
        found: it was there before.
    """

    result: BoardResult
    found: bool

    @property
    def board(self) -> str:
        """Name of the board."""
        return self.result.board


@when_stopped("results of boards that were done are kept; run it again for the others")
def run_farm(
    bundle: Path,
    boards: Sequence[Board],
    out: Path,
    asked: Callable[[str], Asked],
    terms: Terms,
    *,
    again: bool = False,
    allow_invalid: bool = False,
) -> list[Measured | Missing]:
    """Measure a bundle on boards, and keep each one's results as they come.

    Args:
        bundle: its folder.
        boards: to measure on, all at the same time.
        out: folder of the results.
        asked: gives what to measure, for the bundle's digest.
        terms: of the visits.
        again: measure also where there are results.
        allow_invalid: results of a disturbed measurement are not measured again.

    Returns:
        A row for each board, in their order.

    Raises:
        BundleError: not a whole bundle.
        ConfigError: a program is not installed, or a file that is no result is in the way of one.
        StorageError: results cannot be written.
    """
    opened = Bundle.open(bundle)
    question = asked(digest_of(opened))
    found: dict[str, Measured] = {}
    for board in boards:
        known = read_result(out, board, question)
        if known is not None and not again and (allow_invalid or not known.invalid):
            found[board.name] = Measured(known, found=True)
            terms.tell(f"[{board.name}] measured before")
    answers: dict[str, BoardResult | Missing] = {}
    if rest := [board for board in boards if board.name not in found]:
        with tempfile.TemporaryDirectory() as scratch:
            copy = copied(opened, Path(scratch) / "bundle.tar")

            def measure(board: Board, visit: Visit, say: Tell) -> BoardResult:
                result = _measured(board, visit, copy, link_name(opened), question, say)
                write_result(out, result)
                return result

            answers = everywhere(rest, measure, terms)
    rows: list[Measured | Missing] = []
    for board in boards:
        answer = found.get(board.name) or answers[board.name]
        rows.append(Measured(answer, found=False) if isinstance(answer, BoardResult) else answer)
    return rows


def everywhere(
    boards: Sequence[Board], measure: Callable[[Board, Visit, Tell], _Result], terms: Terms
) -> dict[str, _Result | Missing]:
    """Do something on all boards at the same time, each by itself.

    Ctrl-C ends what runs on each and gives all back before it goes on.

    Args:
        boards: with names of their own.
        measure: called with a board that is ours, in a thread of its own.
        terms: of the visits.

    Raises:
        EdgeoptError: other than one of a board; the others are ended.
    """
    stop, talking = Stop(), threading.Lock()

    def visit(board: Board) -> _Result | Missing:
        def say(text: str) -> None:
            with talking:
                terms.tell(f"[{board.name}] {text}")

        say("acquire")
        try:
            with visiting(board, terms.timeout_s, terms.wait_s, stop, power_cycle=terms.power_cycle) as there:
                return measure(board, there, say)
        except BoardError as error:
            say(f"no result: {error}")
            return Missing(board.name, str(error))

    if not boards:
        return {}
    with ThreadPoolExecutor(len(boards), thread_name_prefix="board") as pool:
        futures = {board.name: pool.submit(visit, board) for board in boards}
        try:
            _wait(futures.values())
        finally:
            stop.set()  # where all is done nobody listens
    return {name: future.result() for name, future in futures.items()}


def _wait(futures: Any) -> None:
    """Wait for all, or for the first that fails as no board does."""
    left: set[Future[Any]] = set(futures)
    while left:
        done, left = wait(left, timeout=0.2)
        for each in done:
            if (error := each.exception()) is not None and not isinstance(error, Stopped):
                raise error


def link_name(bundle: Bundle) -> str:
    """Return the bundle's name as a word that no shell reads otherwise."""
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', bundle.path.stem).strip('-.') or 'bundle'}.edgeopt"


def brought(visit: Visit, copies: Mapping[str, Copy], say: Tell) -> dict[str, dict[str, Any]]:
    """Copy bundles to a board that has not got them, and verify them there.

    Returns:
        Output of `edgeopt verify --json` by name.

    Raises:
        BoardError: one is refused there.
    """
    for name, copy in copies.items():
        if visit.bring(copy):
            say(f"copied {name}, {copy.archive.stat().st_size / 1e6:.1f} MB")
    verified = {}
    for name, copy in copies.items():
        say(f"verify {name}")
        verified[name] = read(visit.verify(name, copy), dict[str, Any], "verify")
    return verified


def read(text: bytes, kind: type[_Result], command: str) -> _Result:
    """Read what a command printed on a board.

    Raises:
        BoardError: it is none of that.
    """
    try:
        return from_json(text, kind)
    except msgspec.DecodeError as error:
        raise BoardError(
            f"'{command}' printed something else there: {error}. Install the same wheel on both"
        ) from error


def _measured(board: Board, visit: Visit, copy: Copy, name: str, asked: Asked, say: Tell) -> BoardResult:
    began, links = time.monotonic(), {name: copy}
    verified = brought(visit, links, say)
    say(BENCHMARK)
    common = [
        *(["--variant", asked.variant] if asked.variant else []),
        *(["--threads", str(asked.threads)] if asked.threads else []),
        *(["--data", asked.data] if asked.data else []),
        "--json",
    ]
    timing = [
        *(["--quick"] if asked.quick else []),
        *(["--duration", str(asked.duration_s)] if asked.duration_s else []),
        "--allow-invalid",
    ]
    latency = read(visit.edgeopt(links, BENCHMARK, name, *common, *timing), dict[str, LatencyResult], BENCHMARK)
    accuracy: dict[str, dict[str, Any]] = {}
    if asked.evaluate:
        say("evaluate")
        accuracy = read(visit.edgeopt(links, "evaluate", name, *common), dict[str, dict[str, Any]], "evaluate")
    say("done")
    return BoardResult(
        board=board.name,
        address=board.where,
        asked=asked,
        recorded=now(),
        seconds=round(time.monotonic() - began, 1),
        verification=verified[name],
        latency=latency,
        accuracy=accuracy,
    )
