"""A data format: an .npz with images (n, H, W, 3) uint8 BGR, classes (n,) and their labels."""

from pathlib import Path

import numpy as np

from edgeopt.config import DataSource
from edgeopt.dataset import ArrayPicture
from edgeopt.dataset.listing import Draft, Labels, Listing, path_of


def read_npz(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """[data.train] format = "shop.data:read_npz"."""
    path = path_of(source, root)
    with np.load(path) as arrays:
        images, classes, own = arrays["images"], arrays["classes"], tuple(arrays["labels"].tolist())
    rows = zip(images, classes, strict=True)
    drafts = (Draft(f"{path.stem}-{row}", ArrayPicture(image), int(index)) for row, (image, index) in enumerate(rows))
    return Listing("classification", own or labels or (), tuple(drafts), str(path))
