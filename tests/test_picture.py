"""The letterbox kernel: its source as C++ against OpenCV, and in front of a network on the stand-in of the driver."""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import World, fake_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from libcuda import Libcuda, libcuda
from test_cuda import OnLibcuda

from edgeopt.bundle import Variant
from edgeopt.errors import DataError, TargetError
from edgeopt.preprocess import placed, preprocess
from edgeopt.runtime import Predictor
from edgeopt.runtime.cuda import open_cuda
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.picture import refusal
from edgeopt.runtime.trt.session import TrtSession
from edgeopt.spec import Letterbox, Normalization, Pad, Preprocessing, Resize, replace

__all__ = ["libcuda"]

SOURCE = Path(__file__).with_name("letterbox_host.cpp")
SPEC = Preprocessing(steps=(Letterbox(size=(8, 8), fill=(10, 20, 30)),))
PICTURES = [(1080, 1920), (480, 640), (33, 57), (8, 8), (64, 64), (1, 7), (500, 333), (7, 1)]


@functools.cache
def kernel() -> ctypes.CDLL:
    """letterbox.cu as C++, run thread by thread."""
    return ctypes.CDLL(str(compiled_kernel(Path(_folder().name))))


def compiled_kernel(folder: Path) -> Path:
    """The same, as a library in `folder`."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler: the arithmetic of the letterbox kernel was not tested")
    path = folder / "letterbox.so"
    options = ["-std=c++17", "-Wall", "-Werror", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", path, SOURCE], check=True)
    return path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def by_kernel(image: np.ndarray, spec: Preprocessing) -> np.ndarray:
    (step,) = spec.steps
    (fitted_height, fitted_width), top, left = placed(image.shape[:2], step)
    height, width = step.size
    planar = spec.layout == "NCHW"
    out = np.full((3, height, width) if planar else (height, width, 3), 77, np.uint8)
    red, green, blue = [step.fill] * 3 if isinstance(step.fill, int) else step.fill
    numbers = (width, height, left, top, fitted_width, fitted_height)
    values = [
        ctypes.c_void_p(image.ctypes.data), ctypes.c_int(image.shape[1]), ctypes.c_int(image.shape[0]),
        ctypes.c_void_p(out.ctypes.data), *map(ctypes.c_int, numbers), ctypes.c_uint(blue | green << 8 | red << 16),
        ctypes.c_int(spec.channels == "RGB"), ctypes.c_int(planar),
    ]  # fmt: skip
    arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    kernel().run(-(-width // 32), -(-height // 8), 32, 8, arguments)
    return out


def away(found: np.ndarray, wanted: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - wanted.astype(int)).max())


@pytest.mark.parametrize("size", PICTURES, ids=str)
@pytest.mark.parametrize("network", [(64, 64), (40, 96), (320, 320)], ids=str)
def test_the_kernel_agrees_with_opencv_to_one_level(size, network):
    spec = replace(SPEC, steps=(Letterbox(size=network, fill=(10, 20, 30)),))
    image = picture(size)
    assert away(by_kernel(image, spec), preprocess(image, spec)[0]) <= 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_channels_layout_and_place(layout, channels, anchor):
    step = Letterbox(size=(40, 64), fill=(10, 20, 30), anchor=anchor, rounding="nearest")
    spec = Preprocessing(steps=(step,), channels=channels, layout=layout)
    image = picture((90, 61))
    assert away(by_kernel(image, spec), preprocess(image, spec)[0]) <= 1


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 90)] * 2), st.tuples(*[st.integers(1, 70)] * 2), st.integers(0, 99))
def test_the_kernel_agrees_with_opencv_at_any_size(size, network, seed):
    spec = replace(SPEC, steps=(Letterbox(size=network, fill=seed),))
    image = picture(size, seed)
    assert away(by_kernel(image, spec), preprocess(image, spec)[0]) <= 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"steps": (Resize(size=(8, 8)),)}, "other than one letterbox"),
        ({"steps": (*SPEC.steps, Pad(multiple=32))}, "other than one letterbox"),
        ({"steps": (Letterbox(size=(8, 8), interpolation="area"),)}, "not plainly linear"),
        ({"steps": (Letterbox(size=(8, 8), antialias=True),)}, "not plainly linear"),
        ({"channels": "GRAY"}, "grey"),
        ({"normalization": Normalization()}, "not part of the graph"),
    ],
)
def test_what_the_kernel_does_not_do_is_refused_with_the_reason(changed, reason):
    assert (reason in refusal(replace(SPEC, **changed))) if reason else not refusal(SPEC)


# In front of a network


@pytest.fixture
def session(libcuda: Libcuda):
    libcuda.loaded.fake_letterbox(kernel().run)
    world = World(cuda=OnLibcuda(libcuda))
    module = fake_tensorrt("tensorrt-11.4.0.106", world)
    plan = json.dumps({"profiles": [{"image": [(batch, 3, 8, 8) for batch in (1, 1, 4)]}]}).encode()
    with TrtSession(Library(module, capabilities(module)), plan, open_cuda("libcuda")) as opened:
        yield opened
    assert libcuda.live() == {}
    assert (libcuda.depth, libcuda.modules) == (0, 0)


def by_processor(image: np.ndarray) -> np.ndarray:
    return preprocess(image, SPEC)[0].mean(axis=(1, 2)) / 255 * 8


def test_pictures_of_any_size_are_prepared_in_front_of_the_network(session):
    session.prepare_pictures(SPEC)
    for seed, size in enumerate([*PICTURES, *PICTURES, (480, 640), (480, 640)]):
        image = picture(size, seed)
        outputs, geometry = session.run_picture(image)
        np.testing.assert_allclose(outputs["scores"][0], by_processor(image), atol=8 / 255)
        assert geometry == preprocess(image, SPEC)[1]
        tensor = preprocess(image, SPEC)[0][None]
        np.testing.assert_allclose(session.run({"image": tensor})["scores"][0], by_processor(image), rtol=1e-5)


def test_a_picture_of_a_size_that_came_before_is_one_launch(session, monkeypatch):
    session.prepare_pictures(SPEC)
    for seed in range(2):
        session.run_picture(picture((20, 30), seed))
    launches = []
    launch = session._cuda.launch
    monkeypatch.setattr(session._cuda, "launch", lambda *given: launches.append(given) or launch(*given))
    for call in ("to_device", "to_host", "begin_capture"):
        monkeypatch.setattr(session._cuda, call, None)
    outputs, _ = session.run_picture(picture((20, 30), 5))
    np.testing.assert_allclose(outputs["scores"][0], by_processor(picture((20, 30), 5)), atol=8 / 255)
    assert len(launches) == 1


def test_what_cannot_be_prepared_says_so(session):
    with pytest.raises(TargetError, match="no pictures are prepared"):
        session.run_picture(picture((20, 30)))
    with pytest.raises(TargetError, match="other than one letterbox"):
        session.prepare_pictures(Preprocessing())
    session.prepare_pictures(SPEC)
    with pytest.raises(DataError):
        session.run_picture(np.zeros((4, 4, 7), np.uint8))
    with pytest.raises(DataError):
        session.run_picture(np.zeros((4, 4, 3), np.float32))


def test_a_predictor_predicts_the_same(session):
    import tiny

    spec = replace(tiny.CLASSIFIER, preprocessing=SPEC)
    variant = Variant(name="trt-fp16", target="trt", precision="fp16", file="variants/x/engine.onnx")
    with Predictor(session, spec, variant) as predictor:
        grey = np.full((30, 20), 90, np.uint8)
        for image in (picture((60, 40), 3), picture((60, 40), 4), grey):
            on_processor = predictor.predict(image)
            session.prepare_pictures(SPEC)
            on_gpu = predictor.predict(image)
            assert on_gpu.labels == on_processor.labels
            np.testing.assert_allclose(on_gpu.scores, on_processor.scores, atol=0.02)
            session._pictures = None
