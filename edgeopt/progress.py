"""What something that takes long tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives stages (of a build, or a variant each) in order; one at a time."""

    def begin(self, stage: str) -> None:
        """A stage starts, or is found done."""

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """How far the stage is, in any unit, and what there is to say about it."""

    def end(self, summary: str, *, reused: bool) -> None:
        """The stage is finished; `reused` says that its result was already there."""


class Update(Protocol):
    """How far one stage is: `Progress.update` is one, and what only measures or counts is handed no more than that."""

    def __call__(self, done: float, total: float = 1.0, text: str = "", /) -> None:
        """Tell how much of `total` is done, and what there is to say about it."""


class Silent:
    """Progress for callers who do not watch."""

    def begin(self, stage: str) -> None:
        """Ignore it."""

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """Ignore it."""

    def end(self, summary: str, *, reused: bool) -> None:
        """Ignore it."""
