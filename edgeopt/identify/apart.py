"""Detectors whose boxes and scores are outputs of their own, decoded: told by the numbers in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeopt.identify import preparations as by
from edgeopt.identify.columns import box_keys, pieces, score_keys
from edgeopt.identify.described import BOX_NAMES, UNKNOWN
from edgeopt.identify.detectors import candidate
from edgeopt.identify.facts import Facts, Tensor, cells
from edgeopt.identify.identification import Candidate
from edgeopt.identify.metadata import Said
from edgeopt.identify.values import Array, are_corners, are_probabilities, are_shares, are_whole
from edgeopt.spec import Size

_BOX = 4
_FEW = 1000
"""Most rows of a network that has chosen them."""
_LEVELS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16, 32, 64, 128), (32,), (16,), (8,))
_PLAIN = {"form": "xyxy", "unit": "pixels", "axes": "xy", "activation": "none", "background": "none"}


def boxes_and_scores(facts: Facts, said: Said) -> list[Candidate]:
    """Return the readings of two outputs, or of three with one of objectness, or of final boxes, scores and numbers."""
    return _dense(facts, said) or _chosen(facts, said)


def _dense(facts: Facts, said: Said) -> list[Candidate]:
    """(A, 4) and (A, C), either with or without a batch and with rows first or last."""
    ranks = {len(each.shape) for each in facts.outputs}
    if len(facts.outputs) not in (2, 3) or ranks not in ({2}, {3}):
        return []
    batched = ranks == {3}
    rows = _rows(facts.outputs, batched=batched)
    if rows is None or (facts.size is None and not facts.values):
        return []
    found = {each.name: _piece(each, facts, rows, batched=batched) for each in facts.outputs}
    for boxes in facts.outputs:
        others = [each for each in facts.outputs if each is not boxes]
        values, anchors = found[boxes.name]
        if _columns(boxes, rows, batched=batched) != _BOX:
            continue
        keys = _box_keys(values, rows, facts)
        if keys is None:
            continue
        one = next((each for each in others if _columns(each, rows, batched=batched) == 1), None)
        objectness = one if len(others) == 2 else None
        if len(others) == 2 and objectness is None:
            continue
        scores = next(each for each in others if each is not objectness)
        score_values, score_anchors = found[scores.name]
        of_scores = _PLAIN if score_values is None else score_keys(score_values)
        if of_scores is None:
            continue
        keys = {**keys, **{key: of_scores[key] for key in ("activation", "background")}}
        columns = _columns(scores, rows, batched=batched)
        classes = columns - (keys["background"] != "none")
        return [_candidate(boxes, scores, objectness, keys, (anchors, score_anchors), classes, facts, said)]
    return []


def _rows(outputs: tuple[Tensor, ...], *, batched: bool) -> int | None:
    """Return the number of rows that all outputs have, the largest where several are shared."""
    sides = [set(each.sizes[1 if batched else 0 :]) for each in outputs]
    shared = set.intersection(*sides) - {-1, _BOX}
    return max(shared, default=None)


def _columns(tensor: Tensor, rows: int, *, batched: bool) -> int:
    first, last = tensor.sizes[1 if batched else 0 :]
    return last if first == rows else first


def _piece(tensor: Tensor, facts: Facts, rows: int, *, batched: bool) -> tuple[Array | None, str]:
    value = facts.values.get(tensor.name)
    if value is not None and (found := pieces(value, batched=batched, rows=rows)):
        return found
    return None, "first" if tensor.sizes[1 if batched else 0] == rows else "last"


def _box_keys(values: Array | None, rows: int, facts: Facts) -> dict[str, Any] | None:
    """Return the form of decoded boxes; on no grid that is known, or unseen, corners in pixels if they can be."""
    if values is None:
        return dict(_PLAIN)
    on_grid = [
        (strides, boxes) for strides in _LEVELS for boxes in (1, 2, 3) if _fits(facts.size, strides, boxes, rows)
    ]
    for strides, boxes in on_grid:
        assert facts.size is not None
        if found := box_keys(values, facts.size, strides, boxes):
            return found
    corners, shares = are_corners(values), are_shares(values)
    return None if on_grid or not corners else {**_PLAIN, "unit": "unit" if shares else "pixels"}


def _fits(size: Size | None, strides: tuple[int, ...], boxes: int, rows: int) -> bool:
    return size is not None and boxes * cells(size, strides) == rows


def _candidate(
    boxes: Tensor,
    scores: Tensor,
    objectness: Tensor | None,
    keys: dict[str, Any],
    anchors: tuple[str, str],
    classes: int,
    facts: Facts,
    said: Said,
) -> Candidate:
    changed = {key: value for key, value in keys.items() if value != _PLAIN[key]}
    box = f"{BOX_NAMES[keys['form']]} {'as shares of the image' if keys['unit'] == 'unit' else 'in pixels'}"
    of_scores = "scores" if keys["activation"] == "none" else f"scores before their {keys['activation']}"
    roles = ((boxes, f"boxes {box}"), (scores, of_scores), (objectness, "objectness"))
    usual = not changed and objectness is None and anchors == ("first", "first")
    if usual and facts.outputs[0] is scores:
        why = f"it gives scores {scores} before boxes {boxes}, as DAMO-YOLO"
        return candidate("DAMO-YOLO", "damo_yolo", by.DAMO, why, facts, said, classes=classes, roles=roles)
    if usual:
        why = f"it gives boxes {boxes} before scores {scores}, as YOLO-NAS without postprocessing"
        note = "super-gradients scales the longer side to 636 of 640 pixels"
        family = "YOLO-NAS or PP-YOLOE of super-gradients"
        return candidate(family, "yolo_nas", by.ULTRALYTICS, why, facts, said, classes=classes, roles=roles, note=note)
    parts: dict[str, Any] = {"boxes": {"output": boxes.name, "anchors": anchors[0]}}
    parts["scores"] = {"output": scores.name, "anchors": anchors[1]}
    if objectness is not None:
        parts["objectness"] = {"output": objectness.name}
    if len(boxes.shape) == 2:
        parts["batched"] = False
    behind = "" if keys["background"] == "none" else f", the {keys['background']} class the background"
    why = f"for a synthetic picture {boxes} are {box}, and {scores} {of_scores}{behind}"
    return candidate(
        UNKNOWN, "yolo_nas", by.ULTRALYTICS, why, facts, said, classes=classes, roles=roles, **changed, **parts
    )


def _chosen(facts: Facts, said: Said) -> list[Candidate]:
    """Final boxes, scores and numbers of classes, and perhaps the number of rows, in any order and by any name."""
    found: dict[str, Tensor] = {}
    values = {name: value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1) for name, value in facts.values.items()}
    for each in facts.outputs:
        if (value := facts.values.get(each.name)) is None:
            return []
        role = _role(value)
        if role is None or role in found:
            return []
        found[role] = each
    if not {"boxes", "scores", "classes"} <= found.keys():
        return []
    boxes = values[found["boxes"].name]
    shares, corners = are_shares(boxes), are_corners(boxes)
    if corners is None or (not corners and not shares):
        return []
    keys: dict[str, Any] = {"form": "xyxy" if corners else "cxcywh", "unit": "unit" if shares else "pixels"}
    told = f"{BOX_NAMES[keys['form']]} {'as shares' if shares else 'in pixels'}"
    why = f"for a synthetic picture its outputs are boxes, {told}, a score and a whole number each"
    roles = [(found["boxes"], f"boxes {told}"), (found["scores"], "scores"), (found["classes"], "classes")]
    preset = "yolo_nas_nms" if "count" in found else "torchvision"
    made = candidate(UNKNOWN, preset, by.ULTRALYTICS, why, facts, said, roles=roles)
    keys |= {name: {"output": tensor.name} for name, tensor in found.items()}
    keys |= {"batched": len(found["boxes"].shape) == 3, "numbering": 0}
    return [replace(made, decoding={**made.decoding, **keys})]


def _role(value: Array) -> str | None:
    """Tell what an output of final rows holds."""
    one = value.reshape(-1)
    if value.shape[-1:] == (_BOX,) and value.ndim > 1:
        return "boxes" if value.size // _BOX <= _FEW else None
    if one.size == 1 and are_whole(one):
        return "count"
    if one.size > _FEW or one.size < _BOX:
        return None
    if are_whole(one):
        return "classes"
    return "scores" if are_probabilities(one) and np.isfinite(one).all() else None
