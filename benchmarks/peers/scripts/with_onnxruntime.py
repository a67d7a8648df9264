"""Runs in onnxruntime's environment: quantize_static in Q/DQ format, as it is or as x86 wants it."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_AT_ONCE = 16
"""Most samples whose activations are in memory together: it would take them all, 10 GB and more."""


class Samples(CalibrationDataReader):
    """Sample after sample of the archive."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            self._arrays = {name: archive[name] for name in archive.files}
        self._rows = iter(range(len(self)))

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    @property
    def stride(self) -> int:
        """The largest portion of equal ones."""
        return max(size for size in range(1, _AT_ONCE + 1) if len(self) % size == 0)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only these samples next."""
        self._rows = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample's inputs; None after the last."""
        row = next(self._rows, None)
        return None if row is None else {name: array[row : row + 1] for name, array in self._arrays.items()}


def main() -> None:
    """Quantize; the last line printed is the seconds that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("graph", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--method", choices=["MinMax", "Entropy", "Percentile"], default="MinMax")
    parser.add_argument("--x86", action="store_true", help="u8 activations, and weights per channel")
    options = parser.parse_args()
    samples = Samples(options.calibration)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(options.graph), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(options.out),
            samples,
            quant_format=QuantFormat.QDQ,
            per_channel=options.x86,
            activation_type=QuantType.QUInt8 if options.x86 else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[options.method],
            extra_options={"CalibStridedMinMax": samples.stride},
        )
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
