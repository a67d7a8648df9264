"""What a GPU test needs; where it is not there, the skip says what was not tested."""

from __future__ import annotations

import pytest

from edgeopt.runtime.session import availability


@pytest.fixture(params=["trt", "rtx"])
def target(request: pytest.FixtureRequest) -> str:
    """A target whose engines run on this machine."""
    available = availability(request.param)
    if not available.ok:
        pytest.skip(f"{request.param} was not run on a GPU: {available.reason.split('. ')[0]}")
    return request.param
