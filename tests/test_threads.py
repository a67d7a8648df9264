"""Several threads at once: whatever they do first, and whatever they share, they get the right answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest
import tiny

from edgeopt.postprocess import Classification
from edgeopt.runtime import Result, availability, load

FIRST_USE = """
import sys, threading

THREADS = 8
begin = threading.Barrier(THREADS)
answers = []

def work():
    begin.wait()
    answers.append(use(sys.argv[1]))

sys.setswitchinterval(1e-6)  # seconds: the interpreter changes threads as often as it can
threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(answers) == THREADS and len(set(answers)) == 1, answers
"""

OPEN = "from edgeopt.bundle import Bundle\ndef use(path): return Bundle.open(path).manifest.name\n"
LOAD = (
    "import cv2, numpy\nfrom edgeopt.runtime import load\n"
    "def use(path):\n"
    "    with load(path, variant='TARGET-fp32') as predictor:\n"
    "        return predictor.predict(numpy.full((20, 30, 3), (0, 0, 200), numpy.uint8)).label\n"
)
RECIPE = (
    "from edgeopt.config import find_recipe\nfrom edgeopt.bundle import Bundle\n"
    "def use(path): return Bundle.open(path).manifest.name + find_recipe('digits')[0].name\n"
)


TYPES = (
    "from edgeopt.runtime.ov import library\nopenvino = library()\n"
    "def use(path): return str(openvino.Type.f32.to_dtype())\n"
)


@pytest.mark.parametrize(
    ("uses", "target"),
    [(OPEN, ""), (RECIPE, ""), (LOAD, "ort"), (LOAD, "ov"), (TYPES, "ov")],
    ids=["open", "recipe", "load-ort", "load-ov", "openvino-types"],
)
def test_first_uses_in_several_threads_neither_crash_nor_wait_for_ever(uses: str, target: str, tmp_path: Path) -> None:
    if target and not availability(target).ok:
        pytest.skip(f"needs the engine of '{target}': loading in threads not tested")
    tiny.write(tmp_path / "tiny.edgeopt")
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", uses.replace("TARGET", target) + FIRST_USE, str(tmp_path / "tiny.edgeopt")],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", tiny.TARGETS)
def test_threads_that_share_a_predictor_get_their_own_answers(target: str, tmp_path: Path) -> None:
    if not availability(target).ok:
        pytest.skip(f"needs the engine of '{target}': sharing a predictor not tested")
    tiny.write(tmp_path / "tiny.edgeopt")
    begin = Barrier(len(tiny.COLOURS))

    def predict(colour: str) -> set[str]:
        # Large pictures: time is spent with memory that the predictor reuses.
        image = tiny.colour(colour, 600, 800)
        begin.wait()
        one = {_label(predictor.predict(image)) for _ in range(100)}
        return one | {_label(each) for _ in range(20) for each in predictor.predict_batch([image, image])}

    with (
        load(tmp_path / "tiny.edgeopt", variant=f"{target}-fp32") as predictor,
        ThreadPoolExecutor(len(tiny.COLOURS)) as pool,
        switching_often(),
    ):
        assert list(pool.map(predict, tiny.COLOURS)) == [{colour} for colour in tiny.COLOURS]


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _label(result: Result) -> str:
    assert isinstance(result, Classification)
    return result.label
