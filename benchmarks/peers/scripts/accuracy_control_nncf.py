"""Runs in NNCF's environment: quantization with accuracy control of a classifier in OpenVINO, and what it asked for."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino


class Top1:
    """NNCF's validation function; counts how often it is asked about all items, and about some."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.full = self.partial = self.images = 0
        self.values: list[float] = []

    def __call__(self, model: Any, samples: Iterable[tuple[np.ndarray, int]]) -> tuple[float, list[float]]:
        """Share of right answers, and each one's."""
        right = []
        for tensor, label in samples:
            right.append(float(np.argmax(model(tensor)[0]) == label))
        self.images += len(right)
        if len(right) == self.items:
            self.full += 1
            self.values.append(float(np.mean(right)))
        else:
            self.partial += 1
        return float(np.mean(right)), right


def main() -> None:
    """Quantize; the last line printed is what happened, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("graph", "samples", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--max-drop", type=float, required=True, help="Share of the float metric.")
    options = parser.parse_args()
    with np.load(options.samples) as archive:
        calibration, inputs, labels = archive["calibration"], archive["validation"], archive["labels"]
    model = openvino.Core().read_model(options.graph)
    metric = Top1(len(labels))
    start = time.perf_counter()
    quantized = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset([tensor[None] for tensor in calibration]),
        validation_dataset=nncf.Dataset(
            [(tensor[None], int(label)) for tensor, label in zip(inputs, labels, strict=True)],
            lambda sample: sample[0],
        ),
        validation_fn=metric,
        max_drop=options.max_drop,
        drop_type=nncf.DropType.RELATIVE,
        subset_size=len(calibration),
    )
    seconds = time.perf_counter() - start
    openvino.save_model(quantized, options.out)
    answer = {
        "seconds": seconds,
        "full_validations": metric.full,
        "partial_validations": metric.partial,
        "images_run": metric.images,
        "validated": metric.values,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
