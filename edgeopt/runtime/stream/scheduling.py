"""Keeping a stream's other stages from interrupting its engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def give_way() -> Iterator[None]:
    """Let this thread, and those that it starts meanwhile, wait for a free core instead of interrupting another thread.

    Linux lets a thread that wakes up interrupt one that computes. At the end of a frame all stages of a stream wake up
    at once, and the engine would lose its core to them although another one is about to be free. As SCHED_BATCH they
    get the same share of the processor, and only wait their turn (sched(7)). Elsewhere, and where a sandbox forbids it,
    nothing changes.
    """
    before = _set_policy(getattr(os, "SCHED_BATCH", None))
    try:
        yield
    finally:
        _set_policy(before)


def _set_policy(policy: int | None) -> int | None:
    """Change this thread's policy and say what it was; None: nothing was changed."""
    if policy is None or not hasattr(os, "sched_setscheduler"):
        return None
    with suppress(OSError):
        before = os.sched_getscheduler(0)
        os.sched_setscheduler(0, policy, os.sched_param(0))
        return before
    return None
