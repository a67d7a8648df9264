"""Doctor says what there is, and for what there is not, why."""

from __future__ import annotations

import re

import msgspec
import pytest
from rich.console import Console

from edgeopt import doctor as room
from edgeopt.cli.views.doctor import doctor_tables
from edgeopt.doctor import DoctorReport, doctor
from edgeopt.errors import ConfigError
from edgeopt.hardware import DEVICES, CudaDriverState, Gpu, machine
from edgeopt.runtime.session import Availability
from edgeopt.targets import TARGETS


def shown(report: DoctorReport) -> str:
    console = Console(width=240)
    with console.capture() as captured:
        console.print(doctor_tables(report))
    return captured.get()


def test_every_target_is_examined_and_every_no_has_a_reason():
    report = doctor()
    assert [state.name for state in report.targets] == list(TARGETS)
    assert all(state.runs or state.problem for state in report.targets)
    assert "numpy" in report.versions
    assert "onnxruntime" in shown(report)


def test_the_report_is_json():
    report = doctor("orin-nano-8gb")
    assert msgspec.json.decode(msgspec.json.encode(report), type=DoctorReport) == report


def test_a_named_board_with_its_jetpacks():
    report = doctor("agx-orin-64gb")
    text = shown(report)
    assert [jetpack.version for jetpack in report.jetpacks] == ["5.1", "6.0", "6.1", "6.2", "7.2"]
    assert "10.3.0" in text
    assert "by calibrator" in text
    assert "strongly typed DLA" in text


def test_a_board_without_dla_is_told_nothing_of_it():
    text = shown(doctor("orin-nano-8gb"))
    assert re.search(r"DLA cores\s+none", text)
    assert text.count("DLA") == 1
    assert "11.4.1 can be installed" in text


def test_tensorrt_8_has_a_target_of_its_own():
    text = " ".join(shown(doctor("orin-nano-8gb")).split())
    assert 'TensorRT 8 (JetPack 5.1, 6.0): name "trt8" in [compile] targets.' in text
    of_this_processor = '([precision] cpu = "bf16")'
    assert "[precision]" not in text.replace(of_this_processor, "")


@pytest.mark.parametrize("name", ["orin-nano-4gb", "agx-orin-64gb", "nano-4gb", "agx-thor-128gb"])
def test_80_columns_are_enough(name):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(doctor_tables(doctor(name)))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in captured.get()
    said = " ".join(" ".join(lines).split())
    for note in ("deploy/jetpack5.Dockerfile", "can be installed from 7.2.2 on", "Thor only", "not supported"):
        assert (note in said) == (note in " ".join(shown(doctor(name)).split())), "a word was broken"


def test_what_is_not_installed_is_said_as_such(monkeypatch):
    text = shown(doctor())
    assert "No module named" not in text


def test_an_old_board_is_not_supported():
    assert "not supported" in shown(doctor("nano-4gb"))


@pytest.mark.parametrize("name", [board.name for board in DEVICES])
def test_every_board_can_be_shown(name):
    assert name in shown(doctor(name))


def test_an_unknown_board_suggests_the_closest():
    with pytest.raises(ConfigError, match="Did you mean 'orin-nx-16gb'"):
        doctor("orin-nx-16")


def test_a_jetson_is_described(monkeypatch, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    orin = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, integrated=True)
    monkeypatch.setattr(room, "machine", lambda: machine(tmp_path, CudaDriverState(cuda="12.6", gpus=(orin,))))
    text = shown(doctor())
    assert "L4T 36.4.3, JetPack 6.2" in text
    assert "shares the processor's memory" in text


def test_a_processor_without_int8_instructions(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "machine", lambda: machine(tmp_path, CudaDriverState(problem="none")))
    assert "time with some networks only (edgeopt benchmark BUNDLE)" in " ".join(shown(doctor()).split())


def test_what_compiles_without_running(monkeypatch):
    monkeypatch.setattr(room, "availability", lambda name: Availability(ok=False, reason="no GPU [here]"))
    report = doctor()
    assert all(not state.runs for state in report.targets)
    assert "no GPU [here]" in shown(report)
