"""Detectors whose levels are outputs of their own, as they are where decoding was left out of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeopt.identify import preparations as by
from edgeopt.identify.detectors import candidate
from edgeopt.identify.facts import Facts, Tensor
from edgeopt.identify.identification import Candidate
from edgeopt.identify.metadata import Said
from edgeopt.identify.values import are_probabilities

_BOX = 4
_BINS = 16
_PRIORS = 3
Level = tuple[int, list[tuple[Tensor, int, str]]]
"""A stride, and its outputs with their columns and the place of their anchors."""


def outputs_by_level(facts: Facts, said: Said) -> list[Candidate]:
    """Return the readings of maps (N, C, h, w) or (N, h, w, C), one or more a level; empty where there are none."""
    levels = _levels(facts)
    if len(levels) < 2 or len({tuple(columns for _, columns, _ in maps) for _, maps in levels}) != 1:
        return []
    columns = [width for _, width, _ in levels[0][1]]
    if len(columns) == 1:
        return list(_joined(levels, columns[0], facts, said))
    if len(columns) == 2:
        return list(_apart(levels, columns, facts, said))
    return []


def _levels(facts: Facts) -> list[Level]:
    """Return the maps by stride, the finest first, and those of a stride by their columns: boxes first."""
    found: dict[int, list[tuple[Tensor, int, str]]] = {}
    if facts.size is None or any(len(each.shape) != 4 for each in facts.outputs):
        return []
    height, width = facts.size
    for each in facts.outputs:
        _, first, second, third = each.sizes
        for high, wide, columns, anchors in ((second, third, first, "last"), (first, second, third, "first")):
            if high > 0 and wide > 0 and height % high == 0 and height // high == width / wide:
                found.setdefault(height // high, []).append((each, columns, anchors))
                break
        else:
            return []
    order = {width: place for place, width in enumerate((_BOX * _BINS, _BOX))}
    return [(stride, sorted(maps, key=lambda each: order.get(each[1], 9))) for stride, maps in sorted(found.items())]


def _part(levels: list[Level], number: int, start: int = 0, stop: int | None = None) -> dict[str, Any]:
    maps = [maps[number] for _, maps in levels]
    part = {"output": tuple(each.name for each, _, _ in maps), "start": start, "anchors": maps[0][2]}
    return part if stop is None else {**part, "stop": stop}


def _joined(levels: list[Level], columns: int, facts: Facts, said: Said) -> Iterator[Candidate]:
    """Yield the readings of one map a level: boxes, perhaps objectness, and classes side by side."""
    strides = tuple(stride for stride, _ in levels)
    shape = f"it gives a map of {columns} columns for each of the strides {', '.join(map(str, strides))}"
    roles = [(maps[0][0], "boxes and classes of one level") for _, maps in levels]
    bins, priors = _BOX * _BINS, columns // _PRIORS
    if columns > bins:
        yield candidate(
            "YOLOv8 or YOLO11 without decoding", "yolov8_levels", by.ULTRALYTICS,
            f"{shape}: 4 × {_BINS} bins of distances, and classes", facts, said, classes=columns - bins, roles=roles,
            boxes=_part(levels, 0, 0, bins), scores=_part(levels, 0, bins), grid={"strides": strides},
            **_activation(levels, 0, bins, facts),
        )  # fmt: skip
    if columns % _PRIORS == 0 and priors > _BOX + 1 and len(levels) == _PRIORS:
        yield candidate(
            "YOLOv5 or YOLOv7, raw", "yolov5_levels", by.ULTRALYTICS,
            f"{shape}: three boxes a cell, each with objectness and classes", facts, said, classes=priors - _BOX - 1,
            roles=roles, boxes=_part(levels, 0, 0, _BOX), objectness=_part(levels, 0, _BOX, _BOX + 1),
            scores=_part(levels, 0, _BOX + 1),
        )  # fmt: skip
    if columns > _BOX + 1:
        yield candidate(
            "YOLOX, level by level", "yolox", by.YOLOX, f"{shape}: a box, objectness and classes", facts, said,
            classes=columns - _BOX - 1, roles=roles, boxes=_part(levels, 0, 0, _BOX),
            objectness=_part(levels, 0, _BOX, _BOX + 1), scores=_part(levels, 0, _BOX + 1), grid={"strides": strides},
            **_activation(levels, 0, _BOX, facts),
        )  # fmt: skip


def _apart(levels: list[Level], columns: list[int], facts: Facts, said: Said) -> Iterator[Candidate]:
    """Yield the readings of two maps a level: boxes and classes."""
    strides = tuple(stride for stride, _ in levels)
    boxes, classes = columns
    roles = [(maps[0][0], "boxes of one level") for _, maps in levels]
    roles += [(maps[1][0], "classes of one level") for _, maps in levels]
    shape = f"it gives maps of {boxes} and {classes} columns for each of the strides {', '.join(map(str, strides))}"
    keys = {"boxes": _part(levels, 0), "scores": _part(levels, 1), **_activation(levels, 1, 0, facts)}
    if boxes == _BOX * _BINS:
        yield candidate(
            "YOLOv8 or YOLO11 without decoding", "yolov8_levels", by.ULTRALYTICS,
            f"{shape}: 4 × {_BINS} bins of distances, and classes", facts, said, classes=classes, roles=roles,
            **keys, grid={"strides": strides},
        )  # fmt: skip
    elif boxes == _BOX and (unit := _unit_of_distances(levels, facts)):
        # RTMDet counts pixels from a cell's corner (OpenMMLab's MlvlPointGenerator with offset 0), YOLOv6 cells from
        # its middle (generate_anchors with grid_cell_offset 0.5).
        family, source, offset = (
            ("RTMDet, raw", by.OPENMMLAB, 0.0) if unit == "pixels" else ("YOLOv6, raw", by.ULTRALYTICS, 0.5)
        )
        yield candidate(
            family, "rtmdet_levels", source, f"{shape}: distances to four sides in {unit}, and classes",
            facts, said, classes=classes, roles=roles, **keys, unit=unit, grid={"strides": strides, "offset": offset},
        )  # fmt: skip


def _activation(levels: list[Level], number: int, start: int, facts: Facts) -> dict[str, Any]:
    """Return the key of scores that are behind their sigmoid, if the values show that."""
    applied = []
    for _, maps in levels:
        tensor, _, anchors = maps[number]
        value = facts.values.get(tensor.name)
        if value is None:
            return {"activation": "sigmoid"}
        columns = np.moveaxis(value[0], -1, 0) if anchors == "first" else value[0]
        applied.append(are_probabilities(columns[start:]) is True)
    return {"activation": "none" if all(applied) else "sigmoid"}


def _unit_of_distances(levels: list[Level], facts: Facts) -> str | None:
    """Return ``pixels`` where distances grow with the stride, ``cells`` where they do not; None: they are none."""
    values = [facts.values.get(maps[0][0].name) for _, maps in levels]
    if any(value is None or (value < 0).any() for value in values):
        return None
    means = [float(value.mean()) for value in values if value is not None]
    return "pixels" if means[-1] > 1.5 * means[0] or means[0] > levels[0][0] else "cells"
