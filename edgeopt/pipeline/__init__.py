"""The stages in order: a recipe becomes a bundle, and only what changed is made again."""

from edgeopt.pipeline.build import Built, build, check, export_model, train_model
from edgeopt.progress import Progress, Silent

__all__ = ["Built", "Progress", "Silent", "build", "check", "export_model", "train_model"]
