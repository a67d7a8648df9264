"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights that stands beside the checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images and weights of {SHARED.name}/ beside the checkout: not tested on real data")
    return SHARED
