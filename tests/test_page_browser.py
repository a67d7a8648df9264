"""The page in a headless Chromium: it fits, its policy lets our script run and nothing else, and its controls work."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from browser import CHROMIUM, DRIVER, Browser, browser
from test_report import SPEC, Constant, diagnosed, scores, searched

from edgeopt import benchmark
from edgeopt.bundle import Bundle, Manifest, Variant, write_bundle
from edgeopt.bundle.records import Attribution, ExplainedPicture, Frame, Judged, Pointing, StageRecords
from edgeopt.config import BenchmarkConfig
from edgeopt.dataset import Boxes, Dataset
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.evaluate import Runner, evaluate
from edgeopt.intervals import Interval
from edgeopt.measure.sensors import Sensors
from edgeopt.report import content, write_page
from edgeopt.report.explained import explanation
from edgeopt.report.templates import render
from edgeopt.spec import TensorSpec, preset
from edgeopt.spec import replace as changed
from edgeopt.sweep import TrialResult, VariantResult, sweep_html

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver: no page was tried in a browser"
    ),
]
HOSTILE = '<script>document.title="broken"</script><img src=x onerror=alert(1)>'
NAMES = ("cat", HOSTILE, "a class whose name is much longer than any table's column ought to be")
OVERFLOWING = """
const wide = [];
for (const element of document.querySelectorAll("main *:not(svg *), .bar, .bar *, nav *")) {
  const box = element.getBoundingClientRect();
  if (box.width && !element.closest(".scroll, pre, dialog, [hidden], .skip") && box.right > innerWidth + 1)
    wide.push(element.outerHTML.slice(0, 120));
}
return [document.documentElement.scrollWidth > document.documentElement.clientWidth, wide];
"""
OUTSIDE = """
return [...document.querySelectorAll("svg[xmlns] text")].filter((text) => {
  const at = text.getBoundingClientRect(), room = text.ownerSVGElement.getBoundingClientRect();
  return at.width && (at.left < room.left - 1 || at.right > room.right + 1 || at.top < room.top - 2);
}).map((text) => text.textContent);
"""
SHOWN = "return [...document.querySelectorAll(arguments[0])].filter((each) => each.checkVisibility()).length"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def shifted() -> Attribution:
    """Maps of a network whose tensors have long names, with pictures that nobody finds any more."""
    alike = Interval(estimate=0.9, low=0.8, high=0.95)
    picture = ExplainedPicture(
        name=f"{'a/long/path' * 6}/{HOSTILE}.jpg",
        sha256="0" * 64,
        cosine=0.9,
        rank=0.8,
        overlap=0.5,
        same_answer=False,
        answers=(HOSTILE, "cat 0.9"),
        size=(16, 16),
        frame=Frame(left=0, top=0, right=16, bottom=16),
    )
    scores = Judged(insertion=0.6, deletion=0.2)
    return Attribution(
        method="eigen_cam", baseline="ov-fp32", images=20, without_answer=1, same_answer=19, cosine=alike, rank=alike,
        overlap=alike, own=scores, floats=scores, noise=scores, judged=20, pictures=(picture,),
        gain=Interval(-0.1, -0.2, 0.1), pointing=Pointing(baseline=0.9, variant=0.8, chance=0.4, images=20),
        tapped=(f"head{'.cls_convs.0.1.pconv.act' * 3}/Mul_output (52 x 52)",),
    )  # fmt: skip


def written(folder: Path, spec, results, dataset: Dataset) -> Path:
    """The page of a bundle with one more variant than a small one has, and everything that a page can show."""
    config = BenchmarkConfig(warmup_s=0.0, duration_s=0.0)
    subjects = {name: Constant(40.0 - 10 * index) for index, name in enumerate(results)}
    latencies = benchmark.measure(subjects, config, sensors=Sensors(Path("/nonexistent")))
    latencies["ort-int8"] = changed(latencies["ort-int8"], invalid=("other processes took 50% of the processors",))
    variants = tuple(
        Variant(
            name=name,
            target="ov" if name.startswith("ov") else "ort",
            precision=name.partition("-")[2],
            file=f"variants/{name}/engine.bin",
            accuracy=accuracy,
            measured=tiny.measured(tiny.identity(name.partition("-")[0]), latency=latencies[name]),
            accepted=name != "ort-int8",
            verdict="it loses much" if name == "ort-int8" else "",
            diagnosis=diagnosed() if name == "ov-int8" else None,
            attribution=shifted() if name == "ov-int8" else None,
            stages=StageRecords(search=searched() if name == "ov-int8" else None),
        )
        for name, accuracy in results.items()
    )
    manifest = Manifest(
        name="pets",
        created=datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        spec=spec,
        baseline="ov-fp32",
        variants=variants,
        files={},
    )
    files = {each.file: bytes(4000) for each in variants}
    bundle: Bundle = write_bundle(folder / "pets.edgeopt", manifest, files)
    return write_page(content(bundle.manifest), folder / "pets.html", dataset)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a classifier of 40 classes, the second of which has markup for its name."""
    labels = (*NAMES, *(f"class {index}" for index in range(3, 40)))
    samples = []
    for index in range(120):
        pixels = np.full((20, 30, 3), 40 + index, np.uint8)
        pixels[..., 2] = index % 3
        pixels[0, 0, 0] = index
        samples.append(Sample(f"{HOSTILE}{index}.png", index % 3, ArrayPicture(pixels)))
    dataset = Dataset("classification", labels, samples)
    spec = changed(SPEC, labels=labels, input=changed(SPEC.input, shape=("N", 3, 20, 30)))
    spec = changed(spec, outputs=(TensorSpec(name="y", shape=("N", 40)),))

    def wide(wrong: set[int]):
        narrow = scores(wrong)

        def run(tensors):
            few = narrow(tensors)["y"]
            return {"y": np.concatenate([few, np.full((len(few), 37), -9.0, np.float32)], axis=1)}

        return run

    baseline = evaluate(Runner(wide({5}), spec), dataset)
    results = {"ov-fp32": baseline}
    for name, wrong in (("ov-int8", {1, 4, 7, 10, 13, 16, 19, 22}), ("ort-int8", set(range(60)))):
        results[name] = evaluate(Runner(wide(wrong), spec), dataset, baseline=baseline)
    return written(tmp_path_factory.mktemp("classifier"), spec, results, dataset)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a detector that finds a cat and, with the score of the variant, a dog."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    truth = Boxes.of([[6, 6, 26, 26], [32, 32, 48, 48]], [0, 1])
    dataset = Dataset("detection", NAMES[:2], [Sample(f"{n}.png", truth, ArrayPicture(pixels)) for n in range(3)])
    spec = changed(
        SPEC,
        task="detection",
        input=TensorSpec(name="x", shape=(1, 3, 64, 64), dtype="uint8"),
        decoding=preset("yolov8", score_threshold=0.5),
        labels=NAMES[:2],
    )

    def run(dog: float):
        columns = [[16, 16, 20, 20, 0.9, 0.0], [40, 40, 16, 16, 0.0, dog]]
        return lambda _: {"y": np.array(columns, np.float32).T[None]}

    baseline = evaluate(Runner(run(0.8), spec), dataset)
    results = {"ov-fp32": baseline}
    for name, score in (("ov-int8", 0.1), ("ort-int8", 0.7)):
        results[name] = evaluate(Runner(run(score), spec), dataset, baseline=baseline)
    return written(tmp_path_factory.mktemp("detector"), spec, results, dataset)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["page", "detector"])
def test_it_fits_and_its_policy_is_kept(window: Browser, request, which: str, width: int, dark: bool) -> None:
    window.open(request.getfixturevalue(which), width, dark=dark)
    assert window.run(OVERFLOWING) == [False, []]
    assert window.run(OUTSIDE) == []
    assert window.messages() == []
    assert window.run("return document.title") == "pets: edgeopt report"
    assert window.run("return document.querySelectorAll('img, script').length") == 2, "our script and its data"
    light = window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 249)"
    assert light != dark
    assert window.run("return document.querySelectorAll('image').length") > 0


@pytest.mark.parametrize("width", [390, 1280])
def test_no_cell_is_cut(window: Browser, page: Path, width: int) -> None:
    window.open(page, width)
    cut = window.run(
        "return [...document.querySelectorAll('.scroll')].filter((each) => each.checkVisibility() && "
        "each.scrollWidth > each.clientWidth + 1).map((each) => each.textContent.slice(0, 80))"
    )
    assert cut == []


BEYOND_CARDS = """
return [...document.querySelectorAll(".card table:not(.scroll table)")].filter((table) => {
  const card = table.closest(".card"), edge = parseFloat(getComputedStyle(card).paddingRight);
  return table.checkVisibility() && table.getBoundingClientRect().right > card.getBoundingClientRect().right - edge + 1;
}).map((table) => table.textContent.slice(0, 80));
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_sweep_whose_settings_have_long_values_fits(window: Browser, tmp_path: Path, width: int) -> None:
    variants = tuple(
        VariantResult(
            name=name, is_baseline=False, precision="int8", engine=name, accepted=True, accuracy=0.9, p50_ms=p50,
            size_bytes=1000, metric="top1", data="same",
        )
        for name, p50 in (("ov-int8", 5.0), ("ov-int8-fast", 6.0))
    )  # fmt: skip
    trial = TrialResult(
        key="0",
        model="mobilenet_v2",
        target="ov",
        settings={"source.weights": f"{'a/long/path' * 6}.pt"},
        machine="this machine",
        variants=variants,
    )
    (tmp_path / "sweep.html").write_text(sweep_html("nightly", [trial]), encoding="utf-8")
    window.open(tmp_path / "sweep.html", width)
    assert window.run(OVERFLOWING) == [False, []]
    assert window.messages() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_stay_in_their_cards(window: Browser, tmp_path: Path, width: int) -> None:
    explained = render("explained.html", title="pets", explanations=[explanation("ov-int8", shifted(), [])])
    (tmp_path / "explained.html").write_text(explained, encoding="utf-8")
    window.open(tmp_path / "explained.html", width)
    assert window.run(BEYOND_CARDS) == []


def test_the_variant_switch_changes_what_is_shown(window: Browser, page: Path) -> None:
    window.open(page, 1280)
    assert window.run("return document.querySelector('#variant').value") == "ov-int8"
    shown = "return [...document.querySelectorAll('[data-variant]')].filter((each) => each.checkVisibility())"
    names = f"{shown}.map((each) => each.dataset.variant)"
    assert set(window.run(names)) == {"ov-int8"}
    window.run(
        "const pick = document.querySelector('#variant'); pick.value = 'ort-int8'; "
        "pick.dispatchEvent(new Event('change'))"
    )
    assert set(window.run(names)) == {"ort-int8"}
    assert window.run(SHOWN, ".shot") > 0
    assert window.messages() == []


def find(window: Browser, words: str) -> None:
    window.run(
        "const box = document.querySelector('#search'); box.value = arguments[0]; "
        "box.dispatchEvent(new Event('input'))",
        words,
    )


def test_search_finds_classes_and_pictures(window: Browser, page: Path) -> None:
    window.open(page, 1280)
    everything = window.run(SHOWN, ".shot")
    assert window.run(SHOWN, "#classes tr[data-find]") == 3
    find(window, "MUCH LONGER")
    assert window.run(SHOWN, "#classes tr[data-find]") == 1
    assert window.run("return document.querySelector('#found').textContent").startswith("1 class, ")
    find(window, "<script>")
    assert window.run(SHOWN, "#classes tr[data-find]") == 1
    assert window.run(SHOWN, ".shot") >= everything
    find(window, "no such thing")
    assert window.run(SHOWN, ".shot") == 0
    assert window.run("return document.querySelector('#nothing').checkVisibility()")
    find(window, "")
    assert window.run(SHOWN, ".shot") == everything


def test_pictures_are_filtered_and_enlarged(window: Browser, page: Path) -> None:
    window.open(page, 1280)
    window.run("document.querySelector('button[data-kind=broke]').click()")
    kinds = window.run(
        "return [...document.querySelectorAll('.shot')].filter((each) => !each.hidden)"
        ".map((each) => each.dataset.kinds.split(' ').includes('ov-int8:broke'))"
    )
    assert kinds
    assert all(kinds)
    window.run("document.querySelector('.shot:not([hidden]) .zoom').click()")
    assert window.run("return document.querySelector('dialog').open")
    first = window.run("return document.querySelector('dialog figcaption b').textContent")
    window.run(
        "document.querySelector('dialog')"
        ".dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))"
    )
    assert window.run("return document.querySelector('dialog figcaption b').textContent") != first
    window.run("document.querySelector('dialog .close').click()")
    assert not window.run("return document.querySelector('dialog').open")
    assert window.messages() == []


def test_boxes_are_switched_on_and_off(window: Browser, detector: Path) -> None:
    window.open(detector, 1280)
    drawn = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter((group) => getComputedStyle(group).display != 'none').length"
    )
    assert window.run(drawn, "g[data-layer=truth]") == 3
    assert window.run(drawn, "g[data-layer=baseline]") == 0
    window.run("document.querySelector('input[data-layer=truth]').click()")
    window.run("document.querySelector('input[data-layer=baseline]').click()")
    assert window.run(drawn, "g[data-layer=truth]") == 0
    assert window.run(drawn, "g[data-layer=baseline]") == 3


def test_false_and_missed_boxes_are_counted_by_class(window: Browser, detector: Path) -> None:
    window.open(detector, 1280)
    rows = window.run(
        "return [...document.querySelectorAll('#classes tr[data-find]')].filter((row) => row.checkVisibility())"
        ".map((row) => [row.dataset.find.slice(0, 8), ...[...row.cells].slice(-2).map((cell) => cell.textContent)])"
    )
    assert rows == [["cat", "0 → 0", "0 → 0"], ["<script>", "0 → 0", "0 → 3"]]


def test_the_theme_can_be_chosen(window: Browser, page: Path) -> None:
    window.open(page, 1280, dark=True)
    background = "return getComputedStyle(document.body).backgroundColor"
    dark = window.run(background)
    window.run("document.querySelector('#theme').click()")
    assert window.run("return document.querySelector('#theme').textContent") == "Theme: light"
    assert window.run(background) != dark
    window.run("document.querySelector('#theme').click()")
    assert window.run(background) == dark


def test_it_prints_without_its_controls(window: Browser, page: Path) -> None:
    window.open(page, 1280)
    window.devtools("Emulation.setEmulatedMedia", media="print", features=[])
    assert window.run(SHOWN, ".bar, .contents, .filters") == 0
    assert window.run(SHOWN, "#overview table, .shot") > 0
    document = window.devtools("Page.printToPDF")["data"]
    window.devtools("Emulation.setEmulatedMedia", media="", features=[])
    assert len(document) > 10_000


def test_without_a_script_it_can_be_read(window: Browser, page: Path) -> None:
    window.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        window.open(page, 1280)
        window.devtools("Emulation.setScriptExecutionDisabled", value=False)
        assert window.run(SHOWN, "#classes tr[data-find]") == 3
        assert window.run(SHOWN, ".shot") > 0
        assert window.run("return document.querySelector('.beyond')") is None
    finally:
        window.devtools("Emulation.setScriptExecutionDisabled", value=False)
