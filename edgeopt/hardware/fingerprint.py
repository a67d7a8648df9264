"""Fingerprint of the processor, because settings measured on one processor do not hold on another."""

from __future__ import annotations

import hashlib

import msgspec

from edgeopt.hardware.probing import CudaDriverState, machine


def processor_fingerprint() -> str:
    """Return 16 hexadecimal digits of the processor, the cores that this process may use, and the board.

    No GPU is asked for: that would start its driver, for what CPU engines do not depend on.
    """
    here = machine(cuda=CudaDriverState(problem="not asked"))
    parts = (here.cpu, here.jetson.model if here.jetson else None)
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]
