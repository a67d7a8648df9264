"""Candidates on a device: never chosen unmeasured, measured beside their default, and run where they are faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import tiny
from click.testing import CliRunner
from rich.console import Console

from edgeopt import benchmark
from edgeopt.bundle import Bundle, write_bundle
from edgeopt.bundle.records import CandidateChoice, CandidateOf, LatencyResult, Ratio, now
from edgeopt.cli import main
from edgeopt.cli.views.tables import candidates_table
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError, TargetError
from edgeopt.runtime import load
from edgeopt.runtime.choice import choose
from edgeopt.runtime.session import open_session
from edgeopt.spec import replace

pytest.importorskip("onnxruntime", reason="opens real engines")
CONFIG = BenchmarkConfig(warmup_s=0.0, duration_s=0.05, minimum_queries=4)
IMAGES = [tiny.colour("red"), tiny.colour("blue")]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """``ort-int8`` with two candidates, one of which lost too much accuracy."""
    engines = [(variant, content) for variant, content in tiny.engines() if variant.target == "ort"]
    default, content = next(each for each in engines if each[0].name == "ort-int8")
    for question, fields in (("sums", {}), ("depthwise", {"accepted": False, "verdict": "it lost 9 points"})):
        name = f"ort-int8-{question}"
        asked = CandidateOf(of="ort-int8", question=question, floats=("layer",))
        engines.append(
            (replace(default, name=name, file=f"variants/{name}/engine.onnx", candidate=asked, **fields), content)
        )
    manifest = replace(tiny.manifest(), variants=tuple(variant for variant, _ in engines))
    return write_bundle(tmp_path / "t.edgeopt", manifest, {variant.file: content for variant, content in engines})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the alternating measurement say that candidates take so many times the default's latency."""

    def script(estimate: float, high: float, **fields: object) -> None:
        def measured(predictors, *arguments, **options) -> dict[str, LatencyResult]:
            first, *others = predictors
            ratio = Ratio(baseline=first, estimate=estimate, low=estimate, high=high)
            found = {first: tiny.latency(10.0, **fields)}
            return found | {name: tiny.latency(10.0 * estimate, ratio=ratio, **fields) for name in others}

        for module in ("candidates", "bundles", "tuning"):
            monkeypatch.setattr(f"edgeopt.benchmark.{module}.benchmark_scenario", measured)

    return script


def test_nobody_runs_a_candidate_that_was_not_measured_here(bundle: Bundle) -> None:
    choice = choose(bundle.manifest)
    assert choice.name in ("ort-fp32", "ort-int8")
    assert "edgeopt tune BUNDLE" in choice.rejected["ort-int8-sums"]
    with load(bundle.path, variant="ort-int8-sums") as predictor:
        assert predictor.predict(tiny.colour("green")).label == "green", "who names it gets it"


def test_the_faster_candidate_is_chosen_recorded_and_loaded(bundle: Bundle, timed) -> None:
    timed(0.5, 0.6)
    after, tuning = benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-int8")
    assert (tuning.choice.chosen, tuning.speedup) == ("ort-int8-sums", 2.0)
    assert tuning.left_out == {"ort-int8-depthwise": "it is not accepted: it lost 9 points"}
    opened = Bundle.open(bundle.path)
    assert opened.manifest == after.manifest
    assert opened.variant("ort-int8-sums").measured, "so that it is ranked among the others"
    with load(bundle.path) as predictor:
        assert predictor.variant.name == "ort-int8-sums"
        assert "was chosen among the candidates here, at 0.50× the latency" in predictor.rejected["ort-int8"]


@pytest.mark.parametrize(("estimate", "high"), [(0.97, 0.99), (1.2, 1.3), (0.7, 1.1)])
def test_the_default_stays_without_a_faster_one_beyond_doubt(bundle: Bundle, timed, estimate, high) -> None:
    timed(estimate, high)
    _, tuning = benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-int8-sums")
    assert tuning.choice.chosen == "ort-int8"
    assert "stays: no candidate" in " ".join(shown(tuning))
    assert "ort-int8-sums" in choose(Bundle.open(bundle.path).manifest).rejected


def test_another_machine_s_choice_is_not_this_one_s(bundle: Bundle) -> None:
    elsewhere = CandidateChoice(chosen="ort-int8-sums", recorded=now(), ratios={})
    after = bundle.record("ort-int8", choices={"0" * 16: elsewhere})
    assert "edgeopt tune" in choose(after.manifest).rejected["ort-int8-sums"]


def test_a_chosen_candidate_that_is_no_longer_accepted_gives_way(bundle: Bundle, timed) -> None:
    timed(0.5, 0.6)
    after, _ = benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-int8")
    lost = replace(after.variant("ort-int8-sums"), accepted=False, verdict="it lost 9 points")
    choice = choose(after.manifest.with_variant(lost))
    assert "ort-int8" not in choice.rejected or "candidates" not in choice.rejected["ort-int8"]


def test_a_disturbed_run_chooses_nothing(bundle: Bundle, timed) -> None:
    timed(0.5, 0.6, invalid=("other processes ran",))
    with pytest.raises(MeasurementError, match="other processes ran"):
        benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-int8")
    assert not Bundle.open(bundle.path).variant("ort-int8").choices


def test_a_variant_without_candidates_says_how_to_get_some(bundle: Bundle) -> None:
    with pytest.raises(TargetError, match=r"\[compile\] candidates = true"):
        benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-fp32")


def test_a_candidate_takes_the_place_of_a_default_that_does_not_load(bundle: Bundle, timed, monkeypatch) -> None:
    """As TensorRT builds some graphs with FP32 scales alone (NVIDIA/TensorRT issue 4832)."""

    def opened(path: Path, *arguments, **options):
        if path.parent.name == "ort-int8":
            raise TargetError("could not infer output types")
        return open_session(path, *arguments, **options)

    monkeypatch.setattr("edgeopt.runtime.predictor.open_session", opened)
    timed(0.5, 0.6)
    after, tuning = benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-int8")
    assert tuning.choice.chosen == "ort-int8-sums"
    assert tuning.left_out["ort-int8"] == "it does not load here: could not infer output types"
    assert "ort-int8-sums runs here from now on: ort-int8 does not load" in " ".join(shown(tuning))
    assert "'ort-int8-sums' was chosen among the candidates here" in choose(after.manifest).rejected["ort-int8"]


def test_where_neither_loads_each_reason_is_said(bundle: Bundle, monkeypatch) -> None:
    def refused(*arguments, **options):
        raise TargetError("no GPU")

    monkeypatch.setattr("edgeopt.runtime.predictor.open_session", refused)
    reasons = "neither variant 'ort-int8' nor a candidate of it runs here: .*no GPU.*lost 9"
    with pytest.raises(TargetError, match=reasons):
        benchmark.tune_candidates(bundle, IMAGES, CONFIG, variant="ort-int8")


def test_candidates_are_measured_where_another_variant_runs_so_far(bundle: Bundle, tmp_path: Path, timed) -> None:
    """On a GPU FP16 goes first until INT8 was measured to be faster: `edgeopt tune BUNDLE` is to find out."""
    assert choose(bundle.manifest).name == "ort-fp32"
    assert benchmark.with_candidates(bundle.manifest, "ort-fp32") == "ort-int8"
    timed(0.5, 0.6)
    result = CliRunner().invoke(main, ["tune", str(bundle.path), "--data", photos(tmp_path)], catch_exceptions=False)
    assert "ort-int8-sums runs here from now on, 2.00 times as fast as ort-int8" in " ".join(result.output.split())


def test_the_command_measures_them_for_real(bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["tune", str(bundle.path), "--variant", "ort-int8", "--duration", "0.2", "--data", photos(tmp_path)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    if "not valid" in result.output:
        pytest.skip("other processes disturbed the measurement: the command was not tested to its end")
    assert result.exit_code == 0
    assert "ort-int8-sums" in result.output
    assert Bundle.open(bundle.path).variant("ort-int8").choices


def photos(folder: Path) -> str:
    """A folder with a picture of each colour."""
    for name in tiny.COLOURS:
        (folder / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "photos" / f"{name}.png"), tiny.colour(name))
    return str(folder / "photos")


def shown(tuning: benchmark.CandidateTuning) -> list[str]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(candidates_table(tuning))
    return captured.get().split("\n")
