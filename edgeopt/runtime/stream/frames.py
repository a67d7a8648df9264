"""Frames of a source, and the number of frames that it lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from edgeopt.errors import DataError
from edgeopt.preprocess import Image

logger = logging.getLogger(__name__)

MOST = 0.9
"""Share of a file's frames, or of a folder's images, below which too much of it was lost."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a stream: (H, W, 3) uint8 BGR, any size; `number` counts from 0."""

    number: int
    name: str
    """The path of an image; of a video's frame its name and number."""
    image: Image
    file: str | None = None
    """Path of an image from the folder that was named, else its file's name."""


class Source(Protocol):
    """Gives frames, one thread at a time."""

    name: str
    """Name to show, without passwords."""
    live: bool
    """Frames come when they come, and one that waits is getting old."""
    rate: float | None
    """Frames a second, where known."""
    count: int | None
    """Number of frames, if it is known."""
    reconnects: int
    """Number of times that the source was lost and came back."""
    damaged: int
    """Frames that could not be decoded, and were left out."""

    def frames(self, stop: Event) -> Iterator[Frame]:
        """Return the frames until the end, or until `stop` is set.

        Raises:
            DataError: no frame ever came, more than a tenth of a file's were lost, or a live stream was lost for good.
        """

    def close(self) -> None:
        """Let go of the file or device."""


def require_most(name: str, given: int, lost: int, what: str = "frames") -> None:
    """Warn of what was lost of a file that has ended.

    Raises:
        DataError: it was much.
    """
    if not lost:
        return
    message = f"{name}: {lost} of {given + lost} {what} could not be read: it is damaged or cut off"
    if given < MOST * (given + lost):
        raise DataError(f"{message}. The results so far are of the others; fetch it again, or convert it with ffmpeg")
    logger.warning(message)
