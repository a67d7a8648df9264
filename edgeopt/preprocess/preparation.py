"""Preparation of images: the steps are planned once for a size, then run on each image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.errors import DataError
from edgeopt.preprocess.image import Image, as_bgr
from edgeopt.preprocess.steps import Planner, Room
from edgeopt.preprocess.tensor import Tensor, TensorForm
from edgeopt.spec import Preprocessing, Size

_SPARE = 4
"""Memory up to this many times as large as needed is kept. One huge image should not hold it for ever."""
_SMALL_BYTES = 16 << 20


class Scratch:
    """Memory that `preprocess` reuses for the next image, with the plan for the last size.

    New memory for every image costs page faults, which can take longer than the work itself; and right after an engine
    has filled the caches, so does working out what the image before already told. For one thread at a time.
    """

    def __init__(self) -> None:
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._preparation: Preparation | None = None

    def preparation(self, spec: Preprocessing, size: Size) -> Preparation:
        """Return the preparation of (height, width) images. It may take the memory of an earlier one."""
        if self._preparation is None or self._preparation.spec is not spec or self._preparation.size != size:
            numbers = count()
            self._preparation = Preparation(spec, size, lambda height, width: self._piece(next(numbers), height, width))
        return self._preparation

    def _piece(self, number: int, height: int, width: int) -> Image:
        size = height * width * 3
        memory = self._memory.get(number)
        if memory is None or not size <= memory.size <= max(_SPARE * size, _SMALL_BYTES):
            memory = self._memory[number] = np.empty(size, np.uint8)
        return memory[:size].reshape(height, width, 3)


class Preparation:
    """Preparation of images of one size, for one thread at a time: its steps write to the same memory each time."""

    def __init__(self, spec: Preprocessing, size: Size, room: Room) -> None:
        self.spec, self.size = spec, size
        planner = Planner(size, room)
        for step in spec.steps:
            planner.add(step)
        self.geometry = planner.geometry
        self._operations = tuple(planner.operations)
        self._form = TensorForm(spec, planner.size)

    def run(self, image: Image, out: Tensor | None) -> Tensor:
        """Prepare one image; see `preprocess`."""
        for operation in self._operations:
            image = operation(image)
        return self._form.fill(image, out)


def preprocess(
    image: Image, spec: Preprocessing, out: Tensor | None = None, scratch: Scratch | None = None
) -> tuple[Tensor, Geometry]:
    """Turn one image into one network input, without the batch dimension.

    Args:
        image: (H, W, 3) uint8 BGR; grey (H, W) or (H, W, 1) is spread over the channels, BGRA loses its alpha.
        spec: the preprocessing.
        out: C-contiguous memory of the result's shape and dtype to write to, such as one item of a batch.
        scratch: the caller's, where many images are to come.

    Returns:
        The tensor, (C, H, W) or (H, W, C) as `spec.layout` says, uint8 without normalisation and float32 with it; and
        the way back from its pixels to the image's.

    Raises:
        DataError: `image` is not an 8-bit image.
        ConfigError: mean and std do not fit the channels.
    """
    image = as_bgr(image)
    preparation = (scratch or Scratch()).preparation(spec, (image.shape[0], image.shape[1]))
    return preparation.run(image, out), preparation.geometry


def batch(images: Sequence[Image], spec: Preprocessing) -> tuple[Tensor, list[Geometry]]:
    """`preprocess` several images into one (N, ...) tensor.

    Raises:
        DataError: there are no images, or `spec` leaves them at different sizes.
    """
    if not images:
        raise DataError("cannot make a batch of 0 images. Give at least one")
    scratch = Scratch()
    first, geometry = preprocess(images[0], spec, scratch=scratch)
    tensor = np.empty((len(images), *first.shape), first.dtype)
    tensor[0] = first
    geometries = [geometry]
    for item, image in zip(tensor[1:], images[1:], strict=True):
        geometries.append(preprocess(image, spec, item, scratch)[1])
    return tensor, geometries
