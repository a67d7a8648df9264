"""Geometry: where the network's pixels lie in the original image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Boxes: TypeAlias = NDArray[np.float32]
"""(n, 4) float32: left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the network's pixels lie in the original image: ``network = original * scale + offset`` on each axis."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    """Of the original image, in pixels."""
    height: int

    def to_network(self, boxes: Boxes) -> Boxes:
        """Map (n, 4) xyxy boxes from the original image to the network's input."""
        return (boxes * self._scale + self._offset).astype(np.float32)

    def to_original(self, boxes: Boxes) -> Boxes:
        """Map (n, 4) xyxy boxes from the network's input to the original image; nothing is clipped."""
        return ((boxes - self._offset) / self._scale).astype(np.float32)

    def clip(self, boxes: Boxes) -> Boxes:
        """Cut (n, 4) xyxy boxes at the border of the original image."""
        corner = np.array([self.width, self.height] * 2, np.float32)
        return np.minimum(np.maximum(boxes, np.float32(0)), corner)  # np.clip, at a quarter of its time for few boxes

    def scaled(self, x: float, y: float) -> Geometry:
        """After the network's side has also been scaled."""
        offsets = self.offset_x * x, self.offset_y * y
        return Geometry(self.scale_x * x, self.scale_y * y, *offsets, self.width, self.height)

    def shifted(self, x: float, y: float) -> Geometry:
        """After the network's side has also been moved, by padding or cropping."""
        offsets = self.offset_x + x, self.offset_y + y
        return Geometry(self.scale_x, self.scale_y, *offsets, self.width, self.height)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y] * 2)
