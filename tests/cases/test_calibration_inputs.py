"""Calibration samples that are not what the network takes: one message with both shapes, or a repair that is said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from edgeopt.config import CalibrateConfig, QuantizeConfig
from edgeopt.errors import ConfigError, DataError
from edgeopt.pipeline.standalone import quantize_file
from edgeopt.progress import Silent

SAMPLES = np.random.default_rng(0).uniform(0, 1, (16, 3, 16, 12)).astype(np.float32)
NORMALIZED = "normalization = {}\n"


def classifier(path: Path, takes: str = "float[1, 3, 16, 12] x", read: str = "Identity (x)") -> Path:
    """A convolution and a product, of images of 16 x 12 pixels."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g ({takes}) => (float[1, 10] y) <int64[1] first = {{0}}> {{
            i = {read}
            c = Conv <pads = [1, 1, 1, 1]> (i, w)
            r = Relu (c)
            p = GlobalAveragePool (r)
            v = Flatten (p)
            y = Gemm (v, f)
        }}"""
    )
    rng = np.random.default_rng(1)
    for name, shape in {"w": (16, 3, 3, 3), "f": (16, 10)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.2, shape).astype(np.float32), name))
    onnx.save(model, path)
    return path


def quantize(folder: Path, arrays: dict[str, np.ndarray] | Path, spec: Path | None = None, **network: str) -> Path:
    source = arrays if isinstance(arrays, Path) else folder / "c.npz"
    if not isinstance(arrays, Path):
        np.savez(source, **arrays)
    config = QuantizeConfig(scheme="onnxruntime", repairs=())
    out = folder / "int8.onnx"
    quantize_file(classifier(folder / "m.onnx", **network), source, spec, CalibrateConfig(), config, out, Silent())
    return out


@pytest.mark.parametrize(
    ("takes", "read", "more", "name"),
    [
        ("float[1, 3, 16, 12] x, float s", "Mul (x, s)", {"s": np.linspace(0.5, 1, len(SAMPLES))}, "s"),
        ("float[3, 16, 12] x", "Unsqueeze (x, first)", {}, "x"),
    ],
)
def test_inputs_without_a_dimension_for_images_are_given_what_a_sample_holds(
    tmp_path: Path, takes: str, read: str, more: dict[str, np.ndarray], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert quantize(tmp_path, {"x": SAMPLES, **more}, takes=takes, read=read).exists()
    assert f"input '{name}' has no dimension for images" in caplog.text


@pytest.mark.parametrize(
    ("samples", "cause"),
    [
        (SAMPLES.transpose(0, 2, 3, 1), r"\(1, 16, 12, 3\).*'x' float \(1, 3, 16, 12\).*transpose\(0, 3, 1, 2\)"),
        (SAMPLES.transpose(0, 1, 3, 2), r"\(1, 3, 12, 16\).*\(1, 3, 16, 12\).*Height and width are swapped"),
        (SAMPLES[:, :, :8], r"\(1, 3, 8, 12\).*\(1, 3, 16, 12\).*resize"),
        (SAMPLES[:, :1], r"\(1, 1, 16, 12\).*\(1, 3, 16, 12\).*number of channels.*GRAY"),
        (SAMPLES[:, None], r"\(1, 1, 3, 16, 12\).*\(1, 3, 16, 12\).*first dimension.*counts samples"),
        (SAMPLES[:, 0], r"\(1, 16, 12\).*\(1, 3, 16, 12\).*counts samples"),
        ((SAMPLES * 255).astype(np.uint8), r"uint8.*'x' float .*pixels before normalization"),
        (SAMPLES.astype(np.float64) * 1e300, "float32 cannot hold"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_with_both_shapes_and_the_cause(
    tmp_path: Path, samples: np.ndarray, cause: str
) -> None:
    with pytest.raises(DataError, match=cause):
        quantize(tmp_path, {"x": samples})


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"arr_0": SAMPLES}, "its only one, 'arr_0', was taken for it"),
        ({"x": SAMPLES, "labels": np.zeros(16)}, "left out: labels"),
        ({"x": SAMPLES.astype(np.float64)}, "given as float64 and converted to the float32"),
    ],
)
def test_what_can_mean_one_thing_only_is_repaired_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, arrays: dict[str, np.ndarray], said: str
) -> None:
    exact = tmp_path / "exact"
    exact.mkdir()
    expected = onnx.load(quantize(exact, {"x": SAMPLES}))
    made = onnx.load(quantize(tmp_path, arrays))
    assert made.graph == expected.graph
    assert [said in record.getMessage() for record in caplog.records].count(True) == 1


def test_a_missing_input_is_named_with_what_the_network_takes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no array 'x'; the network takes 'x' float \(1, 3, 16, 12\).*a, b"):
        quantize(tmp_path, {"a": SAMPLES, "b": SAMPLES})


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('steps = [{type = "resize", size = [64, 64]}]', r"\(1, 3, 64, 64\).*\(1, 3, 16, 12\).*resize"),
        ('steps = [{type = "resize", size = [16, 12]}]\nchannels = "GRAY"', r"number of channels.*GRAY"),
        ('steps = [{type = "resize", size = [16, 12]}]\nlayout = "NHWC"', r'Channels are last.*layout = "NCHW"'),
    ],
)
def test_pictures_that_are_prepared_for_another_network_are_refused(tmp_path: Path, text: str, cause: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, sample in enumerate(SAMPLES):
        cv2.imwrite(str(pictures / f"{index}.png"), (sample.transpose(1, 2, 0) * 255).astype(np.uint8))
    spec = tmp_path / "spec.toml"
    spec.write_text(f"[preprocessing]\n{text}\n{NORMALIZED}")
    with pytest.raises((DataError, ConfigError), match=cause):
        quantize(tmp_path, pictures, spec=spec)
