"""What families' own packages decode, as `tests/data/record_decoders.py` recorded it, beside edgeopt's interpreter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.postprocess import Detections, decode, fit
from edgeopt.preprocess import Geometry
from edgeopt.presets import expand
from edgeopt.spec import DetectionDecoding, ModelSpec, Preprocessing, TensorSpec
from edgeopt.typed import convert

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "decoders"
RECORDS = sorted(path.stem for path in FOLDER.glob("*.npz"))
THRESHOLD = 0.3


class Recorded:
    """One record: outputs, and the boxes, scores and classes that a package reads from them.

    Args:
        name: of the record's file.
    """

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.about: dict[str, Any] = json.loads(str(arrays["about"]))
            self.boxes, self.scores, self.classes = (arrays[key] for key in ("boxes", "scores", "classes"))
            self.outputs = {key.partition(":")[2]: arrays[key] for key in arrays.files if key.startswith("output:")}
        self.height, self.width = self.about["size"]

    @property
    def package(self) -> str:
        """Name and version of the package, or its repository and commit."""
        return str(self.about["by"]).partition(":")[0].partition("<")[0]

    @property
    def spec(self) -> ModelSpec:
        """Specification with the record's preset."""
        table = {"preset": self.about["preset"], "score_threshold": THRESHOLD, **self.about["keys"]}
        described: Any = convert(expand(table), DetectionDecoding)
        tensors = tuple(
            TensorSpec(name=key, shape=array.shape, dtype=str(array.dtype)) for key, array in self.outputs.items()
        )
        labels = self.about["labels"]
        return ModelSpec(
            name="m",
            task="detection",
            input=TensorSpec(name="x", shape=(1, 3, self.height, self.width)),
            outputs=tensors,
            preprocessing=Preprocessing(),
            decoding=fit(described, tensors, labels, (self.height, self.width)),
            labels=tuple(map(str, range(labels))),
        )

    def decoded(self) -> Detections:
        """Return what edgeopt finds."""
        (found,) = decode(self.outputs, self.spec, [Geometry(1, 1, 0, 0, self.width, self.height)])
        assert isinstance(found, Detections)
        return found

    def expected(self) -> list[tuple[float, int, list[float]]]:
        """Return score, class and box of what the package finds in the picture, the best first."""
        boxes = np.clip(self.boxes, 0, [self.width, self.height] * 2)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        found = zip(self.scores[inside].tolist(), self.classes[inside].tolist(), boxes[inside].tolist(), strict=True)
        return sorted(found, reverse=True)

    def agrees(self) -> bool:
        """Return True if edgeopt finds the same."""
        found, expected = self.decoded(), self.expected()
        own = sorted(
            zip(found.scores.tolist(), found.classes.tolist(), found.boxes.tolist(), strict=True), reverse=True
        )
        if [row[1] for row in own] != [row[1] for row in expected]:
            return False
        boxes = np.allclose([row[2] for row in own], [row[2] for row in expected], rtol=1e-4, atol=5e-3)
        return bool(boxes and np.allclose([row[0] for row in own], [row[0] for row in expected], atol=1e-5))


def packages(preset: str) -> list[tuple[str, bool]]:
    """Return the packages that a preset was compared with, and whether it agrees with each."""
    found: dict[str, bool] = {}
    for recorded in map(Recorded, RECORDS):
        if recorded.about["preset"] == preset:
            found[recorded.package] = found.get(recorded.package, True) and recorded.agrees()
    return sorted(found.items())
