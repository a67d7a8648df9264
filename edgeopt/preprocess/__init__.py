"""Preprocess: turn an image into the network's input. This is the one interpreter of `spec.Preprocessing`.

Training, calibration, evaluation and the device run this very code. Images are (H, W, 3) uint8 BGR, as OpenCV decodes
them, until `preprocess` has turned them into the network's channels, layout and element type.
"""

from __future__ import annotations

from edgeopt.boxes import Geometry
from edgeopt.preprocess.color import adjust
from edgeopt.preprocess.image import Color, Image, Source, as_bgr, read_image, to_bgr
from edgeopt.preprocess.inputs import feed
from edgeopt.preprocess.preparation import Scratch, batch, preprocess
from edgeopt.preprocess.steps import placed
from edgeopt.preprocess.tensor import Tensor, to_pictures

__all__ = [
    "Color",
    "Geometry",
    "Image",
    "Scratch",
    "Source",
    "Tensor",
    "adjust",
    "as_bgr",
    "batch",
    "feed",
    "placed",
    "preprocess",
    "read_image",
    "to_bgr",
    "to_pictures",
]
