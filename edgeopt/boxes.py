"""Boxes of objects in pixels, and the mapping between the network's pixels and the original image's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Corners: TypeAlias = NDArray[np.float32]
"""Left, top, right, bottom in pixels: (n, 4) float32."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The objects to be found in one image.

    Attributes:
        boxes: (n, 4) float32: left, top, right, bottom in pixels of the original image.
        classes: (n,) int64 indices into `Dataset.labels`.
        crowd: (n,) bool: regions of many objects, which neither count as found nor as missed (COCO's ``iscrowd``).
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.classes.shape != (count,) or self.crowd.shape != (count,):
            shapes = f"{self.boxes.shape}, {self.classes.shape} and {self.crowd.shape}"
            raise ValueError(f"boxes, classes and crowd must be (n, 4), (n,) and (n,), not {shapes}")

    @classmethod
    def of(cls, rows: Iterable[Sequence[float]], classes: Iterable[int], crowd: Iterable[bool] | None = None) -> Boxes:
        """Build from any numbers; `crowd` defaults to none of them."""
        indices = np.array(list(classes), np.int64)
        flags = np.zeros(len(indices), np.bool_) if crowd is None else np.array(list(crowd), np.bool_)
        return cls(np.array(list(rows), np.float32).reshape(-1, 4), indices, flags)

    def __len__(self) -> int:
        return len(self.boxes)

    def keep(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Boxes:
        """Return the boxes that a mask or indices select."""
        return Boxes(self.boxes[which], self.classes[which], self.crowd[which])


@dataclass(frozen=True, slots=True)
class Geometry:
    """Mapping from the original image's pixels to the network's: ``network = original * scale + offset`` per axis."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    """Width of the original image, in pixels."""
    height: int
    part: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of what the network sees of the image; None: all of it."""

    @property
    def seen(self) -> tuple[int, int]:
        """(height, width) of what the network sees of the image."""
        if self.part is None:
            return self.height, self.width
        left, top, right, bottom = self.part
        return bottom - top, right - left

    def within(self, left: int, top: int, width: int, height: int) -> Geometry:
        """Return the geometry of the whole image of (width, height) pixels that this one's image was cut out of."""
        offsets = self.offset_x - left * self.scale_x, self.offset_y - top * self.scale_y
        part = (left, top, left + self.width, top + self.height)
        return Geometry(self.scale_x, self.scale_y, *offsets, width, height, part)

    def to_network(self, boxes: Corners) -> Corners:
        """Map (n, 4) xyxy boxes from the original image to the network's input."""
        return (boxes * self._scale + self._offset).astype(np.float32)

    def to_original(self, boxes: Corners) -> Corners:
        """Map (n, 4) xyxy boxes from the network's input to the original image; nothing is clipped."""
        return ((boxes - self._offset) / self._scale).astype(np.float32)

    def clip(self, boxes: Corners) -> Corners:
        """Cut (n, 4) xyxy boxes at the border of the original image."""
        corner = np.array([self.width, self.height] * 2, np.float32)
        return np.minimum(np.maximum(boxes, np.float32(0)), corner)  # np.clip, at a quarter of its time for few boxes

    def scaled(self, x: float, y: float) -> Geometry:
        """Return the geometry after the network's side has also been scaled."""
        offsets = self.offset_x * x, self.offset_y * y
        return Geometry(self.scale_x * x, self.scale_y * y, *offsets, self.width, self.height)

    def shifted(self, x: float, y: float) -> Geometry:
        """Return the geometry after the network's side has also been moved, by padding or cropping."""
        offsets = self.offset_x + x, self.offset_y + y
        return Geometry(self.scale_x, self.scale_y, *offsets, self.width, self.height)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y] * 2)
