"""A repository and a configuration for OpenVINO Model Server.

Its keys are described in https://github.com/openvinotoolkit/model_server, docs/parameters.md. It serves
the network's tensors; preparing and decoding stay with the client.
"""

from __future__ import annotations

import json

from edgeopt.package.contents import Files, Source

_MODELS = "/models"
"""Folder that the package is mounted at in the server's container."""


def repository(source: Source) -> Files:
    """Return the model of an OpenVINO variant and the server's configuration.

    Raises:
        TargetError: the bundle has no such variant.
    """
    variant = source.variant("ovms")
    config = {
        "name": f"{source.name}_network",
        "base_path": f"{_MODELS}/{source.name}",
        "target_device": "CPU",
        "plugin_config": source.properties(variant),
    }
    written = json.dumps({"model_config_list": [{"config": config}]}, indent=2)
    return {
        f"{source.name}/1/model.onnx": source.bundle.plain_file(variant.name),
        "config.json": written.encode() + b"\n",
    }
