"""Images of a dataset at the network's size, decoded and resized once, then kept in memory within a bound."""

from __future__ import annotations

from threading import Lock

import numpy as np

from edgeopt.dataset import Boxes, Dataset
from edgeopt.errors import DataError
from edgeopt.preprocess import Geometry, Image, preprocess
from edgeopt.spec import Fill, Letterbox, Pad, Preprocessing, replace
from edgeopt.train.augment import Scene

CACHE_BYTES = 2 * 1024**3
"""Most memory of one set's decoded images. What does not fit is decoded again each time."""
DEFAULT_FILL = 114
"""Fill colour if nothing is known of the padding: YOLOX's grey."""


def _grey(fill: Fill) -> int:
    """Return the grey of a colour: augmentation fills with one level."""
    return fill if isinstance(fill, int) else round(sum(fill) / len(fill))


class Pictures:
    """A dataset as the network sees it, before channel order and normalisation.

    `finish` is the rest of the preprocessing: it makes the network's input from augmented pixels.
    """

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing, *, limit_bytes: int = CACHE_BYTES) -> None:
        self.dataset = dataset
        self.finish = replace(preprocessing, steps=())
        self._resize = Preprocessing(steps=preprocessing.steps, channels="BGR", layout="NHWC")
        self._kept: dict[int, tuple[Image, Geometry]] = {}
        self._room = limit_bytes
        self._keeping = Lock()
        fills = [step.fill for step in preprocessing.steps if isinstance(step, Letterbox | Pad)]
        self.fill = _grey(fills[-1]) if fills else DEFAULT_FILL

    def __len__(self) -> int:
        return len(self.dataset)

    def pixels(self, index: int) -> tuple[Image, Geometry]:
        """Return image `index`, (H, W, 3) uint8 BGR at the network's size, and its geometry.

        It must not be written to.
        """
        if index in self._kept:
            return self._kept[index]
        pixels, geometry = preprocess(self.dataset.image(index), self._resize)
        pixels.flags.writeable = False
        with self._keeping:  # threads prepare batches at the same time
            if pixels.nbytes <= self._room and index not in self._kept:
                self._kept[index] = pixels, geometry
                self._room -= pixels.nbytes
        return pixels, geometry

    def label(self, index: int) -> int:
        """Return the class of image `index`.

        Raises:
            DataError: it has none.
        """
        target = self.dataset[index].target
        if not isinstance(target, int):
            raise DataError(f"image {self.dataset[index].name} has no class label, so nothing can be learnt from it")
        return target

    def truth(self, index: int) -> Boxes:
        """Return the boxes of image `index`, in its own pixels.

        Raises:
            DataError: it has none.
        """
        target = self.dataset[index].target
        if not isinstance(target, Boxes):
            raise DataError(f"image {self.dataset[index].name} has no boxes, so a detector cannot learn from it")
        return target

    def scene(self, index: int) -> Scene:
        """Return image `index` with its boxes at the network's size, without crowds, which are not single objects."""
        pixels, geometry = self.pixels(index)
        truth = self.truth(index)
        single = ~truth.crowd
        boxes = geometry.to_network(truth.boxes[single])
        return Scene(pixels, boxes, truth.classes[single].astype(np.int64))

    def scene_without_letterbox(self, index: int) -> Scene:
        """Return `scene`, cut to what the original image covers: a mosaic is made of pictures, not of padding."""
        scene, geometry = self.scene(index), self.pixels(index)[1]
        whole = np.array([[0, 0, geometry.width, geometry.height]], np.float32)
        height, width = scene.pixels.shape[:2]
        left, top, right, bottom = np.clip(geometry.to_network(whole)[0].round(), 0, [width, height] * 2).astype(int)
        shifted = scene.boxes - np.array([left, top, left, top], np.float32)
        return Scene(scene.pixels[top:bottom, left:right], shifted, scene.classes)
