"""A package outside edgeopt adds one of everything: each is used for real, and no file of edgeopt changes."""

from __future__ import annotations

import ast
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgeopt
from edgeopt import doors
from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.config import find_recipe
from edgeopt.errors import BundleError, ConfigError
from edgeopt.lint import LintReport, lint
from edgeopt.pipeline import build
from edgeopt.progress import Silent
from edgeopt.references import ALLOWED_VARIABLE
from edgeopt.runtime import load
from edgeopt.spec import replace

HERE = Path(__file__).parent
SHOP = HERE / "site" / "shop"
MOST_LINES = 30
COLOURS = {"apple": (30, 30, 200), "lime": (40, 190, 60), "plum": (150, 40, 120)}
"""BGR."""


class Watch(Silent):
    """Progress that remembers which stages were made."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self._stage = ""

    def begin(self, stage: str) -> None:
        self._stage = stage

    def end(self, summary: str, *, reused: bool) -> None:
        if not reused:
            self.made.append(self._stage)


def fruit(path: Path, each: int, seed: int) -> None:
    """Write noisy pictures of one colour each."""
    rng = np.random.default_rng(seed)
    classes = np.arange(3 * each) % 3
    images = np.array(list(COLOURS.values()))[classes][:, None, None] + rng.normal(0, 20, (3 * each, 16, 16, 3))
    np.savez(path, images=images.clip(0, 255).astype(np.uint8), classes=classes, labels=list(COLOURS))


def built_again(folder: Path) -> tuple[Bundle, list[str]]:
    """The bundle of the recipe in `folder`, and the stages that were made for it."""
    watch = Watch()
    config, root = find_recipe(str(folder))
    return build(config, root, folder / "out", folder / "work", watch).bundle, watch.made


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe and its data, and the user's package installed as far as Python can tell."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(HERE / "edgeopt.toml", folder)
    for seed, (name, each) in enumerate({"train": 32, "test": 12, "calibration": 8}.items()):
        fruit(folder / f"{name}.npz", each, seed)
    site = Path(shutil.copytree(SHOP.parent, folder / "site"))
    sys.path.append(str(site))
    yield folder
    sys.path.remove(str(site))
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def bundle(project: Path) -> Bundle:
    return built_again(project)[0]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED_VARIABLE, "")


@pytest.mark.parametrize("path", sorted(SHOP.glob("*.py")), ids=lambda path: path.stem)
def test_each_addition_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_one_build_uses_all_of_it(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.spec.labels == tuple(COLOURS)
    assert [variant.name for variant in manifest.variants] == ["ort-fp32", "ort-int8", "zipped-fp32", "zipped-int8"]
    zipped = bundle.variant("zipped-int8")
    assert zipped.target == "shop.target:ZIPPED"
    assert zipped.engine.options == {"level": 9}
    assert bundle.file("zipped-int8").name == "engine.onnx.z"
    assert manifest.size_bytes(zipped) < manifest.size_bytes(bundle.variant("ort-int8"))
    assert [trial.name for trial in zipped.stages.repairs] == ["shop.repair:float_head"]
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert variant.accuracy.value > 0.9
        assert variant.accuracy.extra.keys() == {"shop.metric:worst_class"}
        assert variant.accepted


@pytest.mark.parametrize("variant", [None, "zipped-fp32", "zipped-int8"])
def test_a_device_runs_the_users_code_once_it_is_allowed(bundle: Bundle, variant: str | None) -> None:
    with pytest.raises(BundleError, match=f"{ALLOWED_VARIABLE}=shop"):
        load(bundle.path, variant=variant)
    with load(bundle.path, variant=variant, allow_code=["shop"]) as predictor:
        result = predictor.predict(np.full((40, 60, 3), COLOURS["lime"], np.uint8))
        assert result.label == "lime"
        assert sum(result.scores) == pytest.approx(1.0, abs=1e-5)
        assert len(result.labels) == 3  # all classes, as no decoding of ours gives them


def test_commands_measure_by_it(bundle: Bundle, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert (
        "shop.decoding:softened, code outside edgeopt" in CliRunner().invoke(main, ["inspect", str(bundle.path)]).stdout
    )
    arguments = ["evaluate", str(bundle.path), "--json"]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, "--allow-code" in refused.stderr) == (ConfigError.exit_code, True)
    done = CliRunner().invoke(main, ["--allow-code", "shop", *arguments, "--metrics", "balanced_accuracy"])
    assert done.exit_code == 0, done.stderr
    assert '"shop.metric:worst_class"' in done.stdout  # the recipe's own
    assert '"balanced_accuracy"' in done.stdout


def test_data_of_the_users_format_are_named_in_a_file_of_their_own(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a data table on the command line allows the code in it."""
    bundle = tiny.write(tmp_path / "tiny.edgeopt", replace(tiny.CLASSIFIER, labels=tuple(COLOURS)))
    (project / "data.toml").write_text('format = "shop.data:read_npz"\npath = "test.npz"\n')
    monkeypatch.chdir(project)
    done = CliRunner().invoke(main, ["evaluate", str(bundle.path), "--data", "data.toml", "--variant", "ort-fp32"])
    assert done.exit_code == 0, done.stderr
    assert "36 images" in done.stdout


def test_one_file_is_compiled_for_a_target_of_the_users_own(bundle: Bundle, project: Path) -> None:
    graph, out = bundle.file("ort-fp32"), project / "engine.onnx.z"
    done = CliRunner().invoke(main, ["compile", str(graph), "--target", "shop.target:ZIPPED", "-o", str(out)])
    assert done.exit_code == 0, done.stderr
    assert zlib.decompress(out.read_bytes()) == graph.read_bytes()


def test_a_rule_of_the_users_own_finds_what_it_looks_for(bundle: Bundle, project: Path) -> None:
    graph = bundle.file("ort-fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOWED_VARIABLE, "shop")
        report = lint(graph, "ort", rules=["shop.rule:strided"])
    assert [finding.rule for finding in report.findings].count("strided") == 2
    done = CliRunner().invoke(main, ["lint", str(graph), "--target", "ort", "--rules", "shop.rule:strided", "--json"])
    assert msgspec.json.decode(done.stdout, type=LintReport) == report


def test_names_of_nothing_are_told_before_anything_is_made(project: Path) -> None:
    wrong = {
        "train.loss": "shop.loss:vocal",
        "train.augmentation.custom": ["shop.augmentation:cut"],
        "quantize.repairs": ["shop.repare:float_head"],
        "evaluate.metrics": ["shop.metric:worst"],
    }
    overrides = [f"{key}={msgspec.json.encode(value).decode()}" for key, value in wrong.items()]
    config, root = find_recipe(str(project), overrides)
    with pytest.raises(ConfigError) as caught:
        build(config, root, project / "out", project / "work", Watch())
    for expected in ("Did you mean 'focal'", "Did you mean 'cutout'", "shop.repare", "Did you mean 'worst_class'"):
        assert expected in str(caught.value)


def test_results_are_made_again_where_the_users_code_has_changed(bundle: Bundle, project: Path) -> None:
    assert not {"train", "evaluate", "bundle"} & set(built_again(project)[1])
    loss = project / "site" / "shop" / "loss.py"
    loss.write_text(loss.read_text().replace("** 2", "** 3"))
    assert {"train", "export", "quantize", "compile", "evaluate"} <= set(built_again(project)[1])


# What has to be touched

ROOT = Path(edgeopt.__file__).parent


def rows() -> list[list[str]]:
    """The cells of the table of doors in edgeopt's README, without its heads."""
    text = (ROOT / "README.md").read_text().partition("<!-- doors -->")[2].partition("<!-- /doors -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]


def test_the_table_of_doors_has_every_example() -> None:
    examples = [example.strip("`") for _, _, _, example, _, _ in rows()]
    assert sorted(examples) == sorted(path.name for path in SHOP.glob("[a-z]*.py"))
    recipe = (HERE / "edgeopt.toml").read_text() + (SHOP / "network.py").read_text() + "lint --rules shop.rule:"
    for example in examples:
        assert f"shop.{example.removesuffix('.py')}:" in recipe


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_user_touches_no_file_and_a_maintainer_at_most_two_that_are_there(row: list[str]) -> None:
    *_, user, maintainer = row
    files = [file.strip("` ") for file in maintainer.split(",")]
    assert user == "0"
    assert 1 <= len(files) <= 2
    for file in files:
        assert (ROOT / file.replace("NAME.py", "")).exists()


TABLES: Mapping[str, Mapping[str, str]] = {
    name: table for name, table in vars(doors).items() if isinstance(table, dict) and name.isupper()
}
NAMED_ELSEWHERE = {
    "bundle/earlier.py",  # bundles of earlier versions
    "calibrate/tap.py",  # onnxruntime's extra has the name of its target
    "cli/machine.py",  # a default
    "config/engines.py",  # a default
    "lint/linting.py",  # a default
    "pipeline/deciding.py",  # which compares readings of a file where every workstation can run it
    "pipeline/diagnosis.py",  # which runs what it diagnoses with OpenVINO's kernels
    "runtime/ort.py",  # its extra, and its target's default name
    "runtime/ov.py",
    "runtime/trt/__init__.py",  # which library is behind which of the two
    "runtime/trt/implicit.py",  # TensorRT's own calibrator
    "runtime/trt/library.py",
    "runtime/trt/capabilities.py",
    "targets/ort.py",
    "targets/ov.py",
    "targets/trt.py",
    "targets/rtx.py",
    "targets/trt8.py",
}
"""Where our targets' names stand beside their rows; the name of a new one would not."""


def named_in(names: set[str]) -> set[str]:
    """Modules of edgeopt that hold one of some names as a string of its own."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if any(isinstance(node, ast.Constant) and node.value in names for node in ast.walk(ast.parse(path.read_text())))
    }


def test_targets_are_named_nowhere_but_in_their_row_and_module() -> None:
    assert named_in(set(doors.TARGETS)) - {"doors.py"} <= NAMED_ELSEWHERE


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_row_leads_to_something(table: str) -> None:
    for place in TABLES[table].values():
        module, _, name = place.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name), place
