"""TrtSession's logic on a fake TensorRT and a fake CUDA: buffers, CUDA graphs, failures, and giving everything back."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

import numpy as np
import pytest
import tiny
from fake_cuda import FakeCuda
from fake_tensorrt import JETPACK_5, RELEASES, World, fake_tensorrt
from session_conformance import SessionConformance, expected, images

import edgeopt.runtime.trt as trt
from edgeopt.bundle import EngineSettings
from edgeopt.config import TensorRTBuild
from edgeopt.errors import ConfigError, DataError, StorageError, TargetError
from edgeopt.hardware import CudaDriverState, Gpu, Jetson, Machine, machine
from edgeopt.runtime import Session
from edgeopt.runtime.cuda import CudaError
from edgeopt.runtime.session import find_target
from edgeopt.runtime.trt import implicit, on_device
from edgeopt.runtime.trt.buffers import Memory
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.session import TrtSession
from edgeopt.runtime.trt.settings import trt_settings
from edgeopt.spec import replace
from edgeopt.typed import convert

NEWEST = "tensorrt-11.4.0.106"
RTX = "tensorrt_rtx-1.7.1.116"
ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, integrated=True)


def library(world: World, release: str = NEWEST) -> Library:
    module = fake_tensorrt(release, world)
    return Library(module, capabilities(module))


def plan(smallest: int = 1, largest: int = 4) -> bytes:
    shapes = [(batch, 3, 8, 8) for batch in (smallest, smallest, largest)]
    return json.dumps({"profiles": [{"image": shapes}]}).encode()


def session(world: World, release: str = NEWEST, **options: object) -> TrtSession:
    return TrtSession(library(world, release), plan(), world.cuda, **options)


@pytest.mark.parametrize("release", [*RELEASES, JETPACK_5])
def test_every_release_runs(release):
    world = World()
    with session(world, release) as opened:
        for _ in range(3):
            np.testing.assert_allclose(opened.run({"image": images(2)})["scores"], expected(images(2)), rtol=1e-5)
        assert json.loads(opened.layers_json())["format"] == "JSON"
    assert not world.cuda.leaks


class Conformance(SessionConformance):
    memory: Memory = "copied"
    cuda_graph = True

    @pytest.fixture
    def open_session(self) -> Callable[..., Session]:
        def open_one(settings: EngineSettings | None = None, *, reuse_outputs: bool = False) -> TrtSession:
            batch = (settings or EngineSettings()).batch
            world = World()
            return TrtSession(
                library(world),
                plan(batch or 1, batch or 4),
                world.cuda,
                memory=self.memory,
                cuda_graph=self.cuda_graph,
                reuse_outputs=reuse_outputs,
            )

        return open_one


class TestWithGraphs(Conformance):
    pass


class TestWithoutGraphs(Conformance):
    cuda_graph = False


class TestMappedMemory(Conformance):
    memory: Memory = "mapped"


class TestManagedMemory(Conformance):
    memory: Memory = "managed"


def test_a_graph_is_captured_after_one_plain_enqueue_and_launched_from_then_on():
    world = World()
    with session(world) as opened:
        for _ in range(4):
            opened.run({"image": images(1)})
        calls = [call for call in world.cuda.log if call in ("begin_capture", "end_capture", "launch")]
        assert calls == ["begin_capture", "end_capture", "launch", "launch", "launch"]
        assert world.enqueued == 2, "once plainly, once while capturing"


def test_a_run_is_one_launch_with_its_copies():
    world = World()
    with session(world) as opened:
        for _ in range(2):
            opened.run({"image": images(1)})
        world.cuda.log.clear()
        np.testing.assert_allclose(opened.run({"image": images(1, 7)})["scores"], expected(images(1, 7)))
        assert world.cuda.log == ["launch", "synchronize"]


def test_a_shape_that_comes_again_finds_its_graph():
    """In a context of its own: a graph of a context whose shape was changed since is undefined behavior."""
    world = World()
    with session(world) as opened:
        for count in (1, 1, 2, 2, 1, 2, 1):
            np.testing.assert_allclose(opened.run({"image": images(count)})["scores"], expected(images(count)))
        assert world.cuda.log.count("begin_capture") == 2
        assert "destroy_graph" not in world.cuda.log
    assert not world.cuda.leaks


@pytest.mark.parametrize(
    ("release", "contexts", "shapes", "kept"),
    [(NEWEST, 100, (1, 2, 3, 4, 5, 1), 4), (NEWEST, 1, (1, 2, 1), 1), (JETPACK_5, 100, (1, 2, 1), 1)],
    ids=["more shapes than are kept", "no memory for a second context", "TensorRT 8 has one context a profile"],
)
def test_where_no_more_contexts_are_to_be_had_the_oldest_shape_is_captured_anew(release, contexts, shapes, kept):
    world = World(memory_for_contexts=contexts)
    with TrtSession(library(world, release), plan(1, 8), world.cuda) as opened:
        for count in shapes:
            for seed in range(3):
                image = images(count, seed)
                np.testing.assert_allclose(opened.run({"image": image})["scores"], expected(image))
        assert world.cuda.log.count("begin_capture") == len(shapes)
        assert len(world.cuda.graphs) == kept
    assert not world.cuda.leaks


def test_two_runs_may_be_on_their_way():
    world = World()
    with session(world) as opened:
        for seed in range(0, 12, 2):
            first, second = images(1 + seed % 4, seed), images(1, seed + 1)
            opened.submit({"image": first})
            opened.submit({"image": second})
            with pytest.raises(TargetError, match="2 runs are on their way: collect them first"):
                opened.submit({"image": first})
            np.testing.assert_allclose(opened.collect()["scores"], expected(first))
            np.testing.assert_allclose(opened.collect()["scores"], expected(second))
        with pytest.raises(TargetError, match="no run is on its way"):
            opened.collect()
        opened.submit({"image": first})
        for call in (opened.run, opened.run_timed):
            with pytest.raises(TargetError, match=r"on (its|their) way"):
                call({"image": first})
    assert not world.cuda.leaks, "also with one that nobody collected"


def test_outputs_that_are_not_copied_stay_until_the_next_but_one():
    with session(World(), reuse_outputs=True) as opened:
        opened.submit({"image": images(1, 0)})
        opened.submit({"image": images(1, 1)})
        first = opened.collect()["scores"]
        second = opened.collect()["scores"]
        np.testing.assert_allclose(first, expected(images(1, 0)))
        np.testing.assert_allclose(second, expected(images(1, 1)))


@pytest.mark.parametrize(("release", "contexts", "why"), [(JETPACK_5, 100, "TensorRT 8.5.2 runs one context"),
                                                          (NEWEST, 1, "no memory for a second run")])  # fmt: skip
def test_a_second_run_that_cannot_be_had_says_why(release, contexts, why):
    with session(World(memory_for_contexts=contexts), release) as opened:
        opened.submit({"image": images(1)})
        with pytest.raises(TargetError, match=why):
            opened.submit({"image": images(1, 1)})
        np.testing.assert_allclose(opened.collect()["scores"], expected(images(1)))
        np.testing.assert_allclose(opened.run({"image": images(1, 1)})["scores"], expected(images(1, 1)))


@pytest.mark.parametrize("memory", ["copied", "mapped", "managed"])
def test_an_input_that_is_written_into_page_locked_memory_is_not_copied(memory, monkeypatch):
    world = World()
    with session(world, memory=memory) as opened:
        image = opened.input_array("image", 2)
        assert any(np.shares_memory(image, host.bytes) for host in world.cuda.host)
        monkeypatch.setattr(np, "copyto", None)
        for seed in range(4):
            image[...] = images(2, seed)
            np.testing.assert_allclose(opened.run({"image": image})["scores"], expected(images(2, seed)))
        for name, batch, message in (("picture", 1, "no input 'picture'"), ("image", 9, "takes 1 to 4, not 9")):
            with pytest.raises(DataError, match=message):
                opened.input_array(name, batch)


def test_what_cannot_be_captured_is_enqueued_and_said_once(caplog):
    world = World(uncapturable=True)
    with caplog.at_level(logging.WARNING), session(world) as opened:
        for seed in range(4):
            np.testing.assert_allclose(opened.run({"image": images(1, seed)})["scores"], expected(images(1, seed)))
        assert "no kernel image" in (opened.graph_problem or "")
    assert len([record for record in caplog.records if "no CUDA graph" in record.message]) == 1
    assert world.cuda.log.count("begin_capture") == world.cuda.log.count("end_capture") == 1
    assert not world.cuda.leaks


@pytest.mark.parametrize("call", ["begin_capture", "end_capture"])
def test_a_failing_capture_falls_back_with_the_cuda_code(call):
    world = World()
    world.cuda.failing[call] = 901
    with session(world) as opened:
        for _ in range(3):
            np.testing.assert_allclose(opened.run({"image": images(1)})["scores"], expected(images(1)))
        assert "CUDA error 901" in (opened.graph_problem or "")
    assert "launch" not in world.cuda.log


def test_a_failing_enqueue_is_an_error_and_the_session_recovers():
    world = World()
    with session(world, cuda_graph=False) as opened:
        opened.run({"image": images(1)})
        world.enqueue_fails = True
        with pytest.raises(TargetError, match=r"did not enqueue.*no kernel image"):
            opened.run({"image": images(1)})
        world.enqueue_fails = False
        np.testing.assert_allclose(opened.run({"image": images(1)})["scores"], expected(images(1)))


def test_an_error_of_the_gpu_carries_its_code():
    world = World()
    with session(world) as opened:
        world.cuda.failing["synchronize"] = 700
        with pytest.raises(CudaError, match="CUDA error 700") as caught:
            opened.run({"image": images(1)})
        assert caught.value.code == 700
        del world.cuda.failing["synchronize"]


def test_out_of_memory_while_opening_gives_everything_back():
    world = World()
    world.cuda.failing["allocate"] = 2
    with pytest.raises(CudaError, match=r"CUDA error 2.*lower the largest batch"):
        session(world)
    assert world.cuda.closed
    assert not world.cuda.leaks


@pytest.mark.parametrize("memory", ["mapped", "managed"])
def test_memory_that_both_use_makes_no_copies(memory):
    world = World()
    with session(world, memory=memory) as opened:
        np.testing.assert_allclose(opened.run({"image": images(3)})["scores"], expected(images(3)))
    assert not {"to_device", "to_host", "allocate"} & set(world.cuda.log)
    assert not world.cuda.leaks


def test_each_run_on_its_way_has_managed_memory_of_its_own_stream():
    """So that the processor may fill the one while the GPU reads the other."""
    world = World()
    with session(world, memory="managed") as opened:
        for seed in range(2):
            opened.submit({"image": images(1, seed)})
        owners = [buffer.handle for buffer in world.cuda.host]
        assert [owners.count(lane.stream) for lane in opened._lanes] == [2, 2]
        for seed in range(2):
            np.testing.assert_allclose(opened.collect()["scores"], expected(images(1, seed)))
    assert not world.cuda.leaks


@pytest.mark.parametrize("concurrent", [False, True])
def test_an_engine_with_streams_of_its_own_takes_managed_memory_from_thor_on(concurrent):
    world = World(aux_streams=2)
    world.cuda.concurrent = concurrent
    if concurrent:
        with session(world, memory="managed") as opened:
            np.testing.assert_allclose(opened.run({"image": images(1)})["scores"], expected(images(1)))
        return
    with pytest.raises(TargetError, match=r"on 2 more streams.*run.memory = 'mapped'"):
        session(world, memory="managed")
    assert not world.cuda.leaks
    with session(World(aux_streams=2), memory="mapped") as opened:
        opened.run({"image": images(1)})


def test_a_batch_outside_the_profile_names_the_range():
    with session(World()) as opened, pytest.raises(DataError, match=r"batch 5.*built for 1 to 4"):
        opened.run({"image": images(5)})


def test_stage_times_come_apart():
    world = World()
    with session(world) as opened:
        outputs, times = opened.run_timed({"image": images(2)})
        np.testing.assert_allclose(outputs["scores"], expected(images(2)))
        assert min(times.h2d_ms, times.compute_ms, times.d2h_ms) >= 0
        assert world.cuda.log.count("create_event") == world.cuda.log.count("destroy_event") == 4


def test_runs_may_come_from_another_thread():
    world = World()
    results = []
    with session(world) as opened:
        thread = threading.Thread(target=lambda: results.append(opened.run({"image": images(1)})))
        thread.start()
        thread.join()
    np.testing.assert_allclose(results[0]["scores"], expected(images(1)))


def test_data_dependent_outputs_are_refused():
    with pytest.raises(TargetError, match=r"'boxes' depends on the data.*NonMaxSuppression"):
        session(World(outputs=[("boxes", (1, 3, -1, -1), "FLOAT")]))


def test_types_that_numpy_lacks_are_refused():
    with pytest.raises(TargetError, match="'scores' has the type FP8"):
        session(World(outputs=[("scores", (-1, 3), "FP8")]))


def test_an_address_that_tensorrt_refuses():
    with pytest.raises(TargetError, match="refuses memory for 'image'"):
        session(World(refuses_address=True))


def test_tensorrt_without_a_driver_cannot_start():
    with pytest.raises(TargetError, match="cannot start its runtime"):
        session(World(starts=False))


def test_a_plan_of_another_version_says_what_to_do():
    world = World(corrupt_plan=True)
    with pytest.raises(TargetError, match=r"cannot load this engine: Magic tag.*build it again on this machine"):
        session(world)
    assert world.cuda.closed


@pytest.mark.parametrize(("bits", "reason"), [(1, "VERSION_MISMATCH|UNSUPPORTED_CC"), (0, "no usable GPU")])
def test_rtx_says_why_a_plan_is_not_valid_here(bits, reason):
    with pytest.raises(TargetError, match=reason):
        session(World(validity=("INVALID", bits)), RTX)


def test_settings_of_a_bundle():
    read = trt_settings(
        convert({"batch": 2, "tensorrt": {"build": {"tf32": False}, "run": {"cuda": "libcuda"}}}, EngineSettings)
    )
    assert read.build.batch.fixed
    assert not read.build.tf32
    assert read.run.cuda == "libcuda"


class Clock:
    """A clock that runs of the network move, by the kind of memory of the session that runs, and that speeds up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **takes: float) -> None:
        self.now, self.takes, self.opened = 0.0, takes, []
        monkeypatch.setattr(trt, "perf_counter", lambda: self.now)

    def open(self, memory: Memory) -> TrtSession:
        self.opened.append(memory)
        opened = session(World(), memory=memory)
        run = opened.run

        def timed(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.now += self.takes[memory] * (1 + 1 / (1 + self.now))  # the governor raises clocks while it runs
            return run(inputs)

        opened.run = timed
        return opened


@pytest.mark.parametrize(
    ("copied", "mapped", "faster"), [(5e-3, 1e-3, "mapped"), (5e-3, 9e-3, "copied"), (5e-3, 5e-3, "copied")]
)
def test_the_faster_memory_is_measured_once(monkeypatch, tmp_path, copied, mapped, faster):
    """In alternation: of two equal ones the second, on a board whose clocks rise, is not the faster one."""
    clock = Clock(monkeypatch, copied=copied, mapped=mapped)
    with trt.open_fastest(clock.open, tmp_path / "memory" / "engine") as opened:
        assert opened.memory == faster
    spent = clock.now
    with trt.open_fastest(clock.open, tmp_path / "memory" / "engine") as opened:
        assert opened.memory == faster
    assert clock.now == spent
    assert len(clock.opened) == 4


@pytest.mark.parametrize("error", [CudaError("cuMemHostAlloc", 2, "out of memory"), TargetError("no memory for it")])
def test_an_engine_that_does_not_fit_twice_takes_copies(monkeypatch, tmp_path, caplog, error):
    clock = Clock(monkeypatch, copied=1e-3, mapped=1e-3)

    def open_one(memory: Memory) -> TrtSession:
        if memory == "mapped":
            raise error
        return clock.open(memory)

    with trt.open_fastest(open_one, tmp_path / "engine") as opened:
        assert opened.memory == "copied"
    assert "does not fit twice" in caplog.text


def test_rtx_compiles_before_it_runs_and_makes_its_own_graphs(board, tmp_path, monkeypatch):
    """A graph of ours would hold the general kernels that run until special ones are compiled."""
    monkeypatch.setattr(trt, "load_library", lambda flavour: library(board.world, RTX))
    with open_plan(board, tmp_path) as opened:
        for _ in range(3):
            opened.run({"image": images(1)})
    assert board.world.specialization == "EAGER"
    assert board.world.own_graphs
    assert not {"begin_capture", "launch"} & set(board.world.cuda.log)


def test_compiled_kernels_are_kept_after_the_first_run_of_a_shape(board, tmp_path, monkeypatch):
    """A service is killed, and never reaches the end of its session."""
    monkeypatch.setattr(trt, "load_library", lambda flavour: library(board.world, RTX))
    with open_plan(board, tmp_path) as opened:
        assert not (tmp_path / "cache" / "kernels").exists()
        opened.run({"image": images(1)})
        (kept,) = (tmp_path / "cache" / "kernels").iterdir()
        assert kept.read_bytes() == b"kernels"


class Board:
    """A machine with the fake TensorRT, the fake CUDA and one Orin."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.world = World()
        self.here = machine(tmp_path, CudaDriverState(cuda="12.6", gpus=(ORIN,)))
        monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(trt, "load_library", lambda flavour: library(self.world))
        monkeypatch.setattr(trt, "machine", lambda: self.here)
        monkeypatch.setattr(trt, "open_cuda", self.open_cuda)
        monkeypatch.setattr(trt, "importable_providers", lambda: {"pycuda": "", "libcuda": "no"})
        self.opened: list[FakeCuda] = []
        self.free = 8 << 30

    def open_cuda(self, provider: str, device: int, wait: str) -> FakeCuda:
        self.world.cuda = FakeCuda(self.free)
        self.opened.append(self.world.cuda)
        return self.world.cuda


@pytest.fixture
def board(monkeypatch, tmp_path) -> Board:
    return Board(monkeypatch, tmp_path)


def test_the_first_load_builds_and_the_second_does_not(board, tmp_path, tiny_onnx):
    for _ in range(2):
        with trt.open_engine(tiny_onnx, "trt", EngineSettings(), reuse_outputs=False) as opened:
            np.testing.assert_allclose(opened.run({"image": images(1)})["scores"], expected(images(1)), rtol=1e-5)
            assert opened.inputs[0].shape[0] == 1
    assert board.world.builds == 1
    assert not any(cuda.leaks for cuda in board.opened)
    assert (tmp_path / "cache" / "engines").is_dir()


def test_a_plan_is_loaded_as_it_is(board, tmp_path):
    path = tmp_path / "model.plan"
    path.write_bytes(plan())
    with trt.open_engine(path, "rtx", EngineSettings(), reuse_outputs=False) as opened:
        assert opened.inputs[0].shape[0] == "N"
    assert board.world.builds == 0


def test_only_plans_that_were_built_here_may_run_their_own_code(board, tmp_path, tiny_onnx):
    given = convert({"tensorrt": {"build": {"version_compatible": True}}}, EngineSettings)
    with trt.open_engine(tiny_onnx, "trt", given, reuse_outputs=False) as opened:
        assert opened._loaded.runtime.__dict__["_engine_host_code_allowed"]
    (tmp_path / "x.plan").write_bytes(plan())
    with trt.open_engine(tmp_path / "x.plan", "trt", given, reuse_outputs=False) as opened:
        assert "_engine_host_code_allowed" not in opened._loaded.runtime.__dict__


def open_plan(board, folder):
    (folder / "x.plan").write_bytes(plan())
    settings = convert({"tensorrt": {"run": {"memory": "copied"}}}, EngineSettings)
    return trt.open_engine(folder / "x.plan", "rtx", settings, reuse_outputs=False)


def test_rtx_compiles_its_kernels_once_and_tensorrt_has_none_to_compile(board, tmp_path, monkeypatch):
    monkeypatch.setattr(trt, "load_library", lambda flavour: library(board.world, RTX))
    for _ in range(3):
        with open_plan(board, tmp_path) as opened:
            opened.run({"image": images(1)})
    assert board.world.compiled == 1
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    assert kept.read_bytes() == b"kernels"
    board.here = replace(board.here, driver="600.1")
    with open_plan(board, tmp_path):
        assert board.world.compiled == 2, "another driver compiles anew"


def test_kernels_that_rtx_does_not_take_are_compiled_again(board, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trt, "load_library", lambda flavour: library(board.world, RTX))
    open_plan(board, tmp_path)._close()
    board.world.refuses_kernels = True
    with caplog.at_level(logging.WARNING), open_plan(board, tmp_path):
        assert board.world.compiled == 2
    assert "compiled again" in caplog.text


def test_a_disk_that_refuses_kernels_does_not_stop_a_session(board, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trt, "load_library", lambda flavour: library(board.world, RTX))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING), open_plan(board, tmp_path) as opened:
        opened.run({"image": images(1)})
    assert "not kept" in caplog.text


def test_full_tensorrt_is_opened_without_a_cache_of_kernels(board, tmp_path):
    with open_plan(board, tmp_path):
        pass
    assert not (tmp_path / "cache" / "kernels").exists()


def test_implicit_int8_for_dla(board, monkeypatch):
    board.world.dla_cores = 2
    monkeypatch.setattr(implicit, "load_library", lambda flavour: library(board.world, "tensorrt-10.3.0"))
    monkeypatch.setattr(implicit, "open_cuda", board.open_cuda)
    model = (tiny.DATA / "tiny_classifier.onnx").read_bytes()
    options = convert({"batch": 2, "tensorrt": {"build": {"dla_core": 1}}}, EngineSettings)
    batches = [{"image": images(2, seed)} for seed in range(4)]
    assert implicit.compile_implicit(model, batches, "photos", options)
    assert board.world.flags >= {"INT8", "FP16", "GPU_FALLBACK"}
    assert not board.world.cuda.leaks
    ranged = convert({"tensorrt": {"build": {"batch": {"max": 4}}}}, EngineSettings)
    with pytest.raises(ConfigError, match="one batch size, not 1 to 4"):
        implicit.compile_implicit(model, batches, "photos", ranged)


def test_a_plan_for_dla_runs_on_the_core_that_it_was_built_for(board, tmp_path, monkeypatch):
    """Which no plan says: its runtime has to be told."""
    board.world.dla_cores = 2
    monkeypatch.setattr(trt, "load_library", lambda flavour: library(board.world, "tensorrt-10.3.0"))
    for core in (0, 1):
        board.world.ran_on.clear()
        given = convert({"batch": 1, "tensorrt": {"build": {"dla_core": core}, "run": {"memory": "copied"}}},
                        EngineSettings)  # fmt: skip
        path = tmp_path / "model.onnx"
        path.write_bytes((tiny.DATA / "tiny_classifier.onnx").read_bytes())
        with trt.open_engine(path, "trt", given, reuse_outputs=False) as opened:
            opened.run({"image": images(1)})
        assert set(board.world.ran_on) == {core}


def test_builders_and_runtimes_are_made_on_the_device_that_was_asked_for(board, monkeypatch, tiny_onnx):
    monkeypatch.setattr(implicit, "load_library", lambda flavour: library(board.world, "tensorrt-10.3.0"))
    monkeypatch.setattr(implicit, "open_cuda", board.open_cuda)
    options = convert({"batch": 2}, EngineSettings)
    implicit.compile_implicit(tiny_onnx.read_bytes(), [{"image": images(2)}], "photos", options)
    with trt.open_engine(tiny_onnx, "trt", EngineSettings(), reuse_outputs=False):
        pass
    assert board.world.outside_context == []


def test_a_jetson_gives_back_cached_files_to_a_build(board, tmp_path, monkeypatch, tiny_onnx):
    """Its GPU shares the processor's memory, and the driver counts the page cache as used."""
    monkeypatch.setattr(board, "free", 100 << 20)
    monkeypatch.setattr(on_device, "available_host_memory", lambda: 3 << 30)
    with trt.open_engine(tiny_onnx, "trt", EngineSettings(), reuse_outputs=False):
        pass
    (record,) = (tmp_path / "cache" / "engines").glob("*.json")
    workspace = json.loads(record.read_text())["made_with"]["workspace"]
    assert board.world.pools == {"WORKSPACE": int(workspace)} == {"WORKSPACE": 3 << 29}
    board.here = replace(board.here, gpus=(replace(ORIN, integrated=False, name="RTX"),))
    with pytest.raises(TargetError, match="MiB of GPU memory, and 100 MiB are free"):
        trt.open_engine(tiny_onnx, "trt", EngineSettings(), reuse_outputs=False)


JETSON = Jetson(model="Orin", l4t="36.4.3", jetpack="6.2")


def test_a_jetson_makes_no_engines_for_other_gpus(board, tiny_onnx):
    board.here = replace(board.here, jetson=JETSON)
    given = convert({"tensorrt": {"build": {"hardware_compatibility": "ampere_plus"}}}, EngineSettings)
    with pytest.raises(TargetError, match=r"on a Jetson.*'ampere_plus'.*Leave it out"):
        trt.open_engine(tiny_onnx, "trt", given, reuse_outputs=False)
    assert "hardware compatibility" not in trt.offers("trt", board.here)
    assert "hardware compatibility" in trt.offers("trt", replace(board.here, jetson=None))


def test_timings_of_kernels_are_of_one_driver_and_one_power_mode(tmp_path, monkeypatch, caplog):
    here = replace(machine(tmp_path, CudaDriverState(cuda="12.6", gpus=(ORIN,))), driver="540.4", jetson=JETSON)
    lib = library(World())
    mode = ["15W"]
    monkeypatch.setattr(on_device, "power_mode_reader", lambda: lambda: mode[0])

    def cache(of: Machine) -> on_device.TimingCache:
        return on_device.TimingCache(tmp_path, of, on_device.engine_key(lib, b"", TensorRTBuild(), of, 0))

    with cache(here).held():
        cache(here).write(b"timed")
    assert cache(here).read() == b"timed"
    other_jetpack = replace(here, jetson=replace(JETSON, l4t="36.4.0"))
    assert {cache(of).read() for of in (replace(here, driver="550.1"), other_jetpack)} == {b""}
    mode[0] = "MAXN_SUPER"
    assert cache(here).read() == b""


def test_two_builds_do_not_time_kernels_at_once(tmp_path, caplog):
    here = machine(tmp_path, CudaDriverState(cuda="12.6", gpus=(ORIN,)))
    key = on_device.engine_key(library(World()), b"", TensorRTBuild(), here, 0)
    order: list[str] = []

    def build(name: str) -> None:
        with on_device.TimingCache(tmp_path, here, key).held():
            order.append(name)

    with caplog.at_level(logging.WARNING), on_device.TimingCache(tmp_path, here, key).held():
        second = threading.Thread(target=build, args=("second",))
        second.start()
        second.join(timeout=0.3)
        order.append("first")
    second.join()
    assert order == ["first", "second"]
    assert "waiting" in caplog.text


def test_an_engine_file_that_is_not_there(board, tmp_path):
    with pytest.raises(StorageError, match=r"cannot read the engine .*gone\.plan"):
        trt.open_engine(tmp_path / "gone.plan", "rtx", EngineSettings(), reuse_outputs=False)


def test_availability_asks_for_library_gpu_and_provider(board, monkeypatch):
    assert trt.availability("trt").ok
    monkeypatch.setattr(trt, "importable_providers", lambda: {"pycuda": "not installed", "libcuda": "no libcuda"})
    assert "no libcuda" in trt.availability("trt").reason
    board.here = machine(cuda=CudaDriverState(problem="no NVIDIA driver: libcuda.so.1"))
    assert "no NVIDIA driver" in trt.availability("trt").reason


def test_only_tensorrt_8_runs_the_graphs_that_are_lowered_for_it(board, monkeypatch):
    assert "reads the graphs of target 'trt'" in trt.availability("trt8").reason
    monkeypatch.setattr(trt, "load_library", lambda _: library(board.world, JETPACK_5))
    assert trt.availability("trt8").ok
    assert "weakly typed" in find_target("trt8").offers(board.here)


@pytest.fixture
def tiny_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((tiny.DATA / "tiny_classifier.onnx").read_bytes())
    return path
