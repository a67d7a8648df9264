"""Frames of a video file, a camera or a network stream, which may be damaged, or break and return."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any

import cv2
import numpy as np

from edgeopt.errors import DataError
from edgeopt.preprocess import Image
from edgeopt.runtime.stream.frames import MOST, Frame, require_most

logger = logging.getLogger(__name__)

_FAILURES_IN_FILE = 100
"""Reads in a row that may fail before a file counts as ended. Damage of 64 bytes costs one or two (MJPEG, MPEG-4)."""
_FAILURES_LIVE = 5
"""The same limit before a live source counts as lost: a damaged frame is no reason to wait for a new connection."""
_SLOW_S = 1.0
"""A read that fails after so long waited for something that did not come; what is damaged fails at once."""


@dataclass(frozen=True)
class Backoff:
    """Retries of a lost live source: `attempts` times in a row, with waits that double up to a longest one."""

    first_s: float = 0.5
    longest_s: float = 30.0
    attempts: int = 8

    def waits(self) -> Iterator[float]:
        """Yield the seconds to wait before each attempt."""
        for attempt in range(self.attempts):
            yield min(self.first_s * 2**attempt, self.longest_s)


Connect = Callable[[], Any]
"""Opens a ``cv2.VideoCapture``, or what acts like one; raises DataError."""


class VideoSource:
    """A video file, camera or network stream.

    Args:
        name: as it may be shown.
        connect: opens it.
        live: it has no end, and is opened again when it breaks. None: unless it says how many frames it has.
        backoff: how often that is tried, and when.
        named_picture: it has a picture's name. If it ends after one frame, it was one, and no camera that broke off.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        *,
        live: bool | None,
        backoff: Backoff | None = None,
        named_picture: bool = False,
    ) -> None:
        self.name = name
        self._named_picture = named_picture
        self.reconnects = 0
        self.damaged = 0
        self._connect = connect
        self._backoff = backoff or Backoff()
        self._capture = connect()
        self.rate = _positive(self._capture.get(cv2.CAP_PROP_FPS))
        count = _positive(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.live = count is None if live is None else live
        self.count = None if self.live or count is None else round(count)
        self._reached_s = 0.0
        """Position of the last frame in the video, as far as OpenCV knows."""

    def frames(self, stop: Event) -> Iterator[Frame]:
        """Decode frame by frame, leaving out what is damaged; a live source that breaks is opened again."""
        number = 0
        lost = False
        waits: Iterator[float] = iter(())
        while not stop.is_set():
            image, failures = self._next(stop)
            if image is not None:
                self.reconnects += lost
                self.damaged += failures
                lost = False
                yield Frame(number, f"{self.name}#{number}", image)
                number += 1
            elif stop.is_set():
                return
            elif not self.live:
                self._check_end(number)
                return
            elif self._named_picture and number == 1:
                return
            else:
                if not lost:
                    logger.warning("%s broke off after %d frames; trying to open it again", self.name, number)
                    waits, lost = self._backoff.waits(), True
                self._reconnect(stop, waits, number)

    def close(self) -> None:
        """Release the capture."""
        self._capture.release()

    def _next(self, stop: Event) -> tuple[Image | None, int]:
        """Return the next frame that can be decoded, or None, and how many reads failed before."""
        most = _FAILURES_LIVE if self.live else _FAILURES_IN_FILE
        for failures in range(most):
            start = time.monotonic()
            read, image = self._capture.read()
            if read:
                self._reached_s = max(self._reached_s, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
                return image, failures
            if stop.is_set() or time.monotonic() - start > _SLOW_S:
                break
        return None, 0

    def _reconnect(self, stop: Event, waits: Iterator[float], number: int) -> None:
        """Open it again, after the next waits of those since the last frame."""
        self._capture.release()
        reason = ": it opens, but gives no frame"
        for wait in waits:
            if stop.wait(wait):
                return
            try:
                self._capture = self._connect()
            except DataError as error:
                reason = f": {error}"
            else:
                return
        attempts = self._backoff.attempts
        raise DataError(
            f"{self.name} was lost after {number} frames and did not come back in {attempts} attempts{reason}"
        )

    def _check_end(self, number: int) -> None:
        if number == 0:
            raise DataError(
                f"{self.name} opens, but no frame of it can be decoded. Convert it, for example with ffmpeg"
            )
        missing = 0 if self.count is None or self._is_at_end() else self.count - number
        require_most(self.name, number, max(self.damaged, missing))

    def _is_at_end(self) -> bool:
        """Return True if a whole video has fewer frames than it says.

        Some containers give only a length and a mean rate.
        """
        if self.damaged or self.count is None or self.rate is None:
            return False
        return self._reached_s >= MOST * self.count / self.rate


def _positive(value: float) -> float | None:
    """Return OpenCV's value; it says 0, -1 or NaN if it knows none."""
    return float(value) if np.isfinite(value) and value > 0 else None
