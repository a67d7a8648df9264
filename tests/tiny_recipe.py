"""A recipe that builds in seconds: LeNet-5 barely trained on digits, for ONNX Runtime."""

from __future__ import annotations

RECIPE = """
name = "tiny"
[model]
source = "edgeopt:lenet5"
[data.train]
format = "digits"
split = "train"
limit = 200
[data.test]
format = "digits"
split = "test"
limit = 60
[data.calibration]
format = "digits"
split = "calibration"
limit = 32
[train]
epochs = 1
[compile]
targets = ["ort"]
[benchmark]
warmup_s = 0.0
duration_s = 0.05
minimum_queries = 8
"""


class Watch:
    """Progress that remembers which stages ran and which were reused."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.reused: list[str] = []
        self.said: dict[str, str] = {}
        self.interrupt_at = ""
        self._stage = ""

    def begin(self, stage: str) -> None:
        self._stage = stage
        if stage == self.interrupt_at:
            raise KeyboardInterrupt

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        assert 0 <= done <= total

    def end(self, summary: str, *, reused: bool) -> None:
        assert summary
        self.said[self._stage] = summary
        (self.reused if reused else self.made).append(self._stage)
