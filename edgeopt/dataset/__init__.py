"""Dataset: read labelled images from the usual formats, check them, and split them without overlap."""

from edgeopt.boxes import Boxes
from edgeopt.dataset.loading import load
from edgeopt.dataset.samples import ArrayPicture, Dataset, FilePicture, Picture, Sample, Target
from edgeopt.dataset.splits import Splits, imbalance, load_splits, refuse_overlap

__all__ = [
    "ArrayPicture",
    "Boxes",
    "Dataset",
    "FilePicture",
    "Picture",
    "Sample",
    "Splits",
    "Target",
    "imbalance",
    "load",
    "load_splits",
    "refuse_overlap",
]
