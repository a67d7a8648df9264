"""Names of earlier versions: taken in recipes, on the command line and in bundles."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle.manifest import decode, encode, with_checksum
from edgeopt.cli import main
from edgeopt.config import parse_config
from edgeopt.errors import BundleError, ConfigError

RECIPE = """
name = "old"
model.source = "edgeopt:lenet5"
quantize.scheme = "x86"
quantize.repairs = ["ranges", "adaround"]
"""


def test_a_recipe_with_former_names_is_read_and_each_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgeopt"):
        config = parse_config(RECIPE, "old.toml")
    assert (config.quantize.scheme, config.quantize.repairs) == ("openvino", ("ranges", "gptq"))
    assert [record.getMessage() for record in caplog.records] == [
        "old.toml, [quantize] scheme: 'x86' is called 'openvino' now. Please use the new name",
        "old.toml, [quantize] repairs: 'adaround' is called 'gptq' now. Please use the new name",
    ]


def test_present_names_are_read_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "edgeopt"):
        parse_config(RECIPE.replace("x86", "openvino").replace("adaround", "gptq"))
    assert caplog.records == []


@pytest.mark.parametrize("table", ["quantize = 3", "quantize.scheme = 3", "quantize.repairs = [3]"])
def test_a_value_of_the_wrong_type_is_still_refused(table: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(f'name = "old"\nmodel.source = "edgeopt:lenet5"\n{table}')


def test_a_bundle_with_former_names_opens(tmp_path: Path) -> None:
    document = json.loads(encode(tiny.write(tmp_path / "old").manifest))
    del document["checksum"]
    document["schema_version"] = 1
    quantize = {"scheme": "x86", "repairs": ["ranges", "adaround"]}
    document["recipe"] = {"name": "old", "model": {"source": "edgeopt:lenet5"}, "quantize": quantize}
    variant = next(each for each in document["variants"] if each["precision"] == "int8")
    variant["scheme"] = "x86"
    variant["engine"]["precision"] = "f32"
    variant["tuned"] = {"cpu": {"latency": {"precision": "f32"}}}
    del variant["stages"]
    variant["settings"] = {
        "repairs": [{"name": "bias_correction+adaround", "before": 1.0, "after": 0.5, "declined": ""}],
        "kept in float32": {"node": "reason"},
    }
    again = decode(json.dumps(document).encode(), "manifest.json")
    read = again.variant(variant["name"])
    assert read.scheme == "openvino"
    assert read.engine.precision == read.tuned["cpu"]["latency"].precision == "fp32"
    assert read.stages.helped == ("bias_correction+gptq",)
    assert read.stages.kept_float32 == {"node": "reason"}
    assert (again.recipe.quantize.scheme, again.recipe.quantize.repairs) == ("openvino", ("ranges", "gptq"))


def test_a_bundle_whose_recipe_fine_tuned_int8_graphs_opens_without_these_settings(tmp_path: Path) -> None:
    document = json.loads(encode(tiny.write(tmp_path / "old").manifest))
    del document["checksum"]
    document["recipe"] = {
        "name": "old",
        "model": {"source": "edgeopt:lenet5"},
        "train": {"epochs": 0, "quantize": {"epochs": 2, "teacher": 0.8}},
        "compress": {"parameters": 0.5, "train": {"epochs": 3, "quantize": False}},
        "quantize": {"repairs": ["ranges", "distillation"], "distillation_epochs": 12},
    }
    recipe = decode(with_checksum(json.dumps(document, indent=2).encode()), "manifest.json").recipe
    assert recipe.train is None
    assert recipe.compress.train.epochs == 3
    assert recipe.quantize.repairs == ("ranges",)


@pytest.mark.parametrize("document", ["[]", "3", '{"schema_version": 1, "variants": 3}', '{"schema_version": 1}'])
def test_a_manifest_of_the_wrong_shape_is_still_refused(document: str) -> None:
    with pytest.raises(BundleError):
        decode(document.encode(), "manifest.json")


def test_the_command_takes_a_former_scheme_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    (tmp_path / "c").mkdir()
    command = ["quantize", "m.onnx", "--calibration", "c", "--scheme", "x86", "-o", "q.onnx"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(main, command)
    assert "--scheme: 'x86' is called 'openvino' now" in result.output
    assert "Invalid value" not in result.output


def test_the_command_takes_a_former_repair_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    (tmp_path / "c").mkdir()
    command = ["quantize", "m.onnx", "--calibration", "c", "--repairs", "ranges,adaround", "-o", "q.onnx"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(main, command)
    assert "--repairs: 'adaround' is called 'gptq' now" in result.output
    assert "there is no repair" not in result.output
