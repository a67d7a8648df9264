"""Bill of materials of a bundle: an ML-BOM of CycloneDX 1.6 (ECMA-424), from the manifest alone.

It names nothing of the machine that built the bundle: no path, no user, no host. Its serial number follows from the
manifest, so that the same bundle gives the same document.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from edgeopt.bundle import MANIFEST_NAME, Bundle, Manifest, Variant
from edgeopt.bundle.manifest import encode
from edgeopt.bundle.provenance import package_url
from edgeopt.bundle.recorded import split
from edgeopt.bundle.records import Accuracy
from edgeopt.files import sha256
from edgeopt.targets import find_target

_SPECIFICATION: Final = "1.6"
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/edgeopt-bundle")
_TASKS = {"classification": "image classification", "detection": "object detection"}


def bill_of_materials(bundle: Bundle, *, license_id: str | None = None) -> dict[str, Any]:
    """Return the document, ready for JSON.

    Args:
        bundle: an opened bundle.
        license_id: SPDX identifier or expression of the weights' licence, which no bundle knows.
    """
    manifest, _ = split(bundle.manifest)
    digest = sha256(encode(manifest))
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest.name,
        "version": str(manifest.release),
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "modelCard": _model_card(manifest),
    }
    if license_id is not None:
        model["licenses"] = [_license(license_id)]
    engines = [_engine(bundle, variant) for variant in manifest.variants]
    libraries = [_library(name, version) for name, version in sorted(manifest.versions.items())]
    datasets = [_dataset(role, fingerprint) for role, fingerprint in sorted(manifest.datasets.items())]
    others = [_file(manifest, name) for name in sorted(_other_files(manifest))]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": _SPECIFICATION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created.isoformat().replace("+00:00", "Z"),
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_library("edgeopt", manifest.versions.get("edgeopt", "unknown"), "tool-")]},
            "component": model,
        },
        "components": [*engines, *datasets, *libraries, *others],
        "dependencies": [
            {"ref": "model", "dependsOn": [each["bom-ref"] for each in (*engines, *datasets, *others)]},
            *({"ref": each["bom-ref"], "dependsOn": _needed(each, manifest)} for each in engines),
        ],
    }


def _model_card(manifest: Manifest) -> dict[str, Any]:
    spec = manifest.spec
    parameters: dict[str, Any] = {
        "task": _TASKS[spec.task],
        "datasets": [{"ref": f"data-{role}"} for role in sorted(manifest.datasets)],
        "inputs": [{"format": f"{spec.input.name}: {spec.input.dtype} {_shape(spec.input.shape)}"}],
        "outputs": [{"format": f"{each.name}: {each.dtype} {_shape(each.shape)}"} for each in spec.outputs],
    }
    if manifest.recipe is not None and (source := _source(manifest.recipe.model.source)):
        parameters["modelArchitecture"] = source
    metrics = [
        metric
        for variant in manifest.variants
        if variant.accuracy is not None
        for metric in _metrics(variant.name, variant.accuracy)
    ]
    considerations = {"technicalLimitations": list(manifest.notes)} if manifest.notes else {}
    return {
        "bom-ref": "model-card",
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": considerations,
    }


def _shape(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _source(source: str) -> str:
    """Name of a built-in network or of the user's code; of a file its name without the folders that it lay in."""
    return source if ":" in source and "/" not in source and "\\" not in source else PurePosixPath(source).name


def _metrics(name: str, accuracy: Accuracy) -> Iterator[dict[str, Any]]:
    yield {"type": accuracy.metric, "value": f"{accuracy.value:.6f}", "slice": f"{name}, {accuracy.images} test images"}
    comparison = accuracy.comparison
    if comparison is not None and comparison.drop is not None:
        drop = comparison.drop
        yield {
            "type": f"loss of {accuracy.metric} against FP32",
            "value": f"{drop.estimate:.6f}",
            "slice": f"{name}, {accuracy.images} test images",
            "confidenceInterval": {"lowerBound": f"{drop.low:.6f}", "upperBound": f"{drop.high:.6f}"},
        }


def _engine(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    properties = {
        "target": variant.target,
        "precision": variant.precision,
        "scheme": variant.scheme or "none",
        "accepted": str(variant.accepted).lower(),
        "sealed": str(bundle.manifest.sealed is not None).lower(),
    }
    return {
        **_file(bundle.manifest, variant.file),
        "bom-ref": f"engine-{variant.name}",
        "description": f"engine of the variant {variant.name}",
        "properties": [{"name": f"edgeopt:{name}", "value": value} for name, value in properties.items()],
    }


def _file(manifest: Manifest, name: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file-{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": manifest.files[name].sha256}],
    }


def _other_files(manifest: Manifest) -> set[str]:
    return set(manifest.files) - {variant.file for variant in manifest.variants} - {MANIFEST_NAME}


def _library(name: str, version: str, prefix: str = "library-") -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"{prefix}{name}",
        "name": name,
        "version": version,
        "purl": package_url(name, version),
    }


def _dataset(role: str, fingerprint: str) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": f"data-{role}",
        "name": f"{role} images",
        "data": [{"type": "dataset", "name": f"{role} images"}],
        "properties": [{"name": "edgeopt:fingerprint", "value": fingerprint}],
    }


def _needed(engine: dict[str, Any], manifest: Manifest) -> list[str]:
    """Libraries that an engine's target needs, of those that are known."""
    target = next(each["value"] for each in engine["properties"] if each["name"] == "edgeopt:target")
    return [f"library-{name}" for name in find_target(target).distributions if name in manifest.versions]


def _license(text: str) -> dict[str, Any]:
    """Return an expression as such, and one identifier as what it is."""
    return {"expression": text} if " " in text else {"license": {"id": text}}
