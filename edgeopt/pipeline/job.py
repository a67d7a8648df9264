"""One build's shared state: the recipe, its data, the workspace and the progress."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.cluster import Cluster
from edgeopt.config import Config
from edgeopt.dataset import Dataset, Splits, load_splits
from edgeopt.dataset.listing import Listing
from edgeopt.errors import DataError
from edgeopt.files import sha256
from edgeopt.pipeline.provenance import code_hash
from edgeopt.pipeline.shortfalls import left_out, shortfalls
from edgeopt.pipeline.sources import class_names
from edgeopt.pipeline.workspace import Artifact, Make, Workspace
from edgeopt.progress import Progress


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        labels: the model's class names in index order.
        notes: what is smaller than was asked for, one sentence each.
    """

    config: Config
    root: Path
    workspace: Workspace
    progress: Progress
    splits: Splits
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    best_so_far: bool = False
    """Settle for what an unfinished training has."""
    cluster: Cluster | None = None
    """Workers that observe the calibration images; None: they are observed here."""

    def stage(
        self,
        name: str,
        determinants: Mapping[str, Any],
        make: Make,
        libraries: tuple[str, ...],
        code: tuple[str, ...],
        after: Artifact | None = None,
        *,
        as_it_stands: bool = False,
    ) -> Artifact:
        """Produce a stage's result or find it, telling who watches.

        Args:
            name: the stage's.
            determinants: everything that the result depends on but for code; see `Workspace.produce`.
            make: writes the result; the source of its own module counts as code.
            libraries: distributions whose versions join the determinants, beside edgeopt's.
            code: modules of edgeopt that `make` computes with: their source and that of what they import join too.
            after: the result that this one goes on from, whose records it takes over.
            as_it_stands: where the result is not finished, make one from what an earlier run left in its scratch
                folder, which stays; it has a key of its own, so that the stage can still be finished.
        """
        self.progress.begin(name)
        provenance = {
            "versions": {library: version(library) for library in ("edgeopt", *libraries)},
            "code": code_hash(code, alone=[make.__module__]),
        }
        everything = {**determinants, "provenance": provenance}
        if as_it_stands and not self.workspace.is_finished(name, everything):
            scratch = self.workspace.scratch(name, everything)
            left = sorted(scratch.iterdir()) if scratch.is_dir() else []
            everything["unfinished"] = [sha256(path) for path in left if path.is_file()]
            artifact = self.workspace.produce(name, everything, lambda folder, _: make(folder, scratch), after)
        else:
            artifact = self.workspace.produce(name, everything, make, after)
        self.progress.end(artifact.summary, reused=artifact.reused)
        return artifact

    def split(self, name: str) -> Dataset:
        """Return the set called `name`.

        Raises:
            DataError: the recipe neither gives it nor a train set to hold it out from.
        """
        dataset: Dataset | None = getattr(self.splits, name)
        if dataset is None:
            raise missing_split(self.config, name)
        return dataset


def missing_split(config: Config, name: str) -> DataError:
    """Return the error for a set that is neither given nor can be held out."""
    tables = " or ".join(dict.fromkeys((f"[data.{name}]", "[data.train]")))
    return DataError(f"the recipe '{config.name}' has no {name} images: add {tables}")


def open_job(
    config: Config,
    root: Path,
    workspace: Workspace,
    progress: Progress,
    listings: Mapping[str, Listing] | None = None,
) -> Job:
    """Read the recipe's data.

    Args:
        config: the recipe.
        root: the folder that its relative paths start from.
        workspace: where stages keep their results.
        progress: told about each stage.
        listings: what the recipe's sets list, where `preflight` has read it.

    Raises:
        DataError: data that cannot be used.
        ConfigError: class names that cannot be read.
    """
    progress.begin("data")
    labels = class_names(config, root)
    splits = load_splits(
        config.data,
        root,
        calibration_images=config.calibrate.images,
        minimum_images=config.calibrate.minimum_images,
        labels=labels,
        listings=listings,
    )
    splits = _ordered(splits, config.calibrate.seed)
    present = splits.present()
    found = labels or next((dataset.labels for dataset in present.values() if dataset.labels), ())
    counts = {name: len(dataset) for name, dataset in present.items()}
    labelled = splits.test is None or splits.test.task is not None
    notes = (*shortfalls(config, counts, labelled=labelled), *left_out(present))
    listed = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
    progress.end("\n".join((f"{listed} images, {len(found)} classes", *notes)), reused=False)
    return Job(config, root, workspace, progress, splits, found, notes)


def _ordered(splits: Splits, seed: int) -> Splits:
    """Return the sets with the calibration images in the order of a seed."""
    if not seed or splits.calibration is None:
        return splits
    order = np.random.default_rng(seed).permutation(len(splits.calibration))
    return replace(splits, calibration=splits.calibration.subset(order.tolist()))


def version(distribution: str) -> str:
    """Return the installed version of a distribution; empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
