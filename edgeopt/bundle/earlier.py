"""Manifests of earlier schema versions, in today's form."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeopt.renamed import use_present_names_in_manifest
from edgeopt.typed import from_json

_STAGES = {
    "repairs": "repairs",
    "kept_float32": "kept_float32",
    "search": "search",
    "accuracy measured in": "evaluated_in",
}
"""Keys of a variant's ``settings`` in version 1, and of `StageRecords`."""
_IMPLICIT = {"images": "images", "of": "source"}
"""The same of `ImplicitCalibration`."""


def from_version_1(text: bytes) -> bytes:
    """A manifest of version 1 as one of version 2.

    Version 1 held what was measured as untyped tables, and what the stages found under one called ``settings``, some of
    whose keys were words with spaces.

    Raises:
        msgspec.DecodeError: not JSON.
    """
    manifest = from_json(text, dict[str, Any])
    use_present_names_in_manifest(manifest)
    manifest["schema_version"] = 2
    for name in ("recipe", "machine"):
        manifest[name] = manifest.get(name) or None
    if isinstance(calibration := manifest.get("calibration"), dict):
        calibration["settings"] = calibration.get("settings") or None
    variants = manifest.get("variants")
    for variant in variants if isinstance(variants, list) else []:
        if isinstance(variant, dict) and isinstance(settings := variant.pop("settings", {}), dict):
            variant["stages"] = _stages(settings)
    return msgspec.json.encode(manifest)


def _stages(settings: dict[str, Any]) -> dict[str, Any]:
    known = {*_STAGES, *_IMPLICIT, "calibrated by"}
    stages = {key: value for key, value in settings.items() if key not in known}  # left for validation to refuse
    stages |= {new: settings[old] for old, new in _STAGES.items() if old in settings}
    if "calibrated by" in settings:
        stages["implicit"] = {new: settings[old] for old, new in _IMPLICIT.items() if old in settings}
    return stages
