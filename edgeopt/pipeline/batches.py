"""Quantize a network of several images at a time as one of a single image: ranges are found image by image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.calibrate.tap import Feeds, Outputs, outputs_as_written
from edgeopt.errors import ModelError, ParityError
from edgeopt.passes.rewrite.free_batch import fixed_batch, free_batch
from edgeopt.pipeline.agreement import require_same


def of_single_images(model: ir.Model) -> tuple[ir.Model, int | None]:
    """Return a network that takes one image at a time, and how many `model` takes; None if it is `model` itself.

    Where no output has as many rows as the inputs, these are something else, such as the channels of one image.
    """
    batch = fixed_batch(model)
    rows = [value.shape[0] if value.shape else None for value in model.graph.outputs]
    if batch is None or batch == 1 or all(isinstance(each, int) and each != batch for each in rows):
        return model, None
    return free_batch(model), batch


def require_same_in_batches(
    original: ir.Model, freed: ir.Model, feeds: Sequence[Feeds], batch: int, name: str
) -> Outputs:
    """Check that a network computes for single images what the file computes for `batch` of them; return the former.

    Fewer images than that are repeated until they fill one.

    Raises:
        ModelError: it does not: the images of a batch have to do with each other.
        ParityError: it computes something else for a whole batch, too.
    """
    try:
        filling = range(max(len(feeds) // batch, 1) * batch)
        stacked = list(_stacked([feeds[index % len(feeds)] for index in filling], batch))
        whole = require_same(original, freed, stacked, name)
        single = outputs_as_written(freed, feeds)
        compared = [single[index % len(feeds)] for index in filling]
        joined = [[np.concatenate(each) for each in zip(*compared, strict=True)]]
        exact = [[np.concatenate(each) for each in zip(*whole, strict=True)]]
    except (ModelError, ParityError, ValueError) as error:
        raise _inseparable(name, batch) from error
    for first, second in zip(exact[0], joined[0], strict=True):
        if first.shape != second.shape or not np.allclose(first, second, rtol=1e-2, atol=1e-3 * np.abs(first).max()):
            raise _inseparable(name, batch)
    return single


def _stacked(feeds: Sequence[Feeds], batch: int) -> Iterable[Feeds]:
    for start in range(0, len(feeds) - batch + 1, batch):
        group = feeds[start : start + batch]
        yield {key: np.concatenate([each[key] for each in group]) for key in group[0]}


def _inseparable(name: str, batch: int) -> ModelError:
    return ModelError(
        f"{name} takes {batch} images at a time, and what it computes for one of them could not be told from the "
        "others. Export it with a batch of 1, or with a dynamic one"
    )
