"""Writing frames to a video file."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import cv2

from edgeopt.errors import StorageError
from edgeopt.preprocess import Image
from edgeopt.runtime.stream.quiet import quiet_opencv

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
"""Codecs that OpenCV's wheels can encode."""


class VideoWriter:
    """A video file, opened with the first frame's size. A context manager; the file is whole once it is closed.

    Args:
        path: ends in .mp4, .avi, .mkv or .mov.
        rate: frames a second.

    Raises:
        StorageError: another ending.
    """

    def __init__(self, path: Path, rate: float) -> None:
        if path.suffix.lower() not in _CODECS:
            raise StorageError(f"cannot write a video named {path.name}: its name must end in {', '.join(_CODECS)}")
        self._path = path
        self._rate = rate
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, image: Image) -> None:
        """Append a (H, W, 3) uint8 BGR frame; one of another size than the first is resized to it.

        Raises:
            StorageError: the file cannot be written.
        """
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._writer = self._open()
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size).astype("uint8", copy=False)
        self._writer.write(image)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Any:
        code: Any = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        with quiet_opencv():
            writer = cv2.VideoWriter(str(self._path), code, self._rate, self._size)
        if not writer.isOpened():
            raise StorageError(f"cannot write {self._path}. Check that its folder exists and may be written to")
        return writer
