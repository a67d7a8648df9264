"""Time and memory that a signature and encryption add to loading a bundle and to its first prediction.

    python -m benchmarks.protection BUNDLE [--variant NAME] [--rounds N]

The bundle is copied three times: as it is, signed with a new key that alone is trusted, and signed and sealed for a new
identity. Processes of their own, one after the other in alternation, load a copy twice and predict once each time; the
processor time of the second is compared, which other processes disturb less than the clock. Writes
``results/protection.json``, a row for each bundle.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyrage
from cryptography.hazmat.primitives import serialization

from benchmarks.apart import apart
from benchmarks.flipped_bytes import signed_copy
from benchmarks.recorded import record
from edgeopt.bundle import Bundle
from edgeopt.cli.boundary import errors_reported
from edgeopt.hardware import machine
from edgeopt.measure.environment import peak_memory_mib
from edgeopt.runtime import load
from edgeopt.trust.keys import TRUSTED_VARIABLE, read_private
from edgeopt.trust.releases import STATE_VARIABLE
from edgeopt.trust.sealing import IDENTITY_VARIABLE

RESULTS = Path(__file__).resolve().parent / "results" / "protection.json"
KINDS = ("plain", "signed", "signed and sealed")


def copies(bundle: Path, folder: Path) -> dict[str, Path]:
    """Make the three copies, and the environment in which the last two open."""
    plain = folder / "plain.edgeopt"
    shutil.copytree(bundle, plain)
    signed, key = signed_copy(bundle, folder)
    trusted = folder / "trusted"
    trusted.mkdir()
    (trusted / "key.pem").write_bytes(
        key.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    identity = pyrage.x25519.Identity.generate()
    file = folder / "identity.txt"
    file.touch(mode=0o600)
    file.write_text(str(identity))
    sealed = Bundle.open(plain).seal(folder / "sealed.edgeopt", [str(identity.to_public())])
    sealed.sign(read_private(folder / "key.pem"))
    os.environ |= {IDENTITY_VARIABLE: str(file), STATE_VARIABLE: str(folder / "state")}
    return {"plain": plain, "signed": signed.path, "signed and sealed": sealed.path}


def loaded(path: str, variant: str, trusted: str | None) -> dict[str, float]:
    """Load a bundle in this process and predict once: ms of the processor, and MiB at most."""
    if trusted is not None:
        os.environ[TRUSTED_VARIABLE] = trusted
    image = np.full((32, 32, 3), 114, np.uint8)
    with load(path, variant=variant) as predictor:  # so that no import is measured
        predictor.predict(image)
    start = time.process_time()
    with load(path, variant=variant) as predictor:
        opened = time.process_time()
        predictor.predict(image)
    end = time.process_time()
    return {"load_ms": 1e3 * (opened - start), "first_ms": 1e3 * (end - opened), "peak_mib": peak_memory_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", help="default: the baseline")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = copies(options.bundle, Path(folder))
        bundle = Bundle.open(paths["plain"])
        variant = options.variant or bundle.manifest.baseline
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind in KINDS:
                trusted = None if kind == "plain" else str(Path(folder) / "trusted")
                runs[kind].append(apart(loaded, str(paths[kind]), variant, trusted))
    row: dict[str, Any] = {
        "bundle": options.bundle.name,
        "variant": variant,
        "megabytes": round(sum(each.size for each in bundle.manifest.files.values()) / 1e6, 2),
        "rounds": options.rounds,
        "cpu": machine().cpu.model,
        "medians": {
            kind: {figure: round(statistics.median(run[figure] for run in runs[kind]), 2) for figure in runs[kind][0]}
            for kind in KINDS
        },
    }
    record(RESULTS, row, ("bundle", "variant"))


if __name__ == "__main__":
    with errors_reported():
        main()
