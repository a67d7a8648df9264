"""The one rule of acceptance, and the images that a device needs to apply it again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle, write_bundle
from edgeopt.bundle.figures import acceptance
from edgeopt.bundle.images import images_of
from edgeopt.bundle.records import (
    Acceptance,
    Arithmetic,
    Comparison,
    LayerType,
    Measured,
    Point,
    Ratio,
    SearchResult,
    StageRecords,
)
from edgeopt.bundle.splits import SPLITS_FILE, pack_splits, recorded_splits
from edgeopt.cli import main
from edgeopt.config import CalibrateConfig, Config, DataConfig, DataSource, EvaluateConfig, ModelConfig, parse_config
from edgeopt.dataset import load, load_splits
from edgeopt.errors import ConfigError, DataError
from edgeopt.evaluate import Accuracy, accept, found_here
from edgeopt.hardware import ThisMachine
from edgeopt.intervals import Interval
from edgeopt.runtime.choice import measured_here
from edgeopt.spec import replace

LIMITS = EvaluateConfig(max_drop=0.02, max_disagreement=0.05)


def lost(drop: float, low: float | None = None, high: float | None = None, images: int = 2000) -> Accuracy:
    """An evaluation that lost so much of the metric, in shares."""
    found = None if low is None or high is None else Interval(drop, low, high)
    comparison = Comparison(metric_drop=drop, agreement=1.0, drop=found)
    return replace(tiny.accuracy(0.5, images=images), comparison=comparison)


def test_the_limit_itself_is_accepted_as_it_is_printed() -> None:
    assert accept(lost(0.55 - 0.53), LIMITS, "int8") == Acceptance(accepted=True)
    assert accept(lost(0.0200499), LIMITS, "int8").accepted
    assert not accept(lost(0.02006), LIMITS, "int8").accepted


def test_a_loss_beyond_doubt_is_refused_with_its_figures() -> None:
    assert accept(lost(0.05, 0.03, 0.07), LIMITS, "int8") == Acceptance(
        accepted=False,
        verdict="it loses 5.00 points (95 % interval of the loss: 3.00 to 7.00) on 2000 images, and [evaluate] "
        "max_drop allows 2.00",
    )


@pytest.mark.parametrize(
    ("accuracy", "accepted"),
    [
        (lost(-0.01, -0.06, 0.04, images=100), True),
        (lost(0.03, -0.01, 0.07, images=100), False),
        (lost(0.0, 0.0, 0.0, images=55), True),
    ],
    ids=["gained", "lost", "too few to have seen any"],
)
def test_an_interval_too_wide_to_decide_on_is_said(accuracy: Accuracy, *, accepted: bool) -> None:
    found = accept(accuracy, LIMITS, "int8")
    assert (found.accepted, found.certain) == (accepted, False)
    assert found.verdict.endswith("max_drop allows 2.00. More images are needed to be certain")


def test_a_gain_is_called_one() -> None:
    verdict = accept(lost(-0.01, -0.06, 0.04, images=100), LIMITS, "int8").verdict
    assert verdict.startswith("it gains 1.00 points (95 % interval of the loss: -6.00 to 4.00) on 100 images")


def test_fp32_computes_the_same_however_few_images_show_it() -> None:
    assert accept(lost(0.0, 0.0, 0.0, images=4), LIMITS, "fp32") == Acceptance(accepted=True)


def test_the_baseline_and_old_evaluations_have_no_interval() -> None:
    spared = accept(tiny.accuracy(0.5), replace(LIMITS, max_drop=0.0), "fp32")
    assert spared == accept(lost(0.01), LIMITS, "int8") == Acceptance(accepted=True)


# On a device


def found(acceptance: Acceptance | None, **ratio: float) -> Measured:
    against = Ratio(baseline="ort-fp32", **ratio) if ratio else None
    latency = tiny.latency(1.0, ratio=against) if ratio else None
    (measured,) = tiny.measured(tiny.identity(), latency=latency, acceptance=acceptance).values()
    return measured


def test_what_a_device_evaluated_decides_there() -> None:
    variant = replace(tiny.manifest().variant("ort-int8"), accepted=False, verdict="it was not measured")
    assert acceptance(variant, None).verdict == "it was not measured"
    assert acceptance(variant, found(None)).verdict == "it was not measured"
    assert acceptance(variant, found(Acceptance(accepted=True))).accepted


def test_int8_refused_for_its_speed_stays_refused_until_it_is_measured_to_be_faster() -> None:
    reason = "INT8 is not significantly faster here"
    search = SearchResult(
        status="refused", reason=reason, best=Point(quantized=(), predicted_ms=1.0, predicted_discrepancy=0.0),
        allowed_drop=None, certain=True, curve=(), sensitivity={}, gain_ms={}, validations=0,
    )  # fmt: skip
    variant = replace(
        tiny.manifest().variant("ort-int8"), accepted=False, verdict=reason, stages=StageRecords(search=search)
    )
    good = Acceptance(accepted=True)
    assert acceptance(variant, found(good)).verdict == reason
    assert acceptance(variant, found(good, estimate=0.9, low=0.8, high=1.0)).verdict == reason
    assert acceptance(variant, found(good, estimate=0.9, low=0.8, high=0.95)).accepted


def test_evaluating_judges_by_the_recipe(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path / "t.edgeopt").manifest
    results = {"ort-fp32": tiny.accuracy(0.9), "ort-int8": lost(0.05, 0.03, 0.07)}
    judged = found_here(results, manifest, ThisMachine())
    assert not judged["ort-int8"].acceptance.accepted
    assert judged["ort-fp32"].acceptance.accepted
    again = replace(manifest.variant("ort-int8"), accuracy=results["ort-int8"])
    judged = found_here(results, manifest.with_variant(again), ThisMachine())
    assert judged["ort-int8"].accuracy is None, "it is the build's, which the bundle holds already"
    assert not judged["ort-int8"].acceptance.accepted
    alone = found_here({"ort-int8": tiny.accuracy(0.4)}, manifest, ThisMachine())
    assert alone["ort-int8"].acceptance is None, "without the baseline there is nothing to judge by"


# The images


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose recipe gives train alone."""
    for number in range(60):
        folder = tmp_path / "pictures" / tiny.COLOURS[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), tiny.colour(tiny.COLOURS[number % 3], 20 + number))
    data = DataConfig(train=DataSource(format="image_folder", path="pictures"), holdout=0.2)
    calibrate = CalibrateConfig(images=8, minimum_images=4)
    splits = load_splits(data, tmp_path, calibration_images=8, minimum_images=4, labels=tiny.COLOURS)
    recipe = Config(name="x", model=ModelConfig(source="x.onnx"), data=data, calibrate=calibrate)
    monkeypatch.chdir(tmp_path)
    fingerprints = {name: each.fingerprint() for name, each in splits.present().items()}
    return tiny.write(tmp_path / "x.edgeopt", recipe=recipe, datasets=fingerprints)


def test_a_test_set_held_out_from_train_is_evaluated_again(held_out: Bundle) -> None:
    pytest.importorskip("onnxruntime", reason="evaluates a real engine")
    result = CliRunner().invoke(main, ["evaluate", str(held_out.path), "--variant", "ort-int8"])
    assert result.exit_code == 0, result.output
    recorded = measured_here(Bundle.open(held_out.path).manifest)
    assert recorded["ort-int8"].accuracy.images == 12
    assert recorded["ort-int8"].accuracy.value == 1.0
    assert "ort-int8: accepted here, it loses 0.00 points" in result.output
    assert "More images are needed to be certain" in " ".join(result.output.split())
    shown = " ".join(CliRunner().invoke(main, ["inspect", str(held_out.path)], terminal_width=200).output.split())
    assert "ort-int8 accepted, but it loses 0.00 points" in shown


def test_images_that_have_changed_since_are_refused(held_out: Bundle, tmp_path: Path) -> None:
    for role in ("validation", "test", "calibration", "train"):
        assert images_of(held_out, role, tmp_path).fingerprint() == held_out.manifest.datasets[role]
    cv2.imwrite(str(tmp_path / "pictures/red/new.png"), tiny.colour("red", 99))
    with pytest.raises(DataError, match=r"images that .* was built with have changed: its test set was held out from"):
        images_of(held_out, "test", tmp_path)
    result = CliRunner().invoke(main, ["evaluate", str(held_out.path)])
    assert result.exit_code == DataError.exit_code
    assert "Say which images with --data" in result.output


def test_a_recipe_without_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no test set, and none to hold it out from"):
        images_of(tiny.write(tmp_path / "t.edgeopt"), "test", tmp_path)


# The record of splits


@pytest.fixture
def recorded(held_out: Bundle, tmp_path: Path) -> Bundle:
    """The same bundle with its record of splits."""
    recipe = held_out.manifest.recipe
    assert recipe is not None
    splits = load_splits(recipe.data, tmp_path, calibration_images=8, minimum_images=4, labels=tiny.COLOURS)
    files: dict[str, bytes | Path] = {name: (held_out.path / name).read_bytes() for name in held_out.manifest.files}
    content = pack_splits(splits.present(), "names")
    return write_bundle(held_out.path, held_out.manifest, {**files, SPLITS_FILE: content})


def test_a_recorded_set_is_found_among_more_images(recorded: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "pictures/red/new.png"), tiny.colour("red", 99))
    for role in ("validation", "test", "calibration", "train"):
        assert images_of(recorded, role, tmp_path).fingerprint() == recorded.manifest.datasets[role]


def test_a_recorded_image_that_is_gone_is_named(recorded: Bundle, tmp_path: Path) -> None:
    first = recorded_splits(recorded)["test"][0].name
    (tmp_path / "pictures" / first).unlink()
    with pytest.raises(DataError, match=f"its test set, .*1 gone \\(first {first}\\), of 12 images"):
        images_of(recorded, "test", tmp_path)


def test_a_given_set_that_changed_is_said(recorded: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recorded.manifest.recipe
    assert recipe is not None
    given = replace(recipe, data=replace(recipe.data, test=DataSource(format="image_folder", path="pictures")))
    images_of(dataclasses.replace(recorded, manifest=replace(recorded.manifest, recipe=given)), "test", tmp_path)
    assert "the test set is not the one that the bundle was built with: 48 new" in caplog.text


def test_names_can_stay_private(held_out: Bundle, tmp_path: Path) -> None:
    dataset = images_of(held_out, "test", tmp_path)
    assert b"red" not in pack_splits({"test": dataset}, "hashes")
    assert b"red" in pack_splits({"test": dataset}, "names")


def test_splits_writes_lists_that_a_recipe_reads(recorded: Bundle, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["splits", str(recorded.path), "--out", "lists"])
    assert result.exit_code == 0, result.output
    tables = result.output[result.output.index("[data.train]") :]
    config = parse_config(f'name = "x"\n[model]\nsource = "x.onnx"\n{tables}')
    assert config.data.test is not None
    again = load(config.data.test, tmp_path, labels=tiny.COLOURS)
    assert again.fingerprint() == recorded.manifest.datasets["test"]
    assert "test            12 images: blue/" in result.output


def told(*runs_in: str, operator: str = "convolution", quantized: bool = True) -> Arithmetic:
    layers = [
        LayerType(name=f"layer{index}", operator=operator, quantized=quantized, runs_in=kind)
        for index, kind in enumerate(runs_in)
    ]
    return Arithmetic(layers=tuple(layers), kernels=9)


def test_an_int8_engine_that_computes_in_something_else_is_told_by_its_layers() -> None:
    assert told("int8", "int8", "fp16").refusal() == ""
    assert told("fp16", "fp16", quantized=False).refusal() == "", "it was not to be INT8"
    refusal = told("int8", "fp16", "fp16").refusal()
    assert "3 layers that the graph quantizes this engine runs 2 convolutions in fp16" in refusal
    assert "2 products in fp32" in told("fp32", "fp32", operator="product").refusal()
    mixed = Arithmetic(layers=(*told("fp16").layers, *told("int8", "int8", operator="product").layers), kernels=9)
    assert mixed.refusal() == "", "a transformer's first convolution alone decides nothing"
    assert mixed.summary() == "1 convolution in fp16, 2 products in int8; 9 kernels"


def test_such_an_engine_stays_refused_until_it_is_measured_to_be_faster() -> None:
    stages = StageRecords(arithmetic=told("fp16"))
    refused = replace(tiny.manifest().variants[1], accepted=False, verdict="it runs in fp16", stages=stages)
    here = Measured(
        machine=tiny.identity("ort"),
        recorded=tiny.CREATED,
        acceptance=Acceptance(accepted=True),
        latency=tiny.latency(1.0),
    )
    assert acceptance(refused, here).verdict == "it runs in fp16"
    faster = tiny.latency(1.0, ratio=Ratio(baseline="ort-fp32", estimate=0.5, low=0.4, high=0.6))
    assert acceptance(refused, replace(here, latency=faster)).accepted
