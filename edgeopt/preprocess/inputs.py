"""Fill all inputs of a network: the images, and what some networks take beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
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
        inputs[auxiliary.name] = _values(auxiliary, filled, (height, width))
    return inputs


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
        case "scale":
            pair = geometry.scale_y, geometry.scale_x
    return pair if auxiliary.order == "hw" else pair[::-1]
