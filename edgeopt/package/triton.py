"""Model repositories for the Triton Inference Server.

`repository` is one model of the Python backend, which runs all of it by `edgeopt.runtime`, on any target. `ensemble`
leaves the network to Triton's own backend, between a model that prepares pictures and one that decodes. Both have the
same inputs and outputs, those of `edgeopt serve`.

The configuration is described in https://github.com/triton-inference-server/server, docs/user_guide/
model_configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeopt.bundle import Variant
from edgeopt.errors import TargetError
from edgeopt.package.batches import largest_batch
from edgeopt.package.contents import Files, Source
from edgeopt.runtime.session import find_target
from edgeopt.serve.models import PICTURE, RESULTS
from edgeopt.serve.protocol import datatype_of
from edgeopt.spec import ModelSpec, TensorSpec, has_batch

GEOMETRY = "geometry"
"""Tensor of the ensemble that carries the way back to the picture: see `triton_backend`."""
GEOMETRY_VALUES = 6
_QUEUE_DELAY_US = 2000
"""Longest wait of a request for others: as `edgeopt serve` has it."""


class Enum(str):
    """A name that the text format writes without quotes."""

    __slots__ = ()


def repository(source: Source) -> Files:
    """Return a repository with one model, which runs whatever `load` chooses on the machine of the server.

    It warms up by itself, with the golden inputs, and does not load where they are not answered as recorded.
    """
    variant = None if source.asked is None else source.bundle.variant(source.asked)
    reference = variant or source.bundle.variant(source.bundle.manifest.baseline)
    spec = source.spec(reference)
    largest = largest_batch(source, variant)
    config: dict[str, Any] = {
        "name": source.name,
        "backend": "python",
        "max_batch_size": largest,
        "input": [_picture()],
        "output": _results(spec),
        **_scheduling(largest),
        "parameters": _parameters({"bundle": source.folder, "variant": source.asked or ""}),
    }
    files: dict[str, Any] = {f"{source.name}/1/{name}": file for name, file in source.bundle_files().items()}
    files[f"{source.name}/1/model.py"] = _model(source, "Predict")
    files[f"{source.name}/config.pbtxt"] = _text(source, config)
    return files


def ensemble(source: Source) -> Files:
    """Return a repository with an ensemble: prepare, the network by Triton's own backend, decode.

    Raises:
        TargetError: the network has further inputs, or outputs without a batch, or is for an engine that only its
            device can build.
    """
    variant = source.variant("triton")
    spec = source.spec(variant)
    if spec.auxiliary:
        raise TargetError(
            f"'{source.name}' takes inputs beside the picture, which an ensemble cannot fill. Use --format triton"
        )
    if not all(has_batch(spec, each) for each in spec.outputs):
        raise TargetError(f"'{source.name}' has outputs without a batch. Use --format triton")
    largest = 0 if isinstance(spec.input.shape[0], int) else largest_batch(source, variant)
    name = source.name
    written = msgspec.json.format(msgspec.json.encode(spec, order="deterministic"), indent=2) + b"\n"
    geometry = {"name": GEOMETRY, "data_type": Enum("TYPE_FP64"), "dims": _dims(("N", GEOMETRY_VALUES), largest)}
    picture = {**_picture(), "dims": [1]}
    prepared, outputs = _tensor(spec.input, largest), [_tensor(each, largest) for each in spec.outputs]
    results = [{**each, "dims": [1, *each["dims"]]} if not largest else each for each in _results(spec)]
    stages: dict[str, dict[str, Any]] = {
        "prepare": {"backend": "python", "input": [picture], "output": [prepared, geometry]},
        "network": {"backend": find_target(variant.target).served_by["triton"], "input": [prepared], "output": outputs},
        "decode": {"backend": "python", "input": [*outputs, geometry], "output": results},
    }
    stages["network"] |= {"default_model_filename": f"model{_suffix(variant)}", **_engine(source, variant)}
    files: dict[str, Any] = {
        f"{name}_network/1/model{_suffix(variant)}": source.bundle.plain_file(variant.name),
        f"{name}_prepare/1/model.py": _model(source, "Prepare"),
        f"{name}_prepare/1/spec.json": written,
        f"{name}_decode/1/model.py": _model(source, "Decode"),
        f"{name}_decode/1/spec.json": written,
        f"{name}/1/.keep": b"",
    }
    golden = source.bundle.golden(variant.name)
    if golden is not None:
        tensor = golden[0][spec.input.name][:1]
        files[f"{name}_network/warmup/golden"] = np.ascontiguousarray(tensor).tobytes()
        stages["network"]["model_warmup"] = [
            _warmup(spec.input.name, prepared["data_type"], prepared["dims"], "golden", batch=min(1, largest))
        ]
    for stage, config in stages.items():
        scheduling = _scheduling(largest if stage == "network" else 0)
        whole = {"name": f"{name}_{stage}", "max_batch_size": largest, **config, **scheduling}
        files[f"{name}_{stage}/config.pbtxt"] = _text(source, whole)
    steps = [_step(f"{name}_{stage}", config) for stage, config in stages.items()]
    steps[0]["output_map"][spec.input.name] = steps[1]["input_map"][spec.input.name] = "prepared"
    whole = {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": largest,
        "input": [picture],
        "output": results,
        "ensemble_scheduling": {"step": steps},
    }
    files[f"{name}/config.pbtxt"] = _text(source, whole)
    return files


def _step(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step of the ensemble, whose tensors are called in it as in the model."""
    return {
        "model_name": name,
        "model_version": -1,
        "input_map": {each["name"]: each["name"] for each in config["input"]},
        "output_map": {each["name"]: each["name"] for each in config["output"]},
    }


def _model(source: Source, name: str) -> bytes:
    return (
        f'"""{source.about}."""\n\n'
        f"from edgeopt.package.triton_backend import {name} as TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n'
    ).encode()


def _picture() -> dict[str, Any]:
    return {"name": PICTURE, "data_type": Enum("TYPE_STRING"), "dims": [1]}


def _results(spec: ModelSpec) -> list[dict[str, Any]]:
    types = {"BYTES": "TYPE_STRING"}
    return [
        {"name": name, "data_type": Enum(types.get(datatype, f"TYPE_{datatype}")), "dims": list(shape[1:])}
        for name, datatype, shape in RESULTS[spec.task]
    ]


def _dims(shape: Sequence[int | str], largest: int) -> list[int]:
    sizes = [-1 if isinstance(size, str) else size for size in shape]
    if largest:
        return sizes[1:]
    return [1 if isinstance(shape[0], str) else sizes[0], *sizes[1:]]


def _tensor(tensor: TensorSpec, largest: int) -> dict[str, Any]:
    datatype = datatype_of(tensor.dtype)
    return {"name": tensor.name, "data_type": Enum(f"TYPE_{datatype}"), "dims": _dims(tensor.shape, largest)}


def _scheduling(largest: int) -> dict[str, Any]:
    """Let requests run together where the network takes several pictures; the engine's threads are one instance's."""
    instances = {"instance_group": [{"count": 1}]}
    if largest < 2:
        return instances
    return {"dynamic_batching": {"max_queue_delay_microseconds": _QUEUE_DELAY_US}, **instances}


def _engine(source: Source, variant: Variant) -> dict[str, Any]:
    """Return the settings of an engine, as its backend calls them."""
    found = {key: str(value) for key, value in source.properties(variant).items()}
    return {"parameters": _parameters(found)} if found else {}


def _parameters(values: Mapping[str, str]) -> dict[str, Any]:
    return {key: {"string_value": value} for key, value in values.items()}


def _warmup(name: str, data_type: Enum, dims: Sequence[int], file: str, batch: int = 1) -> dict[str, Any]:
    values = {name: {"data_type": data_type, "dims": list(dims), "input_data_file": file}}
    return {"name": "golden", "batch_size": batch, "inputs": values}


def _suffix(variant: Variant) -> str:
    return "." + variant.file.rpartition(".")[2]


def _text(source: Source, config: Mapping[str, Any]) -> bytes:
    return f"# {source.about}.\n{''.join(_lines(config))}".encode()


_MAPS = frozenset({"parameters", "input_map", "output_map", "inputs"})
"""Fields of the configuration that are maps: entries of a key and a value in the text format."""


def _lines(message: Mapping[str, Any], indent: str = "") -> list[str]:
    """Write a message in protobuf's text format."""
    found: list[str] = []
    for name, value in message.items():
        if name in _MAPS:
            entries: list[Any] = [{"key": key, "value": each} for key, each in value.items()]
        else:
            entries = value if isinstance(value, list) else [value]
        if name == "dims":
            found.append(f"{indent}dims: [{', '.join(map(str, value))}]\n")
            continue
        for each in entries:
            if isinstance(each, Mapping):
                found += [f"{indent}{name} {{\n", *_lines(each, indent + "  "), f"{indent}}}\n"]
            else:
                found.append(f"{indent}{name}: {_scalar(each)}\n")
    return found


def _scalar(value: str | float) -> str:
    if isinstance(value, Enum) or not isinstance(value, str):
        return str(value)
    text = "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode())
    return f'"{text}"'
