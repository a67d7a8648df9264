"""Offsets of classes: numbers of the decoding that move each class's logit, so that rare ones are chosen more often."""

from __future__ import annotations

import numpy as np

from edgeopt.errors import ModelError
from edgeopt.postprocess.alignment import from_log_odds, log_odds
from edgeopt.postprocess.results import Floats
from edgeopt.spec import ClassificationDecoding


def with_offsets(scores: Floats, decoding: ClassificationDecoding) -> Floats:
    """Return a classifier's output with its classes' logits moved.

    Args:
        scores: (N, classes) before ``activation``, or after the one that the network has ``applied``.
        decoding: says which, and has the offsets.

    Raises:
        ModelError: there are not as many offsets as classes.
    """
    offsets = np.array(decoding.offsets, np.float32)
    if len(offsets) != scores.shape[1]:
        raise ModelError(f"the decoding has {len(offsets)} offsets for {scores.shape[1]} classes. Correct them")
    if decoding.applied == "softmax":
        moved = scores * np.exp(offsets - offsets.max())
        shares: Floats = moved / np.maximum(moved.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return shares
    if decoding.applied == "sigmoid":
        return np.asarray(from_log_odds(log_odds(scores) + offsets), np.float32)
    return np.asarray(scores + offsets, np.float32)
