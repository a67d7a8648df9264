"""Calibration in pieces finds what one run finds, and a run that was killed goes on with the next piece."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeopt.calibrate import CalibrationTable, Histogram, PieceObserver, calibrate, calibrate_in_pieces, find_range
from edgeopt.calibrate.convergence import NO_CURVE
from edgeopt.calibrate.observe import Observer, means, observed
from edgeopt.calibrate.pieces import Sums, pieces
from edgeopt.calibrate.ranges import Grid
from edgeopt.calibrate.table import CHANNELS
from edgeopt.config import CalibrateConfig
from edgeopt.errors import DataError

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N,2,4,4] x) => (float[N,2,4,4] y)
<float[1] two = {2.0}, float low = {0.0}, float high = {6.0}>
{ d = Mul(x, two)  c = Clip(d, low, high)  y = Sigmoid(c) }
"""
CONFIG = CalibrateConfig(images=1000)


def model() -> ir.Model:
    result = ir.from_onnx_text(TEXT)
    for node in result.graph:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(["N", 2, 4, 4])
    return result


def images(count: int) -> list[tuple[str, dict[str, np.ndarray]]]:
    random = np.random.default_rng(0)
    return [
        (f"{i}.png", {"x": random.normal(scale=1 + i % 5, size=(1, 2, 4, 4)).astype(np.float32)}) for i in range(count)
    ]


def in_pieces(folder: Path, count: int, dies_at: int | None = None) -> tuple[CalibrationTable, list[int]]:
    """Calibrate, and list the images that were read; the run ends as if killed at one of them."""
    data, read = images(count), []

    def batches(portion: range):
        for index in portion:
            if index == dies_at:
                raise KeyboardInterrupt
            read.append(index)
            yield data[index]

    try:
        return calibrate_in_pieces(model(), count, batches, CONFIG, folder), read
    except KeyboardInterrupt:
        return None, read


def equal(one: CalibrationTable, other: CalibrationTable, tolerance: float = 0.0) -> None:
    """Compare all: extremes and histograms in every bit, means to a share of the largest value."""
    assert one.images == other.images
    assert one.convergence == other.convergence
    assert list(one.tensors) == list(other.tensors)
    for name, tensor in one.tensors.items():
        same = other[name]
        assert (tensor.minimum, tensor.maximum) == (same.minimum, same.maximum)
        assert (tensor.lower_bound, tensor.upper_bound) == (same.lower_bound, same.upper_bound)
        assert (tensor.byte_images, tensor.share_images) == (same.byte_images, same.share_images)
        assert tensor.histogram.width == same.histogram.width
        np.testing.assert_array_equal(tensor.histogram.counts, same.histogram.counts)
        most = tolerance * max(abs(tensor.minimum), abs(tensor.maximum))
        for channel in CHANNELS:
            allowed = most if "mean" in channel else 0.0
            np.testing.assert_allclose(getattr(tensor, channel), getattr(same, channel), rtol=0, atol=allowed)
            assert getattr(tensor, channel).dtype == getattr(same, channel).dtype
        for scalar in ("mean_minimum", "mean_maximum"):
            assert abs(getattr(tensor, scalar) - getattr(same, scalar)) <= most


@pytest.mark.parametrize("count", [16, 64, 65, 100, 128, 200])
def test_pieces_find_what_one_run_finds(tmp_path: Path, count: int) -> None:
    whole = calibrate(model(), images(count), CONFIG)
    table, _ = in_pieces(tmp_path, count)
    equal(table, whole, 0.0 if count <= 64 else 1e-13)


@pytest.mark.parametrize(("odd", "levels"), [(None, (0.0, 1.0)), (3, None), (99, None)])
def test_pixels_are_known_by_all_pieces(tmp_path: Path, odd: int | None, levels: tuple[float, float] | None) -> None:
    random = np.random.default_rng(0)
    drawn = [random.integers(0, 60, (1, 2, 4, 4)) / (255.0 if index != odd else 200.0) for index in range(100)]
    data = [(str(index), {"x": each.astype(np.float32)}) for index, each in enumerate(drawn)]
    table = calibrate_in_pieces(model(), 100, lambda portion: (data[index] for index in portion), CONFIG, tmp_path)
    assert table["x"].levels == levels
    assert calibrate(model(), data, CONFIG)["x"].levels == levels


@pytest.mark.parametrize("dies_at", [0, 40, 64, 100, 149])
def test_a_run_that_was_killed_goes_on_and_finds_the_same(tmp_path: Path, dies_at: int) -> None:
    whole, _ = in_pieces(tmp_path_of(tmp_path, "whole"), 150)
    folder = tmp_path_of(tmp_path, "killed")
    nothing, _ = in_pieces(folder, 150, dies_at)
    assert nothing is None
    table, read = in_pieces(folder, 150)
    equal(table, whole)
    done = max((each.stop for each in pieces(150) if each.stop <= dies_at), default=0)
    assert read == list(range(done, 150))


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def test_a_damaged_piece_is_observed_again(tmp_path: Path, caplog) -> None:
    whole, _ = in_pieces(tmp_path, 100)
    damaged = tmp_path / "00000064.npz"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    table, read = in_pieces(tmp_path, 100)
    equal(table, whole)
    assert read == list(range(64, 96))
    assert "observed again" in caplog.text


def test_pieces_cover_the_images_once() -> None:
    for count in (0, 1, 63, 64, 65, 96, 97, 1000):
        assert [index for piece in pieces(count) for index in piece] == list(range(count))
        assert all(pieces(count))


def test_too_few_images_are_refused_in_pieces_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 calibration images, but at least 16 are needed"):
        in_pieces(tmp_path, 3)
    with pytest.raises(DataError, match="0 calibration images"):
        in_pieces(tmp_path, 0)


@cache
def opened() -> Observer:
    return Observer(model(), None)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(arrays(np.float32, (1, 2, 4, 4), elements=st.floats(-1e6, 1e6, width=32)), min_size=2, max_size=9),
    st.data(),
)
def test_statistics_add_up_whichever_way_they_are_cut(values, data) -> None:
    samples = [(str(index), {"x": value}) for index, value in enumerate(values)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(samples) - 1))))
    observer, total = opened(), Sums()
    for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True):
        total.add(CalibrationTable(*observed(observer, samples[start:end], lambda *_: None), CONFIG, NO_CURVE))
    whole, seen = observed(observer, samples, lambda *_: None)
    assert tuple(total.images) == seen
    added = CalibrationTable(means(total.tensors, len(seen)), seen, CONFIG, NO_CURVE)
    one = CalibrationTable(means(whole, len(seen)), seen, CONFIG, NO_CURVE)
    equal(added, one, 1e-13)
    for name in one.tensors:
        low, high = find_range(added[name], "mean_minmax", Grid())  # the only method that reads means
        same = find_range(one[name], "mean_minmax", Grid())
        assert abs(low - same[0]) + abs(high - same[1]) <= 1e-9 * (same[1] - same[0])


@given(st.lists(arrays(np.float32, st.integers(0, 9), elements=st.floats(-1e9, 1e9, width=32)), max_size=6))
def test_histograms_add_exactly_in_any_order_and_grouping(values) -> None:
    def counted(parts) -> Histogram:
        found = Histogram()
        for part in parts:
            found.add(part)
        return found

    def added(parts) -> Histogram:
        found = Histogram()
        for part in parts:
            found.merge(part)
        return found

    whole, each = counted(values), [counted([value]) for value in values]
    for total in (added(each), added(each[::-1]), added([added(each[:2]), added(each[2:])])):
        assert total.width == whole.width
        np.testing.assert_array_equal(total.counts, whole.counts)


@pytest.mark.parametrize("there", [0, 1, 3])
def test_pieces_that_others_observe_are_those_that_are_not_there(tmp_path: Path, there: int) -> None:
    """In any order, with every bit as here."""
    whole, _ = in_pieces(tmp_path_of(tmp_path, "whole"), 200)
    folder, data, told = tmp_path_of(tmp_path, "spread"), images(200), []
    for portion in pieces(200)[:there]:
        for name in (f"{portion.start:08}.npz", "looks.npz"):
            shutil.copy(tmp_path / "whole" / name, folder / name)

    def elsewhere(portions):
        assert portions == pieces(200)[there:]
        for portion in reversed(portions):
            yield PieceObserver(model(), CONFIG, None).observe(portion, data[portion.start : portion.stop])

    def unread(_: range):
        raise AssertionError("an image was read here")

    table = calibrate_in_pieces(
        model(), 200, unread, CONFIG, folder, lambda done, _: told.append(done), elsewhere=elsewhere
    )
    equal(table, whole)
    assert told == sorted(told)
    assert told[-1] == 200


ON_RAY = """
import dataclasses, pathlib, sys
from edgeopt.cluster import Cluster
from edgeopt.config import parse_config
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.workspace import Workspace
import tiny_recipe

folder = pathlib.Path(sys.argv[1])
text = tiny_recipe.RECIPE.replace("limit = 32", "limit = 150") + "[calibrate]\\nimages = 150\\n"
config = parse_config(text)

def observed(name, cluster):
    job = open_job(config, folder, Workspace(folder / name), tiny_recipe.Watch())
    calibrated(dataclasses.replace(job, cluster=cluster), graphs.untrained(job))

observed("here", None)
with Cluster(None, 2) as cluster:
    observed("there", cluster)
"""


@pytest.mark.slow
def test_workers_of_ray_observe_what_one_process_does(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: nothing was calibrated on it")
    modules = os.pathsep.join((str(Path.cwd()), str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "RAY_worker_niceness": "0", "PYTHONPATH": modules},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "object store" not in done.stderr, "Ray warned of what is none of the user's business"
    (there,), (here,) = ((tmp_path / work).glob("calibrate-*/calibration.npz") for work in ("there", "here"))
    equal(CalibrationTable.load(there), CalibrationTable.load(here))
