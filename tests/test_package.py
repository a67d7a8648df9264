"""Packages for other servers: what they say is the bundle's, and Triton's models answer as `predict`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny

from edgeopt.benchmark.batches import found_here, measure_batches
from edgeopt.bundle import Bundle, write_bundle
from edgeopt.bundle.records import BatchTime, Measured
from edgeopt.cli.serving import FORMATS as NAMED
from edgeopt.errors import BundleError, DataError, StorageError, TargetError
from edgeopt.package import FORMATS, package
from edgeopt.package.kserve import resource_name
from edgeopt.runtime import load, open_session
from edgeopt.spec import AuxiliaryInput, Letterbox, Normalization, Preprocessing, Resize, TensorSpec, preset, replace

NAME = tiny.DETECTOR.name
ROWS = replace(
    tiny.DETECTOR,
    outputs=(TensorSpec(name="rows", shape=("N", 20, 6)),),
    decoding=preset("yolov10", score_threshold=0.4),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny.write_golden(tmp_path / "tiny.edgeopt", tiny.DETECTOR)


def described_by(bundle: Bundle, spec: Any) -> None:
    """Write the bundle again with another specification."""
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    write_bundle(bundle.path, replace(bundle.manifest, spec=spec), files)


def scene(name: str) -> bytes:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = tiny.colour(name, 32, 32)
    return cv2.imencode(".png", image)[1].tobytes()


def written(bundle: Bundle, form: str, **options: Any) -> dict[str, str]:
    """Text files of a package, by path."""
    out = bundle.path.with_name(form)
    package(bundle.path, form, out, **options)
    found = [each for each in out.rglob("*") if each.is_file() and each.suffix not in (".npz", ".onnx", ".plan")]
    return {each.relative_to(out).as_posix(): each.read_text(errors="replace") for each in found}


def test_the_command_names_every_format() -> None:
    assert tuple(FORMATS) == NAMED


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"deepstream"}))
def test_files_say_where_they_are_from_and_are_not_replaced_unasked(bundle: Bundle, form: str) -> None:
    files = written(bundle, form)
    assert any(f"from the bundle '{NAME}'" in text for text in files.values()) or form == "ovms"
    assert [text for text in files.values() if str(bundle.path.parent) in text] == []
    with pytest.raises(StorageError, match="--force"):
        package(bundle.path, form, bundle.path.with_name(form))
    assert written(bundle, form, replace=True) == files


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def as_numpy(self) -> np.ndarray:
        return self._array


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-in for the module that Triton gives its Python models: requests and responses are dicts of arrays."""
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    module.TritonError = str
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    module.InferenceResponse = lambda output_tensors, error=None: (
        error or {each._name: each.as_numpy() for each in output_tensors}
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)


def model(repository: Path, name: str) -> Any:
    """A model of a repository, as Triton loads it."""
    namespace: dict[str, Any] = {}
    exec((repository / name / "1" / "model.py").read_text(), namespace)  # what the server runs
    loaded = namespace["TritonPythonModel"]()
    config = (repository / name / "config.pbtxt").read_text()
    pairs = re.findall(r'parameters \{\s+key: "(\w+)"\s+value \{\s+string_value: "([^"]*)"', config)
    described = json.dumps({"parameters": {key: {"string_value": value} for key, value in pairs}})
    loaded.initialize({"model_repository": str(repository / name), "model_version": "1", "model_config": described})
    return loaded


def pictures(*contents: bytes) -> dict[str, np.ndarray]:
    return {"image": np.array(contents, object)[:, None]}


def same(found: dict[str, np.ndarray], expected: Any) -> None:
    assert found["count"].tolist() == [[len(each)] for each in expected]
    for row, each in enumerate(expected):
        np.testing.assert_array_equal(found["boxes"][row, : len(each)], each.boxes)
        np.testing.assert_array_equal(found["scores"][row, : len(each)], each.scores)
        assert [name.decode() for name in found["labels"][row, : len(each)]] == list(each.labels)


def test_tritons_model_answers_as_predict(bundle: Bundle, triton: None) -> None:
    written(bundle, "triton", variant="ort-fp32")
    loaded = model(bundle.path.with_name("triton"), NAME)
    files = [scene("red"), scene("blue"), scene("green")]
    with load(bundle.path, variant="ort-fp32") as predictor:
        expected = [predictor.predict(each) for each in files]
    first, refused, second = loaded.execute([pictures(files[0]), pictures(b"none"), pictures(*files[1:])])
    same(first, expected[:1])
    same(second, expected[1:])
    assert refused == "a picture of 4 bytes is damaged, or not a picture"
    assert sum(map(len, expected)) > 0
    loaded.finalize()


def test_tritons_model_does_not_load_where_it_answers_otherwise(bundle: Bundle, triton: None, monkeypatch) -> None:
    written(bundle, "triton", variant="ort-fp32")
    monkeypatch.setattr(sys.modules["edgeopt.runtime.verify"], "_replayed_difference", lambda *_: 1.0)
    with pytest.raises(BundleError, match="golden outputs are not reproduced"):
        model(bundle.path.with_name("triton"), NAME)


def test_the_ensemble_answers_as_predict(bundle: Bundle, triton: None) -> None:
    files = written(bundle, "triton-ensemble", variant="ort-fp32")
    folder = bundle.path.with_name("triton-ensemble")
    names = [scene("red"), scene("blue")]
    prepared, refused = model(folder, f"{NAME}_prepare").execute([pictures(*names), pictures(b"none")])
    assert "not a picture" in refused
    with open_session(folder / f"{NAME}_network" / "1" / "model.onnx", "ort") as session:
        outputs = session.run({"image": prepared["image"]})
    (found,) = model(folder, f"{NAME}_decode").execute([{**outputs, "geometry": prepared["geometry"]}])
    with load(bundle.path, variant="ort-fp32") as predictor:
        same(found, [predictor.predict(each) for each in names])
    network = files[f"{NAME}_network/config.pbtxt"]
    assert 'backend: "onnxruntime"' in network
    assert "TYPE_UINT8\n  dims: [3, 16, 16]" in network
    assert "TYPE_FP32\n  dims: [4, 8]" in network
    golden = (folder / f"{NAME}_network" / "warmup" / "golden").read_bytes()
    assert golden == bundle.golden("ort-fp32")[0]["image"][:1].tobytes()
    assert all(text.count("{") == text.count("}") for name, text in files.items() if name.endswith(".pbtxt"))


def test_a_network_that_takes_one_picture_has_no_batch_in_triton(bundle: Bundle) -> None:
    spec = replace(tiny.DETECTOR, input=replace(tiny.DETECTOR.input, shape=(1, 3, 16, 16)))
    spec = replace(spec, outputs=(replace(spec.outputs[0], shape=(1, 4, 8)),))
    described_by(bundle, spec)
    files = written(bundle, "triton-ensemble")
    assert {re.search(r"max_batch_size: (\d+)", text)[1] for name, text in files.items() if "pbtxt" in name} == {"0"}
    assert "dims: [1, 3, 16, 16]" in files[f"{NAME}_network/config.pbtxt"]
    assert "dims: [1, -1, 4]" in files[f"{NAME}/config.pbtxt"]


def test_the_batch_is_the_measured_one(bundle: Bundle) -> None:
    text = written(bundle, "triton", variant="ort-fp32")[f"{NAME}/config.pbtxt"]
    assert "max_batch_size: 1\n" in text
    assert "dynamic_batching" not in text
    times = tuple(BatchTime(pictures=n, p50_ms=ms) for n, ms in ((1, 10.0), (2, 12.0), (4, 14.0), (8, 27.5)))
    found = {"ort-fp32": Measured(machine=tiny.identity(), recorded=tiny.CREATED, batches=times)}
    assert found["ort-fp32"].best_batch == 4, "8 at once give 2 % more a second, and make each wait twice as long"
    bundle.record_measured(found)
    text = written(bundle, "triton", variant="ort-fp32", replace=True)[f"{NAME}/config.pbtxt"]
    assert "max_batch_size: 4\n" in text
    assert "dynamic_batching" in text


def test_batches_are_measured_and_kept(bundle: Bundle) -> None:
    images = [tiny.colour("red")]
    results = measure_batches(bundle, images, [4, 1], 0.0, variant="ort-fp32")
    assert [each.pictures for each in results["ort-fp32"]] == [1, 4]
    after = bundle.record_measured(found_here(results, bundle.manifest)).variant("ort-fp32").measured
    (kept,) = after.values()
    assert kept.batches == results["ort-fp32"]
    assert kept.merged(replace(kept, batches=())).batches == kept.batches
    with pytest.raises(DataError, match="give at least one"):
        measure_batches(bundle, [], [1], 0.0)


def test_what_a_format_cannot_say_is_refused(bundle: Bundle) -> None:
    out = bundle.path.with_name("out")
    with pytest.raises(TargetError, match="ovms takes ov"):
        package(bundle.path, "ovms", out, variant="ort-fp32")
    with pytest.raises(TargetError, match="no accepted variant that deepstream takes"):
        package(bundle.path, "deepstream", out)
    spec = replace(tiny.DETECTOR, auxiliary=(AuxiliaryInput(name="size", holds="original_size"),))
    described_by(bundle, spec)
    with pytest.raises(TargetError, match="Use --format triton"):
        package(bundle.path, "triton-ensemble", out)
    assert not out.exists()


def test_openvinos_server_gets_the_engines_settings(bundle: Bundle) -> None:
    engine = replace(bundle.variant("ov-fp32").engine, threads=3, hint="throughput")
    bundle.record("ov-fp32", engine=engine)
    (config,) = json.loads(written(bundle, "ovms", variant="ov-fp32")["config.json"])["model_config_list"]
    assert config["config"]["plugin_config"] == {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": 3,
    }
    engine_file = bundle.path.with_name("ovms") / NAME / "1" / "model.onnx"
    assert engine_file.read_bytes() == bundle.engine("ov-fp32")


def test_a_container_serves_the_bundle_with_the_versions_that_made_it(tmp_path: Path) -> None:
    versions = {"edgeopt": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.32.0", "torch": "2.13.0"}
    bundle = tiny.write(tmp_path / "Tiny.edgeopt", versions=versions, release=7)
    files = written(bundle, "docker", variant="ort-int8")
    assert files["constraints.txt"] == "onnxruntime==1.32.0\nnumpy==2.4.6\n"
    assert "edgeopt-tiny-classifier:7" in files["Dockerfile"]
    assert '[serve,ort]"' in files["Dockerfile"]
    assert '"--variant", "ort-int8"]' in files["Dockerfile"]
    assert Bundle.open(tmp_path / "docker" / "tiny-classifier.edgeopt").manifest == bundle.manifest


def test_an_inference_service_asks_for_the_memory_that_was_measured(bundle: Bundle) -> None:
    text = written(bundle, "kserve", variant="ort-fp32")["inferenceservice.yaml"]
    assert 'name: "tiny-detector"' in text
    assert "resources" not in text
    bundle.record_measured({"ort-fp32": tiny.measured(tiny.identity(), 5.0)[tiny.identity().fingerprint]})
    text = written(bundle, "kserve", variant="ort-fp32", replace=True)["inferenceservice.yaml"]
    assert text.count('memory: "150Mi"') == 2
    assert '      - name: "kserve-container"\n        image: "edgeopt-tiny-detector:1"' in text


def test_names_are_what_kubernetes_takes() -> None:
    assert [resource_name(name) for name in ("Parts_v2.1", "-x-", "a" * 80, "...")] == [
        "parts-v2-1",
        "x",
        "a" * 63,
        "bundle",
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: the unit was not verified")
def test_systemd_takes_the_unit_and_finds_it_closed(bundle: Bundle) -> None:
    written(bundle, "systemd", variant="ort-fp32")
    (unit,) = bundle.path.with_name("systemd").glob("*.service")
    unit.write_text(unit.read_text().replace("/opt/edgeopt/bin/edgeopt", shutil.which("true")))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-300:]


@pytest.fixture
def rows(tmp_path: Path) -> Bundle:
    """A detector for TensorRT whose network gives detections as rows."""
    variant = replace(
        tiny.manifest(ROWS).variants[0], name="trt-fp16", target="trt", precision="fp16", file="engine.onnx"
    )
    manifest = tiny.manifest(ROWS, variants=(replace(variant, name="trt-fp32", precision="fp32"), variant))
    manifest = replace(manifest, baseline="trt-fp32")
    return write_bundle(tmp_path / "rows.edgeopt", manifest, {"engine.onnx": b"graph"})


def keys(text: str) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            group = groups.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            group[name] = value
    return groups


NVINFER = {
    "gpu-id", "onnx-file", "model-engine-file", "labelfile-path", "batch-size", "network-mode", "network-type",
    "num-detected-classes", "process-mode", "gie-unique-id", "interval", "output-blob-names", "parse-bbox-func-name",
    "custom-lib-path", "cluster-mode", "net-scale-factor", "offsets", "model-color-format", "maintain-aspect-ratio",
    "symmetric-padding", "pre-cluster-threshold", "topk", "nms-iou-threshold",
}  # fmt: skip
"""Keys that are used; each is one of gstnvinfer_property_parser.h, whose parser calls any other one unknown."""
NVDSPREPROCESS = {
    "enable", "target-unique-ids", "network-input-order", "process-on-frame", "unique-id", "gpu-id",
    "maintain-aspect-ratio", "symmetric-padding", "processing-width", "processing-height", "scaling-buf-pool-size",
    "tensor-buf-pool-size", "network-input-shape", "network-color-format", "tensor-data-type", "tensor-name",
    "scaling-pool-memory-type", "scaling-pool-compute-hw", "scaling-filter", "custom-lib-path",
    "custom-tensor-preparation-function", "src-ids", "custom-input-transformation-function", "process-on-roi",
    "pixel-normalization-factor",
}  # fmt: skip
"""Likewise of nvdspreprocess_property_parser.h; the last one is read by the library that comes with DeepStream."""


def test_deepstream_gets_labels_thresholds_and_how_pictures_are_prepared(rows: Bundle, caplog) -> None:
    files = written(rows, "deepstream", variant="trt-fp16")
    infer, preprocess = keys(files["config_infer.txt"]), keys(files["config_preprocess.txt"])
    assert {name for group in infer.values() for name in group} <= NVINFER
    assert {name for group in preprocess.values() for name in group} <= NVDSPREPROCESS
    assert files["labels.txt"].splitlines() == list(tiny.COLOURS)
    assert infer["property"]["network-mode"] == "2"
    assert infer["property"]["num-detected-classes"] == "3"
    assert infer["class-attrs-all"] == {"pre-cluster-threshold": "0.4", "topk": "300"}
    assert preprocess["property"]["network-input-shape"] == "1;3;16;16"
    assert preprocess["property"]["symmetric-padding"] == "1"
    assert preprocess["property"]["tensor-data-type"] == "1"
    assert caplog.text == "", "black is what it was measured with"


def test_deepstream_says_what_it_prepares_otherwise(rows: Bundle, caplog) -> None:
    normalization = Normalization(scale=1 / 255, mean=(0.5,), std=(0.25,))
    floats = Preprocessing(steps=(Letterbox(size=(16, 16)),), normalization=normalization)
    spec = replace(ROWS, preprocessing=floats, input=replace(ROWS.input, dtype="float32"))
    described_by(rows, spec)
    found = keys(written(rows, "deepstream", variant="trt-fp16")["config_infer.txt"])["property"]
    assert float(found["net-scale-factor"]) == pytest.approx(1 / 255 / 0.25)
    assert found["offsets"] == "127.5;127.5;127.5"
    assert "fills with black" in caplog.text
    uneven = replace(floats, steps=(Resize(size=(16, 16)),), normalization=replace(normalization, std=(0.1, 0.2, 0.3)))
    described_by(rows, replace(spec, preprocessing=uneven))
    with pytest.raises(TargetError, match="one number"):
        package(rows.path, "deepstream", rows.path.with_name("again"), variant="trt-fp16")
    described_by(rows, replace(ROWS, decoding=preset("yolov8")))
    with pytest.raises(TargetError, match='tail = "topk"'):
        package(rows.path, "deepstream", rows.path.with_name("again"), variant="trt-fp16")


HEADER = """\
#include <vector>
typedef enum { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3 } NvDsInferDataType;
typedef struct { unsigned int numDims; unsigned int d[8]; unsigned int numElements; } NvDsInferDims;
typedef struct { NvDsInferDataType dataType; NvDsInferDims inferDims; int bindingIndex; const char* layerName;
                 void* buffer; int isInput; } NvDsInferLayerInfo;
typedef struct { unsigned int width, height, channels; } NvDsInferNetworkInfo;
typedef struct { unsigned int numClassesConfigured; std::vector<float> perClassPreclusterThreshold; }
    NvDsInferParseDetectionParams;
typedef struct { unsigned int classId; float left, top, width, height, detectionConfidence; }
    NvDsInferParseObjectInfo;
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(name)
"""
"""The types of nvdsinfer_custom_impl.h as NVIDIA documents them, as far as they are used."""
MAIN = """
#include <cstdio>
#include "edgeopt_rows.cpp"
int main() {
  float rows[] = {-5, 2, 9, 12, .9f, 1,   1, 1, 5, 5, .1f, 0,   1, 1, 5, 5, .8f, 7,   3, 3, 3, 9, .9f, 0,
                  0, 0, 99, 99, .5f, 2,   1, 1, 5, 5, NAN, 0};
  NvDsInferLayerInfo layer{FLOAT, {2, {6, 6}, 36}, 0, "rows", rows, 0};
  std::vector<NvDsInferParseObjectInfo> found;
  bool ok = NvDsInferParseEdgeoptRows({layer}, {16, 16, 3}, {3, {.4f, .4f, .4f}}, found);
  std::printf("%d\\n", ok);
  for (auto const& each : found)
    std::printf("%u %g %g %g %g %g\\n", each.classId, each.left, each.top, each.width, each.height,
                each.detectionConfidence);
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler: DeepStream's parser was not tried")
def test_deepstreams_parser_reads_rows(rows: Bundle, tmp_path: Path) -> None:
    written(rows, "deepstream", variant="trt-fp16")
    source = rows.path.with_name("deepstream")
    (tmp_path / "nvdsinfer_custom_impl.h").write_text(HEADER)
    (tmp_path / "main.cpp").write_text(MAIN)
    command = ["c++", "-std=c++17", "-Wall", "-Werror", f"-I{tmp_path}", f"-I{source}", "main.cpp", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == ["1", "1 0 2 9 10 0.9", "2 0 0 16 16 0.5"]
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if shellcheck is not None:
        subprocess.run([shellcheck, source / "build.sh"], check=True, timeout=60)
