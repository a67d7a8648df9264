"""Implicit INT8 on a board: a bundle's float graph, images, a calibrator, and a variant that joins the bundle."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from fake_cuda import FakeCuda
from fake_tensorrt import World, fake_tensorrt

from edgeopt.bundle import Bundle
from edgeopt.bundle.records import Acceptance, ImplicitCalibration
from edgeopt.cli import main
from edgeopt.errors import BundleError, DataError, TargetError
from edgeopt.runtime.choice import choose
from edgeopt.runtime.session import Availability
from edgeopt.runtime.trt import implicit
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.implicit import add_implicit_variant, compile_arrays
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.settings import trt_settings
from edgeopt.spec import replace


class Board:
    """A Jetson with two DLA cores and one of the recorded TensorRT releases."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, release: str = "tensorrt-10.3.0") -> None:
        self.world = World(dla_cores=2)
        self.seen: list[np.ndarray] = []
        self.cache = folder / "cache"
        self.images = folder / "photos"
        self.images.mkdir()
        for number in range(5):
            cv2.imwrite(str(self.images / f"{number}.png"), tiny.colour(tiny.COLOURS[number % 3], 20 + number))
        self.bundle = tiny.write(folder / "tiny.edgeopt").path
        monkeypatch.setenv("EDGEOPT_CACHE", str(self.cache))
        module = fake_tensorrt(release, self.world)
        monkeypatch.setattr(implicit, "load_library", lambda flavour: Library(module, capabilities(module)))
        monkeypatch.setattr(implicit, "open_cuda", self.open_cuda)

    def open_cuda(self, provider: str, device: int, wait: str) -> FakeCuda:
        self.world.cuda = FakeCuda()
        return self.world.cuda


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


@pytest.fixture
def calibrated_on(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """The batches that TensorRT was given, in place of building anything."""
    given: list[dict[str, np.ndarray]] = []

    def compile_implicit(onnx, batches, fingerprint, options) -> bytes:
        given.extend(batches)
        return b"plan"

    monkeypatch.setattr("edgeopt.runtime.trt.implicit.compile_implicit", compile_implicit)
    return given


def compile_(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compile", *map(str, arguments)], catch_exceptions=False)


def test_the_command_adds_a_variant_for_a_dla_core(board) -> None:
    before = Bundle.open(board.bundle)
    options = ("--target", "trt", "--implicit-int8", "--calibration", board.images, "--dla-core", 1, "--batch", 2)
    result = compile_(board.bundle, *options)
    assert result.exit_code == 0, result.output
    assert "trt-int8-dla1 joined" in result.output
    assert "was not measured" in result.output
    assert board.world.flags >= {"INT8", "FP16", "GPU_FALLBACK"}
    bundle = Bundle.open(board.bundle)
    variant = bundle.variant("trt-int8-dla1")
    assert trt_settings(variant.engine).build.dla_core == 1
    assert trt_settings(variant.engine).build.batch.max == 2
    assert variant.file.endswith(".plan")
    assert bundle.file(variant.name).stat().st_size > 0
    assert {*bundle.manifest.files} == {*before.manifest.files, variant.file}
    assert variant.stages.implicit == ImplicitCalibration(source="ort-fp32", images=5)


def test_a_variant_of_unknown_accuracy_is_not_chosen(board) -> None:
    bundle, _ = add_implicit_variant(Bundle.open(board.bundle), board.images)
    choice = choose(bundle.manifest, lambda target: Availability(ok=True))
    assert choice.name != "trt-int8-implicit"
    assert "was not measured" in choice.rejected["trt-int8-implicit"]


def test_a_dla_variant_that_the_device_evaluated_is_chosen_there(board) -> None:
    bundle, variant = add_implicit_variant(Bundle.open(board.bundle), board.images, dla_core=0)
    allowed = Acceptance(accepted=True)
    (found,) = tiny.measured(tiny.identity("trt"), accuracy=tiny.accuracy(0.9), acceptance=allowed).values()
    choice = choose(bundle.record_measured({variant.name: found}).manifest, lambda target: Availability(ok=True))
    assert choice.name == "trt-int8-dla0"
    (elsewhere,) = tiny.measured(
        replace(tiny.identity("trt"), board="another"), accuracy=tiny.accuracy(0.9), acceptance=allowed
    ).values()
    fresh, _ = add_implicit_variant(Bundle.open(board.bundle), board.images, dla_core=1)
    choice = choose(fresh.record_measured({"trt-int8-dla1": elsewhere}).manifest, lambda target: Availability(ok=True))
    assert "its accuracy was not measured" in choice.rejected["trt-int8-dla1"]


def test_images_go_through_the_bundles_preprocessing(board, calibrated_on) -> None:
    add_implicit_variant(Bundle.open(board.bundle), board.images, batch=2)
    assert [batch["image"].shape for batch in calibrated_on] == [(2, 3, 8, 8)] * 2, (
        "what does not fill a batch is left out"
    )
    assert calibrated_on[0]["image"].dtype == np.uint8
    assert calibrated_on[0]["image"][0, 0].min() == 200, "the first photo is red, and its first channel is"


def test_the_ranges_are_kept_by_model_images_and_version(board, tmp_path, monkeypatch) -> None:
    def ranges() -> set[str]:
        return {path.name for path in (board.cache / "calibration").iterdir()}

    add_implicit_variant(Bundle.open(board.bundle), board.images)
    first = ranges()
    add_implicit_variant(Bundle.open(board.bundle), board.images, dla_core=0)
    assert ranges() == first, "another core has the same ranges"
    add_implicit_variant(Bundle.open(board.bundle), board.images, count=3)
    assert len(ranges()) == 2
    other = fake_tensorrt("tensorrt-10.7.0", board.world)
    monkeypatch.setattr(implicit, "load_library", lambda flavour: Library(other, capabilities(other)))
    add_implicit_variant(Bundle.open(board.bundle), board.images)
    assert len(ranges()) == 3


def test_the_same_variant_is_replaced(board) -> None:
    for _ in range(2):
        bundle, _ = add_implicit_variant(Bundle.open(board.bundle), board.images)
    assert [one.name for one in bundle.manifest.variants].count("trt-int8-implicit") == 1


def test_a_plain_onnx_file_takes_the_arrays_that_quantize_takes(board, tmp_path) -> None:
    def run(array: np.ndarray) -> Result:
        np.savez(tmp_path / "inputs.npz", image=array)
        options = ("--target", "trt", "--implicit-int8", "--calibration", tmp_path / "inputs.npz", "--batch", 2)
        return compile_(tiny.DATA / "tiny_classifier.onnx", *options, "-o", tmp_path / "engine.plan")

    result = run(np.zeros((5, 3, 8, 8), np.uint8))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "engine.plan").stat().st_size > 0
    result = run(np.zeros((1, 3, 8, 8), np.uint8))
    assert result.exit_code == DataError.exit_code
    assert "1 calibration samples do not make one batch of 2" in result.output


def test_arrays_are_calibrated_on_in_batches(tmp_path, calibrated_on) -> None:
    np.savez(tmp_path / "inputs.npz", image=np.arange(5 * 3, dtype=np.float32).reshape(5, 3), flag=np.zeros((5, 1)))
    compile_arrays(tiny.DATA / "tiny_classifier.onnx", tmp_path / "inputs.npz", tmp_path / "engine.plan", batch=2)
    assert [batch["image"][:, 0].tolist() for batch in calibrated_on] == [[0.0, 3.0], [6.0, 9.0]]
    np.savez(tmp_path / "inputs.npz", image=np.zeros((5, 3)), flag=np.zeros((4, 1)))
    with pytest.raises(DataError, match=r"first dimension \(samples\), theirs are \[4, 5\]"):
        compile_arrays(tiny.DATA / "tiny_classifier.onnx", tmp_path / "inputs.npz", tmp_path / "engine.plan", batch=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "rtx", "--implicit-int8"), "needs --target trt and --calibration"),
        (("--target", "trt", "--implicit-int8"), "needs --target trt and --calibration"),
        (("--target", "trt", "--dla-core", "0"), "build.dla_core"),
        (("--target", "trt"), "compiled already"),
        (("--target", "ort", "--batch", "4", "-o", "x"), "an ONNX file and --out"),
    ],
)
def test_options_that_do_not_go_together(board, arguments, message) -> None:
    result = compile_(board.bundle, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_tensorrt_11_has_no_calibrator(tmp_path, monkeypatch) -> None:
    board = Board(tmp_path, monkeypatch, "tensorrt-11.4.0.106")
    with pytest.raises(TargetError, match=r"no INT8 calibrator \(removed in 11.0\)"):
        add_implicit_variant(Bundle.open(board.bundle), board.images)
    assert len(Bundle.open(board.bundle).manifest.variants) == 4


def test_too_few_images_and_no_float_graph(board) -> None:
    bundle = Bundle.open(board.bundle)
    with pytest.raises(DataError, match="5 calibration images do not make one batch of 8"):
        add_implicit_variant(bundle, board.images, batch=8)
    only = tuple(one for one in bundle.manifest.variants if one.precision == "int8")
    none = Bundle(bundle.path, replace(bundle.manifest, variants=only))
    with pytest.raises(BundleError, match="no FP32 variant"):
        add_implicit_variant(none, board.images)
