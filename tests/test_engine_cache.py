"""Engines are built once, kept whole, and rebuilt for a reason that has a name."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import World, fake_tensorrt
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.config import TensorRTBuild
from edgeopt.errors import StorageError, TargetError
from edgeopt.hardware import CudaDriverState, Gpu, machine
from edgeopt.runtime.engine_cache import Built, cache_folder, obtain
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.memory import available_host_memory, check_memory, workspace_for
from edgeopt.runtime.trt.on_device import ProgressLog, TimingCache, engine_key, obtain_engine
from edgeopt.runtime.trt.progress import BuildProgress

KEY = {"gpu": "Orin", "tensorrt": "TensorRT 10.3.0"}
MODEL = (Path(__file__).with_name("data") / "tiny_classifier.onnx").read_bytes()


class Builder:
    """Counts builds and remembers why each was asked for."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.last_seconds: float | None = None

    def __call__(self, reason: str, last_seconds: float | None) -> Built:
        self.reasons.append(reason)
        self.last_seconds = last_seconds
        return Built(plan=f"plan {len(self.reasons)}".encode(), made_with={"timing_cache": "none"})


def test_built_once_and_loaded_after(tmp_path):
    build = Builder()
    first = obtain(tmp_path, "slot", KEY, build)
    second = obtain(tmp_path, "slot", KEY, build)
    assert first.plan == second.plan == b"plan 1"
    assert build.reasons == ["there is none yet"]
    assert first.rebuilt_because
    assert not second.rebuilt_because


def test_a_field_that_changed_is_named(tmp_path):
    build = Builder()
    obtain(tmp_path, "slot", KEY, build)
    again = obtain(tmp_path, "slot", {**KEY, "tensorrt": "TensorRT 10.7.0"}, build)
    assert again.plan == b"plan 2"
    assert again.rebuilt_because == "tensorrt was TensorRT 10.3.0 and is TensorRT 10.7.0"
    assert build.last_seconds is not None


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=4))
def test_any_other_key_is_another_engine(tmp_path_factory, other):
    folder = tmp_path_factory.mktemp("cache")
    build = Builder()
    obtain(folder, "slot", KEY, build)
    obtain(folder, "slot", other, build)
    assert len(build.reasons) == (1 if other == KEY else 2)


@pytest.mark.parametrize("suffix", ["plan", "json"])
@pytest.mark.parametrize("content", [b"", b"something else", b"\xff", b"[" * 100_000, None])
def test_a_damaged_engine_is_rebuilt(tmp_path, suffix, content):
    build = Builder()
    obtain(tmp_path, "slot", KEY, build)
    path = tmp_path / f"slot.{suffix}"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert obtain(tmp_path, "slot", KEY, build).plan == b"plan 2"
    assert build.reasons[1]
    assert obtain(tmp_path, "slot", KEY, build).plan == b"plan 2"


def test_a_failed_build_leaves_nothing_and_frees_the_lock(tmp_path):
    def fail(reason: str, last_seconds: float | None) -> Built:
        raise TargetError("no kernel")

    with pytest.raises(TargetError):
        obtain(tmp_path, "slot", KEY, fail)
    assert list(tmp_path.iterdir()) == []
    assert obtain(tmp_path, "slot", KEY, Builder()).plan == b"plan 1"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes: who may write was not tested")
def test_an_engine_that_others_may_write_is_built_again(tmp_path):
    build = Builder()
    obtain(tmp_path, "slot", KEY, build)
    (tmp_path / "slot.plan").chmod(0o666)
    assert obtain(tmp_path, "slot", KEY, build).plan == b"plan 2"
    assert "slot.plan is not a file that only you may write" in build.reasons[1]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="EDGEOPT_CACHE"):
        obtain(tmp_path / "file" / "cache", "slot", KEY, Builder())


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EDGEOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgeopt"


def build_slowly(folder: Path, started: object, results: object) -> None:
    """In a process of its own: build with a file as the witness."""

    def build(reason: str, last_seconds: float | None) -> Built:
        started.set()
        with (folder / "builds").open("a") as witness:
            witness.write("x")
        time.sleep(0.5)
        return Built(plan=b"plan")

    results.put(obtain(folder, "slot", KEY, build).plan)


def test_two_processes_build_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    started, results = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=build_slowly, args=(tmp_path, started, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [b"plan", b"plan"]
    for process in processes:
        process.join()
    assert (tmp_path / "builds").read_text() == "x"


def hang(folder: Path, started: object) -> None:
    """In a process of its own: hold the lock until killed."""

    def build(reason: str, last_seconds: float | None) -> Built:
        started.set()
        time.sleep(600)
        return Built(plan=b"never")

    obtain(folder, "slot", KEY, build)


def test_a_killed_builder_frees_the_lock(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    process = spawn.Process(target=hang, args=(tmp_path, started))
    process.start()
    assert started.wait(timeout=60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert obtain(tmp_path, "slot", KEY, Builder()).plan == b"plan 1"


def test_who_waits_is_told(tmp_path, caplog):
    entered, leave = threading.Event(), threading.Event()

    def slow(reason: str, last_seconds: float | None) -> Built:
        entered.set()
        leave.wait(timeout=30)
        return Built(plan=b"slow")

    first = threading.Thread(target=lambda: obtain(tmp_path, "slot", KEY, slow))
    first.start()
    assert entered.wait(timeout=30)
    plans = []
    second = threading.Thread(target=lambda: plans.append(obtain(tmp_path, "slot", KEY, Builder()).plan))
    with caplog.at_level(logging.WARNING):
        second.start()
        while not caplog.records:
            time.sleep(0.01)
        leave.set()
        first.join()
        second.join()
    assert "another process is building" in caplog.text
    assert plans == [b"slow"]


def library(world: World, release: str = "tensorrt-10.3.0") -> Library:
    module = fake_tensorrt(release, world)
    return Library(module, capabilities(module))


def board(name: str = "Orin", cuda: str = "12.6") -> object:
    gpu = Gpu(name=name, compute_capability="8.7", memory_bytes=8 << 30, integrated=True)
    return machine(Path("/nonexistent"), CudaDriverState(cuda=cuda, gpus=(gpu,)))


def engine(world: World, folder: Path, here: object = None, release: str = "tensorrt-10.3.0", **options: object):
    return obtain_engine(
        library(world, release),
        MODEL,
        TensorRTBuild(**options),
        cuda=world.cuda,
        here=here or board(),
        device=0,
        folder=folder,
    )


def test_the_key_has_everything_that_a_plan_depends_on():
    key = engine_key(library(World()), MODEL, TensorRTBuild(dla_core=1), board(), 0)
    assert set(key) == {
        "onnx", "options", "gpu", "compute_capability", "tensorrt", "cuda", "driver", "jetpack", "dla_core",
    }  # fmt: skip
    assert key["dla_core"] == "1"
    assert key["tensorrt"] == "TensorRT 10.3.0"


def test_first_load_says_what_it_does_and_why(tmp_path, caplog):
    world = World()
    assert engine(world, tmp_path).rebuilt_because
    assert "building the engine on this Orin" in caplog.text
    assert not engine(world, tmp_path).rebuilt_because
    assert world.builds == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"here": board(name="Thor")}, "gpu"), ({"here": board(cuda="13.0")}, "cuda"),
     ({"release": "tensorrt-10.7.0"}, "tensorrt")],
)  # fmt: skip
def test_another_device_or_library_rebuilds_and_says_which(tmp_path, changed, field):
    engine(World(), tmp_path)
    assert engine(World(), tmp_path, **changed).rebuilt_because.startswith(f"{field} was")


def test_other_options_have_a_slot_of_their_own(tmp_path):
    world = World()
    engine(world, tmp_path)
    engine(world, tmp_path, tf32=False)
    engine(world, tmp_path)
    assert world.builds == 2


@pytest.fixture
def no_host_memory(monkeypatch):
    """A system that does not tell its free memory, which an integrated GPU shares."""
    monkeypatch.setattr("edgeopt.runtime.trt.on_device.available_host_memory", lambda: None)


def test_memory_that_the_processor_caches_files_in_counts_as_free_on_an_integrated_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeopt.runtime.trt.on_device.available_host_memory", lambda: 4 << 30)
    world = World(cuda=FakeCuda(free=2 << 30))
    engine(world, tmp_path)
    assert world.pools["WORKSPACE"] == 2 << 30


@pytest.mark.usefixtures("no_host_memory")
def test_the_workspace_follows_free_memory_unless_given(tmp_path):
    world = World(cuda=FakeCuda(free=2 << 30))
    engine(world, tmp_path)
    assert world.pools["WORKSPACE"] == 1 << 30
    engine(world, tmp_path, workspace_bytes=12345678)
    assert world.pools["WORKSPACE"] == 12345678


@pytest.mark.usefixtures("no_host_memory")
def test_too_little_memory_is_refused_before_the_build(tmp_path):
    world = World(cuda=FakeCuda(free=100 << 20))
    with pytest.raises(TargetError, match=r"MiB of GPU memory, and 100 MiB are free"):
        engine(world, tmp_path)
    assert world.builds == 0
    assert not world.cuda.leaks


def test_memory_rules():
    assert workspace_for(1 << 20) == 64 << 20
    assert workspace_for(64 << 30) == 4 << 30
    check_memory(10 << 20, None, 8 << 30)
    with pytest.raises(TargetError, match=r"main memory.*systemctl isolate"):
        check_memory(10 << 20, 100 << 20, 8 << 30)


def test_available_memory(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert available_host_memory(tmp_path / "meminfo") == 2 << 20
    assert available_host_memory(tmp_path / "missing") is None


def test_the_timing_cache_is_kept_and_pinned(tmp_path):
    engine(World(), tmp_path)
    (kept,) = (tmp_path / "timing").glob("*.cache")
    assert kept.read_bytes() == b"+measured"
    record = json.loads(next((tmp_path / "engines").glob("*.json")).read_text())
    assert record["made_with"]["timing_cache"] == kept.with_suffix(".sha256").read_text()
    engine(World(), tmp_path, tf32=False)
    assert kept.read_bytes() == b"+measured+measured", "the second build starts from the first one's measurements"


def test_a_timing_cache_that_was_changed_is_not_used(tmp_path, caplog):
    cache = TimingCache(tmp_path, board(), engine_key(library(World()), MODEL, TensorRTBuild(), board(), 0))
    assert cache.read() == b""
    cache.write(b"measured")
    assert cache.read() == b"measured"
    next(tmp_path.glob("*.cache")).write_bytes(b"tampered")
    assert cache.read() == b""
    assert "not what was written" in caplog.text
    assert cache.write(b"") == "none"


def test_a_timing_cache_whose_pin_is_damaged_or_anothers_is_not_used(tmp_path, caplog):
    """One byte that is no ASCII once stopped a device at every start."""
    cache = TimingCache(tmp_path, board(), engine_key(library(World()), MODEL, TensorRTBuild(), board(), 0))
    cache.write(b"measured")
    (pin,) = tmp_path.glob("*.sha256")
    kept = pin.read_bytes()
    pin.write_bytes(b"\xff" + kept[1:])
    assert cache.read() == b""
    pin.write_bytes(kept)
    assert cache.read() == b"measured"
    pin.chmod(0o666)
    assert cache.read() == b""
    assert "is not a file that only you may write" in caplog.text


def test_progress_is_said_now_and_then(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("edgeopt.runtime.trt.on_device.time.monotonic", lambda: now[0])
    report = ProgressLog()
    for second in range(25):
        now[0] = float(second)
        report(BuildProgress(phase="Tactics", step=second, steps=100))
    assert [record.args[1] for record in caplog.records] == [10, 20]
