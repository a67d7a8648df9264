"""Large pictures with small objects: AP of a detector that sees them whole, and of the same one that sees tiles.

Run as ``python -m benchmarks.tiles [--canvases N]``. Each canvas shows four photographs of COCO (``../shared/data``)
in their own size, at random places of its quarters on grey; YOLOX-nano in FP32 looks at it. The photographs by
themselves are what tiles could reach. Writes ``results/tiles.json``: a row for each way of looking.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.recorded import processor, record
from edgeopt.bundle import Variant
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import DataSource, EvaluateConfig, ExportConfig, ModelConfig
from edgeopt.dataset import ArrayPicture, Boxes, Dataset, Sample, load
from edgeopt.evaluate import Accuracy, evaluate
from edgeopt.export import export
from edgeopt.metrics import DetectionMetrics
from edgeopt.runtime import Predictor
from edgeopt.runtime.ort import OrtSession
from edgeopt.source import resolve
from edgeopt.spec import Tiles

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results" / "tiles.json"
YOLOX = ModelConfig(source=str(SHARED / "model_yolox_nano" / "yolox_nano.onnx"), labels="edgeopt:coco")
QUARTER = 720
"""Pixels of a side; COCO's photographs have 640 at most."""
TILE = 640
_GREY = 114


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvases", type=int, default=32)
    arguments = parser.parse_args()
    folder = SHARED / "coco_val128"
    source = DataSource(format="coco", path=str(folder / "images"), annotations=str(folder / "instances.json"))
    with opened(YOLOX, ()) as predictor:
        photographs = load(source, Path.cwd(), labels=predictor.spec.labels).subset(range(4 * arguments.canvases))
        large = canvases(photographs)
        ways: dict[str, tuple[Dataset, Tiles | None]] = {
            "whole": (large, None),
            "tiles and whole": (large, Tiles(size=TILE)),
            "tiles alone": (large, Tiles(size=TILE, whole=False)),
            "each photograph by itself": (photographs, None),
        }
        for name, (data, tiles) in ways.items():
            begun = time.process_time()
            found = evaluate(predictor, data, EvaluateConfig(tiles=tiles))
            record(RESULTS, _row(name, found, time.process_time() - begun), ("way",))


def opened(model: ModelConfig, labels: tuple[str, ...]) -> Predictor:
    """A detector in FP32, by ONNX Runtime."""
    found = export(resolve(model, Path.cwd(), labels), ExportConfig())
    session = OrtSession(ir.to_proto(found.model).SerializeToString())
    return Predictor(session, found.spec, Variant(name="fp32", target="ort", precision="fp32", file="model.onnx"))


def canvases(photographs: Dataset, seed: int = 0) -> Dataset:
    """Pictures of four photographs each, with their boxes."""
    random = np.random.default_rng(seed)
    samples = []
    for first in range(0, len(photographs) - 3, 4):
        pixels = np.full((2 * QUARTER, 2 * QUARTER, 3), _GREY, np.uint8)
        boxes, classes, crowd = [], [], []
        for place in range(4):
            image, target = photographs.image(first + place), photographs[first + place].target
            assert isinstance(target, Boxes)
            height, width = image.shape[:2]
            left = place % 2 * QUARTER + int(random.integers(0, QUARTER - width + 1))
            top = place // 2 * QUARTER + int(random.integers(0, QUARTER - height + 1))
            pixels[top : top + height, left : left + width] = image
            boxes.append(target.boxes + np.array([left, top, left, top], np.float32))
            classes.append(target.classes)
            crowd.append(target.crowd)
        truth = Boxes(np.concatenate(boxes), np.concatenate(classes), np.concatenate(crowd))
        samples.append(Sample(f"canvas-{first // 4}", truth, ArrayPicture(pixels)))
    return Dataset("detection", photographs.labels, tuple(samples), origin="canvases of COCO's photographs")


def _row(way: str, found: Accuracy, seconds: float) -> dict[str, Any]:
    assert isinstance(found.metrics, DetectionMetrics)
    assert found.at_threshold is not None
    return {
        "way": way,
        "ap": found.value,
        "ap50": found.metrics.ap50,
        "recall": found.at_threshold.recall,
        "precision": found.at_threshold.precision,
        "score": found.score_threshold,
        "pictures": found.images,
        "processor_seconds": round(seconds, 1),
        "processor": processor(),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
