"""Single convolutions by VNNI's kernels: the same answers, by the kernels that were asked for."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.bundle import EngineSettings
from edgeopt.errors import TargetError
from edgeopt.hardware import machine
from edgeopt.hardware.kernels import onednn_limit
from edgeopt.runtime.session import Array

pytest.importorskip("openvino", reason="openvino is not installed: kernels of single layers were not tested")

from edgeopt.runtime import ov_layers, ov_priority
from edgeopt.runtime.ov import OvSession, compile_graph, library, read_graph

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 32, 8, 8] x, float[N, 32, 8, 8] z) => (float[N, 32, 8, 8] y)
<float step = {0.02}, uint8 middle = {128}, float small = {0.01}, int8 zero = {0}>
{
    q = QuantizeLinear(x, step, middle)  d = DequantizeLinear(q, step, middle)
    v = DequantizeLinear(w, small, zero)
    first = Conv(d, v)
    r = Relu(first)
    s = QuantizeLinear(r, step, middle)  e = DequantizeLinear(s, step, middle)
    second = Conv(e, v)
    y = Add(second, z)
}
"""
FEEDS = dict(zip("xz", np.random.default_rng(0).normal(size=(2, 2, 32, 8, 8)).astype(np.float32), strict=True))


def graph() -> bytes:
    model = ir.from_onnx_text(TEXT.replace("float[N, 32, 8, 8] z)", "float[N, 32, 8, 8] z, int8[32, 32, 1, 1] w)"))
    (weight,) = (value for value in model.graph.inputs if value.name == "w")
    model.graph.inputs.remove(weight)
    numbers = np.random.default_rng(1).integers(-60, 60, (32, 32, 1, 1)).astype(np.int8)
    weight.const_value = ir.tensor(numbers, name="w")
    model.graph.register_initializer(weight)
    for node in model.graph:
        node.name = node.outputs[0].name
    return ir.to_proto(model).SerializeToString()


def answers(*layers: str) -> dict[str, Array]:
    with OvSession(graph(), EngineSettings(threads=1, vnni_layers=layers)) as session:
        assert [(spec.name, spec.shape) for spec in session.inputs] == [(name, ("N", 32, 8, 8)) for name in "xz"]
        return session.run(FEEDS)


def kernels(*layers: str) -> dict[str, str]:
    """Return the kernel of each convolution, by its name in the graph."""
    openvino = library()
    model = read_graph(openvino, graph())
    model = ov_priority.by_vnni(openvino, model, layers) if layers else model
    found = {}
    for node in compile_graph(openvino, model, EngineSettings(), batch=1).get_runtime_model().get_ops():
        facts = node.get_rt_info()
        names = facts["originalLayersNames"].astype(str).split(",")
        found |= {name: facts["primitiveType"].astype(str) for name in names if name in ov_priority.convolutions(model)}
    return found


HAS_AMX = "amx_int8" in machine().cpu.features and not onednn_limit()[0]
needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="not Linux: no layer can be told its kernel")


@needs_memory
def test_answers_and_names_stay_the_same() -> None:
    exact = answers()
    for layers in (("first",), ("first", "second"), ("of another graph",)):
        changed = answers(*layers)
        assert changed.keys() == exact.keys()
        for name, array in exact.items():
            np.testing.assert_array_equal(changed[name], array)


@needs_memory
@pytest.mark.skipif(not HAS_AMX, reason="no AMX here: which kernel runs was not tested")
def test_only_the_named_layers_leave_amx() -> None:
    assert all("amx" in kernel for kernel in kernels().values())
    assert len(kernels()) == 2
    assert {name: "amx" in kernel for name, kernel in kernels("first").items()} == {"first": False, "second": True}


@needs_memory
@pytest.mark.skipif(not HAS_AMX, reason="no AMX here: no layer was timed")
def test_layers_that_are_found_faster_are_convolutions_of_the_graph() -> None:
    assert set(ov_layers.faster_by_vnni(graph(), EngineSettings(threads=1))) <= {"first", "second"}


@needs_memory
def test_no_disk_sees_the_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(library(), name)

        def serialize(self, model: Any, *paths: str) -> None:
            seen.extend(str(Path(path).readlink()) for path in paths)
            library().serialize(model, *paths)

    ov_priority.by_vnni(Watching(), read_graph(library(), graph()), ["first"])
    assert len(seen) == 2
    assert all(path.startswith("/proc/self/fd/") for path in seen)
    assert list(tmp_path.iterdir()) == []


@needs_memory
def test_a_device_without_room_for_a_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(TargetError, match=r"No space left on device.*TMPDIR"):
        answers("first")


def test_a_system_without_files_in_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(TargetError, match="needs files in memory, as Linux has them"):
        answers("first")
