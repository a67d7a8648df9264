"""Bundle: manifest.json, engines and golden arrays in one folder, written atomically and distrusted when read."""

from __future__ import annotations

from edgeopt.bundle.calibration import Calibration, ClassCoverage, Convergence
from edgeopt.bundle.folder import Bundle, write_bundle
from edgeopt.bundle.golden import pack, unpack
from edgeopt.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileRecord,
    Golden,
    Manifest,
    Precision,
    Variant,
)
from edgeopt.bundle.settings import EngineSettings, Mode

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Bundle",
    "Calibration",
    "ClassCoverage",
    "Convergence",
    "EngineSettings",
    "FileRecord",
    "Golden",
    "Manifest",
    "Mode",
    "Precision",
    "Variant",
    "pack",
    "unpack",
    "write_bundle",
]
