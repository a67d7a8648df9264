"""A variant's engine, and a temporary one of the same graph that gives its feature maps out, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.bundle import Bundle, Variant
from edgeopt.errors import ModelError
from edgeopt.explain.features import FeatureMap, with_feature_maps
from edgeopt.explain.view import View
from edgeopt.runtime import Predictor
from edgeopt.runtime.predictor import settings_here
from edgeopt.runtime.session import find_target
from edgeopt.spec import replace

_FLOAT_DIFFERENCE = 1e-3
"""Mean difference of outputs, over their mean size, that another order of sums explains in float."""
_INTEGER_DIFFERENCE = 0.02
"""The same with integers: an engine that fuses otherwise rounds a few of them to the next."""


@dataclass
class Tapped:
    """An engine that gives its feature maps."""

    variant: Variant
    model: ir.Model
    """Its graph, the maps among its outputs."""
    maps: tuple[FeatureMap, ...]
    predictor: Predictor
    _limit: float
    _differences: float = 0.0
    _sizes: float = 0.0

    def features(self, view: View, expected: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the maps of a picture as the engine gives them.

        Args:
            view: the picture, of the variant.
            expected: what the variant's own engine answers to it; differences are added up for `check`.
        """
        found = view.inferred(self.predictor).outputs
        for name, array in expected.items():
            if array.dtype.kind == "f" and found[name].shape == array.shape:
                self._differences += float(np.abs(found[name].astype(np.float64) - array).mean())
                self._sizes += float(np.abs(array.astype(np.float64)).mean())
        return [found[each.name] for each in self.maps]

    def check(self) -> None:
        """Refuse the maps if this engine does not compute what the variant's own does.

        Raises:
            ModelError: its outputs differ by more than roundings.
        """
        difference = self._differences / self._sizes if self._sizes else 0.0
        if difference > self._limit:
            raise ModelError(
                f"with its feature maps as outputs, the engine of '{self.variant.name}' answers otherwise (by "
                f"{difference:.1%} of the outputs' size, {self._limit:.1%} allowed): they are not what the bundle's "
                "engine looks at. Explain it as a black box, with --method rise"
            )


@contextmanager
def open_tapped(bundle: Bundle, variant: Variant, threads: int) -> Iterator[Tapped]:
    """Compile a variant's graph with its feature maps as outputs, and open the engine.

    Args:
        bundle: bundle of the variant.
        variant: the variant.
        threads: of the engine; 0 keeps the bundle's setting.

    Raises:
        MissingExtraError: the engine's library is not installed.
        ModelError: the variant is a compiled file without its graph, or the graph has no such map.
        TargetError: its target does not run here, or rejects the graph.
    """
    if not variant.file.endswith(".onnx"):
        raise ModelError(
            f"variant '{variant.name}' is a compiled {Path(variant.file).suffix} file, into which nobody can look. "
            "Explain it as a black box, with --method rise"
        )
    spec = bundle.spec(variant.name)
    graph = ir.from_proto(onnx.ModelProto.FromString(bundle.engine(variant.name)))
    model, maps = with_feature_maps(graph, spec)
    settings = settings_here(variant)
    if threads:
        settings = replace(settings, threads=threads)
    target = find_target(variant.target)
    engine = target.compiled(ir.to_proto(model).SerializeToString(), settings).engine
    session = target.open_engine(bundle.file(variant.name), settings=settings, reuse_outputs=False, content=engine)
    limit = _INTEGER_DIFFERENCE if variant.precision == "int8" else _FLOAT_DIFFERENCE
    with ExitStack() as stack:
        predictor = stack.enter_context(Predictor(session, spec, variant))
        yield Tapped(variant, model, maps, predictor, limit)
