"""The bill of materials: valid, complete, the same each time, and silent on who built the bundle."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.config import Config, ModelConfig
from edgeopt.hardware import ThisMachine
from edgeopt.report.materials import bill_of_materials
from edgeopt.spec import replace


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    described = tiny.manifest(
        versions={"edgeopt": "0.1.0", "torch": "2.13.0+cpu", "onnxruntime": "1.32.0"},
        datasets={"test": "ab" * 32, "train": "cd" * 32},
        machine=ThisMachine().whole,
        notes=("only 40 test images",),
        recipe=Config(name="x", model=ModelConfig(source="/home/somebody/secret/model.onnx")),
    )
    variants = tuple(replace(each, accuracy=tiny.accuracy(0.9)) for each in described.variants)
    return tiny.write(
        tmp_path / "x.edgeopt",
        **{name: getattr(described, name) for name in ("versions", "datasets", "machine", "notes", "recipe")},
        variants=variants,
    )


def test_it_is_valid_cyclonedx(bundle: Bundle) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs cyclonedx-python-lib[json-validation]")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    for license_id in (None, "Apache-2.0", "MIT AND CC-BY-4.0"):
        found = validator.validate_str(json.dumps(bill_of_materials(bundle, license_id=license_id)))
        assert found is None, found


def test_it_names_every_file_library_and_data_set_by_digest(bundle: Bundle) -> None:
    found = bill_of_materials(bundle)
    hashes = {each["name"]: each["hashes"][0]["content"] for each in found["components"] if each["type"] == "file"}
    assert hashes == {name: record.sha256 for name, record in bundle.manifest.files.items()}
    libraries = {each["purl"] for each in found["components"] if each["type"] == "library"}
    assert "pkg:pypi/torch@2.13.0%2Bcpu" in libraries
    data = [each for each in found["components"] if each["type"] == "data"]
    assert [each["properties"][0]["value"] for each in data] == ["ab" * 32, "cd" * 32]
    references = [each["bom-ref"] for each in found["components"]]
    assert len(set(references)) == len(references)
    named = {name for each in found["dependencies"] for name in (each["ref"], *each["dependsOn"])}
    assert named <= {"model", *references}


def test_the_model_card_has_every_variants_accuracy(bundle: Bundle) -> None:
    card = bill_of_materials(bundle)["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert {metric["slice"].partition(",")[0] for metric in metrics} == {each.name for each in bundle.manifest.variants}
    assert {metric["value"] for metric in metrics} == {"0.900000"}
    assert card["considerations"]["technicalLimitations"] == ["only 40 test images"]
    assert card["modelParameters"]["modelArchitecture"] == "model.onnx"


def test_it_says_nothing_of_who_built_the_bundle_and_is_the_same_each_time(bundle: Bundle) -> None:
    text = json.dumps(bill_of_materials(bundle))
    for private in ("somebody", "secret", str(bundle.path), platform.node(), platform.release()):
        assert private not in text
    if getpass.getuser() not in ("root", "model", "data"):
        assert getpass.getuser() not in text
    assert text == json.dumps(bill_of_materials(Bundle.open(bundle.path)))
    assert text == json.dumps(bill_of_materials(bundle.record("ort-fp32", tuned={"0123456789abcdef": {}})))


def test_the_command_writes_a_file(bundle: Bundle, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["sbom", str(bundle.path), "--license", "MIT", "--out", str(tmp_path / "bom.json")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "bom.json").read_text())
    assert found["metadata"]["component"]["licenses"] == [{"license": {"id": "MIT"}}]
    printed = CliRunner().invoke(main, ["sbom", str(bundle.path)])
    assert json.loads(printed.stdout)["specVersion"] == "1.6"
