"""The comparison with other quantizers: its plumbing here, the tools themselves only where they are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from passes.graphs import model_of
from test_diagnose import NETWORK, images
from tiny_recipe import Watch

from edgeopt.passes.optimize import optimize
from edgeopt.pipeline.diagnosis import diagnose_files

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import environments
from benchmarks.peers.environments import PEERS, Peer, quantize


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    ir.save(optimize(model_of(NETWORK)), tmp_path / "float.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([each["x"] for each in images()]))
    return tmp_path / "float.onnx"


def test_every_peer_has_its_script_and_fixed_versions() -> None:
    for peer in PEERS.values():
        assert (environments.SCRIPTS / f"with_{peer.name}.py").is_file()
        assert "==" in peer.requirements[0]
        assert peer.settings


def test_a_script_that_fails_is_an_error_and_one_that_works_tells_its_seconds(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(environments, "SCRIPTS", tmp_path)
    peer = Peer("fake", (), {"works": ("2.5",), "fails": ("x",)})
    (tmp_path / "with_fake.py").write_text("import sys\nprint('noise')\nprint(float(sys.argv[4]))\n")
    python, paths = Path(sys.executable), (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert quantize(python, peer, "works", *paths) == 2.5
    with pytest.raises(subprocess.CalledProcessError):
        quantize(python, peer, "fails", *paths)


@pytest.mark.parametrize("name", ["onnxruntime", "nncf"])
def test_what_a_peer_makes_can_be_diagnosed(name: str, graph: Path, tmp_path: Path) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed here: its files are not tested")
    peer = PEERS[name]
    out = tmp_path / "theirs.onnx"
    setting = next(iter(peer.settings))
    assert quantize(Path(sys.executable), peer, setting, graph, tmp_path / "x.npz", out) > 0
    found = diagnose_files(graph, out, tmp_path / "x.npz", None, 4, Watch())
    assert found.whole.sqnr_db > 15
    assert found.weights_only.sqnr_db > found.whole.sqnr_db - 1
    assert found.notes == ()
    assert "Conv" in {layer.operator for layer in found.layers}
