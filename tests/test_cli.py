"""The command line as a person and a script meet it: output, exit codes, one message instead of a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from fake_clock import FakeClock
from tiny_recipe import RECIPE

from edgeopt.bundle import Bundle, EngineSettings
from edgeopt.bundle.accuracy import accuracy_here
from edgeopt.cli import main
from edgeopt.cli.boundary import Terminated
from edgeopt.errors import (
    AccuracyError,
    BundleError,
    ConfigError,
    DataError,
    MeasurementError,
    ModelError,
    StorageError,
)
from edgeopt.measure.sensors import Reading, Sensors
from edgeopt.pipeline.standalone import latency_line
from edgeopt.runtime.choice import measured_here
from edgeopt.spec import replace


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="session")
def bundle(built) -> Path:
    return built[1].path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((40, 30, 3), 90, np.uint8))
    return path


def test_every_command_has_help() -> None:
    for name in main.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert len(main.commands[name].get_short_help_str(200)) > 20


def test_a_misspelt_command_is_answered_with_the_closest() -> None:
    result = run("biuld")
    assert result.exit_code == 2
    assert "Did you mean 'build'?" in result.output


def test_init_writes_a_recipe_and_does_not_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "edgeopt.toml"
    assert run("init", "--task", "detection", "-o", out).exit_code == 0
    again = run("init", "-o", out)
    assert again.exit_code == ConfigError.exit_code
    assert "--force" in again.output


def test_build_says_so_when_nothing_changed(built, tmp_path: Path) -> None:
    folder, _ = built
    (tmp_path / "edgeopt.toml").write_text(RECIPE)
    result = run("build", tmp_path, "--out", folder, "--work", folder / "work")
    assert result.exit_code == 0
    assert "nothing changed" in result.output
    ending = result.stdout.splitlines()[result.stdout.splitlines().index(f"report  {folder / 'tiny.html'}") + 1 :]
    headings = [line.partition(" ")[0] for line in ending if line[:1].strip()]
    assert headings == ["gained", "runs", "refused", "try", "next"], "the five sentences are the last thing said"
    page = (folder / "tiny.html").read_text()
    assert "ort-int8" in page
    assert "://" not in page.replace("http://www.w3.org", "")


def test_an_unknown_key_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "edgeopt.toml").write_text('name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[calibrate]\nimage = 3\n')
    result = run("build", tmp_path)
    assert result.exit_code == ConfigError.exit_code
    assert "Did you mean 'images'?" in result.output
    assert "Traceback" not in result.output


def test_run_classifies_draws_and_prints_json(bundle: Path, photo: Path, tmp_path: Path) -> None:
    result = run("run", bundle, photo, "--draw", tmp_path / "drawn", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["image"] == str(photo)
    assert len(answer["classes"]) == 5
    assert cv2.imread(str(tmp_path / "drawn" / "photo.png")) is not None
    assert str(photo) in run("run", bundle, photo).stdout


def test_run_follows_a_video_and_draws_one(bundle: Path, tmp_path: Path) -> None:
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for shade in range(0, 200, 20):
        film.write(np.full((48, 64, 3), shade, np.uint8))
    film.release()
    result = run("run", bundle, tmp_path / "film.avi", "--draw", tmp_path / "drawn.mp4", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["frame"] for line in result.stdout.splitlines()] == list(range(10))
    assert cv2.VideoCapture(str(tmp_path / "drawn.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 10


def test_run_does_not_draw_two_images_into_one_file(bundle: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / photo.name
    other.write_bytes(photo.read_bytes())
    result = run("run", bundle, photo, other, "--draw", tmp_path / "drawn")
    assert result.exit_code == ConfigError.exit_code
    assert "folders of their own" in result.output


def test_run_refuses_what_is_no_image(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder").mkdir()
    for wrong in ("empty.jpg", "absent.jpg", "folder"):
        result = run("run", bundle, tmp_path / wrong)
        assert result.exit_code == DataError.exit_code
        assert wrong in result.output


def test_inspect_verify_and_report_read_the_bundle(bundle: Path) -> None:
    assert "runs: it is the fastest that was measured here" in " ".join(run("inspect", bundle).output.split())
    assert json.loads(run("inspect", bundle, "--json").stdout)["name"] == "tiny"
    assert "ort-int8: ok" in run("verify", bundle).output
    assert "| ort-int8" in run("report", bundle, "--markdown").output


def test_evaluate_and_benchmark_measure_again(bundle: Path) -> None:
    accuracy = json.loads(run("evaluate", bundle, "--json").stdout)
    assert accuracy["ort-fp32"]["images"] == 60
    assert accuracy["ort-int8"]["comparison"] is not None
    assert len(accuracy["ort-int8"]["per_image"]) == 60
    manifest = Bundle.open(bundle).manifest
    found = measured_here(manifest)
    assert accuracy_here(manifest.variant("ort-int8"), found).value == accuracy["ort-int8"]["value"]
    assert found["ort-int8"].acceptance is not None
    quick = ("--quick", "--duration", "0.1", "--allow-invalid", "--variant", "ort-int8", "--json")
    latency = json.loads(run("benchmark", bundle, *quick).stdout)
    assert set(latency) == {"ort-fp32", "ort-int8"}
    assert latency["ort-int8"]["end_to_end"]["p50_ms"] > 0


def test_a_bundle_that_cannot_be_written_is_evaluated_all_the_same(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("edgeopt.bundle.folder.lock", read_only)
    result = run("evaluate", bundle)
    assert result.exit_code == 0
    assert "nothing was recorded: cannot write" in result.stderr
    assert "ort-int8" in result.stdout


def test_other_images_than_the_bundles_are_not_recorded(bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "few.toml"
    table.write_text('format = "digits"\nsplit = "test"\nlimit = 5\n')
    before = (bundle / "manifest.json").read_bytes()
    result = run("evaluate", bundle, "--data", table)
    assert "nothing was recorded: these are not the images that the bundle was built with" in result.stderr
    assert (bundle / "manifest.json").read_bytes() == before


def test_benchmark_takes_unlabelled_photographs_and_without_any_the_golden_inputs(
    bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--quick", "--duration", "0.1", "--allow-invalid", "--variant", "ort-int8")
    measured = run("benchmark", bundle, *quick, "--data", photo.parent)
    assert measured.exit_code == 0
    assert "golden" not in measured.output

    def gone(*_arguments: object, **_named: object) -> None:
        raise DataError("the test images have gone")

    for module in ("edgeopt.dataset", "edgeopt.bundle.images"):
        monkeypatch.setattr(f"{module}.load", gone)
    measured = run("benchmark", bundle, *quick)
    assert measured.exit_code == 0
    assert "4 golden inputs of the bundle, because the test images have gone" in measured.output
    refused = run("benchmark", bundle, *quick, "--data", photo.parent / "nowhere.csv")
    assert refused.exit_code == DataError.exit_code
    assert "golden" not in refused.output, "what was asked for and is not there is not replaced"


def test_report_keeps_pictures_of_images_that_have_gone(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "tiny.edgeopt"
    shutil.copytree(bundle, copy)
    assert run("report", copy).exit_code == 0
    page = copy.with_suffix(".html")
    pictures = page.read_text().count("data:image/jpeg")
    assert pictures > 0

    def gone(*_arguments: object, **_named: object) -> None:
        raise DataError("the test images have gone")

    monkeypatch.setattr("edgeopt.bundle.images.load", gone)
    kept = run("report", copy)
    assert kept.exit_code == 0
    assert f"keeps the {pictures} pictures" in kept.output
    assert "the test images have gone" in kept.output
    assert page.read_text().count("data:image/jpeg") == pictures


def test_evaluate_writes_each_image_and_the_confusion_matrix(bundle: Path, tmp_path: Path) -> None:
    result = run("evaluate", bundle, "--csv", tmp_path / "images.csv", "--confusion", tmp_path / "matrices")
    assert result.exit_code == 0
    for words in ("surest mistakes", "against FP32, of 60 images"):
        assert words in result.output
    rows = (tmp_path / "images.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 60
    assert rows[0].startswith("variant,image,truth,predicted,score,right")
    matrix = (tmp_path / "matrices" / "confusion-ort-int8.csv").read_text().splitlines()
    assert len(matrix) == 11
    assert ET.fromstring((tmp_path / "matrices" / "confusion-ort-int8.svg").read_text()).tag.endswith("svg")


def test_an_interrupted_benchmark_gives_what_it_has_marked_and_exits_as_interrupted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Sensors.read, []

    def interrupted(self: Sensors) -> Reading:
        calls.append(self)
        if len(calls) > 30:  # twice a block: in the fourth round of two variants
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Sensors, "read", interrupted)
    result = run("benchmark", bundle, "--quick", "--duration", 1000, "--json")
    assert result.exit_code == 130
    assert all(variant["partial"] for variant in json.loads(result.stdout).values())


def test_the_schema_of_the_results_names_every_field() -> None:
    schema = json.loads(run("benchmark", "--schema").stdout)
    result = schema["$defs"]["LatencyResult"]
    assert {"end_to_end", "stages", "accuracy", "conditions", "partial"} <= set(result["properties"])


def test_an_accuracy_class_that_is_not_held_is_an_exit_code(bundle: Path) -> None:
    quick = ("--quick", "--duration", "0.1", "--allow-invalid", "--variant", "ort-fp32", "--json")
    assert run("benchmark", bundle, *quick, "--accuracy-class", 99).exit_code == 0
    opened = Bundle.open(bundle)
    accuracy = opened.variant("ort-int8").accuracy
    assert accuracy is not None
    opened.record("ort-int8", accuracy=replace(accuracy, value=0.01))
    try:
        result = run("benchmark", bundle, *quick[:-2], "ort-int8", "--accuracy-class", 99)
    finally:
        opened.record("ort-int8", accuracy=accuracy)
    assert result.exit_code == AccuracyError.exit_code
    assert "not of accuracy class 99" in result.output
    assert "ort-int8: keeps" in result.output


def one_thread_is_best(_: int, settings: EngineSettings) -> float:
    return 0.5 if settings.threads == 1 else 1.0


def test_tune_stores_the_fastest_settings_and_shows_what_it_tried(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock(monkeypatch, one_thread_is_best)
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.edgeopt"))
    result = run("tune", copy, "--variant", "ort-int8", "--duration", 0.1, "--json")
    assert result.exit_code == 0, result.output
    tuning = json.loads(result.stdout)
    assert (tuning["variant"], tuning["chosen"]["threads"]) == ("ort-int8", 1)
    assert len(tuning["tried"]) >= 2
    (modes,) = Bundle.open(copy).variant("ort-int8").tuned.values()
    assert modes["latency"].threads == 1


def test_tune_says_what_a_change_is_good_for(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch, one_thread_is_best)
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.edgeopt"))
    tuned = ("tune", copy, "--variant", "ort-int8", "--duration", 0.1)
    first, again = (" ".join(run(*tuned).output.split()) for _ in range(2))
    assert "edgeopt benchmark BUNDLE" in first
    assert "edgeopt benchmark BUNDLE" not in again


def test_tune_on_a_busy_machine_changes_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch, one_thread_is_best).other_load = 0.5
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.edgeopt"))
    result = run("tune", copy, "--variant", "ort-int8", "--duration", 0.1)
    assert result.exit_code == MeasurementError.exit_code
    assert "nothing was tuned" in result.output
    assert "other processes took 50%" in result.output
    assert Bundle.open(copy).variant("ort-int8").tuned == {}


@pytest.mark.parametrize(
    ("int8_ms", "load", "outcome", "code"), [(1.0, 0.0, "pass", 0), (2.0, 0.0, "fail", 1), (1.0, 0.9, "invalid", 3)]
)
def test_the_gate_answers_by_exit_code_and_writes_what_ci_reads(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8_ms: float, load: float, outcome: str, code: int
) -> None:
    FakeClock(monkeypatch, lambda quantizers, _: int8_ms if quantizers else 1.0).other_load = load
    sides = (f"{bundle}@ort-fp32", f"{bundle}@ort-int8", "--accuracy-drop", 1.0)
    result = run("gate", *sides, "--maximum-s", 60, "--junit", tmp_path / "gate.xml", "--json")
    verdict = json.loads(result.stdout)
    assert (verdict["outcome"], result.exit_code) == (outcome, code)
    assert verdict["accuracy"]["baseline"] == Bundle.open(bundle).variant("ort-fp32").accuracy.value
    (suite,) = ET.parse(tmp_path / "gate.xml").iter("testsuite")
    assert int(suite.get("failures", 0)) == (outcome == "fail")


def test_the_gate_needs_two_sides(bundle: Path) -> None:
    assert run("gate", bundle).exit_code == 2


def test_doctor_knows_this_machine_and_boards() -> None:
    assert json.loads(run("doctor", "--json").stdout)["machine"]["cpu"]["cores"] >= 1
    assert "JetPack" in run("doctor", "--device", "orin-nano-8gb").output
    unknown = run("doctor", "--device", "orin-nono")
    assert unknown.exit_code == ConfigError.exit_code
    assert "Did you mean" in unknown.output


def test_lint_names_the_rule_that_a_graph_breaks(bundle: Path) -> None:
    result = run("lint", bundle / "variants" / "ort-int8" / "engine.onnx", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1, "asymmetric uint8 activations are not TensorRT's"
    assert {finding["severity"] for finding in report["findings"]} >= {"error"}


def test_a_changed_byte_is_refused_by_every_command(bundle: Path, photo: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.edgeopt"))
    engine = next(copy.glob("variants/*/engine.onnx"))
    content = bytearray(engine.read_bytes())
    content[50] ^= 1
    engine.write_bytes(content)
    for command in (["verify", copy], ["run", copy, photo], ["inspect", copy], ["evaluate", copy], ["report", copy]):
        result = run(*command)
        assert result.exit_code == BundleError.exit_code, command
        assert "sha256" in result.output or "changed" in result.output


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    result = run("verify", tmp_path)
    assert result.exit_code == BundleError.exit_code
    assert str(tmp_path) in result.output.replace("\n", "")


@pytest.fixture(scope="session")
def graph(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float graph that takes normalised pixels, as another tool would have exported it."""
    folder, _ = built
    return next((folder / "work").glob("export-*/model.onnx"))


def test_quantize_works_alone_on_an_onnx_file_and_images(graph: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index in range(20):
        cv2.imwrite(str(images / f"{index}.png"), rng.integers(0, 256, (28, 28), np.uint8))
    (images / "broken.png").write_bytes(b"not a picture")
    spec = tmp_path / "spec.toml"
    spec.write_text('[preprocessing]\nchannels = "GRAY"\nnormalization = { mean = [0.1307], std = [0.3081] }\n')
    out = tmp_path / "int8.onnx"
    result = run(
        "quantize", graph, "--calibration", images, "--spec", spec, "--scheme", "openvino", "-o", out, "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 20
    compiled = run("compile", out, "--target", "ort", "-o", tmp_path / "engine.onnx")
    assert compiled.exit_code == 0, compiled.output


def test_quantize_takes_arrays_too_and_says_what_is_wrong_with_them(graph: Path, tmp_path: Path) -> None:
    good, ragged, junk = (tmp_path / name for name in ("good.npz", "ragged.npz", "junk.npz"))
    inputs = np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32)
    np.savez(good, images=inputs)
    np.savez(ragged, images=inputs, other=inputs[:3])
    junk.write_bytes(b"PK nothing")
    out = tmp_path / "int8.onnx"
    assert run("quantize", graph, "--calibration", good, "-o", out).exit_code == 0
    for wrong in (ragged, junk):
        result = run("quantize", graph, "--calibration", wrong, "-o", out)
        assert result.exit_code == DataError.exit_code
        assert wrong.name in result.output
    again = run("quantize", out, "--calibration", good, "-o", tmp_path / "twice.onnx")
    assert again.exit_code == ModelError.exit_code


def test_quantize_says_what_it_took_the_outputs_for_and_is_told_otherwise(graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    command = ("quantize", graph, "--calibration", tmp_path / "x.npz", "-o", tmp_path / "int8.onnx")
    seen = run(*command, "--repairs", "none")
    assert "was taken for softmax: it ends in a Gemm and no activation" in " ".join(seen.output.split())
    assert "say it with --outputs" in seen.output
    assert "no repair was tried" in seen.output
    nameless = ir.load(graph)
    nameless.graph.outputs[0].name = "y"
    ir.save(nameless, tmp_path / "nameless.onnx")
    either = run("quantize", tmp_path / "nameless.onnx", *command[2:], "--repairs", "none").stdout.splitlines()
    (line,) = (line for line in either if line.startswith("output "))
    assert line.startswith("output y was taken for softmax: it ends in a Gemm and no activation")
    assert line.endswith(
        "; for raw, too: so few numbers (10) may be angles or coordinates as well: --outputs softmax or raw decides"
    )
    told = json.loads(run(*command, "--repairs", "none", "--outputs", "raw", "--json").stdout)
    assert [(each["kind"], each["why"]) for each in told["outputs"]] == [("raw", "as told")]
    refused = run(*command, "--outputs", "detection")
    assert refused.exit_code == ConfigError.exit_code
    assert "is not detection" in " ".join(refused.output.split())


def test_quantize_says_what_int8_does_to_the_latency_here(graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    command = (
        "quantize",
        graph,
        "--calibration",
        tmp_path / "x.npz",
        "-o",
        tmp_path / "int8.onnx",
        "--repairs",
        "none",
    )
    seen = " ".join(run(*command, "--scheme", "onnxruntime").output.split())
    assert "INT8 takes" in seen or "INT8 does not pay here: it takes" in seen
    assert "times as long as FP32" in seen
    timed = json.loads(run(*command, "--scheme", "openvino", "--json").stdout)
    assert timed["latency"] > 0.0
    assert "saturate" not in seen
    assert json.loads(run(*command, "--scheme", "tensorrt", "--json").stdout)["latency"] is None
    wide = run(*command, "--scheme", "openvino", "--processor", "vnni").stdout
    assert "saturate. For these quantize with --scheme openvino or onnxruntime, and --processor avx2" in wide
    assert "does not pay" in latency_line(1.2, "onnxruntime")
    assert "does not pay" not in latency_line(0.8, "onnxruntime")


def test_quantize_tries_the_repairs_that_it_is_told(graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    command = ("quantize", graph, "--calibration", tmp_path / "x.npz", "-o", tmp_path / "int8.onnx", "--json")
    assert json.loads(run(*command, "--repairs", "none").stdout)["tried"] == []
    some = json.loads(run(*command, "--repairs", "bias_correction, ranges").stdout)
    assert [trial["name"] for trial in some["tried"]] == ["ranges", "bias_correction"]
    assert all(trial["before"] > 0.0 < trial["after"] for trial in some["tried"])
    assert some["repairs"] == [trial["name"] for trial in some["tried"] if trial["kept"]]
    assert {"ranges", "range_method", "equalization"} <= {
        trial["name"].split()[0] for trial in json.loads(run(*command, "--repairs", "fast,ranges").stdout)["tried"]
    }
    wrong = run(*command, "--repairs", "range")
    assert wrong.exit_code == ConfigError.exit_code
    assert "Did you mean 'ranges'" in " ".join(wrong.output.split())


def test_a_processor_that_a_scheme_does_not_serve_is_refused(graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    command = ("quantize", graph, "--calibration", tmp_path / "x.npz", "-o", tmp_path / "int8.onnx")
    refused = run(*command, "--scheme", "tensorrt", "--processor", "vnni", "--processor", "avx2")
    assert refused.exit_code == ConfigError.exit_code
    said = " ".join(refused.output.split())
    assert "scheme 'tensorrt' is not for processors vnni, avx2. Use --scheme openvino or onnxruntime" in said
    refused = run(*command, "--scheme", "arm", "--processor", "arm", "--processor", "avx2")
    assert "scheme 'arm' is not for processor avx2" in " ".join(refused.output.split())


def test_quantize_finds_the_ranges_of_a_layer_as_it_is_told(graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    out = tmp_path / "int8.onnx"
    command = ("quantize", graph, "--calibration", tmp_path / "x.npz", "-o", out, "--scheme", "openvino")

    def scales(*options: str) -> list[float]:
        assert run(*command, "--repairs", "none", *options).exit_code == 0
        nodes = [node for node in ir.load(out).graph if node.op_type == "QuantizeLinear"]
        return [float(node.inputs[1].const_value.numpy()) for node in nodes]

    def layers() -> list[str]:
        return [node.name for node in ir.load(out).graph if node.op_type in ("Conv", "Gemm")]

    plain = scales()
    told = scales("--range", f"{layers()[1]}=minmax")
    assert sum(before != after for before, after in zip(plain, told, strict=True)) == 1
    for wrong in ("mse", "conv=mean", "nothing=mse"):
        refused = run(*command, "--range", wrong)
        assert refused.exit_code == ConfigError.exit_code, refused.output


def test_calibration_images_that_are_evaluated_on_are_refused(graph: Path, photo: Path, tmp_path: Path) -> None:
    calibration, evaluation = tmp_path / "calibration", tmp_path / "evaluation"
    for folder, name in ((calibration, "photo.png"), (evaluation, "copy.bmp")):
        folder.mkdir()
        cv2.imwrite(str(folder / name), cv2.imread(str(photo)))
    out = tmp_path / "out.onnx"
    result = run("quantize", graph, "--calibration", calibration, "--evaluation", evaluation, "-o", out)
    assert result.exit_code == DataError.exit_code
    assert "copy.bmp is the same picture as" in " ".join(result.output.split())


def test_what_cannot_be_quantized_is_said_before_any_image_is_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((16, 4), np.float32))
    for body, words in (("y = Relu(x)", "nothing to quantize"), ("y = custom.Thing(x)", "custom")):
        text = (
            f'<ir_version: 10, opset_import: ["" : 18, "custom" : 1]> g (float[N,4] x) => (float[N,4] y) {{ {body} }}'
        )
        ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
        out = tmp_path / "out.onnx"
        result = run("quantize", tmp_path / "model.onnx", "--calibration", tmp_path / "x.npz", "-o", out)
        assert result.exit_code == ModelError.exit_code
        assert words in " ".join(result.output.split())
        assert "calibrate" not in result.output


def test_a_file_that_cannot_be_written_is_said_before_any_image_is_run(
    graph: Path, photo: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((16, 1, 28, 28), np.float32))
    command = ("quantize", graph, "--calibration", tmp_path / "x.npz", "--repairs", "none")
    refused = run(*command, "-o", photo / "int8.onnx")
    assert refused.exit_code == StorageError.exit_code
    assert "calibrate" not in refused.output
    assert run(*command, "-o", tmp_path / "new" / "folder" / "int8.onnx").exit_code == 0


def test_images_without_a_spec_are_refused(graph: Path, photo: Path, tmp_path: Path) -> None:
    result = run("quantize", graph, "--calibration", photo.parent, "-o", tmp_path / "out.onnx")
    assert result.exit_code == ConfigError.exit_code
    assert "--spec" in result.output


def test_a_file_that_is_no_onnx_is_refused(photo: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.zeros((2, 1), np.float32))
    arguments = ("quantize", photo, "--calibration", tmp_path / "inputs.npz", "-o", tmp_path / "out.onnx")
    assert run(*arguments).exit_code == ModelError.exit_code


def test_an_output_that_cannot_be_written_is_one_error(bundle: Path, photo: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    result = run("run", bundle, photo, "--draw", in_the_way / "drawn")
    assert result.exit_code == StorageError.exit_code


def test_ctrl_c_ends_a_build_with_a_message_and_no_bundle(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeopt", "build", "digits", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        # A shell that starts the tests in the background has them, and so their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    work = tmp_path / "out" / ".edgeopt-work"
    deadline = time.monotonic() + 120
    while not list(work.glob("train-*.scratch")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    # To a shell both are 130. Python ends itself by the signal where it came while an extension module ran Python code.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "run it again" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "digits.edgeopt").exists()


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_quantize_says_that_it_kept_nothing(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: KeyboardInterrupt, code: int
) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))

    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("edgeopt.pipeline.standalone.quantize_graph", stopped)
    out = tmp_path / "int8.onnx"
    result = run("quantize", graph, "--calibration", tmp_path / "x.npz", "-o", out)
    assert result.exit_code == code
    assert "is kept" not in result.output
    assert "no file was written" in result.output
    assert not out.exists()


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_build_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: KeyboardInterrupt, code: int
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("edgeopt.pipeline.job.Job.stage", stopped)
    result = run("train", "digits", "--work", tmp_path / "work", "-o", tmp_path / "w.safetensors")
    assert result.exit_code == code
    assert "finished stages are kept; run it again to go on" in result.output


def test_a_command_that_keeps_nothing_does_not_say_that_it_goes_on(
    bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeopt.cli.streaming.follow_all", stopped)
    result = run("run", bundle, photo)
    assert result.exit_code == 130
    assert "to go on" not in result.output


def test_output_cut_short_is_not_an_error(bundle: Path) -> None:
    shell = f"{sys.executable} -m edgeopt inspect {bundle} --json | head -1"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "{"
    assert "Traceback" not in result.stderr


def test_a_benchmark_script_ends_like_a_command(tmp_path) -> None:
    recorded = tmp_path / "recorded.json"
    recorded.write_text("{}")
    script = (sys.executable, "-m", "benchmarks.gate_power", str(tmp_path / "none.edgeopt"), "--out", str(recorded))
    found = subprocess.run(script, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1])
    assert recorded.read_text() == "{}", "what was recorded stays"
    assert found.returncode == BundleError.exit_code
    assert found.stderr.startswith("error: ")
    assert "none.edgeopt" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, a disk that is always full")
def test_output_to_a_full_disk_is_one_message() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgeopt", "doctor", "--json"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == StorageError.exit_code
    assert ended.stderr.strip() == "error: cannot write the output: the disk is full; free some space"


def test_a_terminal_that_lacks_characters_shows_escapes(bundle: Path) -> None:
    command = [sys.executable, "-m", "edgeopt", "inspect", str(bundle)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "\\u" in ended.stdout or "\\x" in ended.stdout
