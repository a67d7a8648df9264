"""Runs in onnxruntime's environment: quantize_static, u8 activations, s8 weights per channel, in Q/DQ format."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Samples(CalibrationDataReader):
    """Sample after sample of the archive."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        count = len(next(iter(arrays.values())))
        self._rows = iter({name: array[row : row + 1] for name, array in arrays.items()} for row in range(count))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample's inputs; None after the last."""
        return next(self._rows, None)


def main() -> None:
    """Quantize; the last line printed is the seconds that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("graph", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--method", choices=["MinMax", "Entropy", "Percentile"], required=True)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(options.graph), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(options.out),
            Samples(options.calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[options.method],
        )
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
