"""Manifests of earlier schema versions, in today's form."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from edgeopt.bundle.records import LatencyResult, Measured
from edgeopt.hardware import identity_of
from edgeopt.presets import expand
from edgeopt.renamed import use_present_names_in_manifest
from edgeopt.spec import replace
from edgeopt.typed import convert, from_json

_STAGES = {
    "repairs": "repairs",
    "kept_float32": "kept_float32",
    "search": "search",
    "accuracy measured in": "evaluated_in",
}
"""Keys of a variant's ``settings`` in version 1, and of `StageRecords`."""
_IMPLICIT = {"images": "images", "of": "source"}
"""The same of `ImplicitCalibration`."""
_DISTRIBUTIONS = {"ort": "onnxruntime", "ov": "openvino", "trt": "tensorrt", "rtx": "tensorrt-rtx"}
"""Packages by target; version 1 knew no others."""
_ACCELERATED = ("trt", "rtx")


FINE_TUNED = b'"distillation_epochs"'
"""In every manifest that was written while INT8 graphs could be fine-tuned, up to schema version 4."""


def in_present_form(text: bytes, version: int) -> bytes:
    """Return a manifest of an earlier schema version, or with settings that are no more, as one of today's.

    Raises:
        msgspec.DecodeError: not JSON.
    """
    manifest = from_json(text, dict[str, Any])
    if version == 1:
        _from_version_1(manifest)
    if version <= 2:
        _from_version_2(manifest)
    _forget_fine_tuning(manifest.get("recipe"))
    manifest["schema_version"] = 4  # 3 held in the manifest what is recorded beside it since
    return msgspec.json.encode(manifest)


def _forget_fine_tuning(recipe: Any) -> None:
    """Leave out the settings of fine-tuning, which nothing reads any more: the graphs are in the bundle."""
    if not isinstance(recipe, dict):
        return
    compress = recipe.get("compress")
    for holder in (recipe, compress if isinstance(compress, dict) else {}):
        if isinstance(train := holder.get("train"), dict):
            train.pop("quantize", None)
            if train.get("epochs") == 0:  # only the INT8 graph was trained
                holder["train"] = None
    if isinstance(quantize := recipe.get("quantize"), dict):
        quantize.pop("distillation_epochs", None)
        if isinstance(repairs := quantize.get("repairs"), list):
            quantize["repairs"] = [name for name in repairs if name != "distillation"]


def _from_version_2(manifest: dict[str, Any]) -> None:
    """Describe the heads of detectors, which version 2 knew two of, as types of their own."""
    variants = manifest.get("variants")
    recipe = manifest.get("recipe")
    for holder in (
        manifest.get("spec"),
        recipe.get("model") if isinstance(recipe, dict) else None,
        *(each.get("spec") for each in (variants if isinstance(variants, list) else []) if isinstance(each, dict)),
    ):
        if isinstance(holder, dict) and "decoding" in holder:
            holder["decoding"] = expand(holder["decoding"])


def _from_version_1(manifest: dict[str, Any]) -> None:
    """Bring version 1 to version 2.

    Version 1 held what was measured as untyped tables, and what the stages found under one called ``settings``, some of
    whose keys were words with spaces.
    """
    use_present_names_in_manifest(manifest)
    for name in ("recipe", "machine"):
        manifest[name] = manifest.get(name) or None
    if isinstance(calibration := manifest.get("calibration"), dict):
        calibration["settings"] = calibration.get("settings") or None
    variants = manifest.get("variants")
    for variant in variants if isinstance(variants, list) else []:
        if not isinstance(variant, dict):
            continue  # left for validation to refuse
        if isinstance(settings := variant.pop("settings", {}), dict):
            variant["stages"] = _stages(settings)
        variant.pop("p50_ms", None)
        if (latency := variant.pop("latency", None)) is not None:
            found = _measured(variant.get("target"), latency, manifest.get("created"))
            variant["measured"] = {found.machine.fingerprint: msgspec.to_builtins(found)}


def _measured(target: object, latency: object, created: object) -> Measured:
    """Return the measurements of the machine that built the bundle."""
    found = convert(latency, LatencyResult)
    here = found.environment.machine
    if target not in _ACCELERATED:
        here = replace(here, gpus=())
    libraries = {
        name: version for name, version in found.environment.versions.items() if name == _DISTRIBUTIONS.get(str(target))
    }
    machine = identity_of(here, libraries, found.conditions.power_mode)
    return Measured(machine=machine, recorded=convert(created, datetime.datetime), latency=found)


def _stages(settings: dict[str, Any]) -> dict[str, Any]:
    known = {*_STAGES, *_IMPLICIT, "calibrated by"}
    stages = {key: value for key, value in settings.items() if key not in known}  # left for validation to refuse
    stages |= {new: settings[old] for old, new in _STAGES.items() if old in settings}
    if isinstance(search := stages.get("search"), dict):
        curve = search.get("curve")
        for point in (search.get("best"), *(curve if isinstance(curve, list) else ())):
            if isinstance(point, dict) and "predicted_distance" in point:
                point["predicted_discrepancy"] = point.pop("predicted_distance")
    if "calibrated by" in settings:
        stages["implicit"] = {new: settings[old] for old, new in _IMPLICIT.items() if old in settings}
    return stages
