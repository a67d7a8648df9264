"""Images with labels: read from the usual formats, checked, and split without overlap."""

from edgeopt.dataset.samples import ArrayPicture, Boxes, Dataset, FilePicture, Picture, Sample, Target

__all__ = ["ArrayPicture", "Boxes", "Dataset", "FilePicture", "Picture", "Sample", "Target"]
