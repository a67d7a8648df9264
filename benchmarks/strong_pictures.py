"""On how many pictures a network answers far more strongly than on the rest, split by split: no range serves both.

Run as ``python -m benchmarks.strong_pictures [--recipe NAME…] [--images N] [--work DIR]``, of recipes that ship or lie
in a file. A picture's strength is the median, over the tensors that can be quantized, of the tensor's largest magnitude
over what is usual for it, its median on test pictures. Where calibration pictures are strong and test pictures are not,
ranges that hold the former leave few steps for the latter. Writes ``results/strong_pictures.json``: a row a recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.recorded import processor, record
from edgeopt.calibrate.tap import Tap
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import find_recipe
from edgeopt.dataset import Dataset
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent

RESULTS = Path(__file__).resolve().parent / "results" / "strong_pictures.json"
SPLITS = ("test", "calibration", "validation")
STRONG = 3.0
"""Times the usual strength."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", action="append", help="default: digit-scenes")
    parser.add_argument("--images", type=int, default=60, help="of each split, spread evenly over it")
    parser.add_argument("--work", type=Path, default=Path("build/strong-pictures"))
    arguments = parser.parse_args()
    for name in arguments.recipe or ("digit-scenes",):
        config = find_recipe(name)[0]
        with Workspace(arguments.work).held() as workspace:
            job = open_job(config, Path.cwd(), workspace, Silent())
            found = strengths(job, graphs.optimized(job, graphs.exported(job, trained(job))), arguments.images)
        record(RESULTS, {"recipe": name, "splits": found, "processor": processor()}, ("recipe",))


def strengths(job: Job, exact: Artifact, images: int) -> dict[str, dict[str, Any]]:
    """How strong the pictures of each split are.

    Args:
        job: with the splits; one without validation pictures is left out.
        exact: the optimized float graph.
        images: most of each split.
    """
    model, found = graphs.read_graph(exact), dict[str, dict[str, Any]]()
    names, usual = sorted(observed_tensors(model)), None
    for split in SPLITS:
        pictures = job.splits.validation if split == "validation" else job.split(split)
        if pictures is None:
            continue
        light, magnitudes = _seen(model, exact, pictures, names, images)
        usual = np.median(magnitudes, axis=0) if usual is None else usual
        strength = np.median(magnitudes / np.maximum(usual, 1e-12), axis=1)
        strong = strength > STRONG
        found[split] = {
            "images": len(strength),
            "strong": float(strong.mean()),
            "upper_quartile": float(np.quantile(strength, 0.75)),
            "strongest": float(strength.max()),
            "brightness": {
                kind: float(light[rows].mean()) if rows.any() else None
                for kind, rows in (("strong", strong), ("others", ~strong))
            },
        }
    return found


def _seen(
    model: ir.Model, exact: Artifact, pictures: Dataset, names: list[str], images: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(images,) means of the inputs, and (images, tensors) largest magnitudes."""
    chosen = pictures.subset([int(each) for each in np.linspace(0, len(pictures) - 1, min(images, len(pictures)))])
    tap, light, rows = Tap(model, names), [], []
    for _, feeds in graphs.feeds(chosen, graphs.read_spec(exact)):
        light.append(float(next(iter(feeds.values())).mean()))
        largest = {
            name: float(np.abs(array).max())
            for tensors, arrays in tap.run(feeds)
            for name, array in zip(tensors, arrays, strict=True)
        }
        rows.append([largest[name] for name in names])
    return np.array(light), np.array(rows)


if __name__ == "__main__":
    with errors_reported():
        main()
