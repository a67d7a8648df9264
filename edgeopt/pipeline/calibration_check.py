"""The calibration doctor: were the calibration images enough, of the right kind, and prepared as for evaluation?"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edgeopt.bundle import Calibration, ClassCoverage
from edgeopt.bundle.calibration import Likeness
from edgeopt.calibrate import CalibrationTable, tensor_hash
from edgeopt.errors import ModelError
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.likeness import likeness
from edgeopt.pipeline.variants import BuiltVariant
from edgeopt.pipeline.workspace import content_key
from edgeopt.preprocess import feed

_LOG = logging.getLogger(__name__)

COMPARED_IMAGES = 4
"""Images whose network inputs are made again as the evaluation makes them."""


def examined(job: Job, table: CalibrationTable, engines: Sequence[BuiltVariant]) -> Calibration:
    """Check the calibration, and return its record for the bundle.

    That no calibration image is also evaluated on was made sure of when the data were loaded
    (`dataset.refuse_overlap`); the hashes let every later evaluation of the bundle make sure of it again.

    Raises:
        ModelError: an engine is fed other tensors than were calibrated on.
    """
    dataset = job.split("calibration")
    used = dataset.subset(range(len(table.images)))
    hashes = tuple(used.content_hash(index) for index in range(len(used)))
    compared = min(COMPARED_IMAGES, len(used))
    for engine in engines:
        _require_parity(job, table, engine, compared)
    counts = used.class_counts()
    return Calibration(
        method=job.config.calibrate.method,
        images=len(used),
        fingerprint=dataset.fingerprint(),
        names=tuple(image.name for image in table.images),
        hashes=hashes,
        repeated=len(hashes) - len(set(hashes)),
        convergence=table.convergence,
        coverage=ClassCoverage.of(used.labels, counts.tolist()) if counts.any() else None,
        preprocessing=content_key("inputs", {"sha256": [image.sha256 for image in table.images[:compared]]}),
        compared=compared,
        settings=job.config.calibrate,
        likeness=_likeness(job, len(used), engines),
    )


def _likeness(job: Job, images: int, engines: Sequence[BuiltVariant]) -> Likeness | None:
    integer = next((engine for engine in engines if engine.precision == "int8"), None)
    if integer is None:
        return None
    found = likeness(job, images, engines[0], integer)
    if found is not None and not found.is_alike:
        _LOG.warning("the test images are %s", found.summary())
    return found


def _require_parity(job: Job, table: CalibrationTable, engine: BuiltVariant, compared: int) -> None:
    """Prepare some images as the evaluation of `engine` does, and compare the bytes."""
    dataset = job.split("calibration")
    with engine.open() as predictor:
        for index, seen in enumerate(table.images[:compared]):
            prepared = predictor.prepare(dataset.image(index))
            fed = tensor_hash(feed(predictor.spec, prepared.tensor[:1], prepared.geometries[:1]))
            if fed != seen.sha256:
                raise ModelError(
                    f"variant '{engine.name}' is fed other tensors than were calibrated on (image '{seen.name}'): its "
                    "ranges belong to another preprocessing. Build again with an empty work folder; if this stays, "
                    "report it"
                )
