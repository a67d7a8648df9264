"""Trial run that every compiled graph has to pass."""

from __future__ import annotations

import numpy as np

from edgeopt.errors import TargetError
from edgeopt.runtime.session import Array, Session
from edgeopt.spec import TensorSpec


def run_once(session: Session) -> None:
    """Run one sample, because a first run shows what loading does not.

    Raises:
        TargetError: the engine fails, or an output is not finite.
    """
    for name, array in session.run({spec.name: _ramp(spec) for spec in session.inputs}).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TargetError(f"output '{name}' of the trial run is not finite; the graph overflows on this target")


def _ramp(spec: TensorSpec) -> Array:
    """Return every pixel value in turn, 0 to 255 or 0 to 1: an image that is neither constant nor random."""
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    ramp = np.arange(np.prod(shape)).reshape(shape) % 256
    return (ramp / 255 if np.dtype(spec.dtype).kind == "f" else ramp).astype(spec.dtype)
