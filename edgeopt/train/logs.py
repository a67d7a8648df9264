"""A training's losses, rates and metrics as TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeopt.errors import requires_extra
from edgeopt.train.checkpoint import EpochResult
from edgeopt.train.loop import TrainProgress


class TensorBoardLog:
    """Writes what `train` tells of its progress.

    Args:
        folder: for the event files; a resumed training adds one.
        watch: told all of it, too.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, watch: Callable[[TrainProgress], None]) -> None:
        requires_extra("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._watch = watch

    def __call__(self, state: TrainProgress) -> None:
        """Take a step in."""
        if state.phase == "train":
            step = (state.epoch - 1) * state.steps + state.step
            self._writer.add_scalar("loss", state.loss, step)
            self._writer.add_scalar("learning_rate", state.learning_rate, step)
        self._watch(state)

    def close(self, history: Sequence[EpochResult], metric_name: str) -> None:
        """Write the epochs' figures, by epoch, and end the file."""
        for result in history:
            self._writer.add_scalar("epoch/loss", result.loss, result.epoch)
            if result.metric is not None:
                self._writer.add_scalar(f"epoch/{metric_name}", result.metric, result.epoch)
        self._writer.close()
