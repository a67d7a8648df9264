"""Regions that R-CNN looks at: the share of all objects that one of them shows, and the time that they take.

Run as ``python -m benchmarks.proposals [--images N]``. Pictures are letterboxed to 320 x 320, as `[fit.regions]` has
them: test scenes of digit-scenes, and blood cells of ``../shared/data/bccd`` beside the checkout, which touch.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

from benchmarks.detectors import RECIPES
from benchmarks.recorded import processor, record
from edgeopt.boxes import Boxes
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import find_recipe
from edgeopt.dataset import load
from edgeopt.fit.regions import overlaps
from edgeopt.preprocess import preprocess
from edgeopt.preprocess.regions import propose
from edgeopt.spec import Letterbox, Preprocessing

RESULTS = Path(__file__).resolve().parent / "results" / "proposals.json"
_SETS = {"digit-scenes": RECIPES["R-CNN"], "bccd": RECIPES["YOLOX, bccd"]}
_COUNTS = (120, 300)
_STEPS = Preprocessing(steps=(Letterbox(size=(320, 320), anchor="top_left"),), channels="BGR", layout="NHWC")


@click.command(help=__doc__)
@click.option("--images", type=click.IntRange(1), default=30, show_default=True, help="Of each set, spread over it.")
def main(images: int) -> None:
    """See the module."""
    for name, recipe in _SETS.items():
        config, root = find_recipe(recipe, [])
        assert config.data.test is not None
        dataset = load(config.data.test, root)
        chosen = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).astype(int)
        for count in _COUNTS:
            best, seconds = [], []
            for index in chosen:
                pixels, geometry = preprocess(dataset.image(int(index)), _STEPS)
                started = time.process_time()
                found = propose(pixels, count)
                seconds.append(time.process_time() - started)
                target = dataset[int(index)].target
                assert isinstance(target, Boxes)
                best.append(overlaps(geometry.to_network(target.boxes), found).max(axis=1))
            iou = np.concatenate(best)
            row = {
                "data": name,
                "regions": count,
                "recalls": {str(level): float((iou >= level).mean()) for level in (0.5, 0.6, 0.7)},
                "objects": len(iou),
                "images": len(chosen),
                "median_ms": 1e3 * float(np.median(seconds)),
                "processor": processor(),
            }
            record(RESULTS, row, ("data", "regions"))


if __name__ == "__main__":
    with errors_reported():
        main()
