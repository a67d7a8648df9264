"""Opening a source: an image, a folder, a video file, a camera, a network stream or a GStreamer pipeline."""

from __future__ import annotations

import itertools
import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from glob import has_magic
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import cv2

from edgeopt.dataset.files import image_files, is_image_name
from edgeopt.errors import DataError, did_you_mean
from edgeopt.preprocess import read_image
from edgeopt.runtime.stream.address import NETWORK, is_network, is_pipeline, shown
from edgeopt.runtime.stream.frames import Frame, Source, require_most
from edgeopt.runtime.stream.gstreamer import CSI, DECODED, is_live, open_pipeline
from edgeopt.runtime.stream.quiet import quiet_opencv
from edgeopt.runtime.stream.scheduling import give_way
from edgeopt.runtime.stream.video import Backoff, VideoSource

logger = logging.getLogger(__name__)

_TIMEOUT_MS = 5000
"""Time limit of opening a network stream, and of each next frame."""
_FILES_OVER_NETWORK = ("http://", "https://")
"""Schemes under which a finite video may lie as well as a camera."""


class ImageSource:
    """Image files, one after the other; unreadable ones are left out with a warning.

    Args:
        name: of the folder, or of the first file.
        files: to read.
        folder: below which they lie, and below which pictures of their results may be written likewise; None: each was
            named by itself.
    """

    live = False
    rate: float | None = None
    reconnects = 0

    def __init__(self, name: str, files: Sequence[Path], folder: Path | None = None) -> None:
        self.name = name
        self.damaged = 0
        self.count: int | None = len(files)
        self._files = files
        self._folder = folder

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
                self.damaged += 1
                continue
            below = path.name if self._folder is None else path.relative_to(self._folder).as_posix()
            yield Frame(number, str(path), image, below)
            number += 1
        if number == 0:
            raise DataError(f"none of the {len(self._files)} images in {self.name} can be read")
        require_most(self.name, number, self.damaged, "images")

    def close(self) -> None:
        """Do nothing, because nothing is held between frames."""


def open_all(texts: Sequence[str]) -> Iterator[Callable[[], Source]]:
    """Open each source as `open_source` does; image files that follow each other are one source."""
    for are_images, group in itertools.groupby(texts, _is_image):
        named = list(group)
        if are_images:
            name = named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"
            yield partial(ImageSource, name, [Path(text) for text in named])
        else:
            yield from (partial(open_source, text) for text in named)


def _is_image(text: str) -> bool:
    return is_image_name(text) and stat.S_ISREG(_mode(Path(text)))


def open_source(text: str, *, backoff: Backoff | None = None) -> Source:
    """Open what `text` names.

    Args:
        text: a path; ``0`` or ``/dev/video0``; ``rtsp://…``, or ``nvdec+rtsp://…`` for a Jetson's decoder; ``csi://0``;
            a GStreamer pipeline, to whose end an appsink is added where it has none.
        backoff: how a camera or stream that breaks off is opened again.

    Raises:
        DataError: there is no such thing, or it does not open.
    """
    if text.isdecimal():
        return VideoSource(f"camera {text}", lambda: _open_camera(text, int(text)), live=True, backoff=backoff)
    if is_network(text):
        live = None if text.lower().startswith(_FILES_OVER_NETWORK) else True
        is_picture = live is None and is_image_name(Path(urlsplit(text).path).name)
        return VideoSource(
            shown(text), lambda: _open_stream(text), live=live, backoff=backoff, named_picture=is_picture
        )
    path = Path(text)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return _open_folder(path)
    if stat.S_ISCHR(mode):
        return VideoSource(text, lambda: _open_camera(text, text), live=True, backoff=backoff)
    if stat.S_ISREG(mode):
        if is_image_name(path.name):
            return ImageSource(text, [path])
        return VideoSource(text, lambda: _open_file(text), live=False)
    check_source(text)
    return VideoSource(shown(text), lambda: _open_pipeline(text), live=is_live(text), backoff=backoff)


def check_source(text: str) -> None:
    """Refuse what names nothing, without opening anything: a typing error is told before an engine is built.

    Raises:
        DataError: no such file or folder, nor a camera, an address or a pipeline.
    """
    is_stream = is_network(text) or text.startswith((CSI, DECODED)) or is_pipeline(text)
    if not (text.isdecimal() or is_stream or _mode(Path(text))):
        raise DataError(_absent(text))


def _mode(path: Path) -> int:
    """Return the kind of file, as `os.stat` tells it; 0 if there is none."""
    try:
        return path.stat().st_mode
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: permission denied. Check who may read it") from error
    except (OSError, ValueError):
        return 0


def _open_folder(path: Path) -> ImageSource:
    files = image_files(path)
    if not files:
        raise DataError(f"there are no images in {path}")
    return ImageSource(str(path), files, path)


def _absent(text: str) -> str:
    """Explain why `text` cannot be opened, and what may have been meant."""
    path = Path(text)
    if "://" in text or shown(text) != text:
        return f"{shown(text)} is not an address that can be opened.{did_you_mean(text.partition(':')[0], NETWORK)}"
    if has_magic(text):
        return f"there is no file named '{text}': the shell names the files where the pattern stands without quotes" + (
            f" ({found} match). Or give their folder" if (found := _matches(path)) else ", and here none matches"
        )
    if not path.parent.is_dir():
        return f"{text} does not exist, nor does the folder {path.parent}. Check the path"
    close = did_you_mean(path.name, [each.name for each in path.parent.iterdir()])
    near = close if close.startswith(" Did") else ""
    return f"{text} does not exist.{near} A source is a file, folder, camera (0), address (rtsp://…) or pipeline"


def _matches(path: Path) -> int:
    """Count the files that match a pattern in the last part of a path."""
    return 0 if has_magic(str(path.parent)) else len(list(path.parent.glob(path.name)))


def _open_pipeline(text: str) -> Any:
    with quiet_opencv(), give_way():
        return open_pipeline(text)


def _open_camera(name: str, which: int | str) -> Any:
    advice = "Cameras are numbered from 0; on Linux see /dev/video* and whether you may read it"
    name = f"camera {name}" if isinstance(which, int) else name
    return _opened(name, advice, lambda: cv2.VideoCapture(which))


def _open_stream(url: str) -> Any:
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    advice = "Check address, port, user and password, and that the server is up"
    return _opened(shown(url), advice, lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits))


def _open_file(path: str) -> Any:
    advice = "It is not a video, or its format is unknown to this OpenCV. Convert it, for example with ffmpeg"
    return _opened(path, advice, lambda: cv2.VideoCapture(path))


def _opened(name: str, advice: str, capture: Callable[[], Any]) -> Any:
    with quiet_opencv(), give_way():  # so will the decoder's threads
        opened = capture()
    if not opened.isOpened():
        raise DataError(f"{name} cannot be opened. {advice}")
    return opened
