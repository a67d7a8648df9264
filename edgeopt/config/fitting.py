"""``[fit]``: a classifier on a frozen network's features."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edgeopt.errors import SettingError
from edgeopt.spec import Fraction, PositiveInt, Size, Struct


class RegionsConfig(Struct):
    """``[fit.regions]``: a detector of it, R-CNN: the classifier is fitted on regions of pictures with boxes.

    Each region of a picture goes through the backbone by itself, scaled to `[model] input_size`. That is slow, and kept
    to compare with: Faster R-CNN shares the features of all regions.
    """

    count: PositiveInt = 150
    """Regions of a picture, at most; OpenCV's MSER proposes them, and touching parts are told apart."""
    picture_size: Size = (320, 320)
    """Height and width of the network's input, to which a picture is letterboxed."""
    context: Fraction = 0.3
    """Share of a region's sides that is seen around it besides."""


class FitConfig(Struct):
    """``[fit]``: the classifier of ``edgeopt:features``, which scikit-learn fits on features of a frozen network.

    That takes seconds, and tens of pictures a class. Settings that are not here are chosen by cross-validation. The
    classifier becomes part of the graph, in operators that every target has, and is quantized with the rest; of ``knn``
    the graph gives the embedding, and the prototypes are data in the bundle, so that `edgeopt enroll` can add classes.
    """

    classifier: Literal["svm", "rbf_svm", "knn", "mlp"] = "svm"
    """A linear SVM, one with Gaussian kernels, the nearest prototypes, or a network of one hidden layer."""
    features: str = "auto"
    """Tensor of the backbone's graph that is classified. ``auto``: what its last linear layer reads, or its output if
    it ends in none; maps are averaged over their places."""
    grid: PositiveInt = 1
    """Cells of each side of such a map, over each of which it is averaged by itself. With more than 1 it is also known
    where something is, which shapes that are unlike photographs' need; early maps tell them best."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """``balanced``: rare classes weigh as much as frequent ones. Prototypes do anyway."""
    folds: Annotated[int, Meta(ge=2)] = 5
    """Parts of the pictures in cross-validation; fewer if a class has fewer pictures. Prototypes leave out one at a
    time."""
    hidden: PositiveInt = 64
    """Neurons of the hidden layer of ``mlp``."""
    prototypes: PositiveInt = 100
    """Most prototypes of a class of ``knn``; of more pictures they are the means of k-means."""
    support_vectors: PositiveInt | None = None
    """Most support vectors of ``rbf_svm``, each of which is as long as the features. Default: together they may have as
    many numbers as the backbone has weights."""
    seed: int = 0
    """Seed of the folds, of the hidden layer's first weights, of k-means and of the regions that are learnt from."""
    regions: RegionsConfig | None = None
    """Regions of pictures with boxes, instead of whole pictures with a class: see the keys below."""

    def __post_init__(self) -> None:
        if self.regions is not None and self.classifier == "knn":
            raise SettingError(
                "[fit.regions] needs a classifier that knows the background, which has no prototypes. Take [fit] "
                'classifier = "svm"'
            )
