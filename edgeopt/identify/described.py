"""Readings of heads whose family nobody knows: described from the numbers in their columns, on the nearest preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgeopt.identify import preparations as by
from edgeopt.identify.columns import box_keys, has_objectness, score_keys
from edgeopt.identify.detectors import candidate
from edgeopt.identify.facts import Facts, Tensor
from edgeopt.identify.identification import Candidate
from edgeopt.identify.metadata import Said
from edgeopt.identify.values import Array
from edgeopt.spec import Size

DENSE = "Ultralytics YOLOv8, YOLO11, YOLO12 or YOLO26 (dense)"
UNKNOWN = "a detector of unknown family"
_BOX = 4
_PLAIN = {"form": "cxcywh", "unit": "pixels", "axes": "xy", "activation": "none", "background": "none"}
BOX_NAMES = {
    "cxcywh": "cx, cy, w, h", "xywh": "left, top, w, h", "xyxy": "x1, y1, x2, y2",
}  # fmt: skip
_ROWS = {"boxes": 0, "scores": 4, "classes": 5, "form": "xyxy", "unit": "pixels"}


def described(
    output: Tensor,
    rows: Array,
    size: Size,
    strides: tuple[int, ...],
    anchors: str,
    facts: Facts,
    said: Said,
    why: str,
) -> list[Candidate]:
    """Return the readings of one output of boxes and scores that its values show; empty where they show none.

    Args:
        output: of the model.
        rows: (A, columns) its values for one picture.
        size: (height, width) of the input.
        strides: of its levels.
        anchors: ``first`` or ``last``: the place of the anchors among its dimensions.
        facts: of the model.
        said: by its file.
        why: what its shape tells.
    """
    columns = rows.shape[1]
    for start in (0, columns - _BOX):
        keys = box_keys(rows[:, start : start + _BOX], size, strides)
        if keys is None:
            continue
        rest = np.delete(rows, slice(start, start + _BOX), axis=1)
        readings = [
            _reading(output, rest[:, skip:], keys, start, skip, columns, anchors, facts, said, why)
            for skip in _objectness(rest, facts, said)
        ]
        return [each for each in readings if each is not None]
    return []


def _objectness(rest: Array, facts: Facts, said: Said) -> tuple[int, ...]:
    """Return how many columns may come before the classes: none, or one of objectness."""
    if said.labels is not None and (before := rest.shape[1] - len(said.labels.value)) in (0, 1):
        return (before,)
    if (score_keys(rest) or {}).get("background", "none") != "none":
        return (0,)
    if has_objectness(rest):
        return (1,)
    return (0, 1) if facts.data_classes == rest.shape[1] - 1 else (0,)


def _reading(
    output: Tensor,
    scores: Array,
    boxes: Mapping[str, Any],
    start: int,
    skip: int,
    columns: int,
    anchors: str,
    facts: Facts,
    said: Said,
    why: str,
) -> Candidate | None:
    found = score_keys(scores)
    if found is None:
        return None
    first = skip if start else _BOX + skip
    last = start or columns
    keys: dict[str, Any] = {key: value for key, value in {**boxes, **found}.items() if value != _PLAIN[key]}
    default = "last" if not skip else "first"
    if start or anchors != default:
        keys["boxes"] = {"start": start, "stop": start + _BOX, "anchors": anchors}
        keys["scores"] = {"start": first, "stop": last, "anchors": anchors}
        if skip:
            keys["objectness"] = {"start": first - 1, "stop": first, "anchors": anchors}
    plain = not keys.keys() - {"unit"} and not skip
    told = [f"{BOX_NAMES[boxes['form']]} {'as shares of the image' if boxes['unit'] == 'unit' else 'in pixels'}"]
    if keys:
        why = f"{why}; for a synthetic picture {_spoken(boxes, found, start, skip)}"
    what = [f"boxes {told[0]}", *(["objectness"] if skip else []), _scores_told(found)]
    order = [*what[1:], what[0]] if start else what
    classes = scores.shape[1] - (found["background"] != "none")
    return candidate(
        DENSE if plain else UNKNOWN, "yolov5" if skip else "yolov8", by.ULTRALYTICS, why, facts, said, classes=classes,
        roles=((output, ", then ".join(order)),), **keys,
    )  # fmt: skip


def _spoken(boxes: Mapping[str, Any], scores: Mapping[str, Any], start: int, skip: int) -> str:
    form = {"xyxy": "corners", "xywh": "a corner and a size", "cxcywh": "centre and size"}[boxes["form"]]
    parts = [f"its {'last' if start else 'first'} four columns are {form}"]
    if boxes["unit"] == "unit":
        parts.append("all coordinates are shares of the image")
    if boxes["axes"] == "yx":
        parts.append("y comes before x")
    if skip:
        parts.append("a column of objectness comes before the classes")
    if scores["activation"] != "none":
        parts.append(f"scores are before their {scores['activation']}")
    if scores["background"] != "none":
        parts.append(f"the {scores['background']} class is the background, which nearly all anchors see")
    return ", ".join(parts)


def _scores_told(found: Mapping[str, Any]) -> str:
    return "scores" if found["activation"] == "none" else f"scores before their {found['activation']}"


def described_rows(output: Tensor, places: Mapping[str, Any], shape: str, facts: Facts, said: Said) -> list[Candidate]:
    """Return the reading of final rows whose columns lie elsewhere than in any family; empty for the usual ones.

    Args:
        output: of the model.
        places: see `columns.row_keys`.
        shape: what its shape tells.
        facts: of the model.
        said: by its file.
    """
    labels_first = {**_ROWS, "boxes": 1, "scores": 5, "classes": 0}
    usual = (_ROWS, {**_ROWS, "form": "cxcywh", "unit": "unit"}, labels_first, {**labels_first, "unit": "unit"})
    if dict(places) in usual:
        return []
    parts = {
        name: {"start": places[name], "stop": places[name] + width}
        for name, width in (("boxes", _BOX), ("scores", 1), ("classes", 1))
    }
    box, unit = BOX_NAMES[places["form"]], "as shares" if places["unit"] == "unit" else "in pixels"
    named = {places["boxes"]: f"{box} {unit}", places["scores"]: "score", places["classes"]: "class"}
    columns = ", ".join(named[place] for place in sorted(named))
    why = f"{shape}; for a synthetic picture they are {columns}"
    found = candidate(UNKNOWN, "yolov10", by.ULTRALYTICS, why, facts, said, roles=((output, columns),))
    keys = {"form": places["form"], "unit": places["unit"], **parts}
    return [replace(found, decoding={**found.decoding, **keys})]
