"""Building: what is in the bundle, what is made again after a change, and what an interruption leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tiny_recipe import RECIPE, Watch

from edgeopt.bundle import Bundle
from edgeopt.cli.views.tables import bundle_tables
from edgeopt.config import BatchRange, parse_config
from edgeopt.errors import ConfigError, ModelError
from edgeopt.pipeline import build, export_model, train_model
from edgeopt.pipeline.job import open_job
from edgeopt.pipeline.workspace import Workspace
from edgeopt.preprocess import preprocess
from edgeopt.progress import Silent
from edgeopt.report import content, to_json, to_markdown, to_terminal, write_page
from edgeopt.runtime import availability, load, verify
from edgeopt.runtime.choice import Choice
from edgeopt.spec import PROCESSORS

FROM_CALIBRATION = ["calibrate", "quantize", "compile", "align", "evaluate", "benchmark", "bundle"]


SMALLER = ("data.calibration.limit=900", "calibrate.images=900", "quantize.repairs=[]", "evaluate.max_drop=0.05")


def rebuild(folder: Path, watch: Watch, *overrides: str):
    return build(parse_config(RECIPE, overrides=overrides), Path.cwd(), folder, folder / "work", watch)


@pytest.fixture
def copy(built, tmp_path: Path) -> Path:
    """The first build's folder, to change."""
    return Path(shutil.copytree(built[0], tmp_path / "copy"))


def test_the_bundle_records_both_precisions_measured(built) -> None:
    manifest = built[1].bundle.manifest
    assert [variant.name for variant in manifest.variants] == ["ort-fp32", "ort-int8"]
    assert manifest.baseline == "ort-fp32"
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert variant.accuracy.images == 60
        (found,) = variant.measured.values()
        assert found.latency.end_to_end.p50_ms > 0
    int8 = manifest.variant("ort-int8")
    assert int8.scheme == "onnxruntime"
    assert int8.nodes["QuantizeLinear"] > 0
    assert int8.processors == PROCESSORS, "weights that saturate nowhere are the default"
    assert manifest.variant("ort-fp32").processors is None
    assert manifest.size_bytes(int8) < 0.5 * manifest.size_bytes(manifest.variant("ort-fp32"))
    assert manifest.calibration is not None
    assert manifest.calibration.images == 32
    assert set(manifest.datasets) == {"train", "validation", "test", "calibration"}
    assert manifest.parity is not None
    assert manifest.parity <= 1e-4
    assert manifest.spec.input.dtype == "uint8"


def test_the_bundle_records_what_the_calibration_doctor_found(built) -> None:
    calibration = built[1].bundle.manifest.calibration
    assert len(calibration.names) == len(set(calibration.hashes)) == 32
    assert not set(calibration.hashes) & {built[1].test.content_hash(index) for index in range(len(built[1].test))}
    assert calibration.convergence.images[-1] == 32
    assert (calibration.coverage.classes, calibration.coverage.present) == (10, 10)
    assert calibration.compared == 4
    assert set(calibration.findings()) == {"images", "ranges", "classes", "preprocessing", "test images"}
    assert (calibration.likeness.calibration, calibration.likeness.test) == (8, min(32, len(built[1].test)))


def test_ranges_of_other_network_inputs_are_refused(copy: Path, watch: Watch, monkeypatch) -> None:
    def darker(image, preprocessing, **keywords):
        return preprocess(image // 2, preprocessing, **keywords)

    monkeypatch.setattr("edgeopt.pipeline.graphs.preprocess", darker)
    with pytest.raises(ModelError, match="other tensors than were calibrated on"):
        rebuild(copy, watch, "calibrate.method=minmax")


def test_the_bundle_predicts_and_reproduces_its_golden_outputs(built) -> None:
    path, test = built[1].path, built[1].test
    assert verify(path).ok
    with load(path) as predictor:
        assert predictor.predict(test.image(0)).label in test.labels


def test_engines_for_another_device_carry_their_graph_and_no_latency(copy: Path, watch: Watch) -> None:
    if availability("trt").ok:
        pytest.skip("TensorRT runs on this machine")
    overrides = ('compile.targets=["ort", "trt"]', "compile.tensorrt.build.batch.max=8")
    manifest = rebuild(copy, watch, *overrides).bundle.manifest
    int8 = manifest.variant("trt-int8")
    assert (int8.scheme, int8.measured) == ("tensorrt", {})
    assert int8.accuracy is not None
    assert "ONNX Runtime" in int8.stages.evaluated_in
    assert Path(int8.file).suffix == ".onnx"
    assert int8.engine.tensorrt.build.batch == BatchRange(max=8)
    assert manifest.variant("ort-int8").measured
    with load(copy / "tiny.edgeopt") as predictor:
        assert predictor.variant.target == "ort"
        assert "tensorrt" in predictor.rejected["trt-int8"]


def test_nothing_is_made_twice(copy: Path, watch: Watch) -> None:
    result = rebuild(copy, watch)
    assert result.unchanged
    assert watch.made == ["check", "data"]


def test_a_seed_orders_the_calibration_images(tmp_path: Path) -> None:
    """It was a key that redid the calibration, and changed nothing."""
    orders = []
    for seed in (0, 0, 1):
        config = parse_config(RECIPE, overrides=[f"calibrate.seed={seed}"])
        with Workspace(tmp_path).held() as workspace:
            job = open_job(config, tmp_path, workspace, Silent())
        orders.append([sample.name for sample in job.split("calibration")])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_a_calibration_setting_redoes_from_calibration_on(copy: Path, watch: Watch) -> None:
    result = rebuild(copy, watch, "calibrate.method=minmax")
    assert not result.unchanged
    assert list(dict.fromkeys(watch.made)) == ["check", "data", *FROM_CALIBRATION]
    assert {"train", "export", "optimize"} <= set(watch.reused)


def test_weights_of_all_bits_are_made_for_those_who_have_no_old_processor(copy: Path, watch: Watch) -> None:
    manifest = rebuild(copy, watch, 'compile.processors=["vnni"]').bundle.manifest
    assert "quantize" in watch.made
    assert "calibrate" in watch.reused
    assert manifest.variant("ort-int8").processors == ("vnni", "arm")


def test_a_benchmark_setting_measures_again_but_makes_nothing(copy: Path, watch: Watch) -> None:
    rebuild(copy, watch, "benchmark.minimum_queries=16")
    assert watch.made == ["check", "data", "benchmark", "bundle"]


def test_a_changed_byte_in_the_bundle_is_mended(copy: Path, watch: Watch) -> None:
    engine = copy / "tiny.edgeopt" / "variants" / "ort-int8" / "engine.onnx"
    content = bytearray(engine.read_bytes())
    content[100] ^= 1
    engine.write_bytes(content)
    rebuild(copy, watch)
    assert watch.made == ["check", "data", "bundle"]
    assert Bundle.open(copy / "tiny.edgeopt")


@pytest.mark.parametrize("stage", ["export", "calibrate", "evaluate", "bundle"])
def test_an_interrupted_build_goes_on_where_it_was(stage: str, copy: Path, watch: Watch) -> None:
    watch.interrupt_at = stage
    with pytest.raises(KeyboardInterrupt):
        rebuild(copy, watch, "export.opset=17")
    before = Bundle.open(copy / "tiny.edgeopt").manifest.recipe.export.opset
    assert before == 18, "the old bundle stays whole until the new one is"
    again = Watch()
    rebuild(copy, again, "export.opset=17")
    finished = [name for name in watch.made if name not in ("check", "data", stage)]
    assert not set(finished) & set(again.made)
    assert Bundle.open(copy / "tiny.edgeopt").manifest.recipe.export.opset == 17


def test_a_variant_that_loses_too_much_is_not_chosen(copy: Path, watch: Watch) -> None:
    ruined = (
        "calibrate.method=percentile",
        "calibrate.percentile=50.5",
        "evaluate.max_drop=0.01",
        "quantize.repairs=[]",
    )
    manifest = rebuild(copy, watch, *ruined).bundle.manifest
    int8 = manifest.variant("ort-int8")
    assert not int8.accepted
    assert "max_drop" in int8.verdict
    with load(copy / "tiny.edgeopt") as predictor:
        assert predictor.variant.name == "ort-fp32"
        assert "not accepted" in predictor.rejected["ort-int8"]


def test_what_is_smaller_than_asked_for_is_said_wherever_the_bundle_is_shown(copy: Path, watch: Watch) -> None:
    result = rebuild(copy, watch, *SMALLER)
    manifest = result.bundle.manifest
    (note,) = manifest.notes
    assert note.startswith("calibration has 200 of the 900 images that [calibrate] images asks for")
    assert note in watch.said["data"]
    report = content(manifest)
    assert note in to_markdown(report)
    assert json.loads(to_json(report))["notes"] == [note]
    assert note in write_page(report, copy / "page.html", result.test).read_text().replace("&#39;", "'")
    console = Console(width=400)
    with console.capture() as shown:
        console.print(to_terminal(report), *bundle_tables(manifest, Choice(None, "", {})))
    assert shown.get().count(note) == 2


def test_without_quantization_there_is_only_the_baseline(copy: Path, watch: Watch) -> None:
    manifest = rebuild(copy, watch, "quantize.enabled=false").bundle.manifest
    assert [variant.name for variant in manifest.variants] == ["ort-fp32"]
    assert manifest.calibration is None


def test_stages_before_the_end_give_files(copy: Path, watch: Watch, tmp_path: Path) -> None:
    config = parse_config(RECIPE)
    weights = train_model(config, Path.cwd(), copy / "work", tmp_path / "out" / "tiny.safetensors", watch)
    graph = export_model(config, Path.cwd(), copy / "work", tmp_path / "out" / "tiny.onnx", watch)
    assert weights.stat().st_size > 200_000
    assert graph.stat().st_size > 200_000
    assert "train" not in watch.made


def test_a_relative_work_folder_starts_from_the_current_folder_not_from_the_recipe(
    copy: Path, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "recipes"
    elsewhere.mkdir()
    monkeypatch.chdir(copy)
    export_model(parse_config(RECIPE), elsewhere, Path("work"), Path("tiny.onnx"), watch)
    assert (copy / "tiny.onnx").exists()
    shutil.rmtree(next((copy / "work").glob("export-*")))
    export_model(parse_config(RECIPE), elsewhere, Path("work"), Path("again.onnx"), watch)
    assert "train" not in watch.made
    assert "export" in watch.made


def test_a_model_without_weights_or_training_is_refused(tmp_path: Path, watch: Watch) -> None:
    config = parse_config(RECIPE.replace("[train]\nepochs = 1", ""))
    with pytest.raises(ModelError, match=r"add a \[train\] table"):
        build(config, Path.cwd(), tmp_path, tmp_path / "work", watch)
    with pytest.raises(ConfigError, match="nothing to train"):
        train_model(config, Path.cwd(), tmp_path / "work", tmp_path / "x.safetensors", watch)


def test_a_recipe_without_test_images_is_refused(tmp_path: Path, watch: Watch) -> None:
    config = parse_config('name = "x"\n[model]\nsource = "edgeopt:lenet5"\n')
    with pytest.raises(ConfigError, match=r"no test images: add \[data\.test\]"):
        build(config, Path.cwd(), tmp_path, tmp_path / "work", watch)
