"""The first load on a GPU, which settles by measuring what no workstation can know: whether INT8 pays there."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from fake_cuda import FakeCuda
from fake_tensorrt import World, fake_tensorrt

from edgeopt.bundle import Bundle, Golden, Variant, pack, write_bundle
from edgeopt.bundle.records import Ratio
from edgeopt.cli import main
from edgeopt.errors import BundleError, TargetError
from edgeopt.hardware import CudaDriverState, Gpu, machine
from edgeopt.runtime import load, trt, verify
from edgeopt.runtime.choice import Candidates, choose
from edgeopt.runtime.first_load import compare, measure_at_first_load
from edgeopt.runtime.session import Availability, open_session
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.spec import replace

ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, integrated=False)


class Board:
    """A machine with the fake TensorRT and a GPU, whose clock only runs of a network move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.world = World()
        self.opened: list[FakeCuda] = []
        here = machine(folder, CudaDriverState(cuda="12.6", gpus=(ORIN,)))
        module = fake_tensorrt("tensorrt-10.3.0", self.world)
        monkeypatch.setenv("EDGEOPT_CACHE", str(folder / "cache"))
        monkeypatch.setattr(trt, "load_library", lambda flavour: Library(module, capabilities(module)))
        monkeypatch.setattr(trt, "machine", lambda: here)
        monkeypatch.setattr(trt, "open_cuda", self.open_cuda)
        monkeypatch.setattr(trt, "importable_providers", lambda: {"pycuda": ""})
        monkeypatch.setattr("edgeopt.runtime.first_load._clock", lambda: self.world.now_s)
        self.bundle = gpu_bundle(folder / "gpu.edgeopt")

    def open_cuda(self, provider: str, device: int, wait: str) -> FakeCuda:
        self.world.cuda = FakeCuda()
        self.opened.append(self.world.cuda)
        return self.world.cuda


def gpu_bundle(path: Path, golden: dict[str, float] | None = None) -> Bundle:
    """Built on a workstation without a GPU, which could measure none of it. `golden`: what white gives."""
    engines = {precision: (tiny.DATA / f"tiny_classifier{end}.onnx").read_bytes()
               for precision, end in (("fp32", ""), ("fp16", ""), ("int8", "_int8"))}  # fmt: skip
    variants = tuple(
        Variant(name=f"trt-{precision}", target="trt", precision=precision, file=f"variants/{precision}/engine.onnx")
        for precision in engines
    )
    files = {variant.file: engines[variant.precision] for variant in variants}
    if golden is not None:
        files["in.npz"] = pack({"image": np.full((1, 3, 8, 8), 255, np.uint8)})
        for precision, answer in golden.items():
            files[f"{precision}.npz"] = pack({"scores": np.full((1, 3), answer, np.float32)})
        variants = tuple(
            replace(each, golden=Golden(inputs="in.npz", outputs=f"{each.precision}.npz", tolerance=0.01))
            for each in variants
        )
    return write_bundle(path, tiny.manifest(variants=variants, baseline="trt-fp32"), files)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    return Board(monkeypatch, tmp_path)


def test_int8_that_is_slower_on_this_gpu_is_not_chosen_and_it_says_why(board: Board) -> None:
    board.world.takes_s = {"float": 1.0e-3, "int8": 1.4e-3}
    with load(board.bundle.path) as predictor:
        assert predictor.variant.name == "trt-fp16"
        assert predictor.choice.reason.startswith(
            "it is the fastest that was measured here for two seconds at first load"
        )
        assert predictor.rejected["trt-int8"] == "slower here: 1.40× the latency of 'trt-fp16'"


def test_int8_that_is_faster_on_this_gpu_is_chosen(board: Board) -> None:
    board.world.takes_s = {"float": 1.0e-3, "int8": 0.6e-3}
    assert choose(board.bundle.manifest).name == "trt-fp16", "until it was measured"
    with load(board.bundle.path) as predictor:
        assert predictor.variant.name == "trt-int8"
    choice = choose(board.bundle.manifest)
    assert choice.name == "trt-int8"
    assert choice.reason.endswith("at 0.60× the latency of 'trt-fp16'")


def test_it_is_measured_once_and_the_bundle_stays_as_it_is(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    before = (board.bundle.path / "manifest.json").read_bytes()
    for _ in range(2):
        with load(board.bundle.path):
            pass
    assert sum("first load on this GPU: measuring trt-fp16, trt-int8" in each.message for each in caplog.records) == 1
    assert (board.bundle.path / "manifest.json").read_bytes() == before
    spent = board.world.now_s
    with load(board.bundle.path):
        assert board.world.now_s == spent


def test_other_engines_or_settings_are_measured_anew(board: Board) -> None:
    with load(board.bundle.path):
        spent = board.world.now_s
    int8 = replace(board.bundle.variant("trt-int8"), engine=replace(board.bundle.variant("trt-int8").engine, batch=2))
    files = {name: board.bundle.path / name for name in board.bundle.manifest.files}
    write_bundle(board.bundle.path, board.bundle.manifest.with_variant(int8), files)
    with load(board.bundle.path):
        assert board.world.now_s > spent


def test_a_variant_that_does_not_load_is_no_reason_to_fail(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_int8(path: Path, *arguments: Any, **named: Any) -> Any:
        if "int8" in str(path):
            raise TargetError("no memory for it")
        return open_session(path, *arguments, **named)

    monkeypatch.setattr("edgeopt.runtime.predictor.open_session", refuse_int8)
    with load(board.bundle.path) as predictor:
        assert predictor.variant.name == "trt-fp16"
        assert predictor.rejected["trt-int8"] == "does not load here: no memory for it"


def test_a_picture_is_prepared_in_the_engines_own_memory(board: Board) -> None:
    with load(board.bundle.path, variant="trt-fp16") as predictor:
        assert any(np.shares_memory(predictor._direct, host.bytes) for host in board.world.cuda.host)
        assert predictor.predict(np.full((20, 20, 3), (0, 0, 255), np.uint8)).label == "red"
        mine = predictor.prepare(np.zeros((20, 20, 3), np.uint8)).tensor
        assert not any(np.shares_memory(mine, host.bytes) for host in board.world.cuda.host), "it outlives the engine"
    with pytest.raises(TargetError, match="closed"):
        predictor.predict(np.zeros((20, 20, 3), np.uint8))
    assert mine.sum() == 0


RIGHT = {"fp32": 8.0, "fp16": 8.0, "int8": 8.0}


def refuse(monkeypatch: pytest.MonkeyPatch, *precisions: str) -> None:
    """Let TensorRT refuse some variants, as 8.x refuses INT8 with FP16 scales."""

    def opened(path: Path, *arguments: Any, **named: Any) -> Any:
        if any(f"/{precision}/" in str(path) for precision in precisions):
            raise TargetError("TensorRT 8.6.2 rejects the model")
        return open_session(path, *arguments, **named)

    for module in ("predictor", "verify"):
        monkeypatch.setattr(sys.modules[f"edgeopt.runtime.{module}"], "open_session", opened)


def test_a_variant_that_does_not_load_does_not_end_the_verification(
    board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = gpu_bundle(tmp_path / "golden.edgeopt", RIGHT)
    refuse(monkeypatch, "int8")
    found = verify(bundle.path)
    assert set(found.replayed) == {"trt-fp32", "trt-fp16"}
    assert found.failed == {"trt-int8": "TensorRT 8.6.2 rejects the model"}
    found.require()
    printed = CliRunner().invoke(main, ["verify", str(bundle.path)])
    assert printed.exit_code == 0
    assert "trt-int8: DOES NOT RUN: TensorRT 8.6.2 rejects the model" in printed.output
    with pytest.raises(TargetError, match="trt-int8: TensorRT 8"):
        verify(bundle.path, variant="trt-int8").require()
    refuse(monkeypatch, "fp32", "fp16", "int8")
    with pytest.raises(TargetError, match="none of its variants runs here"):
        verify(bundle.path).require()


def test_a_service_verifies_the_variant_that_it_will_run(
    board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = gpu_bundle(tmp_path / "golden.edgeopt", {**RIGHT, "fp32": 7.0})
    refuse(monkeypatch, "int8")
    board.world.takes_s = {"float": 1.0e-3, "int8": 0.6e-3}
    chosen = CliRunner().invoke(main, ["verify", str(bundle.path), "--chosen"])
    assert chosen.exit_code == 0, chosen.output
    assert "trt-fp16: ok" in chosen.output
    assert "trt-fp32: not run" in chosen.output
    assert CliRunner().invoke(main, ["verify", str(bundle.path)]).exit_code == BundleError.exit_code
    both = CliRunner().invoke(main, ["verify", str(bundle.path), "--chosen", "--variant", "trt-fp16"])
    assert both.exit_code == 2


def test_engines_that_do_not_fit_beside_each_other_are_measured_one_after_another(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    board.world.takes_s = {"float": 1.0e-3, "int8": 0.6e-3}

    def one_at_a_time(path: Path, *arguments: Any, **named: Any) -> Any:
        if not all(cuda.closed for cuda in board.opened):
            raise TargetError("out of memory")
        return open_session(path, *arguments, **named)

    monkeypatch.setattr("edgeopt.runtime.predictor.open_session", one_at_a_time)
    with load(board.bundle.path) as predictor:
        assert predictor.variant.name == "trt-int8"
        assert predictor.rejected["trt-fp16"] == "slower here: 1 ms where 'trt-int8' takes 0.6 ms"
    assert "they do not load beside each other: out of memory" in caplog.text
    spent = board.world.now_s
    with load(board.bundle.path):
        assert board.world.now_s == spent


def test_a_cache_that_cannot_be_written_is_said_and_measured_all_the_same(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    board.world.takes_s = {"float": 1.0e-3, "int8": 0.6e-3}
    monkeypatch.setattr("edgeopt.runtime.first_load.private_folder", refuse)
    with caplog.at_level(logging.WARNING), load(board.bundle.path) as predictor:
        assert predictor.variant.name == "trt-int8"
    assert "cannot be kept, and the next load measures again: [Errno 30]" in caplog.text


def test_a_benchmark_of_all_of_them_takes_its_place(board: Board) -> None:
    ratio = Ratio(baseline="trt-fp32", estimate=0.5, low=0.49, high=0.51)
    for name, against in (
        ("trt-fp32", None),
        ("trt-fp16", ratio),
        ("trt-int8", replace(ratio, estimate=0.4, high=0.41)),
    ):
        (found,) = tiny.measured(tiny.identity("trt"), latency=tiny.latency(1.0, ratio=against)).values()
        board.bundle.record_measured({name: found})
    with load(board.bundle.path) as predictor:
        assert predictor.variant.name == "trt-int8"
        assert predictor.choice.reason == "it is the fastest that was measured here, at 0.40× the latency of 'trt-fp32'"
    assert not (Path(os.environ["EDGEOPT_CACHE"]) / "choices").exists()


def test_what_is_not_accepted_is_not_measured(board: Board) -> None:
    manifest = board.bundle.manifest
    refused = replace(manifest.variant("trt-int8"), accepted=False, verdict="it loses 9.00 points")
    candidates = Candidates(manifest.with_variant(refused), lambda _: Availability(ok=True))
    assert [each.name for each in candidates.unsettled()] == ["trt-fp16", "trt-fp32"]


def test_one_engine_needs_no_measurement() -> None:
    measure_at_first_load(Candidates(tiny.manifest(), lambda _: Availability(ok=True)), pytest.fail)


def test_speeds_are_compared_in_alternation_on_a_machine_that_drifts() -> None:
    """Its clocks fall to half their rate while it is measured."""
    now, order = 0.0, []

    def run(name: str, takes_s: float) -> Any:
        def once() -> None:
            nonlocal now
            order.append(name)
            now += takes_s * (1.0 + now / 4.0)

        return once

    found = compare({"fp16": run("fp16", 0.010), "int8": run("int8", 0.008)}, clock=lambda: now)
    assert found["int8"].relative == pytest.approx(0.8, abs=0.01)
    assert 0.79 < found["int8"].high < 0.82
    assert found["fp16"].reference == found["int8"].reference == "fp16"
    turns = [name for place, name in enumerate(order) if place == 0 or order[place - 1] != name]
    assert turns[2:6] == ["fp16", "int8", "fp16", "int8"], "back to back turns of one are of two rounds"
