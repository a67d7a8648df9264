"""Calibration: what is observed, how ranges follow, and that tables survive the disk."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeopt.calibrate import CalibrationTable, Histogram, calibrate, find_range
from edgeopt.calibrate.bounds import bounds
from edgeopt.calibrate.convergence import RangeTrack
from edgeopt.calibrate.ranges import Grid, quantization_error
from edgeopt.calibrate.table import TensorStatistics, merge
from edgeopt.config import CalibrateConfig
from edgeopt.errors import DataError, ModelError
from edgeopt.spec import replace

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N,2,4,4] x) => (float[N,2,4,4] y)
<float[1] two = {2.0}, float low = {0.0}, float high = {6.0}>
{ d = Mul(x, two)  c = Clip(d, low, high)  y = Sigmoid(c) }
"""
METHODS = ("minmax", "mean_minmax", "percentile", "entropy", "mse", "auto")
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


def model() -> ir.Model:
    result = ir.from_onnx_text(TEXT)
    for node in result.graph:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(["N", 2, 4, 4])
    return result


def images(count: int = 20, seed: int = 0) -> list[tuple[str, dict[str, np.ndarray]]]:
    random = np.random.default_rng(seed)
    return [(f"{i}.png", {"x": random.normal(size=(1, 2, 4, 4)).astype(np.float32)}) for i in range(count)]


def test_extremes_means_and_channels_are_those_of_the_images():
    data = images()
    table = calibrate(model(), data, CalibrateConfig())
    stacked = np.concatenate([feeds["x"] for _, feeds in data])
    x, doubled = table["x"], table["d"]
    assert (x.minimum, x.maximum) == (stacked.min(), stacked.max())
    assert doubled.maximum == 2 * stacked.max()
    assert x.mean_maximum == pytest.approx(stacked.max(axis=(1, 2, 3)).mean())
    np.testing.assert_allclose(x.channel_mean, stacked.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(x.channel_maximum, stacked.max(axis=(0, 2, 3)))
    np.testing.assert_allclose(x.channel_mean_minimum, stacked.min(axis=(2, 3)).mean(axis=0), rtol=1e-5)


def test_operators_bound_their_ranges():
    assert bounds(model().graph)["c"] == (0.0, 6.0)
    assert bounds(model().graph)["y"] == (0.0, 1.0)
    table = calibrate(model(), images(), CalibrateConfig())
    for method in METHODS:
        low, high = find_range(table["y"], method, Grid())
        assert low >= 0.0
        assert high <= 1.0


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("AveragePool<kernel_shape = [3,3], pads = [1,1,1,1]>(c)", (1.0, 3.0)),
        ("AveragePool<kernel_shape = [3,3], count_include_pad = 1>(c)", (1.0, 3.0)),
        ("AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>(c)", (0.0, 3.0)),
        ('AveragePool<kernel_shape = [3,3], auto_pad = "SAME_UPPER", count_include_pad = 1>(c)', (0.0, 3.0)),
        ("Resize(c, , sizes)", (1.0, 3.0)),
        ('Resize<coordinate_transformation_mode = "tf_crop_and_resize">(c, part, sizes)', (0.0, 3.0)),
        (
            'Resize<coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 7.0>(c, part, sizes)',
            (1.0, 7.0),
        ),
    ],
)
def test_padding_that_counts_is_within_the_bounds(call: str, expected: tuple[float, float]):
    network = ir.from_onnx_text(
        f"""<ir_version: 9, opset_import: ["" : 18]>
        g (float[1,2,4,4] x, float[8] part, float[4] sizes) => (y)
        <float low = {{1.0}}, float high = {{3.0}}> {{ c = Clip(x, low, high)  y = {call} }}"""
    )
    assert bounds(network.graph)["y"] == expected


def test_the_table_names_the_images_and_survives_the_disk_exactly(tmp_path):
    config = CalibrateConfig(method="entropy", images=18)
    table = calibrate(model(), images(), config)
    table.save(tmp_path / "t.npz")
    loaded = CalibrationTable.load(tmp_path / "t.npz")
    assert len(loaded.images) == 18
    assert loaded.images == table.images
    assert loaded.config == config
    assert loaded.convergence == table.convergence
    assert list(loaded.tensors) == list(table.tensors)
    for name, tensor in table.tensors.items():
        other = loaded[name]
        assert (tensor.minimum, tensor.mean_maximum, tensor.lower_bound) == (
            other.minimum,
            other.mean_maximum,
            other.lower_bound,
        )
        np.testing.assert_array_equal(tensor.histogram.counts, other.histogram.counts)
        np.testing.assert_array_equal(tensor.channel_mean, other.channel_mean)


def test_a_damaged_table_is_an_error(tmp_path):
    path = tmp_path / "t.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="Calibrate again"):
        CalibrationTable.load(path)
    with pytest.raises(DataError, match="cannot read"):
        CalibrationTable.load(tmp_path / "missing.npz")


def test_copies_of_an_image_have_the_same_hash():
    data = images()
    data[3] = ("copy.png", data[2][1])
    hashes = [image.sha256 for image in calibrate(model(), data, CalibrateConfig()).images]
    assert hashes[2] == hashes[3]
    assert len(set(hashes)) == len(data) - 1


@EVERY_METHOD
def test_the_curve_ends_at_all_images_and_settles_when_they_are_alike(method):
    config = CalibrateConfig(method=method, images=100)
    curve = calibrate(model(), images(100), config).convergence
    assert curve.images == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100)
    assert curve.mean[-1] == curve.largest[-1] == 0.0
    assert all(mean <= largest + 1e-9 for mean, largest in zip(curve.mean, curve.largest, strict=True))
    assert curve.last_half == (48, curve.mean[curve.images.index(48)])
    alike = calibrate(model(), [images(1)[0]] * 20, replace(config, images=20)).convergence
    assert set(alike.mean) == {0.0}
    assert alike.is_settled


def test_images_that_differ_more_and_more_never_settle():
    data = [(name, {"x": feeds["x"] * (1.0 + 0.3 * index)}) for index, (name, feeds) in enumerate(images(64))]
    curve = calibrate(model(), data, CalibrateConfig(method="minmax")).convergence
    assert not curve.is_settled
    assert "calibrate on more" in curve.summary()


def test_the_curve_needs_no_more_memory_for_more_images():
    few, many = RangeTrack(CalibrateConfig()), RangeTrack(CalibrateConfig())
    for track, count in ((few, 50), (many, 5000)):
        for index in range(1, count + 1):
            track.look(index, {"x": TensorStatistics(minimum=-1.0, maximum=1.0, mean_minimum=-index)})
    assert len(many.result().images) <= len(few.result().images) + 14


def test_tensors_that_are_always_zero_have_a_curve_too():
    data = [(name, {"x": np.zeros_like(feeds["x"])}) for name, feeds in images()]
    assert calibrate(model(), data, CalibrateConfig(), tensors=["x"]).convergence.is_settled


def test_a_table_of_another_version_is_an_error(tmp_path):
    header = np.frombuffer(b'{"schema": 1, "tensors": []}', np.uint8)
    np.savez(tmp_path / "old.npz", header=header)
    with pytest.raises(DataError, match="has schema 1, this edgeopt reads 3"):
        CalibrationTable.load(tmp_path / "old.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_activations_name_image_and_tensor(value):
    data = images()
    data[7][1]["x"][0, 1, 2, 3] = value
    with pytest.raises(DataError, match=r"'x'.*'7\.png'"):
        calibrate(model(), data, CalibrateConfig())


def test_too_few_images_are_an_error():
    with pytest.raises(DataError, match="3 calibration images, but at least 16"):
        calibrate(model(), images(3), CalibrateConfig())


def test_an_unknown_tensor_is_an_error():
    with pytest.raises(ModelError, match="no tensor"):
        calibrate(model(), images(), CalibrateConfig(), tensors=["z"])


def test_a_network_of_many_tensors_is_run_in_parts(monkeypatch):
    whole = calibrate(model(), images(), CalibrateConfig())
    monkeypatch.setattr("edgeopt.calibrate.tap.CHUNK_BYTES", 200)
    parts = calibrate(model(), images(), CalibrateConfig())
    assert {name: tensor.maximum for name, tensor in parts.tensors.items()} == {
        name: tensor.maximum for name, tensor in whole.tensors.items()
    }


values = arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)).map(
    lambda array: np.where(np.abs(array) < 1e-20, np.float32(0), array)
)


@settings(deadline=None)
@given(values, values)
def test_a_histogram_does_not_depend_on_the_order(first, second):
    one, other, both = Histogram(), Histogram(), Histogram()
    for histogram, parts in ((one, (first, second)), (other, (second, first))):
        for part in parts:
            histogram.add(part)
    assert one.width == other.width
    np.testing.assert_array_equal(one.counts, other.counts)
    assert one.total == first.size + second.size
    alone = Histogram()
    both.add(first)
    alone.add(second)
    both.merge(alone)
    np.testing.assert_array_equal(both.counts, one.counts)


def statistics(array: np.ndarray) -> TensorStatistics:
    histogram = Histogram()
    histogram.add(array)
    low, high = float(array.min()), float(array.max())
    return TensorStatistics(minimum=low, maximum=high, mean_minimum=low, mean_maximum=high, histogram=histogram)


@EVERY_METHOD
@pytest.mark.parametrize("symmetric", [True, False])
@settings(deadline=None, max_examples=30)
@given(array=values)
def test_every_range_contains_zero_and_no_more_than_was_seen(method, symmetric, array):
    low, high = find_range(statistics(array), method, Grid(symmetric=symmetric))
    assert low <= 0.0 <= high
    largest = float(np.abs(array).max())
    assert max(-low, high) <= largest * 1.001 + 1e-6
    if symmetric:
        assert low == -high


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_least_error_beats_the_extremes_where_there_are_outliers(symmetric):
    array = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    array[0] = 40.0
    tensor, grid = statistics(array), Grid(symmetric=symmetric)
    errors = {name: quantization_error(tensor.histogram, find_range(tensor, name, grid), grid) for name in METHODS}
    assert errors["mse"] == min(errors.values())
    assert errors["mse"] < 0.9 * errors["minmax"]
    assert find_range(tensor, "entropy", grid)[1] < 20.0
    assert find_range(tensor, "percentile", grid, 99.9)[1] < 5.0


def test_ranges_of_merged_tensors_cover_both():
    small, large = statistics(np.array([-1.0, 2.0], np.float32)), statistics(np.array([-5.0, 1.0], np.float32))
    assert find_range(merge([small, large]), "minmax", Grid()) == (-5.0, 2.0)


def test_an_empty_tensor_has_an_empty_range():
    zeros = statistics(np.zeros(5, np.float32))
    assert [find_range(zeros, method, Grid()) for method in METHODS] == [(0.0, 0.0)] * len(METHODS)
