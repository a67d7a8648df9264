"""A training's losses, rates and metrics, written where other tools show them: TensorBoard's event files, or MLflow."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from edgeopt.config import TrainConfig
from edgeopt.errors import ConfigError, requires_extra
from edgeopt.files import named_path
from edgeopt.train.checkpoint import EpochResult
from edgeopt.train.loop import TrainProgress

Outcome: TypeAlias = Literal["FINISHED", "KILLED", "FAILED"]
"""Ends of a training: whole, by its user, or by an error."""

_AT_ONCE = 200
"""Figures that MLflow is sent together; a server takes a thousand at most."""

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """Writes figures in some tool's form."""

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Write figures of a step, or of an epoch."""

    def end(self, outcome: Outcome) -> None:
        """End what was written."""


class TrainingLog:
    """Passes on what `train` tells of its progress, and writes it; a context, which ends the writers.

    Args:
        writers: where it is written.
        watch: told all of it, too.
    """

    def __init__(self, writers: Sequence[Writer], watch: Callable[[TrainProgress], None]) -> None:
        self._writers = writers
        self._watch = watch

    def __call__(self, state: TrainProgress) -> None:
        """Take a step in."""
        if state.phase == "train":
            step = (state.epoch - 1) * state.steps + state.step
            self._write({"loss": state.loss, "learning_rate": state.learning_rate}, step)
        self._watch(state)

    def add_epochs(self, history: Sequence[EpochResult], metric_name: str) -> None:
        """Write the epochs' figures, by epoch."""
        for result in history:
            metric = {} if result.metric is None else {f"epoch/{metric_name}": result.metric}
            self._write({"epoch/loss": result.loss, **metric}, result.epoch)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: Outcome = "FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED"
        for writer in self._writers:
            writer.end(outcome)

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        for writer in self._writers:
            writer.write(figures, step)


def writers_of(config: TrainConfig, root: Path, name: str, stage: str) -> list[Writer]:
    """Open the writers that a recipe asks for.

    Args:
        config: its ``[train]``, or ``[compress.train]``.
        root: its folder.
        name: its name.
        stage: the one that trains, which tells its trainings apart.

    Raises:
        MissingExtraError: tensorboard or mlflow is not installed.
        ConfigError: MLflow's place cannot be written.
    """
    writers: list[Writer] = []
    if config.tensorboard is not None:
        writers.append(TensorBoard(named_path(root, config.tensorboard) / stage))
    if config.mlflow is not None:
        settings = {key: str(getattr(config, key)) for key in config.__struct_fields__}
        writers.append(MLflow(config.mlflow, root, name, stage, settings))
    return writers


def require_writers(config: TrainConfig) -> None:
    """Look for what the writers of a recipe's ``[train]`` need, before anything is computed.

    Raises:
        MissingExtraError: tensorboard or mlflow is not installed.
    """
    if config.tensorboard is not None:
        requires_extra("tensorboard", "tensorboard")
    if config.mlflow is not None:
        _import_mlflow()


class TensorBoard:
    """Writes event files into a folder; a resumed training adds one.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        requires_extra("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Write figures of a step, or of an epoch."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def end(self, outcome: Outcome) -> None:  # noqa: ARG002 - the form has no place for it
        """End the file."""
        self._writer.close()


class MLflow:
    """Writes a run of MLflow; a resumed training adds one.

    A server that fails later does not end the training: that is told once, and the run gets no more.

    Args:
        place: URI of a server (``https://…``) or a database as MLflow has it, or a file for an SQLite database.
        root: folder that a file counts from.
        experiment: name that runs are found under.
        name: the run's.
        settings: what the training was made with, by name.

    Raises:
        MissingExtraError: mlflow is not installed.
        ConfigError: the place cannot be written.
    """

    def __init__(self, place: str, root: Path, experiment: str, name: str, settings: Mapping[str, str]) -> None:
        self._mlflow = _import_mlflow()
        self._place = place
        self._waiting: list[Any] = []
        self._broken = False
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=_uri(place, root))
            known = self._client.get_experiment_by_name(experiment)
            number = self._client.create_experiment(experiment) if known is None else known.experiment_id
            self._run = self._client.create_run(number, run_name=name).info.run_id
            parameters = [self._mlflow.entities.Param(key, value) for key, value in settings.items()]
            self._client.log_batch(self._run, params=parameters)
        except (self._mlflow.MlflowException, OSError) as error:
            raise ConfigError(
                f"[train] mlflow = '{place}' cannot be written: {error}. Give a file for an SQLite database, or the "
                "URI of a server that runs"
            ) from error

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Keep figures of a step, or of an epoch, until there are enough to send."""
        now = int(1000 * time.time())
        self._waiting += [self._mlflow.entities.Metric(name, value, now, step) for name, value in figures.items()]
        if len(self._waiting) >= _AT_ONCE:
            self._send()

    def end(self, outcome: Outcome) -> None:
        """End the run, with how."""
        self._send()
        self._tell(lambda: self._client.set_terminated(self._run, outcome))

    def _send(self) -> None:
        figures, self._waiting = self._waiting, []
        self._tell(lambda: self._client.log_batch(self._run, metrics=figures))

    def _tell(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except self._mlflow.MlflowException as error:
            self._broken = True
            logger.warning("MLflow at '%s' takes no more figures, and the training goes on: %s", self._place, error)


def _import_mlflow() -> ModuleType:
    """Return MLflow, which reports nothing to its makers from here unless the user's environment says so.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    module = requires_extra("mlflow", "mlflow")
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of a new database
    return module


def _uri(place: str, root: Path) -> str:
    """Return what MLflow calls a place.

    Raises:
        OSError: the folder of the file cannot be made.
    """
    if "://" in place:
        return place
    file = named_path(root, place).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{file.as_posix()}"
