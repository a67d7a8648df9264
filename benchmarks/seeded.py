"""Architectures with seeded weights: their answers mean nothing, their time, memory, placement and distances do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.config import ExportConfig, ModelConfig
from edgeopt.spec import ModelSpec, Size
from edgeopt.typed import from_json

_NOISE_IMAGES = 4
"""Images of noise that BatchNorms take their statistics from, so that activations keep their size through the depth."""
_COARSE = 16
"""Pixels of the side of a picture's spots."""


@dataclass(frozen=True)
class Seeded:
    """A network by its source.

    Attributes:
        source: as in ``[model] source``; timm's need timm.
        arguments: of its constructor.
        size: of the input; None: the network's own.
    """

    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: Size | None = None


def seeded_graph(network: Seeded, name: str, folder: Path) -> tuple[Path, ModelSpec]:
    """Make or find the optimized float graph of a network with seeded weights.

    Args:
        network: its source.
        name: of the files.
        folder: for them.

    Raises:
        MissingExtraError: timm is asked for and not installed.
        ModelError: the source cannot be built or exported.
    """
    graph, spec = folder / f"{name}.onnx", folder / f"{name}.json"
    if not (graph.is_file() and spec.is_file()):
        import torch

        from edgeopt.export import export
        from edgeopt.passes.rewrite.optimize import optimize
        from edgeopt.source import resolve

        torch.manual_seed(0)
        labels = "edgeopt:imagenet" if network.source.startswith("timm:") else None  # timm names none
        config = ModelConfig(
            source=network.source, arguments=dict(network.arguments), input_size=network.size, labels=labels
        )
        source = resolve(config, folder)
        assert source.module is not None
        _settle(source.module, source.spec.input.shape[1:])
        made = export(source, ExportConfig())
        folder.mkdir(parents=True, exist_ok=True)
        ir.save(optimize(made.model), graph)
        spec.write_bytes(msgspec.json.encode(made.spec))
    return graph, from_json(spec.read_bytes(), ModelSpec)


def _settle(module: Any, shape: tuple[int | str, ...]) -> None:
    """Give BatchNorms the statistics of noise."""
    import torch

    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # a plain average, of one batch
    noise = torch.randn(_NOISE_IMAGES, *map(int, shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.train()(noise)
    module.eval()


def pictures(spec: ModelSpec, count: int, seed: int = 0) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield network inputs of coloured spots under noise, one at a time, the same for the same seed."""
    _, channels, height, width = (side if isinstance(side, int) else 1 for side in spec.input.shape)
    rows, columns = -(-height // _COARSE), -(-width // _COARSE)
    for index in range(count):
        random = np.random.default_rng((seed, index))
        spots = random.normal(size=(1, channels, rows, columns)).astype(np.float32)
        wide = spots.repeat(_COARSE, axis=2).repeat(_COARSE, axis=3)[:, :, :height, :width]
        grain = random.standard_normal((1, channels, height, width), np.float32)
        yield f"{seed}-{index}", {spec.input.name: np.ascontiguousarray(wide + np.float32(0.2) * grain)}
