"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_recipe import RECIPE, Watch

# A deadline is an assertion on time, which says more about the machine than about the code.
settings.register_profile("edgeopt", deadline=None, derandomize=True)
settings.load_profile("edgeopt")

# A script's background ignores SIGINT, and so would the processes that tests press Ctrl-C on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# OpenCV reads this at FFmpeg's first use in the process, which may be a test's own rather than ours.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights that stands beside the checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images and weights of {SHARED.name}/ beside the checkout: not tested on real data")
    return SHARED


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="session")
def untimed():
    """Graphs that no clock decides, so that two builds of one recipe are equal."""
    from edgeopt.pipeline import quantizing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizing, "slowdown_for", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def built(untimed, tmp_path_factory: pytest.TempPathFactory):
    """The tiny recipe's output folder after a first build; tests that change something copy it or build elsewhere."""
    from edgeopt.config import parse_config
    from edgeopt.pipeline import build

    folder = tmp_path_factory.mktemp("built")
    result = build(parse_config(RECIPE), Path.cwd(), folder, folder / "work", Watch())
    return folder, result
