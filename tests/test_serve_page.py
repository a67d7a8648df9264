"""The server's page in a headless Chromium: a dropped picture is answered and its boxes are drawn."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from browser import CHROMIUM, DRIVER, Browser, browser

pytest.importorskip("uvicorn", reason="the extra serve is not installed: the server's page was not tried")

from serving import Served, served
from test_serve import png, scene

from edgeopt.runtime import load

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver: the server's page was not tried"
)
LABELS = ("<b>red</b>", "green", "blue")
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], arguments[1]));
document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));
"""
ROWS = "return [...document.querySelectorAll('#rows tr')].map((row) => [...row.cells].map((each) => each.textContent))"
PIXEL = "return [...document.querySelector('#picture').getContext('2d').getImageData(...arguments, 1, 1).data]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    spec = tiny.replace(tiny.DETECTOR, labels=LABELS)
    bundle = tiny.write_golden(tmp_path_factory.mktemp("page") / "tiny.edgeopt", spec)
    with served(bundle.path) as running:
        yield running


@pytest.fixture(scope="module")
def window(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def wait_for(window: Browser, script: str) -> None:
    for _ in range(200):
        if window.run(script):
            return
        time.sleep(0.05)
    raise TimeoutError(script)


def drop(window: Browser, content: bytes, name: str) -> None:
    window.run("document.querySelector('#result').hidden = true")
    window.run(DROP, base64.b64encode(content).decode(), name)
    ended = "!document.querySelector('#result').hidden || document.querySelector('#message').textContent"
    wait_for(window, f"return {ended}")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_dropped_picture_is_answered_and_drawn(window: Browser, server: Served, tmp_path: Path, width: int) -> None:
    window.visit(f"http://127.0.0.1:{server.port}/", width)
    wait_for(window, "return document.querySelector('#state').textContent.startsWith('ready')")
    window.messages()
    file = png(scene("red", 320, 640))
    with load(server.bundle) as predictor:
        expected = predictor.predict(file)
    drop(window, file, "photo.png")
    rows = window.run(ROWS)
    assert [row[:2] for row in rows] == [
        [label, f"{score:.3f}"] for label, score in zip(expected.labels, expected.scores, strict=True)
    ]
    assert rows[0][0] == LABELS[0], "markup in a name is text"
    assert window.messages() == []
    left, top = (int(side) for side in expected.boxes[0][:2])
    assert window.run(PIXEL, left, int(top + 100)) != [0, 0, 0, 255], "an edge of the box"
    assert window.run(PIXEL, 100, 100) == [0, 0, 0, 255], "the picture's own pixels"
    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not window.run(wide)
    window.picture(tmp_path / "page.png")


def test_another_threshold_asks_again(window: Browser, server: Served) -> None:
    window.visit(f"http://127.0.0.1:{server.port}/", 1280)
    wait_for(window, "return document.querySelector('#state').textContent.startsWith('ready')")
    drop(window, png(scene("red")), "photo.png")
    window.run(
        "const score = document.querySelector('#score'); score.value = '1'; score.dispatchEvent(new Event('input')); "
        "score.dispatchEvent(new Event('change'))"
    )
    wait_for(window, "return document.querySelectorAll('#rows tr').length === 0")
    assert "0 objects" in window.run("return document.querySelector('#summary').textContent")


def test_what_is_not_a_picture_is_said(window: Browser, server: Served) -> None:
    window.visit(f"http://127.0.0.1:{server.port}/", 1280)
    wait_for(window, "return document.querySelector('#state').textContent.startsWith('ready')")
    drop(window, b"no picture", "notes.txt")
    assert "not a picture" in window.run("return document.querySelector('#message').textContent")
    assert window.run("return document.querySelector('#result').hidden")
    window.messages()
