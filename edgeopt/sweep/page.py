"""The page of a sweep: accuracy against latency of all variants that compare, and a row for each trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeopt.report.content import METRIC_NAMES
from edgeopt.report.figures import milliseconds, points, share, size
from edgeopt.report.latency_plots import Point, scatter
from edgeopt.report.templates import render
from edgeopt.sweep.results import Front, TrialResult, VariantResult, fronts, repeats

COLUMNS = ("trial", "variant", "accuracy", "change", "95 %", "p50 ms", "size", "")
INVALID, BEST = "*", "▲"
"""Marks of a latency that something disturbed, and of a variant that no other beats."""


def sweep_html(name: str, results: Sequence[TrialResult]) -> str:
    """Render the page.

    Args:
        name: of the sweep.
        results: its rows.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    groups = fronts(results)
    return render(
        "sweep.html",
        title=name,
        trials=len(results),
        failed=[(each.title, each.error) for each in results if each.error],
        plots=[(each.machine, *_plot(each)) for each in groups if len(each.points) > 1],
        columns=COLUMNS,
        rows=[{"cells": row} for row in table(results)],
    )


def table(results: Sequence[TrialResult]) -> list[list[str]]:
    """Return `COLUMNS` of each variant of each trial, those that no other beats marked.

    A baseline that no setting changed has one row (`repeats`).
    """
    best = {pair for front in fronts(results) for pair in front.best}
    left_out = repeats(results)
    return [[result.title, *figures] for result in results for figures in _figures(result, best, left_out)]


def _figures(result: TrialResult, best: set[tuple[str, str]], left_out: set[tuple[str, str]]) -> Iterator[list[str]]:
    if result.error:
        yield ["–", "–", "–", "–", "–", "–", "failed"]
    for each in result.variants:
        if (result.key, each.name) in left_out:
            continue
        low, high = each.drop_low, each.drop_high
        yield [
            each.name,
            share(each.accuracy, 2),
            "–" if each.drop is None else points(-each.drop),
            "–" if low is None or high is None else f"{points(-high)} to {points(-low)}",
            milliseconds(each.p50_ms) + (INVALID if each.invalid and each.p50_ms is not None else ""),
            size(each.size_bytes),
            _state(result, each, best),
        ]


def _state(result: TrialResult, variant: VariantResult, best: set[tuple[str, str]]) -> str:
    refused = "" if variant.accepted else f"refused: {variant.verdict}"
    return ", ".join(each for each in (BEST if (result.key, variant.name) in best else "", refused) if each)


def _plot(front: Front) -> tuple[str, list[str]]:
    """Draw the variants, those that no other beats by number; and what the numbers stand for, the fastest first."""
    drawn, names = [], []
    for result, variant in sorted(front.points, key=lambda each: each[1].p50_ms or 0.0):
        is_best = (result.key, variant.name) in front.best
        assert variant.p50_ms is not None
        assert variant.accuracy is not None
        if is_best:
            names.append(f"{result.title}: {variant.name}")
        drawn.append(Point(str(len(names)) if is_best else "", variant.p50_ms, 100.0 * variant.accuracy, is_best))
    return scatter(drawn, "median latency, ms", f"{METRIC_NAMES.get(front.metric, front.metric)}, %"), names
