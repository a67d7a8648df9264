"""One command from a model file and its images: what it needs is found, decided by labels, or asked for at once."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from edgeopt.cli import main
from edgeopt.config import DataSource, parse_config
from edgeopt.dataset.loading import listed
from edgeopt.errors import DataError
from edgeopt.pipeline.model_recipe import Wanted, model_recipe
from edgeopt.pipeline.recipe_text import recipe_name
from edgeopt.spec import CenterCrop, Resize, ResizeShorterSide

COLOURS = {"blue": (230, 20, 30), "green": (20, 220, 30), "red": (30, 20, 230)}
SIZE = 16


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour each, in a folder a class."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(24):
            noise = rng.normal(0, 12, (20, 24, 3))
            cv2.imwrite(str(folder / name / f"{number}.png"), np.clip(np.array(colour) + noise, 0, 255))
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells colours of images in -1 to 1, red first; its classes are blue, green and red."""
    return classifier(tmp_path_factory.mktemp("model") / "colours.onnx", classes=3)


def classifier(path: Path, classes: int, size: str = f"{SIZE}, {SIZE}", dtype: str = "float") -> Path:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g ({dtype}[N, 3, {size}] x) => (float[N, {classes}] y) {{
            f = Cast <to = 1> (x)
            c = Conv <pads = [1, 1, 1, 1]> (f, w)
            r = Relu (c)
            p = GlobalAveragePool (r)
            v = Flatten (p)
            z = Gemm (v, head)
            y = Softmax (z)
        }}"""
    )
    weight = np.zeros((6, 3, 3, 3), np.float32)
    for channel in range(3):
        weight[channel, channel, 1, 1] = 1
        weight[3 + channel, channel, 1, 1] = -1
    head = np.zeros((6, classes), np.float32)
    for channel in range(3):  # ReLU of x minus ReLU of -x is x: only numbers around 0 tell bright from dark
        head[channel, 2 - channel] = 8
        head[3 + channel, 2 - channel] = -8
    for name, array in {"w": weight, "head": head}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def test_what_is_missing_is_asked_for_in_one_message(colours: Path) -> None:
    result = run("build", colours, "--check")
    assert result.exit_code == 10
    for asked in ("model.preprocessing:", "--normalization", "model.labels: the file does not name its 3", "--data"):
        assert asked in result.stderr


def test_labelled_images_decide_how_pixels_are_prepared(colours: Path, photos: Path) -> None:
    found = model_recipe(Wanted(source=str(colours), data=str(photos)), Path.cwd())
    assert found.decision is not None
    assert found.decision.best.value == 1.0
    assert "_bgr" not in found.decision.best.name
    model = parse_config(found.text).model
    assert model.labels == tuple(COLOURS)
    assert model.input_size == (SIZE, SIZE)


def test_the_users_word_goes_before_what_images_would_decide(colours: Path, photos: Path) -> None:
    found = model_recipe(Wanted(source=str(colours), data=str(photos), normalization="signed"), Path.cwd())
    assert found.decision is None
    preprocessing = parse_config(found.text).model.preprocessing
    assert preprocessing is not None
    assert preprocessing.normalization is not None
    assert preprocessing.normalization.mean == (127.5,)
    assert preprocessing.steps == (ResizeShorterSide(pixels=18), CenterCrop(size=(SIZE, SIZE)))


def test_images_of_the_networks_own_size_are_not_cropped(colours: Path, tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(4):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.full((SIZE, SIZE, 3), colour, np.uint8) + number)
    found = model_recipe(Wanted(source=str(colours), data=str(tmp_path)), Path.cwd())
    preprocessing = parse_config(found.text).model.preprocessing
    assert preprocessing is not None
    assert preprocessing.steps == (Resize(size=(SIZE, SIZE)),)


def test_a_network_that_is_no_better_than_chance_is_refused(colours: Path, photos: Path) -> None:
    result = run("build", colours, "--data", photos, "--labels", "red,blue,green", "--check")
    assert result.exit_code == 13
    assert "no way of reading" in result.stderr
    assert "or in another order" in result.stderr


def test_a_wrong_number_of_classes_is_said(tmp_path: Path, photos: Path) -> None:
    result = run("build", classifier(tmp_path / "m.onnx", classes=5), "--data", photos, "--check")
    assert "does not name its 5 classes, and the data name 3" in result.stderr


def test_a_size_that_nobody_tells_is_asked_for_and_taken(tmp_path: Path, photos: Path) -> None:
    path = classifier(tmp_path / "m.onnx", classes=3, size="h, w")
    assert "model.input_size" in run("build", path, "--data", photos, "--check").stderr
    result = run("build", path, "--data", photos, "--check", "--set", "model.input_size=[16, 16]")
    assert result.exit_code == 0, result.output


def test_uint8_inputs_need_no_normalization(tmp_path: Path, photos: Path) -> None:
    path = classifier(tmp_path / "m.onnx", classes=3, dtype="uint8")
    model = parse_config(model_recipe(Wanted(source=str(path), data=str(photos)), Path.cwd()).text).model
    assert model.preprocessing is not None
    assert model.preprocessing.normalization is None


def test_inspect_writes_a_recipe_that_builds(colours: Path, photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "sub" / "edgeopt.toml"
    recipe.parent.mkdir()
    result = run("inspect", colours, "--data", photos, "--recipe", recipe)
    assert result.exit_code == 0, result.output
    assert "decided  top-1 on 72 images decided for" in result.output
    assert run("build", "--check", recipe).exit_code == 0
    again = run("inspect", colours, "--data", photos, "--recipe", recipe)
    assert again.exit_code == 10
    assert "is there already" in again.stderr
    as_json = json.loads(run("inspect", colours, "--data", photos, "--json").stdout)
    assert as_json["decided_by_images"][0]["value"] == 1.0
    assert as_json["recipe"].startswith("name = ")


def test_a_single_set_is_parted_and_calibration_images_may_be_apart(colours: Path, photos: Path) -> None:
    alone = parse_config(model_recipe(Wanted(source=str(colours), data=str(photos)), Path.cwd()).text).data
    assert alone.train is not None
    assert alone.holdout == 0.25
    apart = Wanted(source=str(colours), data=str(photos), calibration=str(photos / "red"))
    data = parse_config(model_recipe(apart, Path.cwd()).text).data
    assert data.test is not None
    assert data.calibration is not None
    assert data.calibration.format == "images"


def test_a_data_format_of_ones_own_is_read_where_the_user_names_it(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = classifier(tmp_path / "m.onnx", classes=3)
    reader = "from edgeopt.dataset.folders import read_image_folder as read\n"
    (tmp_path / "pictures_of_mine.py").write_text(reader, encoding="utf-8")
    table = tmp_path / "mine.toml"
    table.write_text(f'format = "pictures_of_mine:read"\npath = "{photos.as_posix()}"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    wanted = Wanted(source=str(network), data=str(table), calibration=str(photos / "red"))
    found = model_recipe(wanted, Path.cwd())
    assert found.decision is not None
    assert found.decision.best.value == 1.0


def test_options_of_a_model_are_refused_with_a_recipe(photos: Path) -> None:
    result = run("build", "digits", "--data", photos, "--check")
    assert result.exit_code == 10
    assert "--data goes with a model" in result.stderr


def test_classes_that_the_network_does_not_have_are_left_out(photos: Path) -> None:
    source = DataSource(format="image_folder", path=str(photos), other_classes="leave_out")
    found = listed(source, Path(), ("red", "purple"))
    assert len(found.drafts) == 24
    assert found.left_out == (
        "24 of the class 'blue', which the network does not have",
        "24 of the class 'green', which the network does not have",
    )
    with pytest.raises(DataError, match="has none of the 1 classes of the network, purple"):
        listed(source, Path(), ("purple",))
    with pytest.raises(DataError, match="leave it out of the data"):
        listed(DataSource(format="image_folder", path=str(photos)), Path(), ("red", "purple"))


@pytest.mark.parametrize(
    ("source", "name"),
    [("a/yolo11n.onnx", "yolo11n"), ("timm:resnet18.a1_in1k", "resnet18"), ("x y (1).onnx", "x-y-1"), ("…", "model")],
)
def test_recipes_are_named_after_their_model(source: str, name: str) -> None:
    assert recipe_name(source) == name


def test_a_network_that_takes_no_images_is_said_to_be_one(tmp_path: Path, photos: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[1, 7] x) => (float[1, 3] y) { y = MatMul (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((7, 3), np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    result = run("build", tmp_path / "m.onnx", "--data", photos, "--check")
    assert result.exit_code == 10
    assert "no input takes images (N, C, H, W)" in result.stderr


def test_no_option_is_taken_without_a_use(colours: Path, photos: Path) -> None:
    alone = run("inspect", colours, "--labels", "a,b,c")
    assert alone.exit_code == 2
    assert "go with --data" in alone.stderr
    named = run("build", "edgeopt:mobilenet_v2", "--data", photos, "--normalization", "unit", "--check")
    assert named.exit_code == 10
    assert "model.preprocessing" in named.stderr
