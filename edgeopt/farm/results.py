"""Results of a board, in a file of its own."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgeopt.bundle.records import Environment, LatencyResult
from edgeopt.errors import ConfigError, storage_errors
from edgeopt.farm.boards import Board
from edgeopt.files import write_atomically
from edgeopt.hardware.fingerprint import identity_of
from edgeopt.spec import Struct
from edgeopt.typed import from_json

SUFFIX = ".json"


class Asked(Struct):
    """Everything that was asked for: results hold for nothing else."""

    bundle: str
    """Digest of the bundle as it was built and signed."""
    variant: str | None = None
    threads: int = 0
    quick: bool = False
    duration_s: float | None = None
    data: str | None = None
    """Images, as the board knows them."""
    evaluate: bool = False


class BoardResult(Struct):
    """Results of one board."""

    board: str
    address: str
    """`Board.where`: the same name may be another board's later."""
    asked: Asked
    recorded: Annotated[datetime.datetime, Meta(tz=True)]
    seconds: float
    """Time of the whole visit."""
    verification: dict[str, Any]
    """Output of `edgeopt verify --json`."""
    latency: dict[str, LatencyResult]
    """Output of `edgeopt benchmark --json`: by variant, with machine, power mode and clocks."""
    accuracy: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Output of `edgeopt evaluate --json`, where that was asked for."""
    schema_version: int = 1

    @property
    def invalid(self) -> tuple[str, ...]:
        """Disturbances of the measurement, each once."""
        return tuple(dict.fromkeys(each for result in self.latency.values() for each in result.invalid))

    @property
    def machine(self) -> str:
        """Short words that tell machines apart, with the power mode."""
        first = next(iter(self.latency.values()), None)
        return "" if first is None else machine_of(first.environment, first.conditions.power_mode)


def machine_of(environment: Environment, power_mode: str | None) -> str:
    """Return short words that tell machines apart."""
    return identity_of(environment.machine, {}, power_mode).title


def write_result(folder: Path, result: BoardResult) -> Path:
    """Keep a board's results.

    Raises:
        StorageError: they cannot be written.
    """
    path = folder / f"{result.board}{SUFFIX}"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def read_result(folder: Path, board: Board, asked: Asked) -> BoardResult | None:
    """Return what a board measured of just this, or None.

    Raises:
        ConfigError: its file is something else, which results must not replace.
    """
    path = folder / f"{board.name}{SUFFIX}"
    try:
        result = from_json(path.read_bytes(), BoardResult)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{path}, where the results of the board '{board.name}' belong, holds something else: {reason}. Move it, "
            "or choose another folder with --out"
        ) from error
    return result if (result.address, result.asked) == (board.where, asked) else None
