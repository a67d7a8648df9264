"""What stands against a build is found before it, all at once."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recipe import RECIPE, Watch

from edgeopt.cli import main
from edgeopt.config import Config, parse_config
from edgeopt.errors import ConfigError, DataError, EdgeoptError, ModelError, StorageError, TargetError
from edgeopt.pipeline import build, check
from edgeopt.runtime.session import Availability
from edgeopt.targets import ort

CALLABLE = """
name = "own"
[model]
source = "mymodel:tiny"
[data.train]
format = "image_folder"
path = "train"
[train]
epochs = 1
[compile]
targets = ["ort"]
"""


def recipe(text: str = RECIPE, *overrides: str) -> Config:
    return parse_config(text, overrides=overrides)


def problems(config: Config, root: Path, out: Path | None = None) -> str:
    with pytest.raises(EdgeoptError) as caught:
        check(config, root, out or root / "out", root / "work")
    return str(caught.value)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a network of the user's that says nothing about itself, and 64 images of two classes."""
    (tmp_path / "mymodel.py").write_text("from torch import nn\ndef tiny():\n    return nn.Conv2d(3, 4, 3)\n")
    for number in range(64):
        folder = tmp_path / "train" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return tmp_path


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeopt.dataset.loading.inspect_all", lambda paths: pytest.fail("images were read"))


def test_a_recipe_that_can_be_built_says_what_was_looked_at_and_makes_nothing(tmp_path: Path) -> None:
    found = check(recipe(), tmp_path, tmp_path / "out", tmp_path / "work")
    assert found.checked == "292 images listed, the network opened, engines for ort"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(ort.TARGET, can_compile=lambda: Availability(ok=False, reason="onnxruntime is missing"))
    monkeypatch.setattr(ort, "TARGET", absent)


def test_everything_is_told_at_once(own: Path, unread: None, no_engine: None) -> None:
    faults = ('data.test={format="image_folder", path="nowhere"}', "calibrate.minimum_images=60")
    message = problems(recipe(CALLABLE, *faults), own)
    assert "4 things stand against building 'own'" in message
    assert "target 'ort' is not available here: onnxruntime is missing" in message
    assert "nowhere does not exist" in message
    assert "too few to hold out" in message
    assert "mymodel:tiny does not say the size of its images" in message
    assert "[model.preprocessing]" in message


def test_a_single_problem_is_raised_as_what_it_is(own: Path, unread: None) -> None:
    with pytest.raises(ModelError, match=r"does not say how images become its input .*steps = \["):
        check(recipe(CALLABLE, "model.input_size=[6, 6]"), own, own / "out", own / "work")


def test_the_build_itself_looks_first(own: Path, unread: None) -> None:
    with pytest.raises(ModelError, match="does not say how images become its input"):
        build(recipe(CALLABLE, "model.input_size=[6, 6]"), own, own / "out", own / "work", Watch())
    assert not (own / "work").exists()


def test_labels_are_compared_with_the_classes(own: Path, unread: None) -> None:
    message = problems(recipe(CALLABLE, 'model.labels=["cat", "cow"]', "model.input_size=[6, 6]"), own)
    assert "[data.train]: " in message
    assert "class 'dog' is not among the 2 labels" in message


def test_a_file_that_two_sets_share_is_found_without_reading_it(own: Path, unread: None) -> None:
    known = ("model.input_size=[6, 6]", 'model.preprocessing={steps=[{type="resize", size=[6, 6]}], normalization={}}')
    message = problems(recipe(CALLABLE, *known, 'data.test={format="image_folder", path="train", limit=4}'), own)
    assert "the splits overlap: test image" in message
    assert "(and 3 more)" in message


def test_an_engine_that_is_not_installed_is_found(tmp_path: Path, no_engine: None) -> None:
    with pytest.raises(TargetError, match="target 'ort' is not available here: onnxruntime is missing"):
        check(recipe(), tmp_path, tmp_path / "out", tmp_path / "work")


def test_sets_that_are_neither_given_nor_held_out_are_found(tmp_path: Path) -> None:
    text = RECIPE.replace("[data.train]", "[data.validation]").replace("[train]\nepochs = 1\n", "")
    text = text.replace('[data.test]\nformat = "digits"\nsplit = "test"\nlimit = 60\n', "")
    assert "has no test images" in problems(recipe(text), tmp_path)


def test_too_few_calibration_images_are_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 of 8 images can be used, at least 16 are needed"):
        check(recipe(RECIPE, "data.calibration.limit=8"), tmp_path, tmp_path / "out", tmp_path / "work")


def test_an_output_folder_that_is_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file is a file\. Choose another folder"):
        check(recipe(), tmp_path, tmp_path / "file" / "out", tmp_path / "work")


def test_a_disk_without_room_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5_000_000, 5_000_000))
    message = problems(recipe(), tmp_path)
    assert "has 5 MB free, and this build writes about" in message


def test_parameters_to_freeze_are_compared_with_the_networks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"freeze: no parameter starts with 'backbon'"):
        check(recipe(RECIPE, 'train.freeze=["backbon"]'), tmp_path, tmp_path / "out", tmp_path / "work")


@pytest.mark.parametrize("setting", ['quantize.exclude=["con_stem"]', 'quantize.ranges={"con_stem" = "mse"}'])
def test_patterns_are_compared_with_the_layers_before_training(setting: str, tmp_path: Path, watch: Watch) -> None:
    with pytest.raises(ConfigError, match="'con_stem' matches no"):
        build(recipe(RECIPE, setting), tmp_path, tmp_path / "out", tmp_path / "work", watch)
    assert watch.made == ["check", "data", "layers"]


def test_an_exclude_pattern_is_compared_with_the_layers_before_calibration(built, tmp_path: Path, watch: Watch) -> None:
    copy = Path(shutil.copytree(built[0], tmp_path / "copy"))
    with pytest.raises(ConfigError, match="matches no layer"):
        build(recipe(RECIPE, 'quantize.exclude=["x"]'), Path.cwd(), copy, copy / "work", watch)
    assert "calibrate" not in {*watch.made, *watch.reused}


def test_fewer_calibration_images_than_asked_for_are_told(own: Path) -> None:
    text = RECIPE.replace('[data.calibration]\nformat = "digits"\nsplit = "calibration"\nlimit = 32\n', "")
    text = text.replace("[benchmark]", "[evaluate]\nmax_drop = 0.05\n[benchmark]")
    found = check(recipe(text, "calibrate.images=64"), own, own / "out", own / "work")
    (note,) = found.notes
    assert "calibration has 20 of the 64 images that [calibrate] images asks for" in note
    assert "Give [data.calibration], or a larger holdout" in note
    assert check(recipe(text, "calibrate.images=20"), own, own / "out", own / "work").notes == ()


def test_a_test_set_too_small_to_decide_on_is_told_before_the_build(tmp_path: Path) -> None:
    (note,) = check(recipe(), tmp_path, tmp_path / "out", tmp_path / "work").notes
    assert note == (
        "test has 60 images: too few to be certain that a variant loses no more than the 2.00 points that [evaluate] "
        "max_drop allows, for which it takes 150 at least."
    )
    for enough in ("evaluate.max_drop=0.05", "data.test.limit=150", "quantize.enabled=false"):
        assert check(recipe(RECIPE, enough), tmp_path, tmp_path / "out", tmp_path / "work").notes == ()
    assert check(recipe(RECIPE, "data.test.limit=150", "evaluate.limit=149"), tmp_path, tmp_path, tmp_path).notes


def test_the_command_checks_and_builds_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    (own / "edgeopt.toml").write_text(RECIPE.replace("limit = 60", "limit = 6000"))
    done = CliRunner().invoke(main, ["build", "--check"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "nothing was found against building 'tiny'" in done.stdout
    assert "of the 6000 images that [data.test] limit asks for" in done.stdout
    answer = json.loads(CliRunner().invoke(main, ["build", "--check", "--json"]).stdout)
    assert len(answer["notes"]) == 1
    assert not (own / "build").exists()
    (own / "edgeopt.toml").write_text(CALLABLE)
    failed = CliRunner().invoke(main, ["build", "--check"])
    assert failed.exit_code == ModelError.exit_code


def test_a_candidate_that_cannot_be_had_is_refused_by_name(tmp_path: Path) -> None:
    unasked = problems(recipe(RECIPE, 'compile.candidates=["float32", "sums"]'), tmp_path)
    assert "candidates has 'float32', which ort cannot be asked" in unasked
    assert "depthwise, islands, sums" in unasked
    anew = recipe(RECIPE, 'compile.candidates=["residual"]', 'compile.targets=["trt"]', "budget.max_drop=0.01")
    assert "for which the network is quantized anew" in problems(anew, tmp_path)
