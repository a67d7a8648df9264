"""PyTorch's eager mode in the three stages of a `Predictor`: what many people run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgeopt.config import ModelConfig
from edgeopt.measure.subject import Array, Staged, Subject
from edgeopt.postprocess import decode
from edgeopt.preprocess import batch
from edgeopt.runtime import Inferred, Prepared, Result
from edgeopt.source import Source, resolve


class Eager:
    """A recipe's float model on single images."""

    def __init__(self, source: Source) -> None:
        assert source.module is not None
        self._module, self._spec = source.module.eval(), source.spec

    def prepare(self, image: Array) -> Prepared:
        """Resize and normalise in numpy."""
        tensor, geometries = batch([image], self._spec.preprocessing)
        return Prepared(tensor, tuple(geometries))

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the module without gradients."""
        with torch.inference_mode():
            output = self._module(torch.from_numpy(prepared.tensor))
        return Inferred({self._spec.outputs[0].name: output.numpy()}, prepared.geometries)

    def decode(self, inferred: Inferred) -> Result:
        """Decode the one image."""
        return decode(inferred.outputs, self._spec, inferred.geometries)[0]

    def predict(self, image: Array) -> Result:
        """All three."""
        return self.decode(self.infer(self.prepare(image)))


def open_eager(model: ModelConfig, root: Path, labels: tuple[str, ...], threads: int) -> Eager:
    """The model with its weights, on so many threads.

    Raises:
        SystemExit: the recipe trains its model, or starts from a graph.
    """
    torch.set_num_threads(threads)
    source = resolve(model, root, labels)
    if source.module is None or not source.has_weights:
        raise SystemExit(f"the recipe of {source.spec.name} trains it or starts from a graph; there is no torch model")
    return Eager(source)


def eager_subject(
    model: ModelConfig, root: Path, labels: tuple[str, ...], threads: int, images: Sequence[Array]
) -> Subject:
    """As `open_eager`, ready to be timed."""
    return Staged(open_eager(model, root, labels, threads), images)
