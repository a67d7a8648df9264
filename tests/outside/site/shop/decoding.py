"""A decoding: all classes by their softmax at some temperature (Guo et al. 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeopt.postprocess import Classification
from edgeopt.preprocess import Geometry
from edgeopt.spec import ModelSpec


def softened(outputs: Mapping[str, Any], spec: ModelSpec, geometries: Sequence[Geometry]) -> list[Classification]:
    """[model.decoding] type = "code", call = "shop.decoding:softened", arguments = {temperature = 2.0}."""
    logits = outputs[spec.outputs[0].name] / spec.decoding.arguments.get("temperature", 1.0)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = zip(order, scores, strict=True)
    return [Classification(best, row[best], tuple(spec.labels[index] for index in best)) for best, row in rows]
