"""The network's view of one picture: its input, with parts of it covered, and where the picture lies in it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Corners
from edgeopt.explain.compare import Places
from edgeopt.explain.maps import Map, resized
from edgeopt.preprocess import Geometry, Image, to_pictures
from edgeopt.runtime import Inferred, Predictor, Prepared
from edgeopt.spec import Size

_BLUR = 0.05
"""Deviation of the blur that hides a picture, of its shorter side. RISE's authors blur 224 pixels by 5, which leaves
large objects to be seen."""
Floats = NDArray[Any]


class View:
    """One picture as a predictor's network takes it."""

    def __init__(self, predictor: Predictor, image: Image) -> None:
        self._predictor = predictor
        prepared = predictor.prepare_batch([image])
        self._batch = prepared.tensor.copy()
        self.geometry: Geometry = prepared.geometries[0]
        self._channels_last = predictor.spec.preprocessing.layout == "NHWC"
        item = self._batch[0]
        self.size: Size = item.shape[:2] if self._channels_last else item.shape[1:]

    def inferred(self, predictor: Predictor | None = None) -> Inferred:
        """Run the network, or another engine of it, on the whole picture."""
        return self._run(self._batch, predictor or self._predictor)

    def covered(self, kept: Map, cover: Floats) -> Inferred:
        """Run the network on the picture where `kept` (H, W) is 1, and on `cover` where it is 0."""
        share = kept[..., None] if self._channels_last else kept[None]
        mixed = self._batch[0] * share + cover * (np.float32(1) - share)
        batch = self._batch.copy()
        batch[0] = np.rint(mixed) if batch.dtype.kind in "ui" else mixed
        return self._run(batch, self._predictor)

    def _run(self, batch: Floats, predictor: Predictor) -> Inferred:
        return predictor.infer(Prepared(batch, (self.geometry,)), copy=True)

    @cached_property
    def mean_colour(self) -> Floats:
        """Input of the picture's mean colour, which shows nothing."""
        axes = (0, 1) if self._channels_last else (1, 2)
        return np.broadcast_to(self._batch[0].mean(axis=axes, keepdims=True, dtype=np.float32), self._batch[0].shape)

    @cached_property
    def blurred(self) -> Floats:
        """Input of the picture so blurred that only its colours are left."""
        item = self._batch[0].astype(np.float32)
        planes = item if self._channels_last else np.moveaxis(item, 0, -1)
        soft = cv2.GaussianBlur(np.ascontiguousarray(planes), (0, 0), _BLUR * min(self.size)).reshape(planes.shape)
        return np.ascontiguousarray(soft if self._channels_last else np.moveaxis(soft, -1, 0))

    def seen(self, rows: int, columns: int) -> Places:
        """Return the (rows, columns) places of a grid whose middle shows the picture, no padding."""
        return self._within(self._frame, rows, columns)

    def objects(self, boxes: Corners, rows: int, columns: int) -> Places:
        """Return the places of a grid whose middle lies in one of (n, 4) boxes of the original picture."""
        found = np.zeros((rows, columns), np.bool_)
        for box in self.geometry.to_network(boxes):
            found |= self._within(box, rows, columns)
        return found

    def _within(self, box: Corners, rows: int, columns: int) -> Places:
        height, width = self.size
        y = (np.arange(rows) + 0.5) * height / rows
        x = (np.arange(columns) + 0.5) * width / columns
        left, top, right, bottom = box.tolist()
        down, across = (y >= top) & (y <= bottom), (x >= left) & (x <= right)
        return np.asarray(down[:, None] & across, np.bool_)

    @property
    def _frame(self) -> Corners:
        whole = np.array([[0.0, 0.0, self.geometry.width, self.geometry.height]], np.float32)
        if self.geometry.part is not None:
            whole = np.array([self.geometry.part], np.float32)
        height, width = self.size
        frame = self.geometry.to_network(whole)[0]
        return np.asarray(np.clip(frame, 0.0, [width, height] * 2), np.float32)

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the picture in the network's input, in whole pixels."""
        left, top, right, bottom = np.rint(self._frame).astype(int).tolist()
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def picture(self) -> Image:
        """Return what the network sees as pixels, without padding."""
        left, top, right, bottom = self.frame
        return to_pictures(self._batch[:1], self._predictor.spec.preprocessing)[0][top:bottom, left:right]

    def map_of_picture(self, values: Map) -> Map:
        """Return a map in pixels of `picture`."""
        left, top, right, bottom = self.frame
        return resized(values, *self.size)[top:bottom, left:right]
