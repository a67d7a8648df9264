"""Change training images at random, on uint8 BGR pixels at the network's size. Boxes move with them.

Coordinates are continuous, pixel i covering [i, i + 1). All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgeopt.config import Augmentation
from edgeopt.errors import ConfigError
from edgeopt.preprocess import Image, adjust
from edgeopt.references import resolve
from edgeopt.spec import Adjust

Boxes: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.float64]
"""Map of continuous (x, y, 1) from the old image to the new one: (3, 3)."""

MINIMUM_VISIBLE = 0.25
"""Least visible share of a box that is kept. With less, too little is left to recognise."""
MINIMUM_SIDE = 2.0
"""Least side of a box that is kept, in pixels."""
ELASTIC_GRID = 4
"""Points of the distortion on each side, about the smoothness that Simard et al. found best for digits."""
MINIMUM_FACTOR = 0.05
"""Smallest factor of size, brightness, contrast or colour, so that half-widths near 1 never reach nothing."""


@dataclass(frozen=True)
class Scene:
    """An image with its objects.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
        boxes: (n, 4) float32 xyxy in pixels.
        classes: (n,) int64.
    """

    pixels: Image
    boxes: Boxes
    classes: NDArray[np.int64]


Change: TypeAlias = Callable[[Scene, Generator], Scene]
"""An augmentation of the user's own. The scene of a classified image has no boxes."""


def augment_image(pixels: Image, changes: Augmentation, rng: Generator) -> Image:
    """Augment an image that is classified as a whole; its border pixels continue outwards."""
    size = pixels.shape[:2]
    pixels = warp(pixels, random_affine(changes, size, size, rng), size, fill=None)
    pixels = recolor(distort(pixels, changes.elastic, rng), changes, rng)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return changed(Scene(pixels, *nothing), changes, rng).pixels if changes.custom else pixels


def changed(scene: Scene, changes: Augmentation, rng: Generator) -> Scene:
    """Return `scene` after the user's own augmentations.

    Raises:
        ConfigError: one cannot be imported, or gives no image of the same size.
    """
    size = scene.pixels.shape
    for reference in changes.custom:
        change: Change = resolve(reference, {}, "augmentation")
        scene = change(scene, rng)
        if not isinstance(scene, Scene) or scene.pixels.shape != size or scene.pixels.dtype != np.uint8:
            raise ConfigError(f"the augmentation '{reference}' must give a Scene of {size} uint8 pixels, like its own")
    return scene


def augment_scene(
    scenes: Sequence[Scene], size: tuple[int, int], changes: Augmentation, fill: int, rng: Generator
) -> Scene:
    """Augment the first of `scenes`, or all four as a mosaic.

    Args:
        scenes: one, or four; none larger than `size`.
        size: (height, width) of the result.
        changes: what may be changed.
        fill: value of the pixels that no image covers.
        rng: source of all randomness.
    """
    scene = mosaic(scenes, size, fill, rng) if len(scenes) == 4 else scenes[0]
    matrix = random_affine(changes, scene.pixels.shape[:2], size, rng)
    pixels = recolor(warp(scene.pixels, matrix, size, fill), changes, rng)
    corners = np.concatenate([scene.boxes.reshape(-1, 2), np.ones((2 * len(scene.boxes), 1))], axis=1)
    moved = (corners @ matrix.T)[:, :2].reshape(-1, 2, 2)
    clipped = clip(Scene(pixels, np.concatenate([moved.min(1), moved.max(1)], axis=1), scene.classes))
    return clip(changed(clipped, changes, rng)) if changes.custom else clipped


def random_affine(changes: Augmentation, size: tuple[int, ...], out_size: tuple[int, ...], rng: Generator) -> Matrix:
    """Flip, slant, scale, rotate and shift about the centre: from `size` to `out_size`, both (height, width)."""
    factor = _factor(changes.scale, rng)
    angle = np.deg2rad(rng.uniform(-changes.rotate_deg, changes.rotate_deg))
    slant = np.tan(np.deg2rad(rng.uniform(-changes.shear_deg, changes.shear_deg)))
    shift = rng.uniform(-changes.translate, changes.translate, 2) * out_size[::-1]
    mirror = -1.0 if rng.random() < changes.horizontal_flip else 1.0
    cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[mirror, slant], [0.0, 1.0]])
    center, out_center = np.array(size[::-1]) / 2, np.array(out_size[::-1]) / 2
    return np.vstack([np.column_stack([turn, out_center + shift - turn @ center]), [0.0, 0.0, 1.0]])


def warp(pixels: Image, matrix: Matrix, out_size: tuple[int, ...], fill: int | None) -> Image:
    """Move pixels by `matrix` into an image of `out_size`; None as `fill` repeats the border."""
    if pixels.shape[:2] == tuple(out_size) and np.array_equal(matrix, np.eye(3)):
        return pixels
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    by_index = np.linalg.inv(half) @ matrix @ half  # OpenCV counts from the middle of the first pixel
    moved = cv2.warpAffine(
        pixels,
        by_index[:2],
        (out_size[1], out_size[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT,
        borderValue=(fill or 0,) * 3,
    )
    return moved.astype(np.uint8, copy=False)


def distort(pixels: Image, elastic: float, rng: Generator) -> Image:
    """Shift each pixel along a smooth random field (Simard et al. 2003): coarse noise, enlarged with a cubic."""
    if not elastic:
        return pixels
    height, width = pixels.shape[:2]
    coarse = rng.uniform(-elastic, elastic, (ELASTIC_GRID, ELASTIC_GRID, 2)) * (width, height)
    field = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    moved = cv2.remap(
        pixels, columns + field[..., 0], rows + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.astype(np.uint8, copy=False)


def recolor(pixels: Image, changes: Augmentation, rng: Generator) -> Image:
    """Change brightness, contrast and the gains of the colours."""
    if not (changes.brightness or changes.contrast or changes.color_balance):
        return pixels
    red, green, blue = (_factor(changes.color_balance, rng) for _ in range(3))
    brightness, contrast = _factor(changes.brightness, rng), _factor(changes.contrast, rng)
    return adjust(pixels, Adjust(brightness=brightness, contrast=contrast, gains=(red, green, blue)))


def mosaic(scenes: Sequence[Scene], size: tuple[int, int], fill: int, rng: Generator) -> Scene:
    """Return four scenes around a random point of a canvas of twice `size` (Bochkovskiy et al. 2020)."""
    height, width = size
    canvas = np.full((2 * height, 2 * width, 3), fill, np.uint8)
    meet_x, meet_y = int(rng.uniform(0.5, 1.5) * width), int(rng.uniform(0.5, 1.5) * height)
    boxes, classes = [], []
    for position, scene in enumerate(scenes):
        tall, wide = scene.pixels.shape[:2]
        left = meet_x if position % 2 else meet_x - wide
        top = meet_y if position // 2 else meet_y - tall
        seen = scene.pixels[max(-top, 0) : 2 * height - top, max(-left, 0) : 2 * width - left]
        y, x = max(top, 0), max(left, 0)
        canvas[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
        boxes.append(scene.boxes + np.array([left, top, left, top], np.float32))
        classes.append(scene.classes)
    return clip(Scene(canvas, np.concatenate(boxes), np.concatenate(classes)))


def clip(scene: Scene) -> Scene:
    """Cut boxes at the image's border and drop those of which too little is left."""
    height, width = scene.pixels.shape[:2]
    inside = np.clip(scene.boxes, 0, np.array([width, height, width, height]))
    before = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
    sides = inside[:, 2:] - inside[:, :2]
    keep = (sides >= MINIMUM_SIDE).all(axis=1) & (np.prod(sides, axis=1) >= MINIMUM_VISIBLE * before)
    return Scene(scene.pixels, inside[keep].astype(np.float32), scene.classes[keep])


def _factor(half_width: float, rng: Generator) -> float:
    """Return a factor drawn uniformly from 1 ± `half_width`."""
    return max(MINIMUM_FACTOR, rng.uniform(1.0 - half_width, 1.0 + half_width))
