"""Every preset beside its family's own code: what its package finds in random outputs.

`data/record_decoders.py` makes the records. Each names the package, its version and what of it was run. For some
presets no package could be run; their code was read:

* ``deepstream``: libreyolo 1.6.0 export/deepstream.py, which describes DeepStream-Yolo's parser: rows of corners in
  pixels of the input, score and class; suppression runs in DeepStream.
* ``rtdetr_rows``: onnx2tf issue 778, rows of PINTO's RT-DETR.
* ``damo_yolo``: scores first, then decoded corners: damo/base_models/heads/zero_head.py, ``forward_eval``.
* ``efficient_nms``: the plugin's README in NVIDIA's TensorRT repository, and YOLOv7's models/experimental.py.
* ``paddle``: PaddleDetection 666f597, deploy/third_engine/demo_onnxruntime/infer.py: rows of class, score, corners.
* ``tf_od``, ``tf_od_coco``: research/object_detection's exporter, ``add_output_tensor_nodes``: classes from 1.
* ``tflite_ssd``: TFLite's detection_postprocess.cc: y1, x1, y2, x2; classes are counted without the background.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.postprocess import decode, fit
from edgeopt.preprocess import Geometry
from edgeopt.presets import PRESETS, expand
from edgeopt.spec import DetectionDecoding, ModelSpec, Preprocessing, TensorSpec
from edgeopt.typed import convert

FOLDER = Path(__file__).parent / "data" / "decoders"
RECORDS = sorted(path.stem for path in FOLDER.glob("*.npz"))
READ = {"deepstream", "rtdetr_rows", "damo_yolo", "efficient_nms", "paddle", "tf_od", "tf_od_coco", "tflite_ssd"}
"""Presets whose family's code was read and not run; the docstring says where."""
THRESHOLD = 0.3


class Recorded:
    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.about: dict[str, Any] = json.loads(str(arrays["about"]))
            self.boxes, self.scores, self.classes = (arrays[key] for key in ("boxes", "scores", "classes"))
            self.outputs = {key.partition(":")[2]: arrays[key] for key in arrays.files if key.startswith("output:")}
        self.height, self.width = self.about["size"]

    @property
    def spec(self) -> ModelSpec:
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


@pytest.mark.parametrize("name", RECORDS)
def test_a_preset_finds_what_its_familys_own_code_finds(name: str) -> None:
    recorded = Recorded(name)
    (found,) = decode(recorded.outputs, recorded.spec, [Geometry(1, 1, 0, 0, recorded.width, recorded.height)])
    boxes = np.clip(recorded.boxes, 0, [recorded.width, recorded.height] * 2)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    expected = sorted(
        zip(recorded.scores[inside].tolist(), recorded.classes[inside].tolist(), boxes[inside].tolist(), strict=True),
        reverse=True,
    )
    assert len(expected) > 10
    ours = sorted(zip(found.scores.tolist(), found.classes.tolist(), found.boxes.tolist(), strict=True), reverse=True)
    assert [row[1] for row in ours] == [row[1] for row in expected]
    np.testing.assert_allclose([row[0] for row in ours], [row[0] for row in expected], atol=1e-5)
    np.testing.assert_allclose([row[2] for row in ours], [row[2] for row in expected], rtol=1e-4, atol=5e-3)


def test_every_preset_was_compared_or_its_code_read() -> None:
    compared = {Recorded(name).about["preset"] for name in RECORDS}
    assert compared | READ == set(PRESETS)
    assert not compared & READ


def test_every_record_says_which_code_of_which_version_made_it() -> None:
    for name in RECORDS:
        package, _, what = Recorded(name).about["by"].partition(": ")
        assert any(part[0].isdigit() or part in ("at",) for part in package.split())
        assert what
