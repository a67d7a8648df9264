"""Keeping OpenCV from writing to stderr about what becomes one clear error here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import cv2

_AV_LOG_QUIET = "-8"
_LOG_SILENT = 0
_CHANGING = Lock()
_levels: list[int] = []
"""Levels that each current opener of a video found. The first is the user's, which returns when the last is done."""


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV while a video is opened, and FFmpeg from its first use on unless the user set its level."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _AV_LOG_QUIET)  # OpenCV reads it once
    log: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 has the two functions, and where OpenCV 4 has
    with _CHANGING:
        _levels.append(log.getLogLevel())
        log.setLogLevel(_LOG_SILENT)
    try:
        yield
    finally:
        with _CHANGING:
            level = _levels.pop()
            if not _levels:
                log.setLogLevel(level)
