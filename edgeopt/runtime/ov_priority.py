"""Single convolutions by the kernels of VNNI on a processor with AMX.

OpenVINO (2026.4.1) computes every INT8 convolution by AMX there. Its tiles take longer than VNNI's vectors for many
small layers, up to 2.5 times: YOLOX-tiny takes .75 of its time with the faster kernel for each, and answers the same to
the bit (``python -m benchmarks.amx``). No size tells which is faster; `ov_layers` measures it.

A node is told by the attribute ``primitives_priority``, which Python cannot set: the graph is written as OpenVINO's IR,
in memory, changed and read again.
"""

from __future__ import annotations

import os
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import TargetError

_PRIORITY = "cpu:brgconv_avx512_1x1,cpu:brgconv_avx512"
"""Names of VNNI's convolution kernels in OpenVINO, the one for 1 x 1 first."""
_CONVOLUTION = "Convolution"


def convolutions(graph: Any) -> set[str]:
    """Return the names of a graph's convolutions, without those of groups."""
    return {node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == _CONVOLUTION}


def by_vnni(openvino: Any, graph: Any, layers: Collection[str]) -> Any:
    """Return a graph whose convolutions of these names have VNNI's kernels.

    Args:
        openvino: the library.
        graph: an ``openvino.Model``; it stays as it is.
        layers: names of convolutions; others are left alone.

    Raises:
        TargetError: this system has no files in memory (it is not Linux), or no folder for temporary files.
    """
    try:
        described, weights = _written(openvino, graph)
    except OSError as error:
        raise TargetError(
            f"layers cannot be given kernels of VNNI here: {error}. Name a folder for temporary files that can be "
            "written to in TMPDIR"
        ) from error
    network = ET.fromstring(described)  # noqa: S314 - OpenVINO wrote it just now
    for layer in network.iter("layer"):
        if layer.get("type") == _CONVOLUTION and layer.get("name") in layers:
            notes = layer.find("rt_info")
            if notes is None:
                notes = ET.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, notes)
            ET.SubElement(notes, "attribute", name="primitives_priority", version="0", value=_PRIORITY)
    return openvino.Core().read_model(ET.tostring(network), openvino.Tensor(weights))


def _written(openvino: Any, graph: Any) -> tuple[bytes, NDArray[np.uint8]]:
    """Return a graph as IR: its description and its weights, which no disk sees, as a bundle may be encrypted."""
    if not hasattr(os, "memfd_create"):
        raise TargetError("layers cannot be given kernels of VNNI here: that needs files in memory, as Linux has them")
    files = [os.memfd_create(name) for name in ("xml", "bin")]
    try:
        with tempfile.TemporaryDirectory() as folder:
            # OpenVINO wants names with these endings.
            links = [Path(folder, name) for name in ("graph.xml", "graph.bin")]
            for link, file in zip(links, files, strict=True):
                link.symlink_to(f"/proc/self/fd/{file}")
            openvino.serialize(graph, *map(str, links))
            described, weights = (np.fromfile(link, np.uint8) for link in links)
        return described.tobytes(), weights
    finally:
        for file in files:
            os.close(file)
