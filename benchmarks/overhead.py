"""What the runtime adds to its engine: ``python -m benchmarks.overhead BUNDLES… [--threads N] [--images FOLDER]``.

Time: ``Predictor.predict`` on a decoded image, less the engine's own inference (its library called directly on a bound
tensor) and one ``cv2.resize``, all three in random order on the same images. It may be 5 % of the engine's time or
150 µs, whichever is larger. Import time and memory beyond the engine's library: see `benchmarks.footprint`.

Writes benchmarks/results/overhead.json; what was recorded of other bundles stays.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import footprint
from benchmarks.engines import open_library
from edgeopt.cli.boundary import errors_reported
from edgeopt.dataset.digits import installed_file
from edgeopt.dataset.files import image_files
from edgeopt.intervals import bootstrap_interval
from edgeopt.measure.environment import environment
from edgeopt.postprocess import Detections
from edgeopt.preprocess import Image, read_image
from edgeopt.runtime import Predictor, load
from edgeopt.spec import Letterbox, Preprocessing, Resize, ResizeShorterSide

RESULTS = Path(__file__).resolve().parent / "results" / "overhead.json"
SHARE, LEAST_US = 0.05, 150.0
"""What is allowed, of the engine's time and in µs."""
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
"""640 x 427, in the scikit-learn wheel."""
MOST_IMAGES, MOST_BOXES = 16, 20
WARM_UP = 50
_FLAGS = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC, "nearest": cv2.INTER_NEAREST}

Timed = Callable[[int], object]
"""One query on image number n."""


def main() -> None:
    """Measure each bundle, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--variant", help="default: the one that `load` chooses")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--images", type=Path, help="a folder; default: two photographs that scikit-learn ships")
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for path in options.bundles:
        with load(path, variant=options.variant, threads=options.threads) as predictor:
            images = pictures(options.images, predictor)
            rest = footprint.measure(path, predictor.variant.name)
            found[path.stem] = {**time_rounds(path, predictor, images, options.threads, options.rounds), **rest}
        print(path.stem, json.dumps(found[path.stem], indent=1))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pictures(folder: Path | None, predictor: Predictor) -> list[Image]:
    """Decoded images, of a detector those on which it finds at most `MOST_BOXES`."""
    files = image_files(folder) if folder else [installed_file("sklearn", "datasets", "images", n) for n in PHOTOGRAPHS]
    images = [read_image(file) for file in files[: 4 * MOST_IMAGES]]
    few = [image for image in images if boxes(predictor, image) <= MOST_BOXES]
    if not few:
        raise SystemExit(f"{predictor.spec.name} finds more than {MOST_BOXES} objects on every image")
    return few[:MOST_IMAGES]


def boxes(predictor: Predictor, image: Image) -> int:
    """How many objects are found; 0 for a classifier."""
    result = predictor.predict(image)
    return len(result) if isinstance(result, Detections) else 0


def time_rounds(path: Path, predictor: Predictor, images: Sequence[Image], threads: int, rounds: int) -> dict[str, Any]:
    """All of them in turns, and what is left of `predict`."""
    prepared = [predictor.prepare(image, predictor.buffer()) for image in images]
    answers = [predictor.infer(each, copy=True) for each in prepared]
    variant, settings = predictor.variant, predictor.variant.engine
    engine = open_library(
        str(path / variant.file),
        variant.target,
        prepared[0].tensor,
        threads=threads or settings.threads,
        precision=settings.precision,
        hint=settings.hint,
    )
    resizes = [plain_resize(image, predictor.spec.preprocessing) for image in images]
    steps: dict[str, Timed] = {
        "predict": lambda number: predictor.predict(images[number]),
        "engine": lambda _: engine(),
        "resize": lambda number: resizes[number](),
        "preprocess": lambda number: predictor.prepare(images[number]),
        "postprocess": lambda number: predictor.decode(answers[number]),
    }
    samples = shuffle(steps, len(images), rounds)
    added = samples["predict"] - samples["engine"] - samples["resize"]
    interval = bootstrap_interval(rounds, lambda picked: float(np.median(added[picked])))
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    allowed = max(SHARE * medians["engine"], LEAST_US)
    here = environment(threads)
    return {
        "variant": variant.name,
        "median_us": medians,
        "added_us": interval.estimate,
        "added_interval_us": [interval.low, interval.high],
        "allowed_us": allowed,
        "within": interval.estimate <= allowed,
        "boxes": [boxes(predictor, image) for image in images],
        "rounds": rounds,
        "threads": threads,
        "cpu": here.machine.cpu.model,
        "cores": here.machine.cpu.cores,
    }


def shuffle(steps: dict[str, Timed], images: int, rounds: int) -> dict[str, np.ndarray]:
    """(rounds,) µs of each step; in an order drawn anew each round, so that none always finds what another left."""
    generator, clock = np.random.default_rng(0), time.perf_counter_ns
    samples = {name: np.empty(rounds) for name in steps}
    for number in range(WARM_UP):
        for step in steps.values():
            step(number % images)
    for number in range(rounds):
        for name in generator.permutation(list(steps)).tolist():
            begun = clock()
            steps[name](number % images)
            samples[name][number] = (clock() - begun) / 1e3
    return samples


def plain_resize(image: Image, preprocessing: Preprocessing) -> Callable[[], object]:
    """The one resize that nobody can do without, to the size that the network's preprocessing scales to."""
    step = next(step for step in preprocessing.steps if isinstance(step, Resize | ResizeShorterSide | Letterbox))
    height, width = image.shape[:2]
    if isinstance(step, Resize):
        size = step.size
    elif isinstance(step, Letterbox):
        ratio = min(step.size[0] / height, step.size[1] / width)
        size = int(height * ratio), int(width * ratio)
    else:
        size = step.pixels * height // min(height, width), step.pixels * width // min(height, width)
    shrinks = size[0] <= height and size[1] <= width
    chosen = step.interpolation if step.interpolation != "auto" else ("area" if shrinks else "linear")
    return lambda: cv2.resize(image, (size[1], size[0]), interpolation=_FLAGS[chosen])


if __name__ == "__main__":
    with errors_reported():
        main()
