"""Quantizing is one thing, whoever asks for it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt import files
from edgeopt.config import CalibrateConfig, parse_config
from edgeopt.dataset import load_splits
from edgeopt.dataset.arrays import read_arrays
from edgeopt.errors import ConfigError, DataError, EdgeoptError
from edgeopt.metrics import readings_of
from edgeopt.pipeline.graphs import feeds
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.standalone import quantize_file
from edgeopt.spec import ModelSpec, replace
from edgeopt.typed import from_json

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quantization import Work, quantized

CONFIG = parse_config(RECIPE)


@pytest.fixture(scope="module")
def stages(built) -> dict[str, Path]:
    """The graphs of the tiny build's stages."""
    return {path.parent.name.partition("-")[0]: path for path in (built[0] / "work").glob("*-*/model.onnx")}


@pytest.fixture(scope="module")
def images(stages):
    spec = from_json((stages["optimize"].parent / "spec.json").read_bytes(), ModelSpec)
    splits = load_splits(CONFIG.data, Path.cwd(), calibration_images=200, minimum_images=16)
    return spec, list(feeds(splits.calibration, spec))


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def assert_same(first: ir.Model, second: ir.Model) -> None:
    assert [node.name for node in first.graph] == [node.name for node in second.graph]
    mine, other = constants(first), constants(second)
    assert mine.keys() == other.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_the_command_for_one_file_makes_the_graph_that_the_build_made(stages, images, tmp_path: Path) -> None:
    spec, samples = images
    arrays = np.concatenate([tensors[spec.input.name] for _, tensors in samples])
    np.savez(tmp_path / "x.npz", **{spec.input.name: arrays})
    config = replace(CONFIG.quantize, scheme="onnxruntime")
    out = tmp_path / "int8.onnx"
    quantize_file(stages["optimize"], tmp_path / "x.npz", None, CONFIG.calibrate, config, out, Watch())
    assert_same(ir.load(out), ir.load(stages["quantize"]))


def test_a_file_that_does_not_fit_on_the_disk_leaves_the_one_that_was_there(stages, images, tmp_path, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spec, samples = images
    np.savez(tmp_path / "x.npz", **{spec.input.name: np.concatenate([each[spec.input.name] for _, each in samples])})
    out = tmp_path / "int8.onnx"
    out.write_bytes(b"whole")
    config = replace(CONFIG.quantize, scheme="onnxruntime", repairs=())
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(EdgeoptError, match="the disk is full"):
        quantize_file(stages["optimize"], tmp_path / "x.npz", None, CONFIG.calibrate, config, out, Watch())
    assert out.read_bytes() == b"whole"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["int8.onnx", "x.npz"]


def test_the_benchmark_measures_the_graph_that_the_build_made(stages, images, tmp_path: Path) -> None:
    spec, samples = images
    out, processors = tmp_path / "int8.onnx", CONFIG.compile.processors
    work = Work(
        stages["optimize"],
        out,
        samples,
        CONFIG.calibrate,
        CONFIG.quantize,
        "onnxruntime",
        readings_of(spec),
        processors,
    )
    row = quantized(work)
    assert_same(ir.load(out), ir.load(stages["quantize"]))
    assert 0.9 < row["int8_macs"] <= 1.0


def test_a_calibration_that_is_there_is_used(stages, images) -> None:
    spec, samples = images
    model = ir.load(stages["optimize"])
    config = replace(CONFIG.quantize, repairs=())
    first = quantize_graph(model, samples, CalibrateConfig(), config, "onnxruntime", readings_of(spec))
    wide = CalibrateConfig(method="minmax")
    again = quantize_graph(model, samples, wide, config, "onnxruntime", readings_of(spec), table=first.table)
    assert_same(first.model, again.model)
    assert first.helped == ()


def test_a_pattern_that_matches_no_layer_is_refused(stages, images) -> None:
    spec, samples = images
    config = replace(CONFIG.quantize, exclude=("stem",))
    with pytest.raises(ConfigError, match="matches no layer"):
        quantize_graph(
            ir.load(stages["optimize"]), samples, CalibrateConfig(), config, "onnxruntime", readings_of(spec)
        )


def test_arrays_by_name_are_read_with_their_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros((5, 3)), flag=np.zeros((5, 1)))
    arrays, samples = read_arrays(tmp_path / "x.npz")
    assert (samples, {name: array.shape for name, array in arrays.items()}) == (5, {"image": (5, 3), "flag": (5, 1)})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((5, 3)), "b": np.zeros((4, 1))}, r"first dimension \(samples\), theirs are \[4, 5\]"),
        ({"a": np.float32(1)}, r"theirs are \[0\]"),
        ({}, r"theirs are \[\]"),
        ({"a": np.array([{}], object)}, "not an .npz of plain arrays"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_files_that_are_no_archives_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.npz"
    if content is None:
        with path.open("wb") as file:
            np.save(file, np.zeros((5, 3)))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz is .*savez") as refused:
        read_arrays(path)
    assert "pickle" not in str(refused.value), "numpy's advice to load what it does not know unsafely"
