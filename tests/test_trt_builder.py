"""Builds on every recorded TensorRT release: no name is used that a release lacks, and each gets what it needs."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import JETPACK_5, RELEASES, World, fake_tensorrt

from edgeopt.config import BatchRange, TensorRTBuild
from edgeopt.errors import ConfigError, DataError, MissingExtraError, ModelError, StorageError, TargetError
from edgeopt.runtime.trt import library as library_module
from edgeopt.runtime.trt.builder import build_engine, describe
from edgeopt.runtime.trt.calibrator import Feed, calibration_cache_path, make_calibrator
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library, Messages, load_library
from edgeopt.runtime.trt.progress import BuildProgress, run_cancellable

EVERY = [*RELEASES, JETPACK_5]
OLD, NEW = "tensorrt-10.3.0", "tensorrt-11.4.0.106"
MODEL = ir.to_proto(
    ir.from_onnx_text("""
<ir_version: 8, opset_import: ["" : 17]>
g (uint8[N, 3, 8, 8] image) => (uint8[N, 3, 8, 8] scores) { scores = Identity(image) }
""")
).SerializeToString()
QDQ = [("QUANTIZE", "INT8"), ("DEQUANTIZE", "FLOAT"), ("CONVOLUTION", "FLOAT")]


def library(release: str, world: World | None = None) -> Library:
    module = fake_tensorrt(release, world or World())
    return Library(module, capabilities(module))


def major(release: str) -> int:
    return int(release.split("-")[1].split(".")[0])


def is_rtx(release: str) -> bool:
    return "rtx" in release


def test_sixteen_releases_are_recorded():
    assert len(RELEASES) == 16


def test_the_fake_has_no_name_that_its_release_lacks():
    module = fake_tensorrt(JETPACK_5, World())
    config = module.Builder(module.ILogger()).create_builder_config()
    with pytest.raises(AttributeError, match=r"no IBuilderConfig.builder_optimization_level"):
        config.builder_optimization_level = 3
    with pytest.raises(AttributeError):
        _ = module.BuilderFlag.VERSION_COMPATIBLE
    with pytest.raises(NotImplementedError, match="engine_capability"):
        _ = config.engine_capability


@pytest.mark.parametrize("release", EVERY)
def test_capabilities_of_every_release(release):
    offered = library(release).capabilities
    rtx, number = is_rtx(release), major(release)
    assert offered.named_tensors
    assert offered.weakly_typed == (not rtx and number < 11)
    assert offered.calibrator == (not rtx and number < 11)
    assert offered.strongly_typed == (rtx or number >= 10)
    assert offered.progress_monitor == (rtx or number >= 10)
    assert offered.optimization_level == (release != JETPACK_5)
    assert bool(offered.compute_capabilities) == rtx
    assert offered.engine_validity == rtx
    assert offered.timing_cache == (not rtx)
    assert describe(offered)


def test_hardware_compatibility_by_release():
    levels = {release: library(release).capabilities.hardware_compatibility for release in EVERY}
    assert levels[JETPACK_5] == ()
    assert levels["tensorrt-8.6.1"] == ("ampere_plus",)
    assert "same_compute_capability" in levels["tensorrt-10.9.0.34"]
    assert levels["tensorrt_rtx-1.7.1.116"] == ()


@pytest.mark.parametrize("release", EVERY)
@pytest.mark.parametrize("layers", [[("CONVOLUTION", "FLOAT")], [("CONVOLUTION", "HALF")], QDQ])
def test_every_release_builds_what_the_graph_says(release, layers):
    world = World(layers=layers)
    engine = build_engine(
        library(release, world), MODEL, TensorRTBuild(batch=BatchRange(max=8), workspace_bytes=1 << 20, tf32=False)
    )
    assert engine.plan
    assert engine.onnx_bytes == len(MODEL)
    assert world.profiles == [{"image": ((1, 3, 8, 8), (1, 3, 8, 8), (8, 3, 8, 8))}]
    assert world.pools == {"WORKSPACE": 1 << 20}
    bits = {flag.name: 1 << flag.value for flag in flags_of(release).values()}
    allowed = world.flags & {"INT8", "FP16"}
    if major(release) == 8 and not is_rtx(release):
        assert world.network_flags == bits["EXPLICIT_BATCH"]
        assert ("INT8" in allowed, "FP16" in allowed) == (layers == QDQ, layers[0][1] == "HALF" or layers == QDQ)
    else:
        assert allowed == set()
        assert world.network_flags == (bits["STRONGLY_TYPED"] if major(release) == 10 and not is_rtx(release) else 0)


def test_int8_leaves_the_rest_to_fp16_on_tensorrt_8_unless_told_otherwise():
    """As ``trtexec --int8 --fp16``: otherwise every layer between quantizers runs in FP32."""
    for fp16_rest in (True, False):
        world = World(layers=QDQ)
        build_engine(library(JETPACK_5, world), MODEL, TensorRTBuild(fp16_rest=fp16_rest))
        assert world.flags & {"INT8", "FP16"} == ({"INT8", "FP16"} if fp16_rest else {"INT8"})


def test_variances_stay_in_float32_where_tensorrt_8_chooses_types():
    """Squares of more than 256 are infinite in float16; the division by the root is not part of it."""
    kinds = ("CONVOLUTION", "REDUCE", "ELEMENTWISE", "ELEMENTWISE", "REDUCE", "ELEMENTWISE", "UNARY", "ELEMENTWISE")
    reads = {2: (0, 1), 3: (2, 2), 5: (4, 90), 7: (2, 6)}
    for dtype in ("HALF", "FLOAT"):
        world = World(layers=[("CONVOLUTION", dtype), *((kind, "FLOAT") for kind in kinds[1:])], reads=reads)
        build_engine(library(JETPACK_5, world), MODEL, TensorRTBuild())
        assert world.kept_float == ({3, 4, 5, 6} if dtype == "HALF" else set())
        assert ("PREFER_PRECISION_CONSTRAINTS" in world.flags) == (dtype == "HALF")


def test_a_mean_that_is_not_of_squares_may_be_computed_in_float16():
    world = World(layers=[("CONVOLUTION", "HALF"), ("REDUCE", "FLOAT"), ("ELEMENTWISE", "FLOAT")], reads={2: (0, 1)})
    build_engine(library(JETPACK_5, world), MODEL, TensorRTBuild())
    assert "PREFER_PRECISION_CONSTRAINTS" not in world.flags


def test_int8_weights_without_a_quantizer_are_int8_too():
    world = World(layers=[("CONSTANT", "INT8"), ("DEQUANTIZE", "FLOAT"), ("CONVOLUTION", "FLOAT")])
    build_engine(library(JETPACK_5, world), MODEL)
    assert "INT8" in world.flags


NEWER = MODEL.replace(b"\x10\x11", b"\x10\x12")  # opset 18 in place of 17


@pytest.mark.parametrize("release", EVERY)
def test_a_newer_opset_is_refused_where_it_would_be_misread(release):
    """TensorRT 8 parses it without a word, and averages over the batch where axes became an input."""
    reads = library(release)
    assert reads.capabilities.max_opset == (17 if major(release) == 8 and not is_rtx(release) else None)
    assert build_engine(reads, MODEL).plan
    if reads.capabilities.max_opset is None:
        assert build_engine(reads, NEWER).plan
        return
    with pytest.raises(TargetError, match=r"up to opset 17, and the model is of 18.*trt8"):
        build_engine(reads, NEWER)


def flags_of(release: str) -> dict[str, Any]:
    return fake_tensorrt(release, World()).NetworkDefinitionCreationFlag.__members__


@pytest.mark.parametrize("release", EVERY)
@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("an optimization level", TensorRTBuild(optimization_level=5)),
        ("version-compatible", TensorRTBuild(version_compatible=True)),
        ("hardware compatibility", TensorRTBuild(hardware_compatibility="same_compute_capability")),
        ("a choice of GPUs", TensorRTBuild(compute_capabilities=("SM86",))),
        ("DLA core 1", TensorRTBuild(dla_core=1)),
    ],
)
def test_every_option_works_or_is_refused_by_name(release, what, asked):
    try:
        assert build_engine(library(release, World(dla_cores=2)), MODEL, asked).plan
    except TargetError as error:
        assert what in str(error)  # noqa: PT017 (either outcome is right, an AttributeError is not)


def test_compute_capability_that_the_library_does_not_take():
    with pytest.raises(TargetError, match=r"cannot build for SM87; it can for .*SM86"):
        build_engine(library(RELEASES[-1]), MODEL, TensorRTBuild(compute_capabilities=("SM87",)))
    with pytest.raises(TargetError, match="refuses SM75"):
        build_engine(library(RELEASES[-1]), MODEL, TensorRTBuild(compute_capabilities=("SM75",)))


def test_dla_needs_a_core_and_one_batch_size():
    with pytest.raises(TargetError, match="DLA core 0: there is none"):
        build_engine(library(OLD), MODEL, TensorRTBuild(dla_core=0))
    with pytest.raises(TargetError, match="cores are 0 to 1"):
        build_engine(library(OLD, World(dla_cores=2)), MODEL, TensorRTBuild(dla_core=2))
    with pytest.raises(TargetError, match="one batch size"):
        build_engine(library(OLD, World(dla_cores=2)), MODEL, TensorRTBuild(dla_core=0, batch=BatchRange(max=2)))


def test_dla_is_weakly_typed_up_to_10_and_rewritten_by_the_parser_from_11_4():
    world = World(dla_cores=2)
    build_engine(library(OLD, world), MODEL, TensorRTBuild(dla_core=1))
    assert world.network_flags == 0
    assert world.flags >= {"FP16", "GPU_FALLBACK"}
    with pytest.raises(TargetError, match="no Q/DQ graph by implicit"):
        build_engine(library(OLD, World(dla_cores=2, layers=QDQ)), MODEL, TensorRTBuild(dla_core=1))
    newest = World(dla_cores=2, layers=QDQ)
    build_engine(library(NEW, newest), MODEL, TensorRTBuild(dla_core=1))
    assert newest.parser_flags == {"ADJUST_FOR_DLA"}
    assert "FP16" not in newest.flags


@pytest.mark.parametrize(("dtype", "warned"), [("UINT8", True), ("FLOAT", False)])
def test_dla_says_what_an_input_of_bytes_costs(caplog, dtype, warned):
    world = World(dla_cores=2, inputs=[("image", (-1, 3, 8, 8), dtype)])
    build_engine(library(OLD, world), MODEL, TensorRTBuild(dla_core=0))
    assert ("'image' is uint8" in caplog.text) == warned


def test_rtx_ignores_dla_so_it_is_refused_there():
    with pytest.raises(TargetError, match="there is none"):
        build_engine(library(RELEASES[-1], World(dla_cores=2)), MODEL, TensorRTBuild(dla_core=0))


def test_timing_cache_goes_in_and_comes_out():
    assert build_engine(library(NEW), MODEL, timing_cache=b"earlier").timing_cache == b"earlier+measured"
    refused = build_engine(library(NEW, World(refuses_timing_cache=True)), MODEL, timing_cache=b"other")
    assert refused.timing_cache == b"+measured"
    assert any("another device" in warning for warning in refused.warnings)
    assert build_engine(library(RELEASES[-1]), MODEL, timing_cache=b"x").timing_cache == b""


def test_a_timing_cache_that_cannot_be_read_is_begun_anew():
    damaged = build_engine(library(NEW, World(corrupt_timing_cache=True)), MODEL, timing_cache=b"half")
    assert damaged.timing_cache == b"+measured"
    assert any("timing cache is damaged" in warning for warning in damaged.warnings)


def test_tensorrt_logs_to_one_logger_that_is_never_freed():
    """It keeps plain pointers to loggers, also behind plugins: one that goes with its build is a crash in the next."""
    world = World()
    lib = library(NEW, world)
    for _ in range(3):
        build_engine(lib, MODEL)
        gc.collect()
    (kept,) = world.loggers
    assert kept() is library_module.the_logger(lib.module)


def test_errors_of_one_build_are_not_told_by_the_next():
    world = World(build_error="no tactics")
    lib = library(NEW, world)
    with pytest.raises(TargetError, match="no tactics"):
        build_engine(lib, MODEL)
    world.build_error = "out of registers"
    with pytest.raises(TargetError) as caught:
        build_engine(lib, MODEL)
    assert "no tactics" not in str(caught.value)


def test_what_tensorrt_tells_only_at_length_reaches_python_only_for_debugging(caplog):
    lib = library(NEW)
    for level, seen in ((logging.INFO, False), (logging.DEBUG, True)):
        caplog.clear()
        with caplog.at_level(level, "edgeopt.runtime.trt.library"):
            build_engine(lib, MODEL)
        assert ("builder begins" in caplog.text) == seen


def test_fixed_graphs_take_no_batch_range():
    fixed = World(inputs=[("image", (1, 3, 8, 8), "UINT8")])
    assert build_engine(library(NEW, fixed), MODEL).plan
    with pytest.raises(TargetError, match="batch is fixed at 1"):
        build_engine(library(NEW, fixed), MODEL, TensorRTBuild(batch=BatchRange(max=8)))


def test_only_the_batch_may_be_dynamic():
    with pytest.raises(TargetError, match="fixed height and width"):
        build_engine(library(NEW, World(inputs=[("image", (-1, 3, -1, -1), "UINT8")])), MODEL)


def test_batch_ranges_are_ordered():
    with pytest.raises(ConfigError, match="min <= opt <= max"):
        BatchRange(min=4, opt=1, max=8)


def test_profile_that_tensorrt_refuses():
    with pytest.raises(TargetError, match="refuses batch sizes 1 to 1"):
        build_engine(library(NEW, World(refuses_profile=True)), MODEL)


def test_graph_without_outputs():
    with pytest.raises(ModelError, match="no outputs"):
        build_engine(library(NEW, World(outputs=[])), MODEL)


@pytest.mark.parametrize("release", [JETPACK_5, OLD, NEW])
def test_parser_errors_name_the_node_and_what_to_do(release):
    error = (
        "INVALID_NODE",
        "bias_dq",
        "DequantizeLinear",
        "input has type Int32 but must have type FP8, Int8 or UInt8",
    )
    with pytest.raises(
        TargetError, match=r"rejects the model.*INVALID_NODE.*quantize with --scheme tensorrt"
    ) as caught:
        build_engine(library(release, World(parse_errors=[error])), MODEL)
    assert ("bias_dq" in str(caught.value)) == (release != JETPACK_5), "TensorRT 8 knows only the node's number"
    assert ("trt8" in str(caught.value)) == (release == JETPACK_5), "it takes no FP16 scales"


def test_build_errors_say_why_and_what_to_do():
    world = World(build_error="Error Code 4: nms_0 has no runners that implement it")
    with pytest.raises(TargetError, match=r"no runners.*without NonMaxSuppression"):
        build_engine(library(NEW, world), MODEL)


def test_scales_that_this_tensorrt_moves_wrongly_have_a_way_out():
    """NVIDIA/TensorRT issue 4832: the next variant runs, and the log says what would help."""
    world = World(build_error="Could not infer output types for operation: dequantize")
    with pytest.raises(TargetError, match=r'\[precision\] gpu = "fp32", or run trt-fp16'):
        build_engine(library(OLD, world), MODEL)


def test_the_driver_noise_does_not_hide_the_cause():
    messages = Messages()
    messages.add("ERROR", "catchCudaError: CUDA driver version is insufficient for CUDA runtime version")
    assert "insufficient" in messages.cause()
    messages.add("ERROR", "the real one")
    assert messages.cause() == "the real one"


def test_progress_is_reported():
    seen = []
    build_engine(library(NEW), MODEL, progress=seen.append)
    assert seen[-1] == BuildProgress(phase="Building", step=3, steps=3)


def test_an_error_in_the_progress_callback_ends_the_build():
    def fail(_: BuildProgress) -> None:
        raise ValueError("the terminal is gone")

    with pytest.raises(ValueError, match="the terminal is gone"):
        build_engine(library(NEW), MODEL, progress=fail)


@pytest.mark.parametrize("stoppable", [True, False])
def test_ctrl_c_stops_a_build(monkeypatch, stoppable):
    cancel, ended = threading.Event(), threading.Event()

    def work() -> None:
        cancel.wait(timeout=10)
        ended.set()

    join = threading.Thread.join
    presses = iter([KeyboardInterrupt()])

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is not None and (press := next(presses, None)) is not None:
            raise press
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cancellable(work, cancel, stoppable=stoppable)
    assert ended.wait(timeout=10)


def test_a_process_ends_at_once_while_tensorrt_8_still_builds():
    """Its thread would be unwound inside C++ when it asks for the interpreter, which aborts."""
    program = """
import threading, time
from edgeopt.runtime.trt import progress
press = iter([KeyboardInterrupt()])
join = threading.Thread.join
def interrupted(thread, timeout=None):
    if (error := next(press, None)) is not None:
        raise error
    join(thread, timeout)
threading.Thread.join = interrupted
try:
    progress.run_cancellable(lambda: time.sleep(60), threading.Event(), stoppable=False)
finally:
    print("interrupted", end="")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 130
    assert done.stdout == "interrupted"


def test_a_cancelled_monitor_makes_tensorrt_stop():
    world = World()

    def press() -> None:
        world.config._progress_monitor.step_complete("Building", 0)

    world.during_build = press
    steps = []

    def once(progress: BuildProgress) -> None:
        steps.append(progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(library(NEW, world), MODEL, progress=once)
    assert len(steps) == 1


def test_an_error_inside_the_build_thread_reaches_the_caller():
    world = World(during_build=lambda: (_ for _ in ()).throw(RuntimeError("inside")))
    with pytest.raises(RuntimeError, match="inside"):
        build_engine(library(NEW, world), MODEL)


@pytest.mark.parametrize("release", [release for release in EVERY if library(release).capabilities.calibrator])
def test_implicit_int8_with_the_entropy_calibrator(tmp_path, release):
    world = World()
    lib = library(release, world)
    feed = Feed([{"image": np.full((2, 3, 8, 8), value, np.uint8)} for value in range(3)], world.cuda)
    cache = calibration_cache_path(tmp_path, lib, MODEL, "data")
    calibrator = make_calibrator(lib, feed, 2, cache)
    build_engine(lib, MODEL, TensorRTBuild(batch=BatchRange(min=2, opt=2, max=2)), calibrator=calibrator)
    assert feed.count == 3
    assert cache.read_bytes() == b"ranges of 3 batches"
    assert world.flags >= {"INT8", "FP16"}
    assert not (world.network_flags or 0) & bit(release, "STRONGLY_TYPED")
    assert world.calibration_profile is not None
    feed.close()
    assert not world.cuda.leaks
    again = Feed([], world.cuda)
    build_engine(lib, MODEL, TensorRTBuild(batch=BatchRange(min=2, opt=2, max=2)),
                 calibrator=make_calibrator(lib, again, 2, cache))  # fmt: skip
    assert again.count == 0, "the cache replaces the images"


def bit(release: str, name: str) -> int:
    flag = flags_of(release).get(name)
    return 0 if flag is None else 1 << flag.value


def test_calibration_errors_surface_and_leave_no_cache(tmp_path):
    world = World()
    lib = library(OLD, world)
    feed = Feed([{"image": np.zeros((2, 3, 8, 8), np.uint8)}, {"image": np.zeros((1, 3, 8, 8), np.uint8)}], world.cuda)
    calibrator = make_calibrator(lib, feed, 2, tmp_path / "ranges.cache")
    with pytest.raises(DataError, match="one shape"):
        build_engine(lib, MODEL, calibrator=calibrator)
    assert not (tmp_path / "ranges.cache").exists()


def test_ranges_that_cannot_be_read_say_which_file(tmp_path, monkeypatch):
    world = World()
    lib = library(OLD, world)
    cache = tmp_path / "ranges.cache"
    cache.write_bytes(b"ranges")
    calibrator = make_calibrator(lib, Feed([{"image": np.zeros((1, 3, 8, 8), np.uint8)}], world.cuda), 1, cache)

    def refuse(_: Path) -> bytes:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageError, match=r"cannot read the calibrated ranges .*ranges\.cache: not yours"):
        build_engine(lib, MODEL, calibrator=calibrator)


def test_calibration_batch_without_the_input():
    with pytest.raises(DataError, match="no input 'image'; it has picture"):
        Feed([{"picture": np.zeros(1)}], FakeCuda()).next_pointers(["image"])


def test_calibration_cache_is_named_by_model_data_and_version(tmp_path):
    paths = {
        calibration_cache_path(tmp_path, lib, model, data)
        for lib in (library(OLD), library("tensorrt-10.7.0"))
        for model in (MODEL, MODEL + b" ")
        for data in ("a", "b")
    }
    assert len(paths) == 8


def test_no_calibrator_from_11_on(tmp_path):
    with pytest.raises(TargetError, match=r"removed in 11.0"):
        make_calibrator(library(NEW), Feed([], FakeCuda()), 1, tmp_path / "x")
    with pytest.raises(TargetError, match=r"removed in 11.0"):
        build_engine(library(NEW), MODEL, calibrator=SimpleNamespace(error=None))


def test_missing_tensorrt_names_the_extra(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(f"libnvinfer.so.10 of {name} is missing")

    monkeypatch.setattr(library_module.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"libnvinfer.*edgeopt\[tensorrt\]"):
        load_library("tensorrt")
    with pytest.raises(MissingExtraError, match=r"tensorrt_rtx_bindings.*edgeopt\[rtx\]"):
        load_library("tensorrt_rtx")


def test_on_a_jetson_only_jetpacks_tensorrt_is_named(monkeypatch, tmp_path):
    """The one of the index is for Arm servers, and would hide it."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    monkeypatch.setattr(library_module, "_TEGRA", tmp_path / "nv_tegra_release")
    with pytest.raises(MissingExtraError, match="JetPack's own: sudo apt-get install python3-libnvinfer") as caught:
        load_library("tensorrt")
    assert "pip install" not in str(caught.value)
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert """tensorrt = ["tensorrt>=10; platform_machine == 'x86_64'"]""" in project, "and no pycuda: it has no wheels"


def test_tensorrt_without_a_driver_cannot_start():
    with pytest.raises(TargetError, match=r"cannot start its builder: CUDA initialization failure.*edgeopt doctor"):
        build_engine(library(NEW, World(starts=False)), MODEL)
