"""Runs in ModelOpt's environment: INT8 Q/DQ after TensorRT's rules, everything else in FP32, calibrated on the CPU."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize


def main() -> None:
    """Quantize; the last line printed is the seconds that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("graph", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--method", choices=["max", "entropy"], required=True)
    options = parser.parse_args()
    with np.load(options.calibration) as archive:
        arrays = {name: archive[name] for name in archive.files}
    start = time.perf_counter()
    quantize(
        str(options.graph),
        quantize_mode="int8",
        calibration_data=arrays,
        calibration_method=options.method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(options.out),
    )
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
