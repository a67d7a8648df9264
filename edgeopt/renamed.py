"""Former names in recipes, commands and bundles, and the present ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

SCHEMES: Mapping[str, str] = {"x86": "openvino"}
"""OpenVINO's placement of quantizers; ONNX Runtime on the same processors has another."""
REPAIRS: Mapping[str, str] = {"adaround": "gptq"}
"""The rounding is GPTQ's (Frantar et al. 2022), not AdaRound's."""
PRECISIONS: Mapping[str, str] = {"f32": "fp32"}
"""Precision of an engine."""
CUDA: Mapping[str, str] = {"cuda-python": "libcuda"}
"""Provider of CUDA without pycuda: now the driver's library itself."""

_LOG = logging.getLogger(__name__)


def present_name(name: str, names: Mapping[str, str], origin: str) -> str:
    """Return the present name, with a warning if `name` is a former one.

    Args:
        name: as the user wrote it.
        names: present names by former name.
        origin: where it stands, for the warning.
    """
    if name not in names:
        return name
    _LOG.warning("%s: '%s' is called '%s' now. Please use the new name", origin, name, names[name])
    return names[name]


def use_present_names(recipe: dict[str, Any], origin: str) -> None:
    """Replace the former names in a recipe as read from TOML, in place, with a warning each."""
    for run in _runs(recipe.get("compile")):
        if isinstance(cuda := run.get("cuda"), str):
            run["cuda"] = present_name(cuda, CUDA, f"{origin}, [compile.tensorrt.run] cuda")
    quantize = recipe.get("quantize")
    if not isinstance(quantize, dict):
        return
    if isinstance(scheme := quantize.get("scheme"), str):
        quantize["scheme"] = present_name(scheme, SCHEMES, f"{origin}, [quantize] scheme")
    if isinstance(repairs := quantize.get("repairs"), list):
        quantize["repairs"] = [present_name(str(name), REPAIRS, f"{origin}, [quantize] repairs") for name in repairs]


def use_present_names_in_manifest(manifest: Any) -> None:
    """Replace the former names in a manifest as read from JSON, in place.

    Nothing is logged: a bundle is not written by hand, and it keeps working. Values of the wrong type are left for
    validation to report.
    """
    if not isinstance(manifest, dict):
        return
    for variant in _dicts(manifest.get("variants")):
        _replace(variant, "scheme", SCHEMES)
        for engine in _engines(variant):
            _replace(engine, "precision", PRECISIONS)
            for run in _runs(engine):
                _replace(run, "cuda", CUDA)
        for settings in _dicts(variant, "settings"):
            if "kept in float32" in settings:
                settings["kept_float32"] = settings.pop("kept in float32")
        for trial in _dicts(variant.get("settings"), "repairs"):
            if isinstance(name := trial.get("name"), str):
                trial["name"] = "+".join(REPAIRS.get(part, part) for part in name.split("+"))
    _use_present_names_in_recipe(manifest.get("recipe"))


def _use_present_names_in_recipe(recipe: Any) -> None:
    for compiling in _dicts(recipe, "compile"):
        for run in _runs(compiling):
            _replace(run, "cuda", CUDA)
    for quantize in _dicts(recipe, "quantize"):
        _replace(quantize, "scheme", SCHEMES)
        if isinstance(repairs := quantize.get("repairs"), list):
            quantize["repairs"] = [REPAIRS.get(str(name), name) for name in repairs]


def _engines(variant: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the engine settings of a variant: as compiled, and as tuned by processor and mode."""
    yield from _dicts(variant, "engine")
    for modes in _dicts(list(variant["tuned"].values()) if isinstance(variant.get("tuned"), dict) else []):
        yield from _dicts(list(modes.values()))


def _runs(options: Any) -> Iterator[dict[str, Any]]:
    """Yield how TensorRT runs, of ``[compile]`` or of an engine's settings."""
    for tensorrt in _dicts(options, "tensorrt"):
        yield from _dicts(tensorrt, "run")


def _dicts(found: Any, key: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the dictionaries in a list, or the one that stands (alone or in a list) under `key` of a dictionary."""
    if key is not None:
        found = found.get(key) if isinstance(found, dict) else None
    yield from (each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict))


def _replace(table: dict[str, Any], key: str, names: Mapping[str, str]) -> None:
    if isinstance(name := table.get(key), str):
        table[key] = names.get(name, name)
