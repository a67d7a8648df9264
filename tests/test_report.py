"""The report: what it says, and that nothing in it can break the page, need the net or hide a doubtful figure."""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgeopt import benchmark
from edgeopt.bundle import Bundle, Calibration, ClassCoverage, Convergence, Manifest, Variant, write_bundle
from edgeopt.bundle.records import Acceptance, FloatLayer, IntegerCoverage, RepairTrial, StageRecords
from edgeopt.config import BenchmarkConfig, Config, DataConfig, DataSource, ModelConfig, TrainConfig
from edgeopt.dataset import Boxes, Dataset
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.diagnose import Diagnosis, Effect, LayerDiagnosis, Observed, Tried, input_figures
from edgeopt.errors import DataError, StorageError
from edgeopt.evaluate import Runner, evaluate
from edgeopt.intervals import Interval
from edgeopt.measure.sensors import Sensors
from edgeopt.postprocess import Classification, Detections
from edgeopt.report import (
    accuracy_kept,
    choose_shots,
    content,
    diagnosis_html,
    summary,
    svg,
    to_html,
    to_json,
    to_markdown,
    to_terminal,
    write_page,
)
from edgeopt.report.figures import headline
from edgeopt.report.latency_plots import Point as Plotted
from edgeopt.report.latency_plots import pareto, scatter
from edgeopt.report.shots import caption, disagreement
from edgeopt.runtime.choice import Choice
from edgeopt.search import Point, SearchResult
from edgeopt.spec import ClassificationDecoding, ModelSpec, Preprocessing, TensorSpec, preset, replace

LABELS = ("cat", "dog & <b>co</b>", 'bird|"x"')
SPEC = ModelSpec(
    name="pets",
    task="classification",
    input=TensorSpec(name="x", shape=("N", 3, 4, 4), dtype="uint8"),
    outputs=(TensorSpec(name="y", shape=("N", 3)),),
    preprocessing=Preprocessing(),
    decoding=ClassificationDecoding(),
    labels=LABELS,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Thirty images whose red value is their class."""
    samples = []
    for index in range(30):
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[..., 2] = index % 3
        pixels[0, 0, 0] = index
        samples.append(Sample(f"<i>{index}</i>.png", index % 3, ArrayPicture(pixels)))
    return Dataset("classification", LABELS, samples, origin="thirty images")


def scores(wrong: set[int]):
    """A model that takes the class from the pixels, and errs on the images numbered in `wrong`."""

    def run(tensors):
        (pixels,) = tensors.values()
        classes = pixels[:, 0, 0, 1].astype(int)
        classes = np.where(np.isin(pixels[:, 2, 0, 0], list(wrong)), (classes + 1) % 3, classes)
        return {"y": np.log(np.eye(3, dtype=np.float32)[classes] * 0.9 + 0.03)}

    return run


class Constant:
    """A subject that always takes so many ms."""

    stages = ("preprocess", "network", "postprocess")

    def __init__(self, milliseconds):
        self.nanoseconds = int(milliseconds * 1e6)

    def run(self, first, queries):
        return np.full((queries, 3), self.nanoseconds // 3, dtype=np.int64)


@pytest.fixture(scope="module")
def manifest(dataset) -> Manifest:
    baseline = evaluate(Runner(scores(set()), SPEC), dataset)
    candidate = evaluate(Runner(scores({4, 7, 11}), SPEC), dataset, baseline=baseline)
    config = BenchmarkConfig(warmup_s=0.0, duration_s=0.0)
    subjects = {"ov-fp32": Constant(40.0), "ov-int8": Constant(10.0)}
    latencies = benchmark.measure(subjects, config, sensors=Sensors(Path("/nonexistent")))
    variants = tuple(
        Variant(
            name=name,
            target="ov",
            precision=name[3:],
            file=f"variants/{name}/engine.bin",
            accuracy=accuracy,
            measured=tiny.measured(tiny.identity("ov"), latency=latencies[name]),
        )
        for name, accuracy in (("ov-int8", candidate), ("ov-fp32", baseline))
    )
    return Manifest(
        name="pets",
        created=datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        spec=SPEC,
        baseline="ov-fp32",
        variants=variants,
        calibration=Calibration(method="mse", images=2, fingerprint="f00d", names=("</td><script>", "b.png")),
        recipe=Config(name="x", model=ModelConfig(source="<script>alert(1)</script>")),
        files={},
    )


@pytest.fixture(scope="module")
def bundle(manifest, tmp_path_factory) -> Bundle:
    files = {"variants/ov-fp32/engine.bin": bytes(4000), "variants/ov-int8/engine.bin": bytes(1000)}
    return write_bundle(tmp_path_factory.mktemp("report") / "pets.edgeopt", manifest, files)


@pytest.fixture(scope="module")
def report(bundle):
    return content(bundle.manifest)


@pytest.fixture(scope="module")
def page(report, dataset) -> str:
    return to_html(report, choose_shots(report.accuracies, "ov-fp32", dataset))


@pytest.fixture
def chosen(monkeypatch):
    """Sets what this machine would run: the rules of that choice are the runtime's."""

    def choose(name: str | None, because: str = "", **rejected: str) -> None:
        reasons = {key.replace("_", "-"): reason for key, reason in rejected.items()}
        monkeypatch.setattr(sys.modules["edgeopt.report.content"], "choose", lambda *_: Choice(name, because, reasons))

    return choose


def with_variant(bundle: Bundle, name: str, **changes) -> Manifest:
    return bundle.manifest.with_variant(replace(bundle.variant(name), **changes))


PETS = Path("my pets.edgeopt")


def said(manifest: Manifest) -> dict[str, str]:
    return dict(summary(content(manifest), PETS))


class TestContent:
    def test_the_baseline_comes_first_and_the_candidate_is_the_quantized_one(self, report):
        assert [row.name for row in report.rows] == ["ov-fp32", "ov-int8"]
        assert report.candidate == "ov-int8"

    def test_the_change_has_an_interval_over_the_same_images(self, report):
        change = report.row("ov-int8").change
        assert change.value == pytest.approx(-0.1)
        assert change.low <= -0.1 <= change.high <= 0.0
        assert report.baseline.change is None

    def test_accuracy_class(self, report):
        assert accuracy_kept(report, "ov-int8") == pytest.approx(0.9)
        assert accuracy_kept(report, "ov-fp32") == 1.0

    def test_a_bundle_that_was_never_measured_can_be_reported(self, bundle):
        bare = tuple(replace(each, accuracy=None, measured={}) for each in bundle.manifest.variants)
        found = content(replace(bundle.manifest, variants=bare))
        assert found.rows[0].marks == ("latency was not measured",)
        assert "–" in to_markdown(found)
        assert "ov-int8" in to_html(found)

    def test_the_page_says_which_layers_stay_float_and_why(self, bundle):
        floats = (FloatLayer(name="attention/<b>", operator="MatMul", why="its weight is computed", share=0.25),)
        covered = IntegerCoverage(share=0.75, layers=4, floats=floats)
        page = to_html(content(with_variant(bundle, "ov-int8", stages=StageRecords(coverage=covered))))
        assert "INT8 has 75.0% of the multiplications, in 3 of 4 layers" in page
        assert re.search(r"attention/&lt;b&gt;.*?MatMul.*?25\.00 %.*?its weight is computed", page, re.DOTALL)

    def test_the_terminal_markdown_and_json_say_it_too(self, bundle):
        floats = (FloatLayer(name="experts", operator="MatMul", why="its weight is computed", share=0.25),)
        covered = IntegerCoverage(share=0.75, layers=4, floats=floats)
        report = content(with_variant(bundle, "ov-int8", stages=StageRecords(coverage=covered)))
        said = "ov-int8: INT8 has 75.0% of the multiplications, in 3 of 4 layers; MatMul experts stays float (25.0%)"
        assert said in to_markdown(report)
        console = Console(width=400, file=io.StringIO())
        console.print(to_terminal(report))
        assert said in console.file.getvalue()
        rows = {each["name"]: each for each in json.loads(to_json(report))["variants"]}
        assert rows["ov-int8"]["coverage"]["floats"][0]["why"] == "its weight is computed"
        assert rows["ov-fp32"]["coverage"] is None

    def test_float_layers_of_one_reason_are_one_line(self):
        def layer(name: str, why: str, share: float) -> FloatLayer:
            return FloatLayer(name=name, operator="Conv", why=why, share=share)

        timed = "it was measured to be worth its time in float"
        thin = "{} input and 8 output channels are too few for INT8 kernels"
        floats = (
            *(layer(f"wide_{index}", timed, 0.02) for index in range(12)),
            layer("head", "excluded", 0.01),
            *(layer(f"squeeze_{given}", thin.format(given), 0.001) for given in (12, 10)),
        )
        covered = IntegerCoverage(share=0.748, layers=20, floats=floats)
        assert list(covered.lines()) == [
            "INT8 has 74.8% of the multiplications, in 5 of 20 layers",
            f"12 layers stay float (24.0%), Conv wide_0, Conv wide_1, Conv wide_2 and 9 more (--json): {timed}",
            "Conv head stays float (1.0%): excluded",
            f"2 layers stay float (0.2%), Conv squeeze_12, Conv squeeze_10: {thin.format(12)}, and the like",
        ]
        assert list(covered.lines(1))[2:] == ["3 more stay float (1.2%); --json has them all"]

    def test_a_variant_that_was_not_accepted_is_the_candidate_only_when_there_is_no_other(self, bundle):
        refused = with_variant(bundle, "ov-int8", accepted=False, verdict="lost 10 points")
        text = to_markdown(content(refused))
        assert "ov-int8 (not accepted)" in text
        assert "lost 10 points" in text

    def test_the_headline_is_what_this_machine_runs(self, bundle, chosen):
        chosen("ov-int8", "it is the fastest", ov_fp32="slower")
        found = content(bundle.manifest)
        assert [each.figure for each in headline(found)] == ["90.0 %", "4.00×", "4.00×"]
        page = to_html(found)
        assert "runs <b>ov-int8</b>, because it is the fastest." in page
        assert "<td>slower</td>" in page

    def test_a_disturbed_speed_is_no_good_headline(self, bundle, chosen):
        chosen("ov-int8", "it is the fastest")
        (found,) = bundle.variant("ov-int8").measured.values()
        latency = replace(found.latency, invalid=("other processes took 50% of the processors",))
        disturbed = with_variant(bundle, "ov-int8", measured=tiny.measured(found.machine, latency=latency))
        speed = headline(content(disturbed))[1]
        assert (speed.figure, speed.good) == ("4.00×*", False)
        assert speed.explanation.startswith("not valid: ")

    def test_what_this_machine_found_goes_before_what_the_build_found(self, dataset, bundle):
        worse = evaluate(Runner(scores({1, 4, 7, 10, 13, 16, 19}), SPEC), dataset)
        machine = tiny.identity("ov")
        refused = Acceptance(accepted=False, verdict="it loses 23.33 points")
        here = tiny.measured(machine, accuracy=worse, acceptance=refused)
        found = content(with_variant(bundle, "ov-int8", measured=here)).row("ov-int8")
        assert found.accuracy.value == pytest.approx(1 - 7 / 30)
        assert (found.accepted, found.verdict) == (False, "it loses 23.33 points")
        few = evaluate(Runner(scores({1}), SPEC), dataset.subset(range(5)))
        other = tiny.measured(machine, accuracy=few)
        found = content(with_variant(bundle, "ov-int8", measured=other)).row("ov-int8")
        assert found.accuracy.value == pytest.approx(0.9), "five other images do not replace the test set"

    def test_a_refused_variant_is_never_the_headline(self, bundle, chosen):
        chosen("ov-fp32", "INT8 was refused", ov_int8="it was not accepted: lost 10 points")
        found = content(with_variant(bundle, "ov-int8", accepted=False, verdict="lost 10 points"))
        assert found.candidate == "ov-int8", "whose details are shown, because it is the only other"
        assert [(each.what, each.figure) for each in headline(found)] == [
            ("top-1", "100.00 %"),
            ("median latency", "40.0 ms"),
            ("size", "4.0 kB"),
        ]
        page = to_html(found)
        assert "runs <b>ov-fp32</b>, because INT8 was refused." in page
        assert "90.0 %" not in page
        assert "<code>edgeopt diagnose pets.edgeopt</code> says why" in page

    def test_latencies_of_another_machine_are_said_to_be_its(self, bundle):
        manifest = bundle.manifest
        for variant in manifest.variants:
            (found,) = variant.measured.values()
            where = replace(found.machine, board="Another board")
            environment = replace(found.latency.environment, fingerprint="f" * 16)
            latency = replace(found.latency, environment=environment)
            manifest = manifest.with_variant(replace(variant, measured=tiny.measured(where, latency=latency)))
        found = content(manifest)
        assert found.measured_on.startswith("Another board, ")
        for text in (to_markdown(found), to_html(found)):
            assert "measured on another machine (Another board, " in text
        assert content(bundle.manifest).measured_on == ""

    def test_nothing_runs(self, bundle, chosen):
        chosen(
            None,
            "no variant of the bundle can run here",
            ov_fp32="openvino is not installed",
            ov_int8="openvino is not installed",
        )
        found = content(bundle.manifest)
        assert headline(found) == []
        assert "runs none of it: no variant of the bundle can run here" in to_html(found)

    def test_other_metrics_stand_beside_the_main_one(self, bundle):
        more = replace(bundle.variant("ov-int8").accuracy, extra={"own_metrics:share_of_zeros": 0.25})
        page = to_html(content(with_variant(bundle, "ov-int8", accuracy=more)))
        assert re.search(r"share_of_zeros</td><td[^>]*>–</td><td[^>]*>25.00 %", page)

    def test_each_class_has_its_change(self, report):
        rows = {row.label: row for row in report.classes}
        assert sum(len(row.changes) for row in rows.values()) == 3
        changes = [row.changes["ov-int8"] for row in rows.values()]
        assert all(each.before == 1.0 and each.low <= each.change <= each.high for each in changes)
        assert min(each.change for each in changes) < 0

    def test_a_class_that_lost_much_is_said_in_every_output(self, dataset, bundle):
        worse = evaluate(Runner(scores({1, 4, 7, 10, 13, 16, 19}), SPEC), dataset)
        found = content(with_variant(bundle, "ov-int8", accuracy=worse))
        assert found.lost["ov-int8"][0].label == LABELS[1]
        console = Console(width=200)
        with console.capture() as capture:
            console.print(to_terminal(found))
        for text in (capture.get(), to_markdown(found)):
            assert (
                f"ov-int8 is accepted, but class '{LABELS[1]}' lost much: 100.00 → 46.15 % (10 in the test set)" in text
            )
        assert "ov-int8 is accepted for its mean, and yet" in to_html(found)
        refused = content(with_variant(bundle, "ov-int8", accuracy=worse, accepted=False))
        assert "lost much" not in to_markdown(refused)


class TestSummary:
    def test_five_headings_in_their_order(self, report):
        assert [heading for heading, _ in summary(report, PETS)] == ["gained", "runs here", "refused", "try it", "next"]

    def test_what_the_variant_that_runs_here_gains(self, bundle, chosen):
        chosen("ov-int8", "it is the fastest", ov_fp32="slower")
        (found,) = bundle.variant("ov-int8").measured.values()
        valid = replace(found.latency, invalid=())
        gained = said(with_variant(bundle, "ov-int8", measured=tiny.measured(found.machine, latency=valid)))["gained"]
        assert gained.startswith(
            "ov-int8 instead of ov-fp32: 4.0 kB → 1.0 kB, 4.00× as fast (4.00 to 4.00×), top-1 -10"
        )

    def test_a_speed_is_not_claimed_from_a_disturbed_measurement(self, bundle, chosen):
        chosen("ov-int8", "it is the fastest")
        (found,) = bundle.variant("ov-int8").measured.values()
        disturbed = replace(found.latency, invalid=("other processes took 50% of the processors",))
        changed = with_variant(bundle, "ov-int8", measured=tiny.measured(found.machine, latency=disturbed))
        assert "speed not measured reliably" in said(changed)["gained"]
        assert "4.00×" not in said(changed)["gained"]
        assert "speed not measured," in said(with_variant(bundle, "ov-int8", measured={}))["gained"]

    def test_where_float_runs_the_smaller_variant_is_weighed_too(self, bundle, chosen):
        chosen("ov-fp32", "it is the fastest", ov_int8="slower")
        assert said(bundle.manifest)["gained"].startswith("ov-int8, which is not chosen here: 4.0 kB → 1.0 kB")
        assert said(bundle.manifest)["refused"] == "none: every variant was accepted"

    def test_where_int8_was_slower_its_settings_can_be_tuned(self, bundle, chosen):
        chosen("ov-fp32", "it is the fastest that was measured here", ov_int8="slower")
        assert said(bundle.manifest)["next"].startswith("edgeopt tune 'my pets.edgeopt' --variant ov-int8 looks for")
        assert "edgeopt tune" not in said(with_variant(bundle, "ov-int8", measured={}))["next"]
        assert "edgeopt tune" not in said(with_variant(bundle, "ov-int8", accepted=False))["next"]
        chosen("ov-int8", "it is the fastest")
        assert "edgeopt tune" not in said(bundle.manifest)["next"]

    def test_refused_int8_is_no_gain_and_leads_to_the_diagnosis(self, bundle, chosen):
        chosen("ov-fp32", "INT8 was refused", ov_int8="it was not accepted")
        found = said(with_variant(bundle, "ov-int8", accepted=False, verdict="it loses 10.00 points"))
        assert found["gained"].startswith("nothing")
        assert found["runs here"].startswith("ov-fp32 on this machine (")
        assert found["runs here"].endswith("because INT8 was refused")
        assert found["refused"] == "ov-int8†: it loses 10.00 points"
        assert found["next"].startswith("edgeopt diagnose 'my pets.edgeopt' says")
        assert "quantize = true" not in found["next"]

    @pytest.mark.parametrize("quantize", [False, True])
    def test_where_int8_of_a_trained_network_was_refused_it_can_be_trained_too(self, bundle, chosen, quantize):
        chosen("ov-fp32", "INT8 was refused", ov_int8="it was not accepted")
        found = with_variant(bundle, "ov-int8", accepted=False, verdict="it loses 10.00 points")
        recipe = replace(bundle.manifest.recipe, train=TrainConfig(quantize=quantize))
        advised = "[train] quantize = true" in said(replace(found, recipe=recipe))["next"]
        assert advised != quantize

    def test_after_a_trial_the_own_model_comes_next_and_after_that_the_device(self, bundle):
        assert "edgeopt benchmark 'my pets.edgeopt'" in said(bundle.manifest)["next"]
        data = DataConfig(test=DataSource(format="digits", split="test"))
        trial = replace(bundle.manifest, recipe=replace(bundle.manifest.recipe, data=data))
        assert "edgeopt init --data" in said(trial)["next"]

    def test_nothing_runs(self, bundle, chosen):
        chosen(None, "no variant of the bundle can run here", ov_fp32="openvino is not installed")
        assert said(bundle.manifest)["runs here"].endswith("ov-fp32: openvino is not installed")


class TestTables:
    def test_markdown_row(self, report):
        row = next(line for line in to_markdown(report).splitlines() if "ov-int8" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[0] == "ov-int8"
        assert cells[1] == "90.00 %"
        assert cells[3:] == ["10.0", "10.0", "10.0", "4.00×", "1.0 kB"]

    def test_terminal_table_has_every_variant(self, report):
        console = Console(width=160, record=True)
        with console.capture() as capture:
            console.print(to_terminal(report))
        assert "ov-fp32" in capture.get()
        assert "4.00×" in capture.get()

    def test_terminal_table_fits_80_columns_uncut(self, bundle):
        found = content(with_variant(bundle, "ov-int8", accepted=False))
        console = Console(width=80)
        with console.capture() as capture:
            console.print(to_terminal(found))
        assert "…" not in capture.get()

    def test_json_is_small_and_whole(self, report):
        found = msgspec.json.decode(to_json(report))
        assert [row["name"] for row in found["variants"]] == ["ov-fp32", "ov-int8"]
        assert found["variants"][1]["accuracy"]["value"] == pytest.approx(0.9)

    def test_repairs_are_told_with_what_became_of_them(self, bundle):
        trials = (
            RepairTrial("bias_correction+gptq", 0.02, 0.005),
            RepairTrial("ranges", 0.005, float("inf")),
            RepairTrial("sums in float", 0.005, 0.005, "the engine takes 1.2 times as long"),
            RepairTrial("training", 0.55, 0.46),
        )
        found = content(with_variant(bundle, "ov-int8", stages=StageRecords(repairs=trials)))
        page = to_html(found)
        section = page[page.index('<section id="repairs">') :].partition("</section>")[0]
        cells = re.findall(r"<td[^>]*>(.*?)</td>", section)
        assert cells == [
            *("bias_correction, gptq", "0.02", "0.005", "kept"),
            *("ranges", "0.005", "∞", "makes it worse"),
            *("sums in float", "0.005", "0.005", "the engine takes 1.2 times as long"),
            *("training", "0.55", "0.46", "kept"),
        ]
        assert "<h3>ov-int8</h3>" in section
        assert msgspec.json.decode(to_json(found))["repairs"]["ov-int8"][0]["name"] == trials[0].name

    def test_doubtful_latency_is_marked_in_every_output(self, bundle):
        reason = "other processes took 50% of the processors"
        (before,) = bundle.variant("ov-int8").measured.values()
        latency = replace(before.latency, invalid=(reason,), partial=True)
        found = content(with_variant(bundle, "ov-int8", measured=tiny.measured(before.machine, latency=latency)))
        console = Console(width=200)
        with console.capture() as capture:
            console.print(to_terminal(found))
        for text in (capture.get(), to_markdown(found), to_html(found), to_json(found).decode()):
            assert "other processes took 50%" in text
        assert "ov-int8*" in to_markdown(found)
        assert "interrupted" in to_html(found)


class TestPage:
    def test_it_needs_nothing_beside_it(self, page):
        assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
        assert "url(" not in page
        assert "@import" not in page
        assert "<link" not in page

    def test_only_our_own_script_may_run(self, page):
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1)
        assert policy.startswith("default-src &#39;none&#39;; img-src data:;")
        scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
        assert len(scripts) == 1
        digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
        assert f"script-src &#39;sha256-{digest}&#39;" in policy
        assert "unsafe" not in policy
        assert not re.findall(r"<[^>]* (?:style|on[a-z]+)=", page), "the policy would refuse it"

    def test_names_cannot_become_markup(self, page):
        assert "<i>4</i>" not in page
        assert "<b>co</b>" not in page
        assert "&lt;script&gt;" in page

    def test_it_has_its_sections(self, page):
        for heading in (
            "Variants",
            "Accuracy",
            "Latency",
            "Classes, worst first",
            "Pictures",
            "Calibration",
            "Provenance",
        ):
            assert f">{heading}<" in page
        assert "Diagnosis" not in page
        assert "Search within" not in page
        assert "Confusion matrix, ov-int8" in page

    def test_what_the_calibration_doctor_says(self, bundle):
        calibration = Calibration(
            method="mse",
            images=3,
            fingerprint="f00d",
            names=("a.png", "<b>.png", "c.png"),
            hashes=("1" * 64, "2" * 64, "3" * 64),
            repeated=1,
            convergence=Convergence(images=(1, 2, 3), mean=(0.4, 0.08, 0.0), largest=(0.9, 0.2, 0.0)),
            coverage=ClassCoverage.of(LABELS, [2, 0, 1]),
            compared=3,
        )
        page = to_html(content(replace(bundle.manifest, calibration=calibration)))
        for words in ("1 show the same as another", "still moved 40.0%", "2 of 3 occur; not dog", "2" * 64):
            assert words in page
        assert "Movement of calibrated ranges" in page

    def test_drawings_are_well_formed(self, page):
        drawings = re.findall(r"<svg[^>]* xmlns.*?</svg>", page, re.DOTALL)
        assert len(drawings) >= 4
        for drawing in drawings:
            ET.fromstring(drawing)

    def test_it_is_written(self, bundle, dataset, tmp_path):
        page = write_page(content(bundle.manifest), tmp_path / "pets.html", dataset)
        assert "data:image/jpeg;base64," in page.read_text()

    def test_other_images_give_a_page_without_pictures(self, bundle, dataset, tmp_path, caplog):
        page = write_page(content(bundle.manifest), tmp_path / "pets.html", dataset.subset(range(30)[::-1]))
        assert "data:image" not in page.read_text()
        assert "no pictures" in caplog.text

    def test_pictures_stay_when_the_images_cannot_be_found_any_more(self, bundle, dataset, tmp_path, caplog):
        page = write_page(content(bundle.manifest), tmp_path / "pets.html", dataset)
        before = page.read_text()
        write_page(content(bundle.manifest), page, missing="the folder has gone")
        assert page.read_text() == before
        assert "keeps the 6 pictures" in caplog.text
        assert "the folder has gone" in caplog.text

    def test_pictures_with_other_answers_are_neither_kept_nor_lost(self, bundle, dataset, tmp_path):
        page = write_page(content(bundle.manifest), tmp_path / "pets.html", dataset)
        before = page.read_text()
        worse = evaluate(Runner(scores({1, 2}), SPEC), dataset)
        changed = Bundle(bundle.path, with_variant(bundle, "ov-int8", accuracy=worse))
        with pytest.raises(DataError, match=r"with other answers than the bundle holds now.*--force"):
            write_page(content(changed.manifest), page)
        assert page.read_text() == before
        write_page(content(changed.manifest), page, force=True)
        assert "data:image" not in page.read_text()

    def test_a_page_of_an_older_version_keeps_its_pictures_unless_forced(self, bundle, tmp_path):
        page = tmp_path / "pets.html"
        page.write_text('<img src="data:image/jpeg;base64,AAAA">')
        with pytest.raises(DataError, match="Nothing was written"):
            write_page(content(bundle.manifest), page)
        write_page(content(bundle.manifest), page, force=True)
        assert "AAAA" not in page.read_text()

    def test_unwritable(self, bundle, tmp_path):
        with pytest.raises(StorageError, match="cannot write the report"):
            write_page(content(bundle.manifest), tmp_path / "no" / "pets.html")


def classification(*ranked: tuple[int, float]) -> Classification:
    classes, values = zip(*ranked, strict=True)
    labels = tuple(LABELS[index] for index in classes)
    return Classification(np.array(classes, np.int64), np.array(values, np.float32), labels)


def detections(*found: tuple[float, float, float, float, float]) -> Detections:
    rows = np.array(found, np.float32).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64), ("cat",) * len(rows))


def diagnosed() -> Diagnosis:
    """Of a model with one layer whose input has an outlier."""
    seen = Observed(np.array([0.2, 1.0, 50.0]), np.array([9e4, 9e3, 2.0]), 0.0, 50.0, np.array([50.0, 0.0, 1.0, 0.5]))
    inputs = (input_figures("<t>", (0.0, 50.0), seen),)
    effects = [Effect(sqnr_db=level, kl=0.01) for level in (12.0, 40.0, 12.5, 30.0)]
    layers = tuple(
        LayerDiagnosis(
            name=f"features.{index}.conv & <b>",
            operator="Conv",
            only=effects[index],
            without=effects[1],
            sqnr_db=None,
            kl=None,
            weight_range_ratio=2.0,
            inputs=inputs if index == 0 else (),
            finding="outliers take 98% of the steps" if index == 0 else "",
        )
        for index in range(4)
    )
    repair = Tried(layer=layers[0].name, repair="mse ranges", setting="[calibrate]", effect=effects[1], gain_db=28.0)
    return Diagnosis(
        images=2,
        whole=effects[0],
        weights_only=effects[1],
        activations_only=effects[2],
        cause="activations",
        layers=layers,
        tried=(repair,),
        suggestion="mend it",
        notes=("a note",),
    )


def searched(status: str = "met") -> SearchResult:
    """One plan of each size, two of them validated."""
    interval = Interval(0.002, 0.0, 0.005)
    points = tuple(
        Point(
            quantized=tuple(f"g{index}" for index in range(size)),
            predicted_ms=10.0 - size,
            predicted_discrepancy=0.1 * size,
            value=0.8,
            drop=Interval(0.0, 0.0, 0.0) if size == 0 else interval if size != 2 else None,
        )
        for size in (3, 2, 1, 0)
    )
    return SearchResult(
        status=status,
        reason="3 of 3 groups",
        best=points[0],
        allowed_drop=0.004,
        certain=False,
        curve=points,
        sensitivity={"g0": 0.1, "a+b": -0.01, "g2": 0.05},
        gain_ms={name: Interval(1.0, 0.9, 1.1) for name in ("g0", "a+b", "g2")},
        validations=3,
    )


class TestExplanations:
    def page(self, bundle, **changes) -> str:
        return to_html(content(with_variant(bundle, "ov-int8", **changes)))

    def test_a_diagnosis_in_the_bundle_is_drawn(self, bundle):
        page = self.page(bundle, diagnosis=diagnosed())
        for words in ("Diagnosis, ov-int8", "mend it", "a note", "features.0.conv &amp; &lt;b&gt;", "+28.0"):
            assert words in page
        assert "<b> " not in page
        for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
            ET.fromstring(drawing)

    def test_a_diagnosis_of_two_files_has_a_page_of_its_own(self):
        page = diagnosis_html(diagnosed(), "model & more")
        assert "<title>model &amp; more: edgeopt diagnosis</title>" in page
        assert page.count("<svg") == 4
        assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)

    @pytest.mark.parametrize("status", ["met", "no_plan"])
    def test_a_search_is_drawn_with_its_budget(self, bundle, status):
        page = self.page(bundle, stages=StageRecords(search=searched(status)))
        assert "Search within the budget, ov-int8" in page
        assert ">budget<" in page
        assert (">chosen<" in page) == (status == "met")
        assert ("more validation images would tell" in page) == (status == "met")
        assert page.count("groups in INT8: -0.20 points") == 2
        assert "a and 1 more" in page

    def test_a_search_that_refuses_at_once_has_nothing_to_draw(self, bundle):
        found = replace(searched(), status="refused", validations=0, curve=(), sensitivity={})
        page = self.page(bundle, stages=StageRecords(search=found))
        assert "Search within the budget" in page
        assert "Plans that were validated" not in page

    def test_both_are_in_the_json(self, bundle):
        changes = {
            "diagnosis": diagnosed(),
            "stages": StageRecords(search=searched()),
        }
        found = msgspec.json.decode(to_json(content(with_variant(bundle, "ov-int8", **changes))))
        assert found["diagnoses"]["ov-int8"]["suggestion"] == "mend it"
        assert found["searches"]["ov-int8"]["validations"] == 3


class TestShots:
    def test_what_quantization_broke_comes_first_with_the_right_image(self, report, dataset):
        found = choose_shots(report.accuracies, "ov-fp32", dataset)
        assert {shot.name for shot in found[:3]} == {"<i>4</i>.png", "<i>7</i>.png", "<i>11</i>.png"}
        assert all("broke" in shot.answers["ov-int8"].kinds for shot in found[:3])
        assert [shot.answers["ov-fp32"].right for shot in found[:3]] == [True] * 3
        assert [shot.answers["ov-int8"].right for shot in found[:3]] == [False] * 3
        assert list(found[0].answers) == ["ov-fp32", "ov-int8"]
        numbers = [int(re.search(r"\d+", shot.name).group()) for shot in found]
        assert [LABELS[number % 3] for number in numbers] == [shot.truth for shot in found]
        assert found[-1].answers["ov-int8"].kinds == ("differ",)

    def test_other_data(self, report, dataset):
        with pytest.raises(DataError, match="is not what the bundle was evaluated on"):
            choose_shots(report.accuracies, "ov-fp32", dataset.subset(range(29, -1, -1)))

    def test_the_page_of_a_detector_has_its_confusion_matrix(self, bundle, tmp_path):
        data, accuracy, spec = self._detector()
        variants = tuple(replace(each, accuracy=accuracy, measured={}) for each in bundle.manifest.variants)
        manifest = replace(bundle.manifest, spec=spec, variants=variants)
        page = write_page(content(manifest), tmp_path / "boxes.html", data).read_text()
        for name in ("ov-fp32", "ov-int8"):
            assert f"Confusion matrix, {name}" in page
            assert f'download="confusion-{name}.csv"' in page
        assert "(nothing)" in page, "what false boxes show, and what missed objects are taken for"

    def test_boxes_of_a_detector_say_what_is_wrong(self):
        data, accuracy, _ = self._detector()
        (shot,) = choose_shots({"a": accuracy, "b": accuracy}, "a", data)
        assert (shot.width, shot.height) == (480, 240)
        assert [(box.label, box.left) for box in shot.boxes] == [("cat", 24.0), ("dog", 240.0)]
        assert [(box.label, box.wrong) for box in shot.answers["b"].boxes] == [("cat", False), ("dog", True)]
        assert shot.answers["b"].right is False
        assert shot.truth == "1 cat, 1 dog"

    def _detector(self):
        """One picture of a cat and a dog, and a detector that sees the cat, and a dog where there is none."""
        pixels = np.zeros((100, 200, 3), np.uint8)
        truth = Boxes.of([[10, 10, 50, 50], [100, 10, 150, 60]], [0, 1])
        data = Dataset("detection", ("cat", "dog"), [Sample("1.png", truth, ArrayPicture(pixels))])
        columns = [[30, 30, 40, 40, 0.9, 0.0], [30, 30, 40, 40, 0.0, 0.8]]
        spec = replace(
            SPEC,
            task="detection",
            input=TensorSpec(name="x", shape=(1, 3, 100, 200), dtype="uint8"),
            decoding=preset("yolov8", score_threshold=0.5),
            labels=("cat", "dog"),
        )
        accuracy = evaluate(Runner(lambda _: {"y": np.array(columns, np.float32).T[None]}, spec), data)
        return data, accuracy, spec

    def test_a_flipped_class_is_worse_than_any_change_of_score(self):
        kept = disagreement(classification((0, 0.99), (1, 0.01)), classification((0, 0.51), (1, 0.49)))
        flipped = disagreement(classification((0, 0.51), (1, 0.49)), classification((1, 0.51), (0, 0.49)))
        assert 0.0 < kept < flipped <= 1.0

    def test_boxes(self):
        one = detections((0, 0, 10, 10, 0.9))
        assert disagreement(one, one) == pytest.approx(0.0)
        assert disagreement(one, detections()) == 1.0
        assert disagreement(detections(), detections()) == 0.0
        assert disagreement(one, detections((1, 1, 11, 11, 0.8))) == pytest.approx(0.1)
        assert disagreement(one, detections((0, 0, 10, 10, 0.9), (50, 50, 60, 60, 0.9))) == pytest.approx(0.5)

    def test_captions(self):
        assert caption(classification((0, 0.9), (1, 0.1))) == ["cat 0.90", "dog & <b>co</b> 0.10"]
        assert caption(detections((0, 0, 1, 1, 0.9), (0, 0, 1, 1, 0.8))) == ["2 cat"]
        assert caption(detections()) == ["nothing found"]

    @given(st.lists(st.floats(0.3, 1.0), max_size=5), st.lists(st.floats(0.3, 1.0), max_size=5))
    def test_disagreement_is_a_share_and_symmetric(self, one, other):
        before = detections(*((20 * i, 0, 20 * i + 10, 10, score) for i, score in enumerate(one)))
        after = detections(*((20 * i, 0, 20 * i + 10, 10, score) for i, score in enumerate(other)))
        assert 0.0 <= disagreement(before, after) <= 1.0
        assert disagreement(before, after) == pytest.approx(disagreement(after, before))


class TestDrawings:
    @given(st.floats(0.0, 1e3), st.floats(1e-3, 1e6))
    def test_ticks_are_few_and_inside(self, low, width):
        found = svg.ticks(low, low + width)
        assert 1 <= len(found) <= 6
        assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in found)

    def test_pareto_keeps_what_nothing_beats(self):
        points = [
            Plotted("a", 1, 1),
            Plotted("b", 2, 3),
            Plotted("c", 3, 2),
            Plotted("d", 4, 4),
        ]
        assert [point.label for point in pareto(points)] == ["a", "b", "d"]

    @given(st.text(max_size=40), st.floats(0, 1e6), st.floats(0, 1e6))
    def test_any_label_gives_well_formed_svg(self, label, x, y):
        label = "".join(character for character in label if character.isprintable())
        ET.fromstring(scatter([Plotted(label, x, y), Plotted("b", y, x)], label, label))
        ET.fromstring(svg.bars([svg.Bar(label, x, label), svg.Bar("other", -y, "0")], label))

    @given(st.integers(2, 25))
    def test_matrix_of_any_size(self, size):
        drawing = svg.heat_matrix(
            np.eye(size, dtype=np.int64) * 7, [f"class {index}" for index in range(size)], "t", "p"
        )
        assert drawing.count("<rect") == size * size
