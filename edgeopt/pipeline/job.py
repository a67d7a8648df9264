"""What every stage of one build shares: the recipe, its data, the workspace and who watches."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.config import Config
from edgeopt.dataset import Dataset, Splits, load_splits
from edgeopt.errors import DataError
from edgeopt.pipeline.provenance import code_hash
from edgeopt.pipeline.workspace import Artifact, Make, Workspace
from edgeopt.progress import Progress


@dataclass(frozen=True)
class Job:
    """One build. `labels` are the model's class names in index order."""

    config: Config
    root: Path
    workspace: Workspace
    progress: Progress
    splits: Splits
    labels: tuple[str, ...]

    def stage(
        self,
        name: str,
        determinants: Mapping[str, Any],
        make: Make,
        libraries: tuple[str, ...],
        code: tuple[str, ...],
    ) -> Artifact:
        """Produce a stage's result or find it, telling who watches.

        Args:
            name: the stage's.
            determinants: everything that the result depends on but for code; see `Workspace.produce`.
            make: writes the result; the source of its own module counts as code.
            libraries: distributions whose versions join the determinants, beside edgeopt's.
            code: modules of edgeopt that `make` computes with: their source and that of what they import join too.
        """
        self.progress.begin(name)
        provenance = {
            "versions": {library: version(library) for library in ("edgeopt", *libraries)},
            "code": code_hash(code, alone=[make.__module__]),
        }
        artifact = self.workspace.produce(name, {**determinants, **provenance}, make)
        self.progress.end(artifact.summary, reused=artifact.reused)
        return artifact

    def split(self, name: str) -> Dataset:
        """The set called `name`.

        Raises:
            DataError: the recipe neither gives it nor a train set to hold it out from.
        """
        dataset: Dataset | None = getattr(self.splits, name)
        if dataset is None:
            raise DataError(f"the recipe '{self.config.name}' has no {name} images: add [data.{name}] or [data.train]")
        return dataset


def open_job(config: Config, root: Path, workspace: Workspace, progress: Progress) -> Job:
    """Read the recipe's data.

    Raises:
        DataError: data that cannot be used.
        ConfigError: class names that cannot be read.
    """
    progress.begin("data")
    labels = _labels(config, root)
    splits = load_splits(
        config.data,
        root,
        calibration_images=config.calibrate.images,
        minimum_images=config.calibrate.minimum_images,
        labels=labels,
    )
    present = splits.present()
    found = labels or next((dataset.labels for dataset in present.values() if dataset.labels), ())
    counts = ", ".join(f"{len(dataset)} {name}" for name, dataset in present.items()) or "none"
    progress.end(f"{counts} images, {len(found)} classes", reused=False)
    return Job(config, root, workspace, progress, splits, found)


def version(distribution: str) -> str:
    """The installed version of a distribution; empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _labels(config: Config, root: Path) -> tuple[str, ...] | None:
    """The class names that the recipe or, where nothing is trained, the published network fixes; None: the data's."""
    if config.model.labels is not None:
        from edgeopt.source.specification import read_labels

        return read_labels(config.model, root)
    if is_published(config) and config.model.source.startswith("edgeopt:"):
        from edgeopt.models import network

        return network(config.model.source.removeprefix("edgeopt:")).labels
    return None


def is_published(config: Config) -> bool:
    """Whether the network keeps the classes it was published with: nothing is trained, and the recipe names none."""
    model = config.model
    return config.train is None and model.labels is None and "num_classes" not in model.arguments
