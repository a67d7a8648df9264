"""The device side: open a bundle and predict.

    from edgeopt.runtime import load

    with load("model.edgeopt") as predictor:
        result = predictor.predict("photo.jpg")  # or an array, a PIL image, bytes
        print(predictor.choice, result.label)    # of a detector: result.boxes, .labels, .scores

Threads may share a predictor. `runtime.stream` reads videos and cameras, and `Tiled` finds small objects in large
pictures.
"""

from __future__ import annotations

from edgeopt.runtime.enroll import enroll, pictures_of
from edgeopt.runtime.predictor import Inferred, Predictor, Prepared, Result, load, open_variant, settings_here
from edgeopt.runtime.session import Availability, Session, availability, open_session
from edgeopt.runtime.tiled import Tiled
from edgeopt.runtime.verify import Verification, verify

__all__ = [
    "Availability",
    "Inferred",
    "Predictor",
    "Prepared",
    "Result",
    "Session",
    "Tiled",
    "Verification",
    "availability",
    "enroll",
    "load",
    "open_session",
    "open_variant",
    "pictures_of",
    "settings_here",
    "verify",
]
