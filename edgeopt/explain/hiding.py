"""Explanations by hiding parts of a picture: RISE for any network as a black box, and the scores that judge a map."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from edgeopt.explain.compare import Places
from edgeopt.explain.goal import Goal
from edgeopt.explain.maps import Map, resized, scaled
from edgeopt.explain.view import View
from edgeopt.runtime import Predictor
from edgeopt.spec import Size

_KEPT = 0.5
"""Share of a mask that shows the picture, as in RISE."""
_CELLS = {"classification": 8, "detection": 16}
"""Cells of a mask along the shorter side: about those of RISE (7), and D-RISE's (16), for objects are smaller."""
_FINE = 4
"""Places of the map along a side of a mask's cell."""
_STEPS = 12
"""Parts in which a picture is hidden or shown."""
_SEED = 0


def rise(view: View, predictor: Predictor, goal: Goal, masks: int) -> Map:
    """Return the places that the answer needs, found by showing random halves of the picture.

    Petsiuk et al., "RISE" (BMVC 2018) and "Black-box Explanation of Object Detectors via Saliency Maps" (D-RISE, CVPR
    2021). Masks are weighted with how much more of the answer they leave than the mean mask does, so that few suffice.
    The masks of one size of picture are always the same, so that two networks' maps differ by the networks alone.

    Args:
        view: the picture.
        predictor: open variant.
        goal: the answer.
        masks: number of masks.
    """
    random = np.random.default_rng(_SEED)
    shown = [_mask(view.size, _CELLS[predictor.spec.task], random) for _ in range(masks)]
    left = [goal.left(predictor, view.covered(resized(mask, *view.size), view.mean_colour)) for mask in shown]
    weights = np.asarray(left, np.float32) - np.float32(np.mean(left))
    return scaled(np.einsum("n,nrc->rc", weights, np.stack(shown)))


def _mask(size: Size, cells: int, random: np.random.Generator) -> Map:
    """Return smooth random spots, moved by a random part of a cell."""
    short = min(size)
    rows, columns = (max(1, round(cells * side / short)) for side in size)
    coarse = (random.random((rows + 1, columns + 1)) < _KEPT).astype(np.float32)
    fine = cv2.resize(coarse, ((columns + 1) * _FINE, (rows + 1) * _FINE), interpolation=cv2.INTER_LINEAR)
    top, left = random.integers(0, _FINE, 2).tolist()
    return np.ascontiguousarray(fine[top : top + rows * _FINE, left : left + columns * _FINE])


class Faithfulness(NamedTuple):
    """Scores of a map by an engine: shares of its answer to the whole picture."""

    insertion: float
    """Mean share that is left while the map's brightest parts are shown first on a blurred picture: high is good."""
    deletion: float
    """The same while they are hidden first: low is good."""

    @property
    def contrast(self) -> float:
        """Insertion minus deletion: high is good."""
        return self.insertion - self.deletion


def faithfulness(view: View, predictor: Predictor, goal: Goal, values: Map) -> Faithfulness | None:
    """Return insertion and deletion scores (RISE, section 4.2), of equal steps of the picture's area.

    None where the engine gives less than a twentieth of the answer to the whole picture.

    Args:
        view: the picture.
        predictor: engine that is asked.
        goal: the answer.
        values: the map.
    """
    whole = goal.left(predictor, view.inferred())
    if whole < 1.0 / 20.0:
        return None
    order = _brightest_first(resized(values, *view.size), view.seen(*view.size))
    inserted, deleted = [], []
    for step in range(1, _STEPS):
        chosen = (order < step / _STEPS).astype(np.float32)
        inserted.append(goal.left(predictor, view.covered(chosen, view.blurred)) / whole)
        deleted.append(goal.left(predictor, view.covered(np.float32(1) - chosen, view.mean_colour)) / whole)
    return Faithfulness(float(np.mean(inserted)), float(np.mean(deleted)))


def _brightest_first(values: Map, seen: Places) -> Map:
    """Return each pixel's place in the order of brightness, from 0 to 1; padding comes last."""
    flat = np.where(seen, values, -1.0).ravel()
    order = np.empty(flat.size, np.float32)
    order[np.argsort(-flat, kind="stable")] = np.arange(flat.size, dtype=np.float32) / max(1, int(seen.sum()))
    return order.reshape(values.shape)


def random_map(rows: int, columns: int, number: int) -> Map:
    """Return smooth noise, which says nothing of a picture: what a map has to beat."""
    noise = np.random.default_rng((_SEED, number)).random((rows, columns)).astype(np.float32)
    return scaled(cv2.GaussianBlur(noise, (0, 0), max(1.0, min(rows, columns) / 16.0)))
