"""GStreamer pipelines, which CSI cameras of a Jetson are read through: by OpenCV, or by PyGObject where it cannot.

The OpenCV that pip installs is built without GStreamer; that of NVIDIA's images and of Debian has it. PyGObject is a
package of the system (python3-gi), which a virtual environment sees with --system-site-packages.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.preprocess import Image
from edgeopt.runtime.stream.address import shown

CSI = "csi://"
"""A camera on the board's own connector, by its number: ``csi://0``."""
DECODED = "nvdec+rtsp://"
"""A network camera whose video a Jetson's own decoder takes: ``nvdec+rtsp://user:password@host/live``."""
_LATENCY_MS = 100
"""Time for packets to come in order; rtspsrc would wait 2 s."""
_UNQUOTABLE = re.compile(r'["\\\x00-\x20\x7f]')
"""Characters that no address holds, and that would end its quotes in a pipeline."""
_TIMEOUT_NS = 5_000_000_000
"""Time limit of a pipeline's start, and of each next frame."""
_FINITE = ("filesrc", "num-buffers")
"""Words of pipelines that end."""
_NVIDIA = ("nvarguscamerasrc", "memory:NVMM", "nvv4l2decoder")
"""Words of pipelines whose pictures lie in the GPU's memory."""
_TO_PROCESSOR = ("nvvidconv", "nvvideoconvert")
_COLOURS: dict[str, tuple[int, int | None]] = {
    "BGR": (3, None),
    "RGB": (3, cv2.COLOR_RGB2BGR),
    "BGRx": (4, cv2.COLOR_BGRA2BGR),
    "BGRA": (4, cv2.COLOR_BGRA2BGR),
    "RGBx": (4, cv2.COLOR_RGBA2BGR),
    "RGBA": (4, cv2.COLOR_RGBA2BGR),
    "GRAY8": (1, cv2.COLOR_GRAY2BGR),
}
"""Bytes a pixel of GStreamer's formats, and how OpenCV makes BGR of them."""


def is_live(text: str) -> bool:
    """Return True if a pipeline goes on until it is stopped."""
    return text.startswith(DECODED) or not any(word in text for word in _FINITE)


def completed(text: str) -> str:
    """Return a pipeline that gives BGR pictures: what is missing at its end is added.

    Raises:
        DataError: a CSI camera without a number, or an address that is none.
    """
    if text.startswith(CSI):
        number = text.removeprefix(CSI)
        if not number.isdecimal():
            raise DataError(f"{text} names no camera; CSI cameras are {CSI}0, {CSI}1 and so on")
        text = f"nvarguscamerasrc sensor-id={number}"
    if text.startswith(DECODED):
        return _ending(_decoding(text), fresh=True)
    if "appsink" in text:
        return text
    return _ending(text, fresh=is_live(text))


def _decoding(text: str) -> str:
    """Return the pipeline of a network camera: parsebin finds the codec, as the decoder takes H.264, H.265 and others.

    By TCP, as OpenCV's FFmpeg asks for it: what UDP loses breaks pictures until the next key frame.
    """
    address = text.removeprefix("nvdec+")
    if _UNQUOTABLE.search(address):
        raise DataError(f"{shown(text)} holds a space, a quote or a backslash: write it as %20, %22 or %5C")
    return f'rtspsrc location="{address}" protocols=tcp latency={_LATENCY_MS} ! parsebin ! nvv4l2decoder'


def _ending(text: str, *, fresh: bool) -> str:
    """Return a pipeline with what makes BGR pictures of what it gives; `fresh` drops what was not read in time."""
    copied = any(word in text for word in _NVIDIA) and not any(word in text for word in _TO_PROCESSOR)
    to_processor = "nvvidconv ! video/x-raw,format=BGRx ! " if copied else ""
    dropping = "drop=true max-buffers=1 " if fresh else ""
    return f"{text} ! {to_processor}videoconvert ! video/x-raw,format=BGR ! appsink {dropping}sync=false"


def opencv_has_gstreamer() -> bool:
    """Return True if this OpenCV runs pipelines. Its list of backends also names those that it was built without."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def open_pipeline(text: str) -> Any:
    """Start a pipeline, and give what acts like its ``cv2.VideoCapture``.

    Raises:
        DataError: neither OpenCV nor PyGObject can run pipelines, or this one does not start.
    """
    pipeline = completed(text)
    if opencv_has_gstreamer():
        capture: Any = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise DataError(f"{shown(text)} does not start. Try the whole pipeline with: gst-launch-1.0 -v")
        return capture
    return Pipeline(_gstreamer(text), pipeline)


def _gstreamer(text: str) -> Any:
    """Return the module Gst, started."""
    try:
        importlib.import_module("gi").require_version("Gst", "1.0")
        gst: Any = importlib.import_module("gi.repository.Gst")
    except (ImportError, AttributeError, ValueError) as error:  # also a folder named gi, or without GStreamer
        raise DataError(
            f"{shown(text)} is a GStreamer pipeline, and nothing here runs them: this OpenCV ({cv2.__version__}) was "
            f"built without GStreamer, and PyGObject cannot be loaded ({error}). Install it with: sudo apt-get install "
            "python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good, and let the virtual environment see "
            "it: python3 -m venv --system-site-packages"
        ) from error
    gst.init(None)
    return gst


class Pipeline:
    """A running pipeline with an appsink, with the methods of ``cv2.VideoCapture`` that a `VideoSource` calls.

    Raises:
        DataError: it does not start, or has no appsink.
    """

    def __init__(self, gst: Any, text: str) -> None:
        self._gst = gst
        self._name = shown(text)
        try:
            self._pipeline = gst.parse_launch(text)
        except Exception as error:  # GLib.Error, of a module that is known here only when it runs
            raise self._refused(getattr(error, "message", str(error))) from error
        self._sink = self._appsink()
        started = self._pipeline.set_state(gst.State.PLAYING)
        if started == gst.StateChangeReturn.ASYNC:
            started = self._pipeline.get_state(_TIMEOUT_NS)[0]
        if started not in (gst.StateChangeReturn.SUCCESS, gst.StateChangeReturn.NO_PREROLL):
            reason = self._reason()
            self.release()
            raise self._refused(reason)
        self._rate = self._frame_rate()

    def read(self) -> tuple[bool, Image | None]:
        """Return the next picture, or none: at the end, after an error, or when none came in time."""
        sample = self._sink.emit("try-pull-sample", _TIMEOUT_NS)
        return (False, None) if sample is None else (True, self._picture(sample))

    def get(self, key: int) -> float:
        """OpenCV's properties, as far as they are known; else 0."""
        if key == cv2.CAP_PROP_FPS:
            return self._rate
        known, length_ns = self._pipeline.query_duration(self._gst.Format.TIME)
        if key == cv2.CAP_PROP_FRAME_COUNT and known:
            return float(length_ns * self._rate / 1e9)
        return 0.0

    def release(self) -> None:
        """Stop it."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _refused(self, reason: str) -> DataError:
        return DataError(f"{self._name} does not start: {reason}. Try the whole pipeline with: gst-launch-1.0 -v")

    def _appsink(self) -> Any:
        elements = self._pipeline.iterate_elements()
        while (found := elements.next())[0] == self._gst.IteratorResult.OK:
            if found[1].get_factory().get_name() == "appsink":
                return found[1]
        raise self._refused("it has no appsink")

    def _reason(self) -> str:
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        return "it took too long" if message is None else str(message.parse_error()[0].message).rstrip(".")

    def _frame_rate(self) -> float:
        caps = self._sink.get_static_pad("sink").get_current_caps()
        if caps is None:  # a live pipeline has none before its first picture
            return 0.0
        known, numerator, denominator = caps.get_structure(0).get_fraction("framerate")
        return float(numerator / denominator) if known and denominator else 0.0

    def _picture(self, sample: Any) -> Image:
        layout = sample.get_caps().get_structure(0)
        colour, height, width = layout.get_value("format"), layout.get_value("height"), layout.get_value("width")
        if colour not in _COLOURS:
            raise DataError(
                f"{self._name} gives pictures of format {colour}. End it with: ! videoconvert ! "
                "video/x-raw,format=BGR ! appsink"
            )
        buffer = sample.get_buffer()
        mapped, memory = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise DataError(f"the memory of {self._name} cannot be read: it lies on the GPU. Let it end in nvvidconv")
        try:
            return _bgr(np.frombuffer(memory.data, np.uint8), height, width, colour)
        finally:
            buffer.unmap(memory)


def _bgr(data: NDArray[np.uint8], height: int, width: int, colour: str) -> Image:
    """Return a copy of a picture whose rows may be padded."""
    pixel_bytes, code = _COLOURS[colour]
    rows = data[: len(data) // height * height].reshape(height, -1)[:, : width * pixel_bytes]
    pixels = rows.reshape(height, width, pixel_bytes)
    return pixels.copy() if code is None else cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)
