"""Where frames come from: a video file, a folder of images, a camera, or a network stream that may break and return."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import cv2
import numpy as np

from edgeopt.dataset.files import image_files, is_image_name
from edgeopt.errors import DataError
from edgeopt.preprocess import Image, read_image
from edgeopt.runtime.stream.quiet import quiet_opencv
from edgeopt.runtime.stream.scheduling import give_way

logger = logging.getLogger(__name__)

_NETWORK = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")
_TIMEOUT_MS = 5000
"""How long a network stream may take to open, and to give its next frame."""
_WHOLE = 0.9
"""Share of a file's announced frames (an estimate in many containers) below which it counts as cut off."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a stream: (H, W, 3) uint8 BGR, any size; `number` counts from 0."""

    number: int
    name: str
    image: Image


class Source(Protocol):
    """Gives frames, one thread at a time."""

    name: str
    live: bool
    """Frames come when they come, and one that waits is getting old."""
    rate: float | None
    """Frames a second, where known."""
    count: int | None
    """How many frames there will be, where known."""
    reconnects: int
    """How often it was lost and came back."""

    def frames(self, stop: Event) -> Iterator[Frame]:
        """The frames until the end, or until `stop` is set.

        Raises:
            DataError: no frame ever came, or a live stream was lost for good.
        """

    def close(self) -> None:
        """Let go of the file or device."""


@dataclass(frozen=True)
class Backoff:
    """How a lost live stream is opened again: `attempts` times in a row, with waits that double up to a longest one."""

    first_s: float = 0.5
    longest_s: float = 30.0
    attempts: int = 8

    def waits(self) -> Iterator[float]:
        """The seconds to wait before each attempt."""
        for attempt in range(self.attempts):
            yield min(self.first_s * 2**attempt, self.longest_s)


Connect = Callable[[], Any]
"""Opens a ``cv2.VideoCapture``, or what acts like one; raises DataError."""


class VideoSource:
    """A video file, camera or network stream, as OpenCV reads them."""

    def __init__(self, name: str, connect: Connect, *, live: bool, backoff: Backoff | None = None) -> None:
        self.name = name
        self.live = live
        self.reconnects = 0
        self._connect = connect
        self._backoff = backoff or Backoff()
        self._capture = connect()
        self.rate = _positive(self._capture.get(cv2.CAP_PROP_FPS))
        count = None if live else _positive(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = None if count is None else round(count)

    def frames(self, stop: Event) -> Iterator[Frame]:
        """Decode frame by frame; a live stream that breaks is opened again."""
        number = 0
        while not stop.is_set():
            read, image = self._capture.read()
            if read:
                yield Frame(number, f"{self.name}#{number}", image)
                number += 1
            elif self.live:
                self._reconnect(stop, number)
            else:
                self._check_end(number)
                return

    def close(self) -> None:
        """Release the capture."""
        self._capture.release()

    def _reconnect(self, stop: Event, number: int) -> None:
        self._capture.release()
        logger.warning("%s broke off after %d frames; trying to open it again", self.name, number)
        reason = ""
        for wait in self._backoff.waits():
            if stop.wait(wait):
                return
            try:
                self._capture = self._connect()
            except DataError as error:
                reason = f": {error}"
            else:
                self.reconnects += 1
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
        if self.count is not None and number < _WHOLE * self.count:
            logger.warning("%s ended after %d of %d frames: it is damaged or cut off", self.name, number, self.count)


class FolderSource:
    """The images below a folder, by name; unreadable ones are left out with a warning."""

    live = False
    rate: float | None = None
    reconnects = 0

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.name = str(folder)
        self.count: int | None = len(files)
        self._folder = folder
        self._files = files

    def frames(self, stop: Event) -> Iterator[Frame]:
        """Decode image by image."""
        number = 0
        for path in self._files:
            if stop.is_set():
                return
            try:
                image = read_image(path)
            except DataError as error:
                logger.warning("left out: %s", error)
                continue
            yield Frame(number, path.relative_to(self._folder).as_posix(), image)
            number += 1
        if number == 0:
            raise DataError(f"none of the {len(self._files)} images in {self.name} can be read")

    def close(self) -> None:
        """Nothing is held between frames."""


def open_source(text: str, *, backoff: Backoff | None = None) -> Source:
    """Open what `text` names: a camera by its number, a stream by its URL, a folder, an image or a video file.

    Args:
        text: ``0``, ``rtsp://…``, a path.
        backoff: how a camera or stream that breaks off is opened again.

    Raises:
        DataError: there is no such thing, or it does not open.
    """
    if text.isdecimal():
        return VideoSource(f"camera {text}", lambda: _open_camera(int(text)), live=True, backoff=backoff)
    if text.lower().startswith(_NETWORK):
        return VideoSource(_without_password(text), lambda: _open_stream(text), live=True, backoff=backoff)
    path = Path(text)
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise DataError(f"there are no images in {path}")
        return FolderSource(path, files)
    if not path.is_file():
        raise DataError(f"{text} is neither a file or folder, nor a camera's number, nor a URL ({', '.join(_NETWORK)})")
    if is_image_name(path.name):
        return FolderSource(path.parent, [path])
    return VideoSource(text, lambda: _open_file(text), live=False)


def _open_camera(index: int) -> Any:
    advice = "Cameras are numbered from 0; on Linux see /dev/video* and whether you may read it"
    return _opened(f"camera {index}", advice, lambda: cv2.VideoCapture(index))


def _open_stream(url: str) -> Any:
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    advice = "Check address, port, user and password, and that the server is up"
    return _opened(_without_password(url), advice, lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits))


def _open_file(path: str) -> Any:
    advice = "It is no video, or in a format that this OpenCV does not read; convert it, for example with ffmpeg"
    return _opened(path, advice, lambda: cv2.VideoCapture(path))


def _opened(name: str, advice: str, capture: Callable[[], Any]) -> Any:
    with quiet_opencv(), give_way():  # so will the decoder's threads
        opened = capture()
    if not opened.isOpened():
        raise DataError(f"{name} cannot be opened. {advice}")
    return opened


def _without_password(url: str) -> str:
    """The URL as it may be shown: user and password left out."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _positive(value: float) -> float | None:
    """What OpenCV knows; it says 0, -1 or not a number where it does not."""
    return float(value) if np.isfinite(value) and value > 0 else None
