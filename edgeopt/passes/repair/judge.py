"""Judge: how far a network's answers are from the float network's on images that nothing was fitted on.

Distances are heavy-tailed: one odd image in two hundred can have half of their sum, and it is another one for every
calibration set. So the largest of them do not count where networks are compared, unless more images than chance
explains became much worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.spool import spooled
from edgeopt.calibrate.tap import Feeds, each_as_written
from edgeopt.intervals import paired_bootstrap_interval
from edgeopt.metrics import Discrepancy

Distances: TypeAlias = NDArray[np.float64]
"""(images,) discrepancies from the float network."""

JUDGES = 8
"""Fewest images that judge, where there are twice as many."""
_TRIMMED = 0.1
"""Share of the images, rounded up, whose distances are left out as the largest: of 8 images one, of 50 five."""
_FEWEST = 4
"""Images from which on any are left out."""


def typical(distances: Distances) -> float:
    """Mean of the distances but for the largest tenth (a mean that is trimmed at the upper end)."""
    counted = len(distances) - (int(np.ceil(_TRIMMED * len(distances))) if len(distances) >= _FEWEST else 0)
    return float(np.mean(np.sort(distances)[:counted]))


def ruins_some(before: Distances, after: Distances) -> bool:
    """Return True if the mean rises by more than chance: the 95 % interval of paired differences lies above zero.

    A repair that brings most images a little nearer and a few much further away lowers the typical distance. One image
    proves nothing (a third of all resamples lacks it); four among fifty do. Outputs that cease to be finite do so too.
    """
    broken = ~np.isfinite(after)
    if broken.any() or not np.isfinite(before).all():
        return bool(np.isfinite(before[broken]).any())
    return paired_bootstrap_interval(before, after).low > 0.0


class Judge:
    """The float network's outputs on the images that are held out.

    Args:
        model: the float network.
        feeds: its inputs.
        discrepancy: cost of an error of the outputs.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds], discrepancy: Discrepancy) -> None:
        self._feeds = feeds
        self.discrepancy = discrepancy
        self._reference = spooled(each_as_written(model, feeds))

    def measure(self, model: ir.Model) -> Distances:
        """Distances of `model` from the float network, image by image."""
        return self.discrepancy.each(self._reference, each_as_written(model, self._feeds))
