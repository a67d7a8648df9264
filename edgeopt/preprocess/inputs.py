"""Fill all inputs of a network: the images, and what some networks take beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.errors import ModelError
from edgeopt.preprocess.regions import propose
from edgeopt.spec import AuxiliaryInput, ModelSpec, image_size


def feed(spec: ModelSpec, images: NDArray[Any], geometries: Sequence[Geometry]) -> dict[str, NDArray[Any]]:
    """Return the inputs by name.

    Args:
        spec: the model's.
        images: (N, ...) as `preprocess` prepares them.
        geometries: of the first images; the others only fill up the batch. With none, as if the images had been of the
            network's size.
    """
    inputs = {spec.input.name: images}
    if not spec.auxiliary:
        return inputs
    height, width = image_size(spec.input, spec.preprocessing.layout)
    whole = Geometry(1.0, 1.0, 0.0, 0.0, width, height)
    filled = [*geometries, *[whole] * (len(images) - len(geometries))]
    for auxiliary in spec.auxiliary:
        if auxiliary.holds == "regions":
            inputs[auxiliary.name] = _regions(spec, images, auxiliary)
        else:
            inputs[auxiliary.name] = _values(auxiliary, filled, (height, width))
    return inputs


def _regions(spec: ModelSpec, images: NDArray[Any], auxiliary: AuxiliaryInput) -> NDArray[Any]:
    """(N, rows, 4) regions of pictures as the network takes them.

    Raises:
        ModelError: they are no longer pixels.
    """
    count = auxiliary.shape[1]
    if images.dtype != np.uint8 or not isinstance(count, int):
        raise ModelError(
            f"'{spec.name}' reads regions of pictures that are uint8, and takes {images.dtype}. Build it with [export] "
            "fold_normalization = true"
        )
    rows = [propose(_bgr(image, spec), count) for image in images]
    return np.stack(rows).astype(auxiliary.dtype)


def _bgr(image: NDArray[Any], spec: ModelSpec) -> NDArray[np.uint8]:
    """(H, W, 3) of an image in the network's order of axes and channels."""
    pixels = np.moveaxis(image, 0, 2) if spec.preprocessing.layout == "NCHW" else image
    match spec.preprocessing.channels:
        case "RGB":
            pixels = pixels[:, :, ::-1]
        case "GRAY":
            pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _values(auxiliary: AuxiliaryInput, geometries: Sequence[Geometry], size: tuple[int, int]) -> NDArray[Any]:
    """Return one input of as many images as there are geometries, or of its own fixed shape."""
    rows = [_of_image(auxiliary, geometry, size) for geometry in geometries]
    sides = [side for side in auxiliary.shape[1:] if isinstance(side, int)]
    if auxiliary.shape and auxiliary.shape[0] in ("N", len(rows)):
        return np.array(rows, auxiliary.dtype).reshape(len(rows), *sides)
    return np.array(rows[0], auxiliary.dtype).reshape([side for side in auxiliary.shape if isinstance(side, int)])


def _of_image(auxiliary: AuxiliaryInput, geometry: Geometry, size: tuple[int, int]) -> tuple[float, ...]:
    """Return one image's values."""
    match auxiliary.holds:
        case "constant":
            return auxiliary.value
        case "network_size":
            pair: tuple[float, float] = size
        case "original_size":
            pair = geometry.height, geometry.width
        case _:
            pair = geometry.scale_y, geometry.scale_x
    return pair if auxiliary.order == "hw" else pair[::-1]
