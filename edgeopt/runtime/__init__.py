"""The device side: open a bundle and predict."""

from __future__ import annotations

from edgeopt.runtime.predictor import Inferred, Predictor, Prepared, Result, load, open_variant, settings_here
from edgeopt.runtime.session import Availability, Session, availability, open_session
from edgeopt.runtime.verify import Verification, verify

__all__ = [
    "Availability",
    "Inferred",
    "Predictor",
    "Prepared",
    "Result",
    "Session",
    "Verification",
    "availability",
    "load",
    "open_session",
    "open_variant",
    "settings_here",
    "verify",
]
