"""The comparison with other quantizers: its plumbing here, the tools themselves only where they are installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from passes.graphs import model_of
from test_diagnose import NETWORK, images
from tiny_recipe import RECIPE, Watch

from edgeopt.config import BenchmarkConfig, find_recipe
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.diagnosis import diagnose_files
from edgeopt.pipeline.job import open_job
from edgeopt.pipeline.workspace import Workspace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import environments
from benchmarks.peers.candidates import Candidate, candidates
from benchmarks.peers.environments import PEERS, Peer, PeerError, cuda_libraries, quantize
from benchmarks.peers.measurement import accuracies, latencies, tried
from benchmarks.peers.table import table


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    ir.save(optimize(model_of(NETWORK)), tmp_path / "float.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([each["x"] for each in images()]))
    return tmp_path / "float.onnx"


def test_every_peer_has_its_script_and_fixed_versions() -> None:
    for peer in PEERS.values():
        assert peer.script.is_file()
        assert all("==" in each for each in peer.requirements)
        assert set(peer.distinct) <= set(peer.settings)


def test_a_script_that_fails_is_an_error_with_its_reason_and_one_that_works_tells_its_seconds(
    tmp_path, monkeypatch
) -> None:
    peer = fake(tmp_path, monkeypatch)
    python, paths = Path(sys.executable), (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert quantize(python, peer, "works", *paths) == 2.5
    with pytest.raises(PeerError, match="could not convert string to float: 'x'"):
        quantize(python, peer, "fails", *paths)


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """A peer that copies the graph, or fails."""
    monkeypatch.setattr(environments, "SCRIPTS", tmp_path)
    (tmp_path / "a").write_text("graph")
    (tmp_path / "with_fake.py").write_text(
        "import shutil, sys\nprint('noise')\nprint(float(sys.argv[4]))\nshutil.copy(sys.argv[1], sys.argv[3])\n"
    )
    return Peer("fake", ("fake==1.0",), {"works": ("2.5",), "fails": ("x",)}, distinct=("works",))


@pytest.mark.parametrize(
    ("name", "is_cuda"),
    [
        ("nvidia_cublas_cu12", True),
        ("nvidia-cudnn-cu13", True),
        ("triton", True),
        ("cupy-cuda12x", True),
        ("nvidia-modelopt", False),
        ("torch", False),
    ],
)
def test_cuda_is_recognized_before_it_is_downloaded(name: str, is_cuda: bool) -> None:
    report = json.dumps({"install": [{"metadata": {"name": name}}]})
    assert bool(cuda_libraries(report)) == is_cuda


def test_a_peer_quantizes_once_and_one_that_fails_gets_a_row_with_its_reason(tmp_path, monkeypatch) -> None:
    peer = fake(tmp_path, monkeypatch)
    monkeypatch.setattr("benchmarks.peers.candidates.prepare", lambda *_: Path(sys.executable))
    config, root = find_recipe(str(_written(tmp_path / "tiny.toml")), ["quantize.repairs=[]"])
    stages = []
    for _ in range(2):
        watch = Watch()
        job = open_job(config, root, Workspace(tmp_path / "work"), watch)
        found = candidates(job, [peer], tmp_path / "out")
        stages.append(watch)
    assert [each.name for each in found] == ["FP32", "edgeopt", "works", "fails"]
    assert found[2].graph is not None
    assert found[2].graph.read_bytes() == found[0].graph.read_bytes()
    assert found[2].seconds == 2.5
    assert "could not convert" in found[3].reason
    assert found[2].spec.task == "classification"
    assert "peer-fake" in stages[0].made
    assert "peer-fake" in stages[1].reused
    assert "quantize" in stages[1].reused
    found = candidates(job, [peer], tmp_path / "out", latency_only=True)
    assert [each.name for each in found] == ["FP32", "edgeopt", "works"]


def test_candidates_are_measured_against_float_and_against_edgeopt(tmp_path) -> None:
    config, root = find_recipe(str(_written(tmp_path / "tiny.toml")), ["quantize.repairs=[]"])
    job = open_job(config, root, Workspace(tmp_path / "work"), Watch())
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    found = candidates(job, [], tmp_path / "out")
    found = [tried(each) for each in (*found, Candidate("broken", broken, found[0].spec))]
    assert "broken.onnx" in found[2].reason
    accuracy = accuracies(found, job)
    assert set(accuracy) == {"FP32", "edgeopt"}
    assert accuracy["FP32"]["agreement"] is None
    assert accuracy["edgeopt"]["agreement"] > 0.9
    assert 0 < accuracy["edgeopt"]["kl"] < 0.1
    times = latencies(found, job, BenchmarkConfig(warmup_s=0.0, duration_s=0.02, minimum_queries=8, threads=1))
    assert times["edgeopt"]["ratio"] is None
    assert times["FP32"]["ratio"][0] > 0


def _written(path: Path) -> Path:
    path.write_text(RECIPE)
    return path


def test_the_table_shows_ratios_and_why_a_peer_did_not_run(tmp_path) -> None:
    fast = {"p50_ms": 2.0, "ratio": None, "invalid": []}
    slow = {"p50_ms": 2.5, "ratio": [1.25, 1.2, 1.3], "invalid": ["the clock fell"]}
    figures = {"metric": "top1", "accuracy": 0.81, "agreement": 0.975, "kl": 0.006}
    rows = [
        {"name": "edgeopt", "reason": "", **figures, "latency": {"1": fast, "2": fast}},
        {"name": "other", "reason": "", **figures, "latency": {"1": slow, "2": slow}},
        {"name": "third", "reason": "needs CUDA", "latency": {}},
    ]
    result = {
        "rows": rows,
        "calibration_images": 200,
        "random_weights": False,
        "peers": ["other 1.0"],
        "processor": "a processor",
        "versions": {"openvino": "1", "onnxruntime": "2"},
    }
    results = {"mobilenet-v2": result, "resnet50": result | {"random_weights": True}}
    (tmp_path / "peers.json").write_text(json.dumps(results))
    lines = table(tmp_path / "peers.json").splitlines()
    assert "| edgeopt | 81.0 % | 97.5 % | 0.0060 | 1.00 / 1.00 | 1.00 / 1.00 |" in lines
    assert "| other | 81.0 % | 97.5 % | 0.0060 | 1.25\\* / 1.25\\* | 1.25\\* / 1.25\\* |" in lines
    assert any("third (not run: needs CUDA)" in line for line in lines)
    assert "random weights" in lines[-1]
    assert len({line.count("|") for line in lines[:5]}) == 1


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
