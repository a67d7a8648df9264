"""Results of `edgeopt explain`: where a variant looks, beside the float network on the same pictures."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgeopt.bundle.records.accuracy import PackedArray
from edgeopt.intervals import Interval
from edgeopt.spec import Struct

FEWEST = 16
"""Pictures from which on a bundle keeps the figures: a mean of fewer says little."""
Method: TypeAlias = Literal["eigen_cam", "grad_cam", "rise"]
"""``eigen_cam``: the main pattern of the features that scores are made from. ``grad_cam``: those features, weighted
with their gradient on the class. ``rise``: what the answer needs when random parts are hidden."""


class Frame(Struct):
    """The picture in the network's input, in whole pixels of it."""

    left: int
    top: int
    right: int
    bottom: int


class ExplainedPicture(Struct):
    """One picture."""

    name: str
    sha256: str
    cosine: float
    """Cosine between both maps."""
    rank: float
    """Spearman's correlation of both maps."""
    overlap: float
    """Places among the brightest tenth of both maps, over those of either."""
    same_answer: bool
    """True if both give the same best class, or as many objects of each class."""
    answers: tuple[str, str]
    """The float network's and the variant's, in words."""
    size: tuple[int, int]
    """(height, width) of the network's input."""
    frame: Frame
    maps: tuple[PackedArray, PackedArray] | None = None
    """The float network's and the variant's: (rows, columns) uint8 over the network's input, 255 the brightest. Of the
    most shifted pictures only."""

    @property
    def shift(self) -> float:
        """Distance of both maps: 0 where they are the same."""
        return 1.0 - self.rank


class Judged(Struct):
    """Mean insertion and deletion scores of one kind of map, on the variant's own engine."""

    insertion: float
    """Share of the answer that is left while the map's brightest parts are shown first: high is good."""
    deletion: float
    """The same while they are hidden first: low is good."""


class Pointing(Struct):
    """Shares of the pictures in which a map's brightest place lies in an object."""

    baseline: float
    """The float network's map."""
    variant: float
    chance: float
    """A place at random: the mean share of the pictures that objects cover."""
    images: int


class Attribution(Struct):
    """Shift of a variant's maps from the float network's."""

    method: Method
    baseline: str
    """The float variant."""
    images: int
    """Pictures with an answer to explain."""
    without_answer: int
    """Pictures in which the float network finds nothing."""
    same_answer: int
    """Pictures to which both give the same answer."""
    cosine: Interval
    rank: Interval
    overlap: Interval
    own: Judged | None
    """The variant's maps. None: its engine gives too little of the float network's answers to judge any map."""
    floats: Judged | None
    """The float network's maps on the variant's engine."""
    noise: Judged | None
    """Smooth noise."""
    judged: int
    """Pictures that maps were judged on."""
    pointing: Pointing | None
    """None without labelled boxes."""
    pictures: tuple[ExplainedPicture, ...]
    """The most shifted first."""
    gain: Interval | None = None
    """Insertion minus deletion of the variant's maps, less that of noise, picture by picture: maps say more than noise
    where it is above 0. None where no map could be judged."""
    tapped: tuple[str, ...] = ()
    """Feature maps, in words; none where the network is a black box."""

    @property
    def shift(self) -> float:
        """Mean distance of both maps: 1 minus the mean rank correlation."""
        return 1.0 - self.rank.estimate
