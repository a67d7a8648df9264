"""A clock that only engines move, so that what is measured on real engines is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import ModelProto

from edgeopt.bundle import EngineSettings
from edgeopt.gate import Opened
from edgeopt.measure.sensors import Reading, Sensors
from edgeopt.measure.subject import Subject
from edgeopt.runtime.ort import OrtSession

Cost = Callable[[int, EngineSettings], float]
"""Milliseconds of one run of an engine, from how many quantizers its graph has and how it runs."""


class FakeClock:
    """Time stands still but for runs of OrtSession, each of which takes what `cost` says; the machine is calm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: Cost) -> None:
        self.now_ns, self.other_load = 0, 0.0
        real_init, real_run = OrtSession.__init__, OrtSession.run
        clock = self

        def init(session: Any, model: Path | bytes, *arguments: Any, **options: Any) -> None:
            real_init(session, model, *arguments, **options)
            content = model if isinstance(model, bytes) else model.read_bytes()
            operators = [node.op_type for node in ModelProto.FromString(content).graph.node]
            session.takes_ns = round(1e6 * cost(operators.count("QuantizeLinear"), session.settings))

        def run(session: Any, inputs: Mapping[str, Any]) -> Any:
            clock.now_ns += session.takes_ns
            return real_run(session, inputs)

        monkeypatch.setattr(OrtSession, "__init__", init)
        monkeypatch.setattr(OrtSession, "run", run)
        monkeypatch.setattr("edgeopt.measure.subject.time", SimpleNamespace(perf_counter_ns=lambda: clock.now_ns))
        monkeypatch.setattr(Sensors, "read", lambda _: clock.reading())
        monkeypatch.setattr("edgeopt.gate.bundles.launch_workers", self.launch)

    def reading(self) -> Reading:
        """What sensors say: other processes have their share of a hundred ticks a millisecond."""
        ticks = self.now_ns // 10_000
        return Reading(at_s=self.now_ns / 1e9, total_ticks=ticks, busy_ticks=round(self.other_load * ticks))

    @contextmanager
    def launch(self, makes: Mapping[str, Callable[[], Subject]], number: int) -> Iterator[Opened]:
        """The gate's subjects in this process, whose time the clock is."""
        yield Opened({name: make() for name, make in makes.items()}, Sensors(Path("/nonexistent")))
