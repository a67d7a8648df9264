"""Detectors with one output: dense ones, whose anchors are the cells of grids, and those that give final rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.identify import preparations as by
from edgeopt.identify.columns import box_keys, row_keys
from edgeopt.identify.described import DENSE, described, described_rows
from edgeopt.identify.detectors import candidate
from edgeopt.identify.facts import Facts, Tensor, cells
from edgeopt.identify.identification import Candidate
from edgeopt.identify.metadata import Said
from edgeopt.identify.values import are_corners, are_shares, are_whole, follows_grid
from edgeopt.spec import Size

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (32,), (16,), (8,))
"""Levels of detectors, the usual ones first."""
_MOST_ROWS = 1000
"""Most final detections of an image; dense detectors for images from 256 pixels on have more anchors."""
_LEAST_ROWS = 16
"""Rows of an output without a batch, at least: fewer are a batch of classes."""
_EXP = "Exp"
_ARITHMETIC = frozenset({"Add", "Mul", "Sub", "Div", "Pow", "Exp"})
_RTDETR = "RTDETRDecoder"


def one_output(facts: Facts, said: Said) -> list[Candidate]:
    """Return the readings of a detector with one output; empty where none fits."""
    output = facts.outputs[0]
    size = facts.size or (said.size.value if said.size else None)
    if len(output.shape) == 2 and output.sizes[-1] == 7 and not _is_dense(output, size):
        return _flat_rows(output, facts, said)
    if len(output.shape) == 2 and size is not None and max(output.sizes) > _LEAST_ROWS:
        # Without a dimension of the image it is as if there were one of one image.
        output = replace(output, shape=(1, *output.shape))
        values = {name: value[None] for name, value in facts.values.items()}
        facts = replace(facts, outputs=(output,), values=values)
    if len(output.shape) != 3 or size is None:
        return []
    return _dense(output, size, facts, said) or _final_rows(output, facts, said)


def _is_dense(output: Tensor, size: Size | None) -> bool:
    """Return True of rows that are as many as the cells of usual grids."""
    return size is not None and output.sizes[0] in [cells(size, strides) for strides in _STRIDES[:2]]


def _dense(output: Tensor, size: Size, facts: Facts, said: Said) -> list[Candidate]:
    _, first, last = output.sizes
    for strides in _STRIDES:
        anchors = cells(size, strides)
        if anchors < 2:
            continue
        if last == anchors and first > 4:
            return _channels_first(output, size, strides, facts, said)
        if first == anchors and last > 4:
            return _anchors_first(output, size, strides, facts, said)
        if first == 3 * anchors and last > 5:
            return _anchor_based(output, size, strides, facts, said)
    return []


def _unit(
    boxes: NDArray[Any] | None, size: Size, strides: tuple[int, ...], per_cell: int = 1
) -> tuple[dict[str, Any], str]:
    """Return the key of boxes that are shares of the image, as exports for integer engines have them, and its name."""
    follows = boxes is not None and follows_grid(boxes[:, :2], size, strides, per_cell)
    if boxes is not None and follows and are_shares(boxes) is True:
        return {"unit": "unit"}, "as shares of the image"
    return {}, "in pixels"


def _of(output: Tensor, anchors: int) -> str:
    return f"its output {output} has {anchors} anchors, one for each cell of its grids"


def _channels_first(output: Tensor, size: Size, strides: tuple[int, ...], facts: Facts, said: Said) -> list[Candidate]:
    """(N, 4 + C, A): Ultralytics' heads without objectness."""
    columns, anchors = output.sizes[1:]
    why = f"{_of(output, anchors)} (strides {_listed(strides)}), with channels first: boxes and classes"
    if said.exporter == "Ultralytics":
        why += "; its metadata are Ultralytics'"
    value = facts.values.get(output.name)
    note = ""
    if value is not None:
        if found := described(output, value[0].T, size, strides, "last", facts, said, why):
            return found
        if follows_grid(value[0, :2].T, size, strides) is False:
            note = "the first two channels are no positions in the image for a synthetic picture: check the boxes"
    roles = ((output, "boxes cx, cy, w, h in pixels, then scores"),)
    dense = candidate(DENSE, "yolov8", by.ULTRALYTICS, why, facts, said, classes=columns - 4, roles=roles, note=note)
    return [dense]


def _anchors_first(output: Tensor, size: Size, strides: tuple[int, ...], facts: Facts, said: Said) -> list[Candidate]:
    """(N, A, 5 + C) or (N, A, C + 32): YOLOX decoded or not, YOLOv6, NanoDet, and DeepStream's rows."""
    anchors, columns = output.sizes[1:]
    value = facts.values.get(output.name)
    rows = None if value is None else value.reshape(anchors, columns)
    if strides == (8, 16, 32, 64) and columns > 32 and not _looks_decoded(rows, size, strides):
        why = f"{_of(output, anchors)} (strides {_listed(strides)}), of 32 bins and classes, as NanoDet-Plus"
        roles = ((output, "scores, then bins of the distances"),)
        return [
            candidate("NanoDet-Plus", "nanodet_plus", by.NANODET, why, facts, said, classes=columns - 32, roles=roles)
        ]
    if columns == 6 and rows is not None and are_whole(rows[:, 5]) and are_corners(rows[:, :4]):
        why = f"{_of(output, anchors)}, of corners, a score and a whole number, as DeepStream's converters write"
        roles = ((output, "x1, y1, x2, y2, score, class"),)
        return [candidate("DeepStream-Yolo", "deepstream", by.ULTRALYTICS, why, facts, said, roles=roles)]
    usual = None if rows is None else box_keys(rows[:, :4], size, strides)
    if rows is not None and usual != {"form": "cxcywh", "unit": "pixels", "axes": "xy"}:
        why = f"{_of(output, anchors)} (strides {_listed(strides)}), of boxes and classes"
        if found := described(output, rows, size, strides, "first", facts, said, why):
            return found
    return _with_objectness(output, size, strides, rows, facts, said)


def _with_objectness(
    output: Tensor, size: Size, strides: tuple[int, ...], rows: NDArray[Any] | None, facts: Facts, said: Said
) -> list[Candidate]:
    anchors, columns = output.sizes[1:]
    shape = f"{_of(output, anchors)} (strides {_listed(strides)}), of boxes, objectness and {_classes(columns - 5)}"
    roles_raw = ((output, "offsets and logarithms of sizes, objectness, classes"),)
    roles = ((output, "boxes cx, cy, w, h in pixels, objectness, classes"),)

    def raw(why: str) -> Candidate:
        return candidate(
            "YOLOX", "yolox", by.YOLOX, f"{shape}; {why}", facts, said,
            classes=columns - 5, roles=roles_raw, **_levels(strides),
        )  # fmt: skip

    def decoded(why: str) -> Candidate:
        return candidate(
            "YOLOX, decoded in the graph", "yolox_decoded", by.YOLOX, f"{shape}; {why}", facts, said,
            classes=columns - 5, roles=roles,
        )  # fmt: skip

    def yolov6(why: str) -> Candidate:
        return candidate(
            "YOLOv6", "yolov5", by.ULTRALYTICS, f"{shape}; {why}", facts, said, classes=columns - 5, roles=roles
        )

    if rows is not None and np.ptp(rows[:, 4]) == 0.0 and rows[0, 4] == 1.0:
        return [yolov6("its objectness is always 1, as YOLOv6's")]
    follows = None if rows is None else follows_grid(rows[:, :2], size, strides)
    if follows is False and _EXP not in facts.tail:
        return [raw("for a synthetic picture the first two columns do not follow the grid: they are not decoded")]
    if follows is True and _EXP in facts.tail:
        return [
            decoded("its graph ends with an exponential, and the first two columns follow the grid: they are decoded")
        ]
    if follows is True:
        return [
            decoded("the first two columns follow the grid of cells: they are decoded"),
            yolov6("the first two columns follow the grid of cells: they are decoded"),
            *([] if rows is None else described(output, rows, size, strides, "first", facts, said, shape)),
        ]
    if rows is None and facts.tail and _EXP in facts.tail:
        return [decoded("its graph ends with an exponential, by which YOLOX's sizes are decoded")]
    if rows is None and facts.tail and not facts.tail & _ARITHMETIC:
        return [raw("nothing is computed behind its last layers, so that the boxes are not decoded")]
    return [
        raw("taken for offsets, if YOLOX was exported without --decode_in_inference"),
        decoded("taken for pixels, if YOLOX was exported with --decode_in_inference"),
    ]


def _anchor_based(output: Tensor, size: Size, strides: tuple[int, ...], facts: Facts, said: Said) -> list[Candidate]:
    """(N, 3A, 5 + C): YOLOv5, and YOLOv7 with --grid."""
    anchors, columns = output.sizes[1:]
    value = facts.values.get(output.name)
    unit, said_unit = _unit(None if value is None else value[0, :, :4], size, strides, 3)
    why = (
        f"its output {output} has {anchors} anchors, three for each cell of its grids (strides {_listed(strides)}), of "
        f"boxes, objectness and {_classes(columns - 5)}"
    )
    roles = ((output, f"boxes cx, cy, w, h {said_unit}, objectness, classes"),)
    return [
        candidate(
            "YOLOv5 or YOLOv7", "yolov5", by.ULTRALYTICS, why, facts, said, classes=columns - 5, roles=roles, **unit
        )
    ]


def _final_rows(output: Tensor, facts: Facts, said: Said) -> list[Candidate]:
    """(N, K, 6): final detections, whose columns are the same in no two families."""
    if output.sizes[-1] != 6 or output.sizes[1] > _MOST_ROWS:
        return _old_rtdetr(output, facts, said)
    shape = f"its output {output} holds at most {output.sizes[1]} rows of six numbers"
    end2end = candidate(
        "Ultralytics YOLO26 or YOLOv10, end to end", "yolov10", by.ULTRALYTICS,
        f"{shape}: corners in pixels, score, class", facts, said,
        roles=((output, "x1, y1, x2, y2 in pixels, score, class"),),
    )  # fmt: skip
    rtdetr = candidate(
        "Ultralytics RT-DETR", "ultralytics_rtdetr", by.STRETCHED,
        f"{shape}: centre and size as shares, score, class", facts, said,
        roles=((output, "cx, cy, w, h as shares, score, class"),),
    )  # fmt: skip
    if said.head is not None:
        chosen = rtdetr if said.head == _RTDETR else end2end
        return [_because(chosen, f"its metadata name the head {said.head}")]
    rows = _rows(output, facts)
    places = None if rows is None else row_keys(rows)
    if places is not None and (other := described_rows(output, places, shape, facts, said)):
        return other
    if rows is not None and are_whole(rows[:, 0]) and not are_whole(rows[:, 5]):
        return [_labels_first(output, rows, shape, facts, said)]
    shares = None if rows is None else are_shares(rows[:, :4])
    corners = None if rows is None else are_corners(rows[:, :4])
    if shares is True and corners is not True:
        return [_because(rtdetr, "for a synthetic picture all coordinates are below 1 and the last two are no corner")]
    if shares is False and corners is not False:
        if said.end2end is True or said.exporter == "Ultralytics":
            return [_because(end2end, "its metadata are Ultralytics', and for a synthetic picture boxes are in pixels")]
        return [_because(end2end, "for a synthetic picture the boxes are corners in pixels")]
    if said.end2end is True and said.exporter == "Ultralytics" and rows is None:
        return [end2end, rtdetr]
    return [end2end, rtdetr]


def _labels_first(output: Tensor, rows: NDArray[Any], shape: str, facts: Facts, said: Said) -> Candidate:
    """PINTO's exports of RT-DETR, DEIM and DEIMv2; others may give pixels."""
    in_pixels = are_shares(rows[:, 1:5]) is False
    sized = any(tensor.name == "orig_target_sizes" for tensor in facts.inputs)
    keys: dict[str, Any] = {}
    if in_pixels:
        keys = {"unit": "pixels", "space": "original" if sized else "network"}
    unit = "in pixels" if in_pixels else "as shares"
    return candidate(
        "a DETR with labels first (PINTO)", "rtdetr_rows", by.STRETCHED,
        f"{shape}, of which the first is whole: label, corners {unit}, score", facts, said,
        roles=((output, f"class, x1, y1, x2, y2 {unit}, score"),), **keys,
    )  # fmt: skip


def _rows(output: Tensor, facts: Facts) -> NDArray[Any] | None:
    """Return the rows that are not padding; None where fewer than four can be seen."""
    value = facts.values.get(output.name)
    if value is None:
        return None
    rows = value.reshape(-1, output.sizes[-1])
    rows = rows[np.abs(rows).sum(axis=1) > 0]
    return rows if len(rows) >= 4 else None


def _old_rtdetr(output: Tensor, facts: Facts, said: Said) -> list[Candidate]:
    """(N, 300, 4 + C): Ultralytics' RT-DETR of before 8.4.19."""
    if output.sizes[1] > _MOST_ROWS or output.sizes[-1] < 5:
        return []
    rows = _rows(output, facts)
    if said.head != _RTDETR and (rows is None or are_shares(rows[:, :4]) is not True):
        return []
    why = (
        f"its output {output} holds {output.sizes[1]} queries of centre and size as shares, and a score for each class"
    )
    return [
        candidate(
            "Ultralytics RT-DETR (before 8.4.19)", "ultralytics_rtdetr_queries", by.STRETCHED, why, facts, said,
            classes=output.sizes[-1] - 4, roles=((output, "cx, cy, w, h as shares, then scores"),),
        )
    ]  # fmt: skip


def _flat_rows(output: Tensor, facts: Facts, said: Said) -> list[Candidate]:
    """(n, 7): super-gradients has score before class, YOLOv7 class before score."""
    shape = f"its output {output} holds rows of seven numbers: image, corners in pixels"
    nas = candidate(
        "super-gradients (flat)", "yolo_nas_flat", by.ULTRALYTICS, f"{shape}, score, class", facts, said,
        roles=((output, "image, x1, y1, x2, y2, score, class"),),
    )  # fmt: skip
    yolov7 = candidate(
        "YOLOv7, end to end", "yolov7_end2end", by.ULTRALYTICS, f"{shape}, class, score", facts, said,
        roles=((output, "image, x1, y1, x2, y2, class, score"),),
    )  # fmt: skip
    if "flat_predictions" in output.name:
        return [_because(nas, f"it is called '{output.name}'")]
    rows = _rows(output, facts)
    if rows is not None and are_whole(rows[:, 5]) != are_whole(rows[:, 6]):
        return [_because(yolov7 if are_whole(rows[:, 5]) else nas, "for a synthetic picture that column is whole")]
    return [nas, yolov7]


def _levels(strides: tuple[int, ...]) -> dict[str, Any]:
    """Return the key of a grid whose levels are not the usual ones."""
    return {} if strides == _STRIDES[0] else {"grid": {"strides": strides}}


def _looks_decoded(rows: NDArray[Any] | None, size: Size, strides: tuple[int, ...]) -> bool:
    return rows is not None and follows_grid(rows[:, :2], size, strides) is True


def _because(found: Candidate, why: str) -> Candidate:
    return Candidate(**{**found.__dict__, "why": f"{found.why}; {why}"})


def _classes(count: int) -> str:
    return "one class" if count == 1 else f"{count} classes"


def _listed(strides: tuple[int, ...]) -> str:
    return ", ".join(map(str, strides))
