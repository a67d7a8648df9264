"""The reference of recipe keys: complete, true to the structs, and found under the names that people try."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest
from click.testing import CliRunner

from edgeopt.cli import main
from edgeopt.config import Config, parse_config, shipped_recipes
from edgeopt.doors import DATA_FORMATS
from edgeopt.errors import ConfigError
from edgeopt.keys import example, explain, keys
from edgeopt.models import NETWORKS
from edgeopt.presets import PRESETS

MINIMAL = 'name = "x"\n[model]\nsource = "edgeopt:lenet5"\n'


@pytest.mark.parametrize("key", keys(), ids=lambda key: key.path)
def test_every_key_is_described(key) -> None:
    assert key.description.endswith((".", "…")), "in sentences, in a docstring below its field"
    assert key.kind


def test_every_field_of_a_recipe_is_there() -> None:
    found = {key.path for key in keys()}
    assert {field.encode_name for field in msgspec.structs.fields(Config)} <= found
    assert {
        "train.augmentation.mosaic",
        "compile.tensorrt.build.batch.max",
        "model.decoding.detection.grid.strides",
    } <= found


def test_defaults_are_those_of_a_recipe_that_says_nothing() -> None:
    config = parse_config(MINIMAL)
    by_path = {key.path: key for key in keys()}
    assert by_path["calibrate.images"].default == str(config.calibrate.images)
    assert by_path["quantize.enabled"].default == "true"
    assert by_path["model.source"].default == "needed"
    assert by_path["budget.latency_ms"].default == "not set"


@pytest.mark.parametrize(
    "key", [key for key in keys() if key.default not in ("needed", "not set")], ids=lambda k: k.path
)
def test_a_default_is_toml(key) -> None:

    toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    assert "value" in toml.loads(f"value = {key.default}")


def test_limits_are_shown() -> None:
    assert explain("train.ema")[0].kind == "number ≥ 0 and < 1"
    assert explain("data.train.format")[0].kind.startswith('"coco", ')


@pytest.mark.parametrize("path", ["data.test.format", "data.calibration.limit", "[train.augmentation]", "model"])
def test_keys_are_found_as_they_are_written(path: str) -> None:
    assert explain(path)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("calibrate.image", "calibrate.images"), ("trian.epochs", "train.epochs"), ("epochs", "train.epochs")],
)
def test_a_key_that_was_meant_is_suggested(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no key '{wrong}'.*{meant}"):
        explain(wrong)


@pytest.mark.parametrize("name", DATA_FORMATS)
def test_a_data_format_is_explained_by_its_reader(name: str) -> None:
    first, *others = explain(f"data.{name}")
    assert name in first.path
    assert first.description.endswith(".")
    assert "Raises" not in first.description
    assert {"data.train.path", "data.train.annotations"} <= {key.path for key in others}


def test_names_of_networks_and_presets_are_listed() -> None:
    for path, names in (("model.source", NETWORKS), ("model.decoding.detection.preset", PRESETS)):
        described = explain(path)[0].description
        assert [name for name in names if f"`{name}`" not in described] == []


def test_the_help_of_build_names_every_shipped_recipe() -> None:
    shown = " ".join(CliRunner().invoke(main, ["build", "--help"]).output.replace("-\n", "-").split())
    assert [name for name in shipped_recipes() if name not in shown.replace("- ", "-")] == []


def test_examples_come_from_shipped_recipes() -> None:
    shown = example("train.epochs")
    assert shown is not None
    assert any(f"# {name}" in shown for name in shipped_recipes())
    assert example("calibrate.percentile") is None, "no shipped recipe sets it"


def test_the_command_explains_a_table_with_its_keys() -> None:
    shown = CliRunner().invoke(main, ["explain-key", "budget"]).output
    assert "[budget]" in shown
    assert "budget.max_drop" in shown
    assert "budget.latency_ms" in shown


def test_the_command_says_what_was_meant() -> None:
    done = CliRunner().invoke(main, ["explain-key", "budget.max_dorp"])
    assert done.exit_code == ConfigError.exit_code
    assert "budget.max_drop" in done.output


def test_the_schema_is_printed() -> None:
    schema = json.loads(CliRunner().invoke(main, ["schema"]).output)
    assert "Config" in schema["$ref"]
    assert {"quantize", "compile"} <= set(schema["$defs"]["Config"]["properties"])


def test_a_table_is_explained_for_machines() -> None:
    rows = json.loads(CliRunner().invoke(main, ["explain-key", "export", "--json"]).output)
    assert [row["path"] for row in rows] == ["export", "export.opset", "export.tolerance", "export.fold_normalization"]
