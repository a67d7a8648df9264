"""Recorded rows replace those of the same setting alone; a step apart sees the kernels that it was limited to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import hardening_tables, training_tables
from benchmarks.apart import Meter, apart
from benchmarks.recorded import changed, record, rows
from edgeopt.config import TrainConfig
from edgeopt.measure.environment import peak_memory_mib

LIMIT = "ONEDNN_MAX_CPU_ISA"


def test_a_row_takes_the_place_of_one_of_its_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "some.json"
    assert rows(path) == []
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        record(path, {"name": name, "scheme": "one", "value": value}, ("name", "scheme"))
    assert [(row["name"], row["value"]) for row in rows(path)] == [("b", 2), ("a", 3)]
    assert capsys.readouterr().out.count("scheme") == 3


def test_a_row_from_before_a_key_was_added_stays(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    record(path, {"name": "a"}, ("name",))
    record(path, {"name": "a", "kernels": "AVX2"}, ("name", "kernels"))
    assert len(rows(path)) == 2


def test_a_step_apart_is_limited_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "SSE41")
    assert apart(os.getenv, LIMIT, isa="AVX2") == "AVX2"
    assert apart(os.getenv, LIMIT) is None
    assert os.environ[LIMIT] == "SSE41"
    assert apart(os.getpid) != os.getpid()


def test_what_a_step_raises_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)
    with pytest.raises(FileNotFoundError):
        apart(os.stat, "no such file", isa="AVX2")
    assert LIMIT not in os.environ


def test_a_meter_counts_what_was_spent_since() -> None:
    meter = Meter()
    sum(range(10**6))
    cost = meter.cost()
    assert cost["seconds"] >= 0
    assert cost["processor_seconds"] >= 0
    assert cost["peak_memory_mb"] > 1


def test_a_process_apart_does_not_count_the_memory_of_its_parent() -> None:
    pytest.importorskip("resource")
    if not (Path("/proc/self/status").exists() and "VmHWM" in Path("/proc/self/status").read_text(encoding="ascii")):
        pytest.skip("this system does not tell a program's own peak")
    mib = 256
    held = bytearray(mib << 20)
    held[:: 1 << 12] = b"\1" * (mib << 8)  # touches each page
    assert peak_memory_mib() > mib
    assert apart(peak_memory_mib) < mib
    assert len(held) == mib << 20


def test_a_table_leaves_out_columns_that_no_row_fills() -> None:
    assert training_tables._filled(("a", "b", "c"), [("1", "", ""), ("2", "", "x")]) == (
        ["a", "c"], [["1", ""], ["2", "x"]],
    )  # fmt: skip


def test_what_a_script_printed_is_shown_as_code() -> None:
    assert hardening_tables._shown([["a\\b <c>", "x|y"]]) == "`a\\b <c>: x\\|y`"


def test_only_what_differs_from_the_defaults_is_said() -> None:
    assert changed(None) == {}
    assert changed(TrainConfig(epochs=7)) == {"epochs": 7}
