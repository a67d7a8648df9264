"""Tables in a terminal of 80 columns: nothing is cut, no word is broken, and a figure reads the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from rich.console import Console, Group, RenderableType
from test_report import LABELS, SPEC, Runner, bundle, dataset, manifest, scores  # noqa: F401 - fixtures

from edgeopt.bundle import Bundle
from edgeopt.bundle.records import Measured
from edgeopt.cli.views.answers import answers_view
from edgeopt.cli.views.tables import accuracy_table, bundle_tables, latency_table, summary_table
from edgeopt.dataset import Dataset
from edgeopt.evaluate import evaluate, results_by_variant
from edgeopt.report import content, summary, to_html, to_terminal
from edgeopt.runtime.choice import Choice
from edgeopt.spec import replace


def shown(view: RenderableType, width: int) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def assert_readable(view: RenderableType) -> str:
    """What it shows at 80 columns, where every word is one that a wide terminal shows, too."""
    narrow, wide = shown(view, 80), shown(view, 400)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    broken = set(narrow.replace("─", " ").split()) - set(wide.replace("─", " ").split())
    assert not broken
    return narrow


NONE = Choice(None, "", {})


def found_here(opened: Bundle) -> dict[str, Measured]:
    return {each.name: next(iter(each.measured.values())) for each in opened.manifest.variants}


@pytest.fixture
def measured(bundle: Bundle) -> Bundle:  # noqa: F811
    """With long names, a refused variant, and latencies that are not valid."""
    changed = bundle.manifest
    for variant in bundle.manifest.variants:
        (found,) = variant.measured.values()
        latency = replace(found.latency, invalid=("other processes took 82% of the processors (limit 10%)",))
        disturbed = tiny.measured(found.machine, latency=latency)
        accepted = variant.name == "ov-fp32"
        refused = replace(variant, measured=disturbed, accepted=accepted, verdict="it loses 10.00 points")
        changed = changed.with_variant(refused)
    return Bundle(bundle.path, changed)


def test_the_bundle(measured: Bundle) -> None:
    rejected = {"ov-int8": "it was not accepted: it loses 10.00 points, [evaluate] max_drop allows 2.00"}
    choice = Choice("ov-fp32", "it is the fastest that was measured here", rejected, "one thing was not measured")
    text = assert_readable(Group(*bundle_tables(measured.manifest, choice, found_here(measured))))
    assert "runs: it is the fastest" in text
    assert "40.0*" in text
    assert "* latency not valid: other processes took 82% of the processors" in text


def test_one_class_is_one_class(measured: Bundle) -> None:
    single = replace(measured.manifest, spec=replace(SPEC, labels=("cat",)))
    assert "(classification, 1 class)" in shown(Group(*bundle_tables(single, NONE)), 80)


def test_latencies(measured: Bundle) -> None:
    results = {name: each.latency for name, each in found_here(measured).items()}
    text = assert_readable(latency_table(results))
    assert "0.25 ±" in text
    assert "ov-int8*" in text


def test_accuracy_and_answers(bundle: Bundle, dataset: Dataset) -> None:  # noqa: F811
    baseline = evaluate(Runner(scores({2}), SPEC), dataset)
    worse = evaluate(Runner(scores({4, 7, 10, 13, 16, 19}), SPEC), dataset, baseline=baseline)
    worse = replace(worse, extra={"balanced_accuracy": 0.8, "own_metrics:share_of_zeros": 0.25})
    text = assert_readable(accuracy_table({"ort-fp32": baseline, "ort-int8": worse}))
    assert "ort-int8: balanced_accuracy 80.00 %, share_of_zeros 25.00 %" in text
    results = {"ov-fp32": baseline, "ov-int8": worse}
    images = results_by_variant(results, dataset, "ov-fp32")
    text = assert_readable(answers_view(results, images, bundle.manifest, worst=5))
    for words in ("surest mistakes", "became worse", "became better", "lost much", LABELS[1]):
        assert words in text
    assert "against FP32, of 30 images: 6 became worse, 1 better, 0 otherwise different" in text


def test_the_report(measured: Bundle) -> None:
    report = content(measured.manifest)
    text = assert_readable(Group(to_terminal(report), summary_table(summary(report, Path("pets.edgeopt")))))
    assert "ov-int8†*" in text
    assert "ov-int8†: it loses 10.00 points" in " ".join(text.split())


def test_a_figure_reads_the_same_everywhere(measured: Bundle) -> None:
    report = content(measured.manifest)
    for text in figures_of(measured, report.accuracies, report):
        assert "90.00 %" in text
        assert "0.9000" not in text


def figures_of(measured: Bundle, accuracies, report) -> Iterator[str]:
    yield shown(Group(*bundle_tables(measured.manifest, NONE)), 120)
    yield shown(accuracy_table(accuracies), 120)
    yield shown(to_terminal(report), 120)
    yield to_html(report)


def test_a_bundle_without_figures_is_shown_all_the_same(tmp_path: Path) -> None:
    plain = tiny.write(tmp_path / "tiny.edgeopt").manifest
    text = assert_readable(Group(*bundle_tables(plain, Choice("ort-fp32", "the order begins with it", {}))))
    assert "runs: the order begins with it" in " ".join(text.split())
