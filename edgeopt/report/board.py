"""Read what ``deploy/verify_on_jetson.sh`` measured on a board, and show it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgeopt.errors import DataError, storage_errors
from edgeopt.spec import Struct
from edgeopt.typed import from_json

_COLUMNS = ("variant", "accuracy", "golden", "p50 ms", "trtexec ms", "× trtexec", "choice")
"""The last but one: of the stage that runs the network; the last: of the default's latency, and what runs."""


_LARGEST = 1e300
"""Beyond what any figure is, and what a float holds."""


class Step(Struct):
    """One command of the script."""

    command: str
    exit_status: int
    seconds: float
    result: Any = None
    """The command's JSON, or its text."""
    log: tuple[str, ...] = ()


class BoardReport(Struct):
    """The script's file."""

    schema_version: int
    bundle: dict[str, str]
    ok: bool
    steps: dict[str, Step]
    engines: tuple[Any, ...] = ()


class BoardRow(Struct):
    """One variant on the board; None where it was not measured."""

    name: str
    accuracy: float | None
    golden: str
    """``ok``, ``differs``, ``not said`` or ``does not run``; empty if it was not replayed."""
    p50_ms: float | None
    """End to end, of `edgeopt benchmark`."""
    trtexec_ms: float | None
    """GPU time of the same plan by NVIDIA's trtexec."""
    network_ms: float | None
    """Median of the stage that runs the network, of `edgeopt benchmark`."""
    candidate: str = ""
    """Latency as a multiple of the default's, and whether it runs from now on, of `edgeopt tune`; or why it was not
    measured there."""

    @property
    def choice(self) -> str:
        """The same without a reason."""
        return self.candidate.partition(":")[0]

    @property
    def ratio(self) -> float | None:
        """Time of the network in edgeopt over trtexec's GPU time; the former holds copies and the wait too."""
        if self.network_ms is None or not self.trtexec_ms:
            return None
        return self.network_ms / self.trtexec_ms


def read_board(path: Path) -> BoardReport:
    """Read the script's file.

    Raises:
        DataError: it is another one.
        StorageError: it cannot be read.
    """
    with storage_errors(path):
        content = path.read_bytes()
    try:
        return from_json(content, BoardReport)
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is not a file of deploy/verify_on_jetson.sh: {error}") from error


def board_rows(board: BoardReport) -> tuple[BoardRow, ...]:
    """Return the variants of which anything was measured, in the order of the steps."""
    verified = _result(board, "verify")
    replayed, failed = verified.get("replayed", {}), verified.get("failed", {})
    named = (replayed, failed, *(_result(board, step) for step in ("evaluate", "benchmark", "trtexec")), _among(board))
    return tuple(_row(board, name, replayed, failed) for name in dict.fromkeys(key for each in named for key in each))


def _row(board: BoardReport, name: str, replayed: dict[str, Any], failed: dict[str, Any]) -> BoardRow:
    golden = "does not run" if name in failed else ""
    if name in replayed:
        difference, tolerance = (_number(replayed, name, key) for key in ("difference", "tolerance"))
        is_known = difference is not None and tolerance is not None
        golden = "not said" if not is_known else "ok" if difference <= tolerance else "differs"  # type: ignore[operator]
    latency = _result(board, "benchmark")
    return BoardRow(
        name=name,
        accuracy=_number(_result(board, "evaluate"), name, "value"),
        golden=golden,
        p50_ms=_number(latency, name, "end_to_end", "p50_ms"),
        trtexec_ms=_number(_result(board, "trtexec"), name, "compute_ms"),
        network_ms=_number(latency, name, "stages", "network", "p50_ms"),
        candidate=_among(board).get(name, ""),
    )


def _among(board: BoardReport) -> dict[str, str]:
    """Return what the script's steps of candidates say of each variant."""
    said: dict[str, str] = {}
    for step in board.steps:
        found = _result(board, step).get("candidates", {}) if step.startswith("candidates-") else {}
        tried, choice, left_out = (
            each if isinstance(each := found.get(key), dict) else {} for key in ("tried", "choice", "left_out")
        )
        for name in tried:
            times = _number(choice, "ratios", name, "estimate")
            parts = ("" if times is None else f"{times:.2f}×", "runs" if name == choice.get("chosen") else "")
            said[name] = ", ".join(filter(None, parts))
        said |= {name: f"left out: {why}" for name, why in left_out.items()}
    return said


def _number(found: Any, *names: str) -> float | None:
    """Return a number inside what a command printed, which nothing has checked; None where there is none."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return float(found) if isinstance(found, (int, float)) and abs(found) < _LARGEST else None


def _result(board: BoardReport, step: str) -> dict[str, Any]:
    found = board.steps[step].result if step in board.steps else None
    return {name: value for name, value in found.items() if isinstance(value, dict)} if isinstance(found, dict) else {}


def board_to_terminal(board: BoardReport) -> Group:
    """Return a table of the variants, and the steps that failed with the end of their logs."""
    table = Table(title=board.bundle.get("name", ""), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(_COLUMNS):
        is_figure = 1 < index < len(_COLUMNS) - 1
        widest = max(map(len, column.split()))
        table.add_column(column, justify="right" if is_figure else "left", no_wrap=index == 0, min_width=widest)
    for row in board_rows(board):
        table.add_row(*(Text(cell) for cell in _cells(row)))
    return Group(table, *(Text(line, style="red") for line in _failures(board)))


def board_to_markdown(board: BoardReport) -> str:
    """Return the same as Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"| --- |{' ---: |' * (len(_COLUMNS) - 1)}"]
    lines += [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(row))} |" for row in board_rows(board)
    ]
    return "\n".join([*lines, "", *(f"* {line}" for line in _failures(board))]).rstrip()


def _cells(row: BoardRow) -> tuple[str, ...]:
    figures = (row.p50_ms, row.trtexec_ms, row.ratio)
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.4f}"
    return (row.name, accuracy, row.golden, *("" if each is None else f"{each:.3g}" for each in figures), row.choice)


def _failures(board: BoardReport) -> Iterator[str]:
    for row in board_rows(board):
        if row.choice != row.candidate:
            yield f"{row.name} {row.candidate}"
    for name, step in board.steps.items():
        if step.exit_status:
            yield f"{name} failed with exit status {step.exit_status}: {' '.join(step.log[-1:]) or 'it said nothing'}"
