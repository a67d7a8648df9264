"""Progress: how long tasks tell their callers how far they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

Tell: TypeAlias = Callable[[str], None]
"""Function that is told what is being done, where nobody knows how much of it there is."""


class Progress(Protocol):
    """Receives stages (of a build, or a variant each) in order; one at a time."""

    def begin(self, stage: str) -> None:
        """Tell that a stage starts, or is found done."""

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """Tell how far the stage is, in any unit, with a text."""

    def end(self, summary: str, *, reused: bool) -> None:
        """Tell that the stage is finished; `reused` is true if its result was already there."""


class Update(Protocol):
    """The part of `Progress` for code that works within one stage; `Progress.update` is one."""

    def __call__(self, done: float, total: float = 1.0, text: str = "", /) -> None:
        """Tell how much of `total` is done, with a text."""


class Silent:
    """Progress for callers who do not watch."""

    def begin(self, stage: str) -> None:
        """Ignore it."""

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """Ignore it."""

    def end(self, summary: str, *, reused: bool) -> None:
        """Ignore it."""
