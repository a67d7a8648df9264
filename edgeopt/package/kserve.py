"""An InferenceService of KServe, whose predictor is the container of `--format docker`.

Its schema is KServe's custom resource: https://github.com/kserve/kserve, config/crd.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from edgeopt.package.container import PORT, USER, image
from edgeopt.package.contents import Files, Source
from edgeopt.runtime.choice import choose

_MARGIN = 1.5
"""Memory that a server gets over what was measured: requests and their pictures come on top."""


def service(source: Source) -> Files:
    """Return the manifest of the service."""
    manifest = source.bundle.manifest
    container: dict[str, Any] = {
        "name": "kserve-container",
        "image": image(source),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": _probe("/v2/health/ready"),
        "livenessProbe": _probe("/v2/health/live"),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": USER,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the container, and its own
        **_resources(source),
    }
    if source.asked is not None:
        source.bundle.variant(source.asked)
    predictor = {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}
    annotations = {"edgeopt/bundle": manifest.name, "edgeopt/release": str(manifest.release)}
    written = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": resource_name(source.name), "annotations": annotations},
        "spec": {"predictor": predictor},
    }
    return {"inferenceservice.yaml": f"# {source.about}.\n{''.join(_yaml(written))}".encode()}


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": PORT}}


def _resources(source: Source) -> dict[str, Any]:
    """Return what the variant took that runs on machines of this kind, if that was measured."""
    manifest = source.bundle.manifest
    name = source.asked or choose(manifest).name
    measured = None if name is None else source.measured(manifest.variant(name))
    if measured is None or measured.latency is None:
        return {}
    memory = f"{math.ceil(_MARGIN * measured.latency.peak_memory_mib)}Mi"
    return {"resources": {"requests": {"memory": memory}, "limits": {"memory": memory}}}


def resource_name(name: str) -> str:
    """Return a name as Kubernetes wants it (RFC 1123 label): lower case, digits and hyphens, 63 at most."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "bundle"


def _yaml(value: Any, indent: str = "") -> list[str]:
    """Write maps and lists as YAML's blocks, everything else as JSON, which YAML includes."""
    lines: list[str] = []
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, (dict, list)) and each:
                lines += [f"{indent}{key}:\n", *_yaml(each, indent + "  ")]
            else:
                lines.append(f"{indent}{key}: {json.dumps(each)}\n")
        return lines
    for each in value:
        if isinstance(each, (dict, list)):
            first, *others = _yaml(each, indent + "  ")
            lines += [f"{indent}- {first.lstrip()}", *others]
        else:
            lines.append(f"{indent}- {json.dumps(each)}\n")
    return lines
