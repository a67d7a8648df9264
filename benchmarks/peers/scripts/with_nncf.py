"""Runs in NNCF's environment: post-training quantization of an ONNX model for CPUs.

Full bias correction goes through OpenVINO's form of the model (``OUT`` with ``.xml`` and ``.bin``): on ONNX, NNCF 3.4
fails where two convolutions read one tensor, as in YOLOX.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nncf
import numpy as np
import onnx
import openvino


def main() -> None:
    """Quantize; the last line printed is the seconds that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("graph", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--preset", choices=["performance", "mixed"], required=True)
    parser.add_argument("--full-bias-correction", action="store_true")
    options = parser.parse_args()
    with np.load(options.calibration) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(next(iter(arrays.values())))
    samples = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]
    start = time.perf_counter()
    full = options.full_bias_correction
    quantized = nncf.quantize(
        openvino.Core().read_model(options.graph) if full else onnx.load(options.graph),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(options.preset),
        subset_size=count,
        fast_bias_correction=not full,
    )
    if full:
        openvino.save_model(quantized, options.out.with_suffix(".xml"), compress_to_fp16=False)
    else:
        onnx.save(quantized, options.out)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
