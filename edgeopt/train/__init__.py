"""Train: a loop that turns a torch module and labelled images into trained weights."""

from __future__ import annotations

from edgeopt.train.assess import measure, put_gradients
from edgeopt.train.loop import Trained, TrainProgress, train

__all__ = ["TrainProgress", "Trained", "measure", "put_gradients", "train"]
