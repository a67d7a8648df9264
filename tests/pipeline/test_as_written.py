"""Accuracy for other machines is that of the graph as written; what this machine's kernels make of it stays here."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt.config import parse_config
from edgeopt.pipeline import build, variants
from edgeopt.pipeline.variants import BuiltVariant, kernel_deviation
from edgeopt.runtime.choice import measured_here
from edgeopt.runtime.verify import verify


class Answers:
    """A session of which every output is multiplied."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        (image,) = inputs.values()
        return {"even": np.ones(3), "scores": self._factor * np.arange(4.0) * image.size}


@pytest.mark.parametrize(("factor", "share"), [(1.0, 0.0), (0.9, 0.1), (1.25, 0.25)])
def test_the_output_that_differs_most_counts(monkeypatch: pytest.MonkeyPatch, factor: float, share: float) -> None:
    monkeypatch.setattr(variants, "feeds", lambda images, spec: [("a", {"image": np.ones(9)})] * len(images))
    monkeypatch.setattr(variants, "read_spec", lambda graph: None)
    engine = SimpleNamespace(
        session=lambda: nullcontext(Answers(factor)), written=lambda: nullcontext(Answers(1.0)), graph=None
    )

    class Images:
        def __len__(self) -> int:
            return 100

        def subset(self, rows: range) -> list[int]:
            assert len(rows) == 16
            return list(rows)

    assert kernel_deviation(engine, Images()) == pytest.approx(share)


def test_kernels_that_deviate_are_judged_here_and_the_graph_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="builds a bundle")
    monkeypatch.setattr(variants, "kernel_deviation", lambda engine, dataset: 0.2)
    opened = BuiltVariant.open

    def ruined(self: BuiltVariant, *, as_written: bool = False) -> Any:
        predictor = opened(self, as_written=as_written)
        if self.precision == "int8" and not as_written:
            infer = predictor.infer
            predictor.infer = lambda prepared: replace_scores(infer(prepared))
        return predictor

    def replace_scores(inferred: Any) -> Any:
        return type(inferred)(
            {name: np.roll(array, 1, -1) for name, array in inferred.outputs.items()}, inferred.geometries
        )

    monkeypatch.setattr(BuiltVariant, "open", ruined)
    config = parse_config(RECIPE.replace("epochs = 1", "epochs = 3"))
    built = build(config, tmp_path, tmp_path / "out", tmp_path / "work", Watch())
    int8, float32 = built.bundle.variant("ort-int8"), built.bundle.variant("ort-fp32")
    here = measured_here(built.bundle.manifest)["ort-int8"]
    assert int8.accepted
    assert int8.accuracy.value == pytest.approx(float32.accuracy.value, abs=0.05)
    assert int8.stages.evaluated_in.startswith("ONNX Runtime, as written (the kernels of this machine differ")
    assert here.accuracy.value < int8.accuracy.value
    assert not here.acceptance.accepted
    assert float32.stages.evaluated_in == ""
    assert measured_here(built.bundle.manifest)["ort-fp32"].accuracy is None
    assert verify(built.path).ok
