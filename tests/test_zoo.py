"""The zoo goes on where it was stopped, leaves out what is not there and says so; its table shows what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import scale, scaling_tables, seeded, zoo
from benchmarks.recorded import record, rows
from edgeopt.errors import ModelError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for results and graphs."""
    monkeypatch.setattr(zoo, "RESULTS", tmp_path / "zoo.json")
    monkeypatch.setattr(zoo, "FILES", tmp_path)
    monkeypatch.setattr(scale, "RESULTS", tmp_path / "scale.json")
    return tmp_path


def run_zoo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
    zoo.main()


def test_rows_that_are_there_stay_and_tools_that_are_not_are_named(files: Path, monkeypatch, capsys) -> None:
    made = []
    monkeypatch.setattr(zoo, "prepare", lambda name, *_: name)
    monkeypatch.setattr(zoo, "processor", lambda: "one")

    def measured(network: str, job: zoo.Job) -> dict[str, str]:
        made.append(job.key)
        return {"network": network, "tool": job.tool, "scheme": job.scheme, "cpu": job.key[-1]}

    monkeypatch.setattr(zoo, "measured", measured)
    asked = ("--network", "resnet18", "--scheme", "openvino", "--environments", str(files / "none"))
    run_zoo(monkeypatch, *asked)
    assert made == [("resnet18", "edgeopt", "openvino", "one")]
    assert "resnet18: NNCF default SKIPPED: no" in capsys.readouterr().err
    run_zoo(monkeypatch, *asked, "--scheme", "arm")
    assert made[1:] == [("resnet18", "edgeopt", "arm", "one")]
    run_zoo(monkeypatch, *asked, "--again")
    assert len(made) == 3
    assert len(rows(zoo.RESULTS)) == 2
    monkeypatch.setattr(zoo, "processor", lambda: "another")
    run_zoo(monkeypatch, *asked)
    assert made[3:] == [("resnet18", "edgeopt", "openvino", "another")], "each processor has rows of its own"
    assert len(rows(zoo.RESULTS)) == 3


def test_a_network_that_cannot_be_had_is_left_out_and_named(files: Path, monkeypatch, capsys) -> None:
    def prepare(*_) -> None:
        raise ModelError("no weights here")

    monkeypatch.setattr(zoo, "prepare", prepare)
    run_zoo(monkeypatch, "--network", "resnet18", "--tool", "edgeopt")
    assert "resnet18: SKIPPED, not measured: no weights here" in capsys.readouterr().err
    assert rows(zoo.RESULTS) == []


def test_there_are_twelve_networks_or_more_and_each_is_trained_or_seeded() -> None:
    assert len(zoo.ZOO) >= 12
    assert all(bool(entry.recipe) != bool(entry.seeded.source) for entry in zoo.ZOO.values())


def test_made_pictures_are_the_same_for_the_same_seed() -> None:
    spec = scale.vgg_head_spec()
    first, again, other = (list(seeded.pictures(spec, 2, seed)) for seed in (0, 0, 1))
    assert first[0][1]["x"].shape == (1, *scale.WIDE)
    np.testing.assert_array_equal(first[1][1]["x"], again[1][1]["x"])
    assert not np.array_equal(first[0][1]["x"], first[1][1]["x"])
    assert not np.array_equal(first[0][1]["x"], other[0][1]["x"])


def test_the_tables_show_each_engine_and_what_was_not_made(files: Path) -> None:
    row = {
        "network": "net", "tool": "edgeopt", "scheme": "openvino", "choice": "fast", "published": "99 %",
        "weights": "seeded", "images": 16, "tests": 8, "fp32": None, "cpu": "a processor", "int8_macs": 0.98,
        "seconds": 12.3, "processor_seconds": 10.0, "peak_memory_mb": 512,
        "engines": {"as written": {"agreement": 1.0, "kl": 0.001}, "OpenVINO": {"agreement": 0.9, "latency": 0.5},
                    "onnxruntime": {"reason": "no"}},
    }  # fmt: skip
    failed = {key: row[key] for key in ("network", "scheme", "weights", "images", "tests", "cpu")}
    rows = [row, {**failed, "tool": "NNCF mixed", "scheme": "", "reason": "it fails"}]
    zoo.RESULTS.write_text(json.dumps(rows), encoding="utf-8")
    table = scaling_tables.zoo(zoo.RESULTS)
    assert "| net | a processor | seeded | edgeopt, openvino, repairs fast |  |  | 100.0% / 90.0% / – |" in table
    assert "| 0.001 / – / – |" in table
    assert "| 98.0% | 0.50 / – | 12 s | 0.50 GiB | 99 % |" in table
    assert "NNCF mixed | not made: it fails |" in table
    widths = {line.count(" | ") for line in table.splitlines() if line.startswith("|") and "---" not in line}
    assert len(widths) == 1
    assert "Not measured yet" in scaling_tables.scale(scale.RESULTS)
    measured = {"network": "a", "images": 8, "choice": "all", "minutes": None, "gmacs": 1.0, "weights_mb": 3,
                "input_mb": 5, "processor_seconds": 7.0, "peak_memory_mb": 1024, "cpu": "one"}  # fmt: skip
    record(scale.RESULTS, measured, ("network",))
    assert "| a | all | 1.0 | 3 MB | 8 | 5 MB | 7 s | 1.00 GiB |" in scaling_tables.scale(scale.RESULTS)
