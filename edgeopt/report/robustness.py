"""Cards of the page about bad pictures and attacks: a row for each kind, FP32 beside the variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgeopt.bundle.records import Beside, OnBadPictures, UnderAttack
from edgeopt.report.content import METRIC_NAMES, Report
from edgeopt.report.figures import counted, points, share


@dataclass(frozen=True)
class Card:
    """A table with its title and what has to be known of it."""

    title: str
    columns: tuple[str, ...]
    rows: list[dict[str, tuple[str, ...]]]
    told: str


def robustness_cards(report: Report) -> list[Card]:
    """Return a card for each variant on bad pictures, and one for each under attack."""
    return [
        *(_bad(name, found) for name, found in report.on_bad_pictures.items()),
        *(_attacked(name, found) for name, found in report.under_attack.items()),
    ]


def _bad(name: str, found: OnBadPictures) -> Card:
    named = {"clean": found.clean} | {kind.replace("_", " "): each for kind, each in found.kinds.items()}
    severities = ", ".join(map(str, found.severities))
    metric = METRIC_NAMES.get(found.metric, found.metric)
    told = (
        f"{metric} on {counted(found.images, 'image', 'images')}, mean of severities {severities} of 5; over all kinds "
        f"{points(-found.drop)} points"
    )
    return Card(f"{name} on bad pictures", ("pictures", found.baseline, name, "change"), list(_rows(named)), told)


def _attacked(name: str, found: UnderAttack) -> Card:
    named = {"clean": found.clean} | {f"{radius}/255": found.worst[radius] for radius in sorted(found.worst, key=int)}
    if found.patch is not None:
        named[f"patch {found.patch_share:.0%}"] = found.patch
    metric = METRIC_NAMES.get(found.metric, found.metric)
    told = (
        f"{metric} on {counted(found.images, 'image', 'images')}, under the attack that lowers it most, by "
        "largest change of a pixel; each network is attacked by its own gradient, too"
    )
    return Card(f"{name} under attack", ("change of a pixel", found.baseline, name, "change"), list(_rows(named)), told)


def _rows(named: Mapping[str, Beside]) -> Iterator[dict[str, tuple[str, ...]]]:
    for what, each in named.items():
        yield {"cells": (what, share(each.baseline, 2), share(each.variant, 2), points(-each.drop))}
