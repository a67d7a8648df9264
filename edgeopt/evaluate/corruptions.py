"""Fifteen natural corruptions of pictures in five severities each, after ImageNet-C.

Kinds and the idea of five severities are of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (ICLR 2019). Strengths are edgeopt's own and relative to the picture's size, since edge
cameras give megapixels where that benchmark has 224 x 224; figures are therefore not those of ImageNet-C. Low light and
rain are here in place of frost and elastic transforms. None of them moves an object, so that boxes keep their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.preprocess import Image

SEVERITIES: Final = (1, 2, 3, 4, 5)
_REFERENCE_PIXELS = 224.0
"""Shorter side that lengths are for; they grow with the picture."""

Floats: TypeAlias = NDArray[Any]
"""float32 from 0 to 1."""
_Kind = Callable[[Floats, int, np.random.Generator], Floats]
"""(H, W, 3) of 0 to 1, severity 0 to 4, numbers at random: to the same."""


@dataclass(frozen=True)
class Corruption:
    """One kind in one severity."""

    kind: str
    severity: int
    """1 to 5."""

    @property
    def name(self) -> str:
        """Kind and severity, as ``fog-3``."""
        return f"{self.kind}-{self.severity}"

    def __call__(self, image: Image, number: int) -> Image:
        """Corrupt a picture.

        Args:
            image: (H, W, 3) uint8 BGR; not modified.
            number: of the picture in its set. The same number gives the same noise, on every machine.

        Returns:
            The same shape and type.
        """
        random = np.random.default_rng((number, self.severity, *self.kind.encode()))
        found = KINDS[self.kind](image.astype(np.float32) / 255.0, self.severity - 1, random)
        pixels: Image = np.clip(np.rint(found * 255.0), 0, 255).astype(np.uint8)
        return pixels


def _length(image: Floats, pixels: float) -> float:
    """Length that grows with the picture."""
    return float(pixels * min(image.shape[:2]) / _REFERENCE_PIXELS)


def _gaussian_noise(image: Floats, level: int, random: np.random.Generator) -> Floats:
    return image + random.normal(0.0, (0.04, 0.08, 0.12, 0.18, 0.26)[level], image.shape).astype(np.float32)


def _shot_noise(image: Floats, level: int, random: np.random.Generator) -> Floats:
    photons = (500.0, 120.0, 50.0, 20.0, 8.0)[level]
    return (random.poisson(np.clip(image, 0, 1) * photons) / photons).astype(np.float32)


def _impulse_noise(image: Floats, level: int, random: np.random.Generator) -> Floats:
    share = (0.01, 0.03, 0.06, 0.12, 0.2)[level]
    drawn = random.random(image.shape, dtype=np.float32)
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, image)).astype(np.float32)


def _filtered(image: Floats, kernel: Floats) -> Floats:
    result: Any = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(result, np.float32)


def _defocus_blur(image: Floats, level: int, _: np.random.Generator) -> Floats:
    radius = max(_length(image, (1.0, 1.7, 2.5, 3.5, 5.0)[level]), 0.6)
    side = int(np.ceil(radius))
    rows, columns = np.mgrid[-side : side + 1, -side : side + 1]
    disk = np.clip(radius + 0.5 - np.hypot(rows, columns), 0.0, 1.0)
    return _filtered(image, disk.astype(np.float32))


def _motion_blur(image: Floats, level: int, random: np.random.Generator) -> Floats:
    length = max(_length(image, (3.0, 5.0, 8.0, 12.0, 17.0)[level]), 1.5)
    side = int(np.ceil(length / 2))
    kernel = np.zeros((2 * side + 1, 2 * side + 1), np.float32)
    angle = random.uniform(0.0, np.pi)
    steps = np.linspace(-length / 2, length / 2, 8 * side + 1)
    rows, columns = side + steps * np.sin(angle), side + steps * np.cos(angle)
    np.add.at(kernel, (np.rint(rows).astype(int), np.rint(columns).astype(int)), 1.0)
    return _filtered(image, kernel)


def _zoom_blur(image: Floats, level: int, _: np.random.Generator) -> Floats:
    height, width = image.shape[:2]
    zooms = np.linspace(1.0, (1.04, 1.08, 1.12, 1.18, 1.25)[level], 7)
    centre = ((width - 1) / 2, (height - 1) / 2)
    total: Any = np.zeros_like(image)
    for zoom in zooms:
        matrix = cv2.getRotationMatrix2D(centre, 0.0, float(zoom))
        total += cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(total / len(zooms), np.float32)


def _glass_blur(image: Floats, level: int, random: np.random.Generator) -> Floats:
    height, width = image.shape[:2]
    reach = _length(image, (0.7, 1.2, 1.8, 2.6, 3.6)[level])
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = random.uniform(-reach, reach, (2, height, width)).astype(np.float32)
    shuffled = cv2.remap(image, columns + moved[0], rows + moved[1], cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.GaussianBlur(shuffled, (0, 0), max(reach / 3, 0.3)), np.float32)


def _clouds(shape: tuple[int, int], random: np.random.Generator) -> Floats:
    """(H, W) of 0 to 1: noise whose power falls with its frequency."""
    height, width = shape
    total: Any = np.zeros(shape, np.float32)
    for octave in range(1, 7):
        cells = random.random((2**octave + 1, 2**octave + 1), dtype=np.float32)
        total += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / 2.0**octave
    total -= total.min()
    return np.asarray(total / max(float(total.max()), 1e-6), np.float32)


def _fog(image: Floats, level: int, random: np.random.Generator) -> Floats:
    density = (0.25, 0.4, 0.52, 0.64, 0.75)[level] * (0.6 + 0.4 * _clouds(image.shape[:2], random))[..., None]
    return image * (1.0 - density) + 0.92 * density


def _streaks(
    image: Floats, share: float, length: float, width: float, angle: float, random: np.random.Generator
) -> Floats:
    """(H, W) of 0 to 1: bright points that are drawn out in one direction."""
    points: Any = (random.random(image.shape[:2], dtype=np.float32) < share / max(width, 1.0) ** 2).astype(np.float32)
    if width > 1.0:
        points = np.asarray(cv2.dilate(points, np.ones((round(width),) * 2, np.uint8)), np.float32)
    side = max(int(np.ceil(length / 2)), 1)
    kernel = np.zeros((2 * side + 1, 2 * side + 1), np.float32)
    steps = np.linspace(-length / 2, length / 2, 8 * side + 1)
    rows, columns = side + steps * np.sin(angle), side + steps * np.cos(angle)
    kernel[np.rint(rows).astype(int), np.rint(columns).astype(int)] = 1.0
    return np.asarray(np.clip(_filtered(points, kernel) * kernel.sum() / max(side, 1) ** 0.5, 0.0, 1.0))


def _snow(image: Floats, level: int, random: np.random.Generator) -> Floats:
    flakes = _streaks(
        image, (0.004, 0.008, 0.014, 0.022, 0.03)[level], _length(image, 3.0), _length(image, 1.5), 1.2, random
    )[..., None]
    pale = image * (1.0 - 0.08 * (level + 1)) + 0.07 * (level + 1)
    return pale * (1.0 - flakes) + flakes


def _rain(image: Floats, level: int, random: np.random.Generator) -> Floats:
    drops = _streaks(
        image, (0.002, 0.004, 0.007, 0.011, 0.016)[level], _length(image, 14.0), _length(image, 0.6), 1.4, random
    )[..., None]
    dim = image * (1.0 - 0.07 * (level + 1))
    return dim * (1.0 - 0.6 * drops) + 0.5 * drops


def _brightness(image: Floats, level: int, _: np.random.Generator) -> Floats:
    return image + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def _low_light(image: Floats, level: int, random: np.random.Generator) -> Floats:
    """Underexposed: darker, then amplified noise of few photons."""
    exposure, photons = (0.6, 0.4, 0.28, 0.2, 0.13)[level], (400.0, 150.0, 80.0, 40.0, 20.0)[level]
    dark = np.clip(image, 0, 1) ** 2.2 * exposure  # in linear light, as a sensor counts
    return ((random.poisson(dark * photons) / photons).astype(np.float32)) ** np.float32(1 / 2.2)


def _contrast(image: Floats, level: int, _: np.random.Generator) -> Floats:
    mean: Floats = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * (0.6, 0.45, 0.32, 0.2, 0.12)[level] + mean


def _pixelate(image: Floats, level: int, _: np.random.Generator) -> Floats:
    height, width = image.shape[:2]
    share = (0.6, 0.45, 0.34, 0.25, 0.18)[level] * min(1.0, _REFERENCE_PIXELS / min(height, width))
    small = (max(round(width * share), 1), max(round(height * share), 1))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(reduced, (width, height), interpolation=cv2.INTER_NEAREST), np.float32)


def _jpeg(image: Floats, level: int, _: np.random.Generator) -> Floats:
    pixels = np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)
    _written, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, (25, 18, 15, 10, 7)[level]])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.float32) / 255.0


KINDS: Final[Mapping[str, _Kind]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "rain": _rain,
    "fog": _fog,
    "brightness": _brightness,
    "low_light": _low_light,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""All kinds by name."""
