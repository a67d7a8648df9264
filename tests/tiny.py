"""Tiny bundles for tests, made with nothing but the device side, of the networks of data/make_tiny.py."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np

from edgeopt.bundle import Bundle, Golden, Manifest, Variant, pack, write_bundle
from edgeopt.bundle.records import (
    Accuracy,
    ClassificationOutcomes,
    Conditions,
    Diagnosis,
    Effect,
    LatencyResult,
    Measured,
    PackedArray,
    Series,
)
from edgeopt.hardware import Identity, ThisMachine
from edgeopt.measure.environment import environment
from edgeopt.measure.latency import distribution, histogram
from edgeopt.metrics import classification_report, confusion_matrix
from edgeopt.preprocess import preprocess
from edgeopt.runtime import availability, open_session
from edgeopt.runtime.choice import identity_of_target
from edgeopt.runtime.golden import record_answers, record_outputs, record_picture
from edgeopt.spec import (
    PROCESSORS,
    ClassificationDecoding,
    Letterbox,
    ModelSpec,
    Preprocessing,
    Resize,
    TensorSpec,
    preset,
    replace,
)

DATA = Path(__file__).with_name("data")
CREATED = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.timezone.utc)
COLOURS = ("red", "green", "blue")
TARGETS = ("ort", "ov")

CLASSIFIER = ModelSpec(
    name="tiny-classifier",
    task="classification",
    input=TensorSpec(name="image", shape=("N", 3, 8, 8), dtype="uint8"),
    outputs=(TensorSpec(name="scores", shape=("N", 3)),),
    preprocessing=Preprocessing(steps=(Resize(size=(8, 8)),)),
    decoding=ClassificationDecoding(top_k=3),
    labels=COLOURS,
)
DETECTOR = ModelSpec(
    name="tiny-detector",
    task="detection",
    input=TensorSpec(name="image", shape=("N", 3, 16, 16), dtype="uint8"),
    outputs=(TensorSpec(name="predictions", shape=("N", 4, 8)),),
    preprocessing=Preprocessing(steps=(Letterbox(size=(16, 16), fill=0),)),
    decoding=preset("yolox", grid={"strides": (8,)}, score_threshold=0.1),
    labels=COLOURS,
)


def colour(name: str, height: int = 20, width: int = 30) -> np.ndarray:
    """An image of one colour: (height, width, 3) uint8 BGR."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2 - COLOURS.index(name)] = 200
    return image


def engines(spec: ModelSpec = CLASSIFIER) -> list[tuple[Variant, bytes]]:
    """Every variant of a tiny model, with its engine's file."""
    files = {"fp32": "tiny_classifier.onnx", "int8": "tiny_classifier_int8.onnx"}
    if spec.task == "detection":
        files = {"fp32": "tiny_detector.onnx"}
    return [
        (_variant(target, precision), (DATA / file).read_bytes())
        for target in TARGETS
        for precision, file in files.items()
    ]


def _variant(target: str, precision: str) -> Variant:
    name = f"{target}-{precision}"
    return Variant(
        name=name,
        target=target,
        precision=precision,
        file=f"variants/{name}/model.onnx",
        scheme="openvino" if precision == "int8" else None,
        processors=PROCESSORS if precision == "int8" else None,  # else the machine that tests run on would decide
    )


def accuracy(value: float, *, data: str = "images", images: int = 100) -> Accuracy:
    """An evaluation in which so large a share of the images was right."""
    true = np.zeros(images, np.int64)
    top = np.where(np.arange(images) < round(value * images), 0, 1)[:, None]
    outcomes = ClassificationOutcomes(
        true=PackedArray.of(true), top=PackedArray.of(top), scores=PackedArray.of(np.ones((images, 1), np.float32))
    )
    metrics = classification_report(confusion_matrix(true, top[:, 0], len(COLOURS)), COLOURS)
    return Accuracy(
        task="classification", metric="top1", value=value, images=images, unreadable=0, data=data, metrics=metrics,
        outcomes=outcomes,
    )  # fmt: skip


def latency(p50_ms: float, **fields: object) -> LatencyResult:
    """A measurement in which every query took so long. `fields` are of the result."""
    values = {
        "name": "model",
        "scenario": "singlestream",
        "end_to_end": distribution(np.full(64, p50_ms)),
        "stages": {},
        "samples_per_query": 1,
        "throughput_per_s": 1e3 / p50_ms,
        "histogram": histogram(np.full(64, p50_ms)),
        "series": Series(at_s=(0.0,), median_ms=(p50_ms,), conditions=(Conditions(seconds=1.0),)),
        "ratio": None,
        "warmup_stable": True,
        "environment": environment(),
        "peak_memory_mib": 100.0,
        "conditions": Conditions(seconds=1.0),
        "quick": True,
    }
    return LatencyResult(**{**values, **fields})


def identity(target: str = "ort") -> Identity:
    """This machine, as a target's engines depend on it."""
    return identity_of_target(target, ThisMachine())


def measured(machine: Identity, p50_ms: float | None = None, **fields: object) -> dict[str, Measured]:
    """What a machine found, as a variant keeps it: perhaps a latency, and `fields` of the record."""
    found = None if p50_ms is None else latency(p50_ms)
    return {machine.fingerprint: Measured(**{"machine": machine, "recorded": CREATED, "latency": found, **fields})}


def diagnosis() -> Diagnosis:
    """One that found nothing."""
    effect = Effect(sqnr_db=30.0)
    return Diagnosis(
        images=1, whole=effect, weights_only=effect, activations_only=effect, cause="none", layers=(), tried=(),
        suggestion="nothing to repair",
    )  # fmt: skip


def manifest(spec: ModelSpec = CLASSIFIER, **fields: object) -> Manifest:
    """A manifest of every variant, without golden arrays; the fp32 variant of onnxruntime is the baseline."""
    values = {
        "name": spec.name,
        "created": CREATED,
        "spec": spec,
        "baseline": "ort-fp32",
        "variants": tuple(variant for variant, _ in engines(spec)),
    }
    return Manifest(**{**values, **fields})


def write(path: Path, spec: ModelSpec = CLASSIFIER, **fields: object) -> Bundle:
    """Write a bundle without golden arrays; needs no engine's library. `fields` are of the manifest."""
    described = manifest(spec, **fields)
    names = {variant.name for variant in described.variants}
    files = {variant.file: engine for variant, engine in engines(spec) if variant.name in names}
    return write_bundle(path, described, files)


def write_long(path: Path) -> Bundle:
    """Write a bundle with one file, whose path is legal and too long for a tar archive."""
    variant, engine = engines()[0]
    file = f"variants/{'x' * 200}/model.onnx"
    described = manifest(variants=(replace(variant, file=file),), baseline=variant.name)
    return write_bundle(path, described, {file: engine})


def write_golden(path: Path, spec: ModelSpec = CLASSIFIER, **fields: object) -> Bundle:
    """Write a bundle with golden arrays for every variant whose engine is here. `fields` are of the manifest."""
    plain = write(path, spec)
    inputs = {spec.input.name: np.stack([_input(name, spec) for name in COLOURS])}
    files = {"golden/inputs.npz": pack(inputs), "golden/picture.npz": pack(record_picture(spec))}
    variants = []
    for variant, engine in engines(spec):
        files[variant.file] = engine
        if availability(variant.target).ok:
            with open_session(plain.file(variant.name), variant.target) as session:
                outputs = f"golden/{variant.name}.npz"
                recorded = record_outputs(session, inputs)
            answers = f"golden/{variant.name}.answers.npz"
            files |= {outputs: pack(recorded), answers: pack(record_answers(recorded, variant.spec or spec))}
            golden = Golden(
                inputs="golden/inputs.npz",
                outputs=outputs,
                tolerance=1e-4,
                picture="golden/picture.npz",
                answers=answers,
            )
            variants.append(replace(variant, golden=golden))
        else:
            variants.append(variant)
    return write_bundle(path, manifest(spec, variants=tuple(variants), **fields), files)


def _input(name: str, spec: ModelSpec) -> np.ndarray:
    return preprocess(colour(name), spec.preprocessing)[0]
