"""Images as timm itself prepares them, by its own transforms: within one grey level, on real photographs.

But for one pixel in a thousand, at sharp edges: Pillow rounds rows or columns first, whichever shrink more.
"""

from __future__ import annotations

import importlib.util
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeopt.preprocess import batch, read_image
from edgeopt.source.networks import timm_steps
from edgeopt.spec import Preprocessing

torch = pytest.importorskip("torch")
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet_val500" / "images"
MEAN = (0.485, 0.456, 0.406)
CONFIGS = [
    ((224, 224), 0.875, "bicubic", "center"),
    ((224, 224), 0.875, "bilinear", "center"),
    ((224, 224), 0.95, "bicubic", "center"),
    ((288, 288), 1.0, "bicubic", "center"),
    ((256, 256), 0.9, "lanczos", "center"),
    ((224, 224), 0.9, "bicubic", "squash"),
    ((224, 224), 1.0, "bicubic", "border"),
    ((240, 320), 0.875, "bicubic", "squash"),
]


@pytest.fixture(scope="module")
def create_transform() -> Any:
    """timm's function; torchvision's operators are declared where its compiled part is for another torch."""
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None:
        pytest.skip("timm and torchvision are not installed: parity with their transforms was not tested")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from timm.data import create_transform

    return create_transform


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_photographs_are_prepared_as_timm_prepares_them(config: tuple[Any, ...], create_transform: Any) -> None:
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is not there")
    size, share, interpolation, mode = config
    transform = create_transform(
        (3, *size), is_training=False, crop_pct=share, crop_mode=mode, interpolation=interpolation,
        mean=MEAN, std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    preprocessing = Preprocessing(steps=timm_steps(size, share, interpolation, mode, MEAN))
    for path in islice(sorted(PHOTOS.iterdir()), 12):
        normalized = transform(Image.open(path).convert("RGB")).numpy()
        expected = (normalized + np.array(MEAN, np.float32)[:, None, None]) * 255
        found = batch([read_image(path)], preprocessing)[0][0].astype(np.float64)
        assert found.shape == expected.shape, path.name
        apart = np.abs(found - expected)
        assert (apart > 1.01).mean() < 0.001, f"{path.name}: {apart.max():.1f} grey levels"
        assert apart.mean() < 0.3, path.name
