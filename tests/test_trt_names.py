"""Every name of TensorRT that the code uses, found in its source: recorded, asked for where a release lacks it, tried.

The other tests run the code on a fake of each release; this one makes sure that no line of it was left out.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_tensorrt import BEHAVIOUR, JETPACK_5, RECORDINGS, RELEASES, SUBCLASSED, names_of

import edgeopt.runtime.trt
from edgeopt.bundle import EngineSettings
from edgeopt.runtime.trt.builder import Engine

SOURCES = sorted(Path(edgeopt.runtime.trt.__file__).parent.glob("*.py"))
EVERY = [*RELEASES, JETPACK_5]
HOLDERS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "flags": "NetworkDefinitionCreationFlag",
    "flag": "BuilderFlag",
    "error": "ParserError",
}
"""What the code calls a TensorRT object, and its class."""
OURS = {
    "engine": {*Engine.__dataclass_fields__, *EngineSettings.__struct_fields__},
    "builder": set(),
    "error": {"calibrator", "name"},  # of our calibrator's box, and of ModuleNotFoundError
    "config": set(),
}
"""Attributes of things of our own that have such a name."""


COMES_WITH = {
    ("IBuilderConfig", "num_compute_capabilities"): ("", "ComputeCapability"),
    ("IBuilderConfig", "set_compute_capability"): ("", "ComputeCapability"),
    ("IBuilderConfig", "set_calibration_profile"): ("IBuilderConfig", "int8_calibrator"),
    ("", "EngineValidity"): ("Runtime", "get_engine_validity"),
    ("EngineValidity", "INVALID"): ("Runtime", "get_engine_validity"),
    ("", "EngineInvalidityDiagnostics"): ("Runtime", "get_engine_validity"),
    ("BuilderFlag", "PREFER_PRECISION_CONSTRAINTS"): ("BuilderFlag", "FP16"),
    ("ILayer", "precision"): ("BuilderFlag", "FP16"),
    ("ILayer", "set_output_type"): ("BuilderFlag", "FP16"),
    ("ParserError", "node_operator"): ("ParserError", "node_name"),
    ("", "CudaGraphStrategy"): ("IRuntimeConfig", "create_runtime_cache"),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"): ("IRuntimeConfig", "create_runtime_cache"),
    ("", "DynamicShapesKernelSpecializationStrategy"): ("IRuntimeConfig", "create_runtime_cache"),
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"): ("IRuntimeConfig", "create_runtime_cache"),
}
"""Names that are not asked for by themselves, and the one that is and has them with it in every release."""
PLAIN = ("ILayer", "ITensor")
"""Classes whose objects the fake gives as namespaces."""


class Use(NamedTuple):
    where: str
    owner: str
    """A class of TensorRT; empty for the module itself."""
    name: str
    is_set: bool


def last_identifier(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def uses_in(path: Path) -> Iterator[Use]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        where, holder = f"{path.name}:{node.lineno}", last_identifier(node.value)
        if holder == "module":
            yield Use(where, "", node.attr, is_set=False)
        elif isinstance(node.value, ast.Attribute) and last_identifier(node.value.value) == "module":
            yield Use(where, holder, node.attr, is_set=False)
        elif holder in HOLDERS and node.attr not in OURS.get(holder, set()):
            yield Use(where, HOLDERS[holder], node.attr, is_set=isinstance(node.ctx, ast.Store))


USES = sorted({use for path in SOURCES for use in uses_in(path)})


@functools.cache
def names(release: str) -> dict[str, set[str]]:
    """Names by class; those of the module under the empty name."""
    classes, functions = names_of(release)
    return {**{name: set(members) for name, members in classes.items()}, "": {*classes, *functions}}


def asked_for() -> set[str]:
    """Names that the code asks for before it uses them: ``Class.name`` in capabilities, or by hasattr."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and last_identifier(node.func) in ("_has", "hasattr", "_members"):
                found |= {
                    one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
                }
    return found | {name.rpartition(".")[2] for name in found}


def test_the_code_uses_many_names():
    assert len({(use.owner, use.name) for use in USES}) > 60
    assert {use.owner for use in USES} >= {*HOLDERS.values()} - {"INetworkDefinition"}


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.owner}.{use.name}")
def test_a_name_is_in_every_release_or_asked_for(use):
    lacking = [release for release in EVERY if use.name not in names(release).get(use.owner, set())]
    assert len(lacking) < len(EVERY), f"{use.where}: no recorded release has {use.owner}.{use.name}"
    if not lacking:
        return
    owner, asked = COMES_WITH.get((use.owner, use.name), (use.owner, use.name))
    assert asked in asked_for(), f"{use.where} uses {use.owner}.{use.name}, which {lacking[0]} lacks, unasked"
    assert not [one for one in lacking if asked in names(one).get(owner, set())], f"{asked} says nothing of {use.name}"


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.owner}.{use.name}")
def test_a_name_has_behaviour_in_the_fake(use):
    enumeration = any({"name", "value"} <= names(release).get(use.owner, set()) for release in EVERY)
    if use.owner and not use.is_set and not enumeration and use.owner not in (*SUBCLASSED, *PLAIN):
        assert use.name in vars(BEHAVIOUR[use.owner]), f"{use.where}: no test runs {use.owner}.{use.name}"


def test_the_recordings_are_those_of_the_wheels():
    for path in RECORDINGS.glob("*.json"):
        recorded = json.loads(path.read_text())
        assert recorded["classes"]["Builder"]
        assert set(recorded) == {"classes", "functions"}
