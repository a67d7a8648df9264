"""The training loop: a torch module and labelled images become trained weights."""

from __future__ import annotations

from edgeopt.train.loop import Trained, TrainProgress, train

__all__ = ["TrainProgress", "Trained", "train"]
