"""A sweep makes each trial once, whoever is killed meanwhile, and its page says which variants no other beats."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import tiny
from click.testing import CliRunner
from tiny_recipe import RECIPE

from benchmarks.sweeping import MARK, processes
from edgeopt.bundle import EngineSettings
from edgeopt.bundle.records import CandidateOf
from edgeopt.cli import main
from edgeopt.cluster import connected
from edgeopt.errors import ConfigError, MissingExtraError, StorageError
from edgeopt.hardware import Cpu, machine
from edgeopt.spec import replace
from edgeopt.sweep import (
    LocalWorkers,
    Plan,
    RayWorkers,
    TrialResult,
    VariantResult,
    fronts,
    read_plan,
    sweep,
    sweep_html,
)
from edgeopt.sweep.choosing import Suggested
from edgeopt.sweep.page import table
from edgeopt.sweep.plan import Trial
from edgeopt.sweep.results import failed, variant_results, write_result
from edgeopt.sweep.trial import TRIALS, committed, run_trial
from edgeopt.sweep.workers import labels_here

SWEEP = """
recipe = "tiny.toml"
targets = ["ort"]
[models.a]
[models.b]
set = {"train.epochs" = 2}
[settings]
"quantize.repairs" = {none = [], one = ["bias_correction"]}
"calibrate.images" = [16, 32]
"""


def planned(folder: Path, text: str = SWEEP) -> Plan:
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "sweep.toml").write_text(text)
    return read_plan(folder / "sweep.toml")


class Pretended:
    """Workers that build nothing: of each trial they keep that they were given it."""

    capacity = 2

    def __init__(self, out: Path) -> None:
        self.out, self.given, self._waiting = out, [], []

    def require(self, needs) -> None:
        LocalWorkers(self.out, self.out).require(needs)

    def start(self, trial: Trial) -> None:
        self.given.append(trial)
        self._waiting.append(trial)

    def finished(self) -> list[TrialResult]:
        trial = self._waiting.pop(0)
        folder = self.out / TRIALS / trial.key
        if trial.model == "b" and trial.config.calibrate.images == 16:
            result = failed(trial, "the disk is full")
        else:
            (folder / "tiny.edgeopt").mkdir(parents=True)
            bundle = f"{TRIALS}/{trial.key}/tiny.edgeopt"
            better = 0.01 * len(trial.config.quantize.repairs)
            variants = (
                variant("ort-fp32", 0.9, 2.0, is_baseline=True),
                variant("ort-int8", 0.88 + better, 1.0 + 10 * better),
            )
            result = msgspec.structs.replace(failed(trial, ""), bundle=bundle, variants=variants, machine="this <one>")
        write_result(folder, result)
        return [result]


def variant(name: str, accuracy: float, p50_ms: float, **more) -> VariantResult:
    return VariantResult(
        **{"is_baseline": False, "size_bytes": 1000, "metric": "top1", "data": "same", "accepted": True, **more},
        name=name,
        precision=name.split("-")[-1],
        engine="of this network",
        accuracy=accuracy,
        p50_ms=p50_ms,
    )


def test_every_place_of_the_grid_is_a_recipe_with_its_values(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    trials = [plan.trial(place) for place in plan.grid()]
    assert [trial.model for trial in trials[:2]] == ["a", "b"], "neighbours are of different models"
    found = {
        (trial.model, trial.config.train.epochs, trial.config.quantize.repairs, trial.config.calibrate.images)
        for trial in trials
    }
    assert found == {
        (model, epochs, repairs, images)
        for model, epochs in (("a", 1), ("b", 2))
        for repairs in ((), ("bias_correction",))
        for images in (16, 32)
    }
    assert len({trial.key for trial in trials}) == plan.count == 8
    assert all(trial.config.compile.targets == ("ort",) for trial in trials)


def test_what_is_there_is_not_made_again_and_what_failed_is(tmp_path: Path) -> None:
    plan, said = planned(tmp_path), []
    first, again = Pretended(tmp_path / "out"), Pretended(tmp_path / "out")
    swept = sweep(plan, tmp_path / "out", first, said.append)
    assert len(first.given) == len(swept.results) == 8
    assert [each.error for each in swept.results if each.error] == ["the disk is full"] * 2
    assert said[-1].startswith("[8/8] ")
    assert [trial.title for trial in sweep(plan, tmp_path / "out", again, said.append).results if trial.error]
    assert {trial.key for trial in again.given} == {each.key for each in swept.results if each.error}
    table = json.loads(swept.table.read_text())
    assert {each["settings"]["quantize.repairs"] for each in table} == {"none", "one"}


def test_a_sweep_that_is_stopped_goes_on(tmp_path: Path) -> None:
    plan, out = planned(tmp_path), tmp_path / "out"
    workers, said = Pretended(out), []

    def tell(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="finished trials, and the finished stages of others, are kept"):
        sweep(plan, out, workers, tell)
    assert sweep(plan, out, Pretended(out), said.append).found >= 2


def test_a_value_that_makes_no_recipe_is_a_row(tmp_path: Path) -> None:
    plan = planned(tmp_path, SWEEP.replace("[16, 32]", "[0, 32]"))
    workers = Pretended(tmp_path / "out")
    swept = sweep(plan, tmp_path / "out", workers, lambda _: None)
    assert len(workers.given) == 4
    errors = [each.error for each in swept.results if each.settings["calibrate.images"] == "0"]
    assert len(errors) == 4
    assert all("calibrate.images" in error for error in errors)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SWEEP.replace("calibrate.images", "calibrate.imagse"), "Did you mean 'images'"),
        (SWEEP.replace("[16, 32]", "[]"), "has no values"),
        (SWEEP.replace("[16, 32]", "[16, 16]"), "16 twice"),
        (SWEEP.replace('["bias_correction"]', "[]"), r"'none' and 'one' are one value, \[\]\. Remove one of them"),
        (SWEEP + '"compile.targets" = [["ort"], ["ov"]]', "compile.targets is lost: `targets` sets"),
        (SWEEP + '"train.epochs" = [1, 3]', r"\[models.b\] train.epochs is lost: \[settings\] train.epochs sets"),
        (SWEEP + '"calibrate" = [{images = 8}]', r"calibrate.images is lost: \[settings\] calibrate sets"),
        (SWEEP.replace('"calibrate.images"', "calibrate.images"), "between quotation marks"),
        (SWEEP.replace('recipe = "tiny.toml"', ""), "has no recipe"),
        (SWEEP.replace('"tiny.toml"', '"tiny"'), "there is no recipe 'tiny'"),
        (SWEEP.replace("targets", "target"), "Did you mean 'targets'"),
        (SWEEP.replace("[models.a]", '[models.a]\nrecip = "x"'), "Did you mean 'recipe'"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, text)


def test_a_recipe_that_is_not_beside_the_sweep_is_not_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another project's edgeopt.toml was swept."""
    elsewhere = tmp_path / "another"
    for folder in (elsewhere, elsewhere / "digits"):
        folder.mkdir()
        (folder / "edgeopt.toml").write_text(RECIPE)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigError, match=f"there is no {tmp_path / 'edgeopt.toml'}"):
        planned(tmp_path, 'recipe = "edgeopt.toml"')
    trial = planned(tmp_path, 'recipe = "digits"').trial((0, 0))
    assert (trial.config.name, trial.root) == ("digits", str(tmp_path)), "the shipped one"


def test_a_value_that_was_renamed_has_its_new_name_in_rows_that_were_there(tmp_path: Path) -> None:
    """Rows kept the old one, which another value may have now."""
    sweep(planned(tmp_path), tmp_path / "out", Pretended(tmp_path / "out"), lambda _: None)
    swapped = SWEEP.replace('none = [], one = ["bias_correction"]', 'one = [], none = ["bias_correction"]')
    again = sweep(planned(tmp_path, swapped), tmp_path / "out", Pretended(tmp_path / "out"), lambda _: None)
    assert again.found == 6
    accuracies = {each.settings["quantize.repairs"]: each.best.accuracy for each in again.results if each.variants}
    assert accuracies == {"one": 0.88, "none": 0.89}


def test_a_label_that_no_worker_has_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    plan = planned(tmp_path, SWEEP.replace('"ort"', '"ort", "ort@device:orin-nano"'))
    workers = Pretended(tmp_path / "out")
    with pytest.raises(ConfigError, match="no worker has the label 'device:orin-nano'"):
        sweep(plan, tmp_path / "out", workers, lambda _: None)
    assert workers.given == []


@pytest.mark.parametrize(
    ("architecture", "features", "labels"),
    [
        ("x86_64", ("avx2",), ("processor:avx2",)),
        ("AMD64", ("avx2", "avx_vnni"), ("processor:vnni",)),
        ("aarch64", (), ("processor:arm",)),
        ("riscv64", (), ()),
    ],
)
def test_a_worker_has_the_label_of_its_own_kernels_alone(
    architecture: str, features: tuple[str, ...], labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = Cpu(model="", architecture=architecture, cores=1, features=features)
    monkeypatch.setattr("edgeopt.sweep.workers.machine", lambda: replace(machine(), cpu=cpu))
    assert labels_here() == labels


def test_of_a_grid_that_is_too_large_optuna_chooses(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: its choices were not tested")
    plan = planned(tmp_path, SWEEP.replace("recipe =", "trials = 5\nrecipe =").replace("[16, 32]", "[20, 22, 24, 32]"))
    workers = Pretended(tmp_path / "out")
    swept = sweep(plan, tmp_path / "out", workers, lambda _: None)
    assert len({each.key for each in swept.results}) == plan.count == 5
    again = Pretended(tmp_path / "out")
    assert sweep(plan, tmp_path / "out", again, lambda _: None).results == swept.results
    assert again.given == []


def measured(key: str, machine: str, *variants: VariantResult, setting: str = "quantize.repairs") -> TrialResult:
    base = TrialResult(key=key, model="m", target="ort", settings={setting: key}, machine=machine)
    return replace(base, variants=variants)


def test_models_of_different_images_share_no_study_whatever_the_first_setting_is(tmp_path: Path) -> None:
    """They did where it made no recipe, so that Optuna compared accuracies that do not compare."""
    pytest.importorskip("optuna", reason="Optuna is not installed: its choices were not tested")
    other = SWEEP.replace('"train.epochs" = 2', '"data.test.limit" = 20').replace("[16, 32]", "[0, 32]")
    chosen = Suggested(planned(tmp_path, other.replace("recipe =", "trials = 4\nrecipe =")))
    assert [models for _, models, _ in chosen._studies] == [[0], [1]]


@pytest.mark.parametrize("key", ["data.test.limit", "evaluate.limit"])
def test_optuna_compares_no_accuracies_of_different_images(tmp_path: Path, key: str) -> None:
    """It was told them all as if they were of the same ones."""
    pytest.importorskip("optuna", reason="Optuna is not installed: its choices were not tested")
    plan = planned(tmp_path, SWEEP.replace("calibrate.images", key).replace("recipe =", "trials = 4\nrecipe ="))
    with pytest.raises(ConfigError, match=rf"\[settings\] {key} .* Remove `trials`"):
        sweep(plan, tmp_path / "out", Pretended(tmp_path / "out"), lambda _: None)


def test_only_what_compares_is_compared() -> None:
    float_one = variant("fp32", 0.9, 2.0, is_baseline=True)
    fast, slow = variant("int8", 0.85, 1.0), variant("int8", 0.84, 1.5)
    results = [
        measured("x", "here", float_one, fast),
        measured("y", "here", float_one, slow),
        measured("z", "there", slow),
    ]
    here, there = fronts(results)
    assert here.best == {("x", "fp32"), ("x", "int8")}
    assert len(here.points) == 3, "the baseline that no setting changed is one point"
    assert there.best == {("z", "int8")}


@pytest.mark.parametrize(
    ("machine", "setting", "changes"),
    [
        ("there", "quantize.repairs", {}),
        ("here", "benchmark.threads", {}),
        ("here", "evaluate.limit", {"data": "others"}),
        ("here", "evaluate.metrics", {"metric": "f1"}),
        ("here", "model.input_size", {"engine": "of a larger network"}),
    ],
)
def test_a_baseline_that_was_measured_otherwise_keeps_its_row(
    machine: str, setting: str, changes: dict[str, str]
) -> None:
    """One as accurate and as large was dropped, so that INT8 had nothing beside it."""
    first, second = variant("ort-fp32", 0.9, 2.0, is_baseline=True), variant("ort-fp32", 0.9, 1.5, is_baseline=True)
    results = [
        measured("x", "here", first, setting=setting),
        measured("y", machine, replace(second, **changes), setting=setting),
    ]
    assert sum(len(front.points) for front in fronts(results)) == len(table(results)) == 2


def test_a_baseline_without_labels_has_a_row_and_its_repeats_none() -> None:
    """It had none at all."""
    alone = replace(variant("ort-fp32", 0.0, 2.0, is_baseline=True), accuracy=None)
    assert [row[1] for row in table([measured(key, "here", alone) for key in "xy"])] == ["ort-fp32"]


def test_a_trial_is_judged_by_what_would_run_in_another_precision() -> None:
    """Another target's float variant, or a candidate, which only `edgeopt tune` chooses, was what Optuna improved."""
    baseline, other = variant("ov-fp32", 0.9, 2.0, is_baseline=True), variant("ort-fp32", 0.9, 3.0)
    quantized, candidate = variant("ov-int8", 0.89, 1.0), replace(variant("ov-int8", 0.7, 0.9), is_candidate=True)

    def best(*variants: VariantResult) -> VariantResult | None:
        return measured("x", "here", *variants).best

    assert best(baseline, other) is baseline
    assert best(baseline, quantized, candidate, other) is quantized
    assert best() is None


def test_figures_say_which_program_they_are_of(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path / "tiny.edgeopt").manifest
    default = manifest.variant("ort-int8")
    asked = CandidateOf(of="ort-int8", question="sums", floats=())
    extended = replace(manifest, variants=(*manifest.variants, replace(default, name="ort-int8-sums", candidate=asked)))
    first, again = ({each.name: each for each in variant_results(found)} for found in (manifest, extended))
    assert first["ort-int8"].precision == "int8"
    assert [each.name for each in again.values() if each.is_candidate] == ["ort-int8-sums"]
    assert first["ort-int8"].engine != first["ort-fp32"].engine == again["ort-fp32"].engine
    threads = replace(manifest.variant("ort-fp32"), engine=EngineSettings(threads=2))
    assert variant_results(manifest.with_variant(threads))[0].engine != first["ort-fp32"].engine


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    swept = sweep(planned(tmp_path), tmp_path / "out", Pretended(tmp_path / "out"), lambda _: None)
    page = swept.page.read_text()
    assert "this &lt;one&gt;" in page
    assert "<one>" not in page
    assert "a, repairs one, images 16, ort: ort-int8" in page, "the front is named"
    bad = msgspec.structs.replace(swept.results[0], error="<script>alert(1)</script>", variants=())
    assert "<script>alert" not in sweep_html("s", [bad])


def test_settings_of_one_name_have_their_whole_key_in_titles() -> None:
    """They were "limit 10, limit 20"."""
    settings = {"data.train.limit": "10", "data.test.limit": "20", "calibrate.images": "8"}
    title = replace(measured("x", "here"), settings=settings).title
    assert title == "m, data.train.limit 10, data.test.limit 20, images 8, ort"


def test_a_worker_with_another_edgeopt_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bundle stood beside the others, as if one edgeopt had made them all."""
    trial = planned(tmp_path).trial((0, 0, 0, 0))
    monkeypatch.setattr("edgeopt.sweep.trial.build", lambda *_, **__: pytest.fail("it built"))
    result = run_trial(replace(trial, code="another"), tmp_path / "out", tmp_path / "work")
    assert result.error.startswith("its worker has another edgeopt than the machine that runs the sweep")


class Died:
    """A process that wrote its row and died as it ended."""

    returncode = -11

    def poll(self) -> int:
        return self.returncode


def test_a_process_that_dies_after_its_row_has_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial was built three times, and failed in the end; and a row of an earlier run is none of this one's."""
    trial, workers, died = planned(tmp_path).trial((0, 0, 0, 0)), LocalWorkers(tmp_path, tmp_path), Died()
    monkeypatch.setattr(LocalWorkers, "_process", lambda *_: died)
    earlier, present = failed(trial, "the disk is full"), replace(failed(trial, ""), machine="here")
    write_result(tmp_path / TRIALS / trial.key, earlier)
    workers.start(trial)
    assert committed(trial, tmp_path) is None
    write_result(tmp_path / TRIALS / trial.key, present)
    assert workers.finished() == [present]


def test_of_a_large_grid_trials_of_all_its_parts_are_looked_at(tmp_path: Path) -> None:
    """Its first thousand made no recipe, and so "no trial" did."""
    text = SWEEP.split("[settings]")[0] + '[settings]\n"calibrate.images" = [0, 16]\n"train.seed" = SEEDS'
    assert planned(tmp_path, text.replace("SEEDS", str(list(range(1100))))).count == 4400


def test_an_error_that_nobody_expected_is_a_row_with_its_traceback(tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("edgeopt.sweep.trial.build", broken)
    result = run_trial(planned(tmp_path).trial((0, 0, 0, 0)), tmp_path / "out", tmp_path / "work")
    assert result.error == "ZeroDivisionError: a bug"
    assert "in broken" in result.trace


def test_a_folder_that_cannot_be_written_is_named_in_one_error(tmp_path: Path) -> None:
    """A read-only one ended in a traceback."""
    planned(tmp_path)
    (tmp_path / "out").write_text("no folder")
    result = CliRunner().invoke(main, ["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / "out" / "in")])
    assert isinstance(result.exception, SystemExit)
    assert f"error: cannot write {tmp_path / 'out' / 'in'}" in " ".join(result.output.split())


def test_the_example_in_its_help_fits_into_80_columns() -> None:
    text = CliRunner().invoke(main, ["sweep", "--help"], terminal_width=80).output
    assert "[models.small]" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


def commanded(folder: Path, *options: str):
    return CliRunner().invoke(main, ["sweep", str(folder / "sweep.toml"), "--out", str(folder / "out"), *options])


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_sweep_of_which_nothing_was_built_does_not_end_as_if_it_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """It ended with 0, so that CI took it for a sweep."""
    monkeypatch.setattr("edgeopt.sweep.LocalWorkers", lambda out, *_: Entered(out))
    planned(tmp_path, SWEEP.replace("[16, 32]", "[16]").replace("[models.a]", ""))
    failing = commanded(tmp_path, *form)
    assert failing.exit_code == 1, failing.output
    assert "the disk is full" in failing.output
    planned(tmp_path)
    assert commanded(tmp_path, *form).exit_code == 0, "some were built"


class Entered(Pretended):
    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("on", ["auto", "ray://head:10001"])
def test_workers_that_a_running_cluster_would_not_get_are_refused(tmp_path: Path, on: str) -> None:
    """They were ignored."""
    planned(tmp_path)
    result = commanded(tmp_path, "--on", on, "--workers", "4")
    assert result.exit_code == 2
    assert "--workers goes with --on local or ray" in " ".join(result.output.split())


def test_workers_without_a_cluster_are_refused_by_a_build() -> None:
    result = CliRunner().invoke(main, ["build", "digits", "--workers", "4"])
    assert result.exit_code == 2
    assert "--workers goes with --on ray" in " ".join(result.output.split())


def test_a_file_that_cannot_be_read_is_no_reason_to_write_a_recipe(tmp_path: Path) -> None:
    """It suggested `edgeopt init`, which writes no sweep."""
    with pytest.raises(ConfigError, match=r"there is no .*sweep\.toml\. Check the path$"):
        read_plan(tmp_path / "sweep.toml")


def test_a_recipe_whose_name_no_file_can_have(tmp_path: Path) -> None:
    """It ended in a traceback, as a fuzzer found."""
    (tmp_path / "sweep.toml").write_text(f'recipe = "{"a" * 300}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="there is no recipe 'aaa"):
        read_plan(tmp_path / "sweep.toml")


class Refusing:
    """Ray where no cluster answers."""

    def init(self, **_: object) -> None:
        raise ConnectionError("nobody is there.\n")


def test_a_cluster_that_does_not_answer_is_said_in_whole_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own full stop stood before ours."""
    monkeypatch.setitem(sys.modules, "ray", Refusing())
    with pytest.raises(ConfigError, match=r"at 'auto': nobody is there\. Start one with `ray start --head`$"):
        connected("auto", None)


def test_a_cluster_that_happens_to_run_here_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address Ray looks for one; what it then refused was told as "no cluster answers at this machine"."""
    asked: list[object] = []

    class Started:
        def init(self, **options: object) -> None:
            asked.append(options["address"])

    monkeypatch.setitem(sys.modules, "ray", Started())
    connected(None, 2)
    assert asked == ["local"]
    monkeypatch.setitem(sys.modules, "ray", Refusing())
    with pytest.raises(
        ConfigError, match=r"Ray cannot be started on this machine: nobody is there\. Work without it: --on local$"
    ):
        connected(None, 2)


def test_ray_without_its_client_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", Refusing())
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeopt\[sweep\]'"):
        connected("ray://head:10001", None)


class SmallCluster:
    """Ray's answers of a cluster whose larger node has two cores, and of one that has gone."""

    def nodes(self):
        small = {"CPU": 1.0, "memory": 1e9, "node:10.0.0.5": 1.0, "orin": 1.0, "half": 0.5}
        large = {"CPU": 2.0, "memory": 1e9, "processor:vnni": 1e6}
        gone = {"CPU": 64.0, "gone": 1.0}
        return [{"Alive": node is not gone, "Resources": node} for node in (small, large, gone)]

    def cluster_resources(self):
        return {"CPU": 3.0, "memory": 2e9, "node:10.0.0.5": 1.0, "orin": 1.0, "half": 0.5, "processor:vnni": 1e6}


def on_small_cluster(folder: Path, cpus: float = 1.0) -> RayWorkers:
    workers = RayWorkers(folder, folder, None, cpus=cpus)
    workers._ray = SmallCluster()
    return workers


def test_trials_of_more_cores_than_any_node_has_are_refused(tmp_path: Path) -> None:
    """Ray waited for such a node for ever, and said nothing."""
    on_small_cluster(tmp_path, 2.0).require([()])
    with pytest.raises(ConfigError, match="takes 3 processor cores") as raised:
        on_small_cluster(tmp_path, 3.0).require([()])
    assert "largest node has 2. Give fewer" in str(raised.value)


def test_a_label_may_be_any_word_that_a_node_has(tmp_path: Path) -> None:
    """Labels without a colon were refused, though a node had them."""
    on_small_cluster(tmp_path).require([("orin", "node:10.0.0.5"), ("processor:vnni",)])
    there = "the cluster has half, orin, processor:vnni"
    with pytest.raises(ConfigError, match=rf"no worker has the label 'nano': {there}\. "):
        on_small_cluster(tmp_path).require([("orin",), ("nano",)])


@pytest.mark.parametrize("label", ["CPU", "memory"])
def test_what_ray_itself_counts_is_no_label(tmp_path: Path, label: str) -> None:
    with pytest.raises(ConfigError, match=f"no worker has the label '{label}'"):
        on_small_cluster(tmp_path).require([(label,)])


@pytest.mark.parametrize(
    ("labels", "cpus"), [(("orin", "processor:vnni"), 1.0), (("orin",), 2.0), (("half",), 1.0)], ids=str
)
def test_what_no_single_node_has_is_refused(tmp_path: Path, labels: tuple[str, ...], cpus: float) -> None:
    """Ray waited for such a node for ever: the cluster had it all, on several."""
    with pytest.raises(ConfigError, match="and no node of the cluster has them together"):
        on_small_cluster(tmp_path, cpus).require([labels])


class RayError(Exception):
    """As Ray's, which take ten seconds to import."""


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"\x1b[36mray::_task()\x1b[39m (pid=7)\n  File ...\n{type(cause).__name__}: {cause}")
        self.cause = cause


class Ended:
    """Ray whose only task ended with an exception, or with bytes."""

    exceptions = sys.modules[__name__]

    def __init__(self, answer: RayError | bytes) -> None:
        self._answer = answer

    def wait(self, tasks, num_returns: int):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, _task: object) -> bytes:
        if isinstance(self._answer, bytes):
            return self._answer
        raise self._answer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RayTaskError(StorageError("cannot write /shared: the disk is full")),
            "cannot write /shared: the disk is full",
        ),
        (RayTaskError(ZeroDivisionError("a bug")), "ZeroDivisionError: a bug"),
        (b'{"key": 1}', "its worker has another edgeopt than the machine that runs the sweep"),
        (RayError("Task was killed.\nMemory on the node: …"), "its worker died: Task was killed"),
    ],
)
def test_a_task_that_failed_says_why(error: RayError | bytes, said: str, tmp_path: Path) -> None:
    """`its worker died: \\x1b[36mray::_task()` was all, of a full disk."""
    workers = RayWorkers(tmp_path, tmp_path, None)
    workers._ray, workers._running = Ended(error), {"task": planned(tmp_path).trial((0, 0, 0, 0))}
    (row,) = workers.finished()
    assert row.error.startswith(said)
    assert ("File ..." in row.trace) == ("bug" in said)
    assert "\x1b" not in row.trace


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc: no worker was killed")
@pytest.mark.parametrize(("on", "name"), [("local", "edgeopt.sweep.trial"), ("ray", "ray::_task")])
def test_a_worker_that_is_killed_loses_nothing(on: str, name: str, tmp_path: Path) -> None:
    if on == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: no worker of it was killed")
    planned(tmp_path, SWEEP.split("[models")[0] + SETTINGS)
    out, mark = tmp_path / "out", f"{on}-{os.getpid()}"
    command = [sys.executable, "-m", "edgeopt", "sweep", "sweep.toml", "--out", str(out), "--on", on, "--workers", "1"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, MARK: mark, "RAY_worker_niceness": "0"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    killed = None
    while killed is None and running.poll() is None:
        time.sleep(0.02)
        if list((out / ".edgeopt-work").glob("export-*[!h]")) and (workers := processes(mark, name)):
            killed = workers[0]
            os.kill(killed, signal.SIGKILL)
    said = running.communicate(timeout=250)[1]
    assert running.returncode == 0, said
    assert killed is not None
    rows = json.loads((out / "sweep.json").read_text())
    assert [each["error"] for each in rows] == ["", ""], said
    made = {each["stage"]: each["made"] for each in rows[0]["stages"]}
    assert not made["train"], "the second attempt found what the first had finished"
    assert made["evaluate"]
    stages = [path.name for path in (out / ".edgeopt-work").iterdir()]
    again = CliRunner().invoke(main, ["sweep", str(tmp_path / "sweep.toml"), "--out", str(out), "--json"])
    assert json.loads(again.stdout) == rows
    assert [path.name for path in (out / ".edgeopt-work").iterdir()] == stages


SETTINGS = """[settings]
"quantize.repairs" = {none = [], one = ["bias_correction"]}
"""
