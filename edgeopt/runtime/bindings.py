"""Bindings: checked input arrays, bound to an engine only when they are not the ones bound before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeopt.errors import DataError
from edgeopt.runtime.session import Array, Tensors
from edgeopt.spec import TensorSpec


class Bindings:
    """The input arrays that an engine reads from.

    An array that comes again, refilled, costs one identity check: no copy, no validation, no call into the engine.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._arrays: dict[str, Array] = {}
        self._shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def arrays(self) -> dict[str, Array]:
        """Arrays by name, as last updated: contiguous, writable, of the engine's dtype."""
        return self._arrays

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays, in the engine's order."""
        return self._shapes

    def update(self, inputs: Tensors) -> list[str]:
        """Take the inputs of one run.

        Returns:
            The names whose arrays the engine has to bind anew.

        Raises:
            DataError: a name, dtype or shape that is not the network's; the message has what is expected and what came.
        """
        if inputs.keys() != self._specs.keys():
            raise DataError(f"the network takes {_described(self._specs)}, and was given {_described(inputs)}")
        # Checked before any is taken: a refused input must not leave another one taken but never bound.
        changed = {
            name: _checked(given, self._specs[name])
            for name, given in inputs.items()
            if self._arrays.get(name) is not given  # also when last time's array had to be copied
        }
        if changed:
            self._arrays.update(changed)
            self._shapes = tuple(self._arrays[name].shape for name in self._specs)
        return list(changed)


def rows_vary(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Return True if the network chooses how many rows it gives: the input shapes do not settle all output shapes."""
    known = {side for tensor in inputs for side in tensor.shape}
    return any(isinstance(side, str) and side not in known for tensor in outputs for side in tensor.shape)


def _checked(given: Array, spec: TensorSpec) -> Array:
    """`given`, or a copy of it that an engine can read in place."""
    if not isinstance(given, np.ndarray):
        raise DataError(f"input '{spec.name}' must be a numpy array, and is a {type(given).__name__}")
    fits = len(given.shape) == len(spec.shape) and all(
        isinstance(want, str) or have == want for have, want in zip(given.shape, spec.shape, strict=True)
    )
    if not fits or given.dtype != spec.dtype or given.size == 0:
        raise DataError(
            f"input '{spec.name}' must be {spec.dtype} of shape {_shape(spec.shape)}, "
            f"and is {given.dtype} of shape {_shape(given.shape)}"
        )
    return np.require(given, requirements=["C", "A", "W"])


def _described(names: object) -> str:
    listed = ", ".join(f"'{name}'" for name in names)  # type: ignore[attr-defined]
    return listed or "nothing"


def _shape(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"
