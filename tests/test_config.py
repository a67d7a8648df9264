"""edgeopt.toml: what is accepted, and what a person is told about what is not."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.config import (
    Config,
    data_source,
    find_recipe,
    json_schema,
    named_code,
    parse_config,
    shipped_recipes,
    write_starter,
)
from edgeopt.errors import ConfigError
from edgeopt.spec import Letterbox, Normalization, preset

MINIMAL = 'name = "x"\n[model]\nsource = "edgeopt:lenet5"\n'


def test_minimal_recipe_has_defaults() -> None:
    config = parse_config(MINIMAL)
    assert config.train is None
    assert config.compile.targets == ("ov", "ort")
    assert config.calibrate.images == 200


def test_preprocessing_and_decoding_are_tagged_data() -> None:
    config = parse_config(
        MINIMAL
        + """
        [model.preprocessing]
        channels = "BGR"
        normalization = { scale = 1.0 }
        steps = [{ type = "letterbox", size = [416, 416], anchor = "top_left" }]
        [model.decoding]
        type = "yolox"
        score_threshold = 0.5
        """
    )
    assert config.model.preprocessing is not None
    assert config.model.preprocessing.steps == (Letterbox(size=(416, 416), anchor="top_left"),)
    assert config.model.preprocessing.normalization == Normalization(scale=1.0)
    assert config.model.decoding == preset("yolox", score_threshold=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[data.train]\nformat = "coco"\npth = "x"', r"unknown key 'pth' in \[data.train\]. Did you mean 'path'\?"),
        ("[calibrat]\nimages = 3", r"unknown key 'calibrat'. Did you mean 'calibrate'\?"),
        ('[calibrate]\nmethod = "median"', "'median' is no value of `calibrate.method`. Known: auto, ent"),
        ('[compile]\nprocessors = ["avx"]', r"'avx' is no value of `compile.processors\[0\]`. Did you mean 'avx2'"),
        ("[calibrate]\nimages = 0", "calibrate.images"),
        ('[data.train]\nformat = "zip"', "no data format 'zip'.* - at `data.train`"),
        ("[compile]\ntargets = []", "compile.targets"),
        ('[train]\nepochs = "ten"', "`train.epochs` takes a whole number, not text"),
        ("[train]\nlearning_rate = []", r"`train.learning_rate` takes a number, not a list"),
        ('[quantize]\nrepairs = "gptq"', r"`quantize.repairs` takes a list, as in \[1, 2\], not text"),
        ("[model", "not valid TOML"),
    ],
)
def test_errors_name_the_place_and_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(MINIMAL + text)


def test_a_recipe_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^there is no .*edgeopt\.toml\. Write a starter recipe with: edgeopt init$"):
        find_recipe(str(tmp_path))


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="source"):
        parse_config('name = "x"\n[model]\n')


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_name_must_be_a_file_name(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        parse_config(f'name = "{name}"\n[model]\nsource = "edgeopt:lenet5"\n')


def test_unreadable_recipe_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="edgeopt init"):
        find_recipe(str(tmp_path / "absent.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        find_recipe(str(tmp_path / "binary.toml"))


def test_an_unreadable_recipe_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        find_recipe(str(tmp_path / "absent.toml"))
    assert str(refused.value).count("absent.toml") == 1
    assert "Errno" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "a/b"\nmodel.source = "x"', "letters, digits, dots, dashes and underscores"),
        ('name = "a"\nmodel.source = "x"\nbudget.max_drop = "half"', 'a percentage of the FP32 metric as in "0.5%"'),
    ],
)
def test_a_text_of_the_wrong_form_is_told_the_form_in_words(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(text)
    assert expected in str(refused.value)
    assert "regex" not in str(refused.value)


@given(st.text(max_size=200))
def test_no_text_gives_anything_but_a_config_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_config(text), Config)


def test_round_trip_through_json() -> None:
    config = parse_config(MINIMAL + "[train]\nepochs = 3\n[train.augmentation]\nbrightness = 0.2")
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_schema_describes_every_table() -> None:
    tables = json_schema()["$defs"]["Config"]["properties"]
    assert set(tables) == set(Config.__struct_fields__)


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_shipped_recipes_are_valid(recipe: str) -> None:
    config, root = find_recipe(recipe)
    assert config.name == recipe
    assert root == Path.cwd()


def test_an_unknown_recipe_is_answered_with_the_closest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        find_recipe("digit")


def test_a_folder_stands_for_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "edgeopt.toml").write_text(MINIMAL)
    config, root = find_recipe(str(tmp_path))
    assert (config.name, root) == ("x", tmp_path)


def test_an_override_may_quote_names_that_have_dots_and_signs() -> None:
    overrides = ['quantize.ranges."features.0"="mse"', "quantize.ranges.'a=b*' = 'minmax'"]
    assert parse_config(MINIMAL, overrides=overrides).quantize.ranges == {"features.0": "mse", "a=b*": "minmax"}


def test_overrides_are_toml_values() -> None:
    overrides = ["calibrate.images=7", "calibrate.method=mse", 'compile.targets=["ort"]', "data.test.format='csv'"]
    config = parse_config(MINIMAL, overrides=overrides)
    assert (config.calibrate.images, config.compile.targets) == (7, ("ort",))
    assert config.data.test is not None
    assert config.data.test.format == "csv"


def test_a_key_of_a_table_that_was_only_switched_on() -> None:
    recipe = MINIMAL + "[train]\nquantize = true\n"
    train = parse_config(recipe, overrides=["train.quantize.epochs=1"]).train
    assert train is not None
    assert not isinstance(train.quantize, bool)
    assert train.quantize.epochs == 1
    with pytest.raises(ConfigError, match="not a table"):
        parse_config(recipe.replace("true", "false"), overrides=["train.quantize.epochs=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [("calibrate.images", "KEY=VALUE"), ("name.x=1", "not a table"), ("calibrate.image=1", "Did you mean 'images'")],
)
def test_wrong_overrides_are_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(MINIMAL, overrides=[override])


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_the_starter_is_a_valid_recipe_and_is_not_overwritten(task: str, tmp_path: Path) -> None:
    path = tmp_path / "edgeopt.toml"
    write_starter(path, task, replace=False)
    config, _ = find_recipe(str(path))
    assert config.train is not None
    with pytest.raises(ConfigError, match="--force"):
        write_starter(path, task, replace=False)


def test_data_is_recognised_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert data_source("digits").split == "test"
    assert data_source(str(tmp_path)).format == "image_folder"
    assert data_source(str(tmp_path / "labels.csv")).format == "csv"
    assert data_source(str(tmp_path / "instances.json")).path == str(tmp_path / "images")
    with pytest.raises(ConfigError, match="not a data set"):
        data_source("nothing.xyz")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[data.train]\nformat = "cocoo"', r"no data format 'cocoo'\. Did you mean 'coco'\?.*at `data\.train"),
        ('[data.train]\nformat = "csv"\narguments = {a = 1}', "takes no arguments"),
        (
            "[compile.tensorrt.build]\ndla_cor = 0",
            r"unknown key 'dla_cor' in \[compile\.tensorrt\.build\]\. Did you mean 'dla_core'",
        ),
        ("[compile.tensorrt.build.batch]\nmin = 2", r"min <= opt <= max.*at `compile\.tensorrt\.build\.batch"),
        ('[compile.options."mine.npu:TARGET"]\ncores = 2', "options of a target that is not built"),
        ('[compile]\ntargets = ["ort", "onnx"]', r"no target 'onnx'.*package\.module:callable.*at `compile"),
    ],
)
def test_a_name_of_nothing_is_answered_with_the_closest(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_config(f'name = "x"\n[model]\nsource = "edgeopt:lenet5"\n{text}')


def test_code_of_the_users_may_stand_for_names_of_ours_and_is_not_imported_yet() -> None:
    recipe = """
        name = "x"
        model = {source = "mine.nets:net"}
        data.train = {format = "mine.data:read", arguments = {depth = 2}}
        compile.targets = ["ort", "mine.npu:TARGET"]
    """
    config = parse_config(recipe)
    assert named_code(config) == ("mine.nets:net", "mine.data:read", "mine.npu:TARGET")


def test_the_schema_tells_editors_our_names_and_the_form_of_others() -> None:
    definition = json_schema()["$defs"]["DataSource"]["properties"]["format"]
    assert "coco" in definition["anyOf"][0]["enum"]
    assert re.match(definition["anyOf"][1]["pattern"], "mine.data:read")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 5000, "beyond any depth"),
        ("a = " + "{a=" * 3000, "beyond any depth"),
        ("a = " + "9" * 5000, "is not valid TOML"),
        ("[benchmark]\nduration_s = inf", "`benchmark.duration_s` is inf, which is not a finite number"),
        ("[align]\nlevels = [0.5, nan]", r"`align.levels\[1\]` is nan"),
        ("[benchmark]\nduration_s = 1e9", "duration_s"),
        ("[benchmark]\nthreads = 1000000", "threads"),
        ("[model]\ninput_size = [1000000000, 10]", "input_size"),
        ('name = "a\\n"', "name"),
    ],
)
def test_what_no_build_means_is_refused(text: str, said: str) -> None:
    """Depths that end Python's stack, numbers that ask for all memory or for ever, names with a line break."""
    recipe = text if text.startswith("name") else f'name = "x"\n{text}'
    with pytest.raises(ConfigError, match=said):
        parse_config(recipe + "\n" if "[model]" in text else recipe + '\n[model]\nsource = "edgeopt:lenet5"\n')
