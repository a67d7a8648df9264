"""An augmentation: a grey square somewhere in the picture (DeVries and Taylor 2017)."""

from numpy.random import Generator

from edgeopt.train.augment import Scene


def cutout(scene: Scene, rng: Generator) -> Scene:
    """[train.augmentation] custom = ["shop.augmentation:cutout"]."""
    pixels = scene.pixels.copy()
    height, width = pixels.shape[:2]
    top, left = rng.integers(0, height - height // 4), rng.integers(0, width - width // 4)
    pixels[top : top + height // 4, left : left + width // 4] = 127
    return Scene(pixels, scene.boxes, scene.classes)
