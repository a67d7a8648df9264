"""Runs in NNCF's environment: post-training quantization for CPUs, of an ONNX model or of OpenVINO's form of it.

The form follows from the suffix of ``OUT``: ``.onnx``, or ``.xml`` (with ``.bin`` beside it).
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
    parser.add_argument("--transformer", action="store_true")
    parser.add_argument("--halved", action="store_true", help="weights of 7 bits, which saturate nowhere")
    options = parser.parse_args()
    with np.load(options.calibration) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(next(iter(arrays.values())))
    samples = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]
    overflow = nncf.OverflowFix.ENABLE if options.halved else None
    in_onnx = options.out.suffix == ".onnx"
    start = time.perf_counter()
    quantized = nncf.quantize(
        # Not `read_model`: it keeps SiLU in two parts and weights behind a Reshape, which NNCF then leaves in float.
        onnx.load(options.graph) if in_onnx else openvino.convert_model(options.graph),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(options.preset),
        subset_size=count,
        fast_bias_correction=not options.full_bias_correction,
        model_type=nncf.ModelType.TRANSFORMER if options.transformer else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
    )
    if in_onnx:
        onnx.save(quantized, options.out)
    else:
        openvino.save_model(quantized, options.out, compress_to_fp16=False)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
