"""Detectors with several outputs: told by the outputs' names, ranks and last dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeopt.identify import preparations as by
from edgeopt.identify.facts import Facts, Tensor, cells
from edgeopt.identify.identification import Candidate
from edgeopt.identify.metadata import Said
from edgeopt.identify.preparations import Preparation, prepare
from edgeopt.identify.values import are_probabilities
from edgeopt.models.class_names import COCO
from edgeopt.presets import PRESETS
from edgeopt.spec import Size

_INTEGERS = ("int32", "int64")
_FACE_STRIDES = (8, 16, 32)
_PRIORS_A_CELL = 2
"""In the grid of the preset `retinaface`."""
_FACES = ("retinaface", "scrfd", "yunet", "blazeface")


def several_outputs(facts: Facts, said: Said) -> list[Candidate]:
    """Return the readings of a detector with two outputs or more; empty where none fits."""
    for reading in _READINGS:
        if found := reading(facts, said):
            return found
    return []


def candidate(
    family: str,
    preset: str,
    preparation: Preparation,
    why: str,
    facts: Facts,
    said: Said,
    *,
    classes: int | None = None,
    roles: Sequence[tuple[Tensor | None, str]] = (),
    note: str = "",
    places: Mapping[str, Tensor | Sequence[Tensor] | None] | None = None,
    **keys: Any,
) -> Candidate:
    """Return a reading, with the family's preparation where the size of the images is known.

    Args:
        family: for people.
        preset: of `presets.PRESETS`.
        preparation: what the family's code does to images.
        why: what speaks for it.
        facts: of the model.
        said: by its file.
        classes: how many its outputs hold, if they show it.
        roles: meaning of the outputs.
        note: what else to know.
        places: the output of each part of the head, for those whose names or order differ from file to file.
        keys: of ``[model.decoding]`` beside the preset.
    """
    size = facts.size or (said.size.value if said.size else None)
    preparing = None
    if size is not None:
        preparing = prepare(preparation, size, facts, said, f"as the code of {family} prepares images")
    for part, found in (places or {}).items():
        if found is not None and (output := _elsewhere(preset, part, found, facts)) is not None:
            keys[part] = {"output": output}
    return Candidate(
        family=family,
        decoding={"preset": preset, **keys},
        preprocessing=preparing,
        why=why,
        classes=classes,
        roles={tensor.name: role for tensor, role in roles if tensor is not None},
        note=note,
        names=_names_of(preset),
    )


def _names_of(preset: str) -> tuple[str, ...]:
    """Return the class names of heads that are for nothing else; empty for others."""
    if preset.endswith("_coco"):
        return COCO
    return ("face",) if preset in _FACES else ()


def _elsewhere(preset: str, part: str, found: Tensor | Sequence[Tensor], facts: Facts) -> str | tuple[str, ...] | None:
    """Return the outputs' names where a preset looks for a part of a head elsewhere."""
    wanted = PRESETS[preset].table[part]["output"]
    expected = wanted if isinstance(wanted, tuple) else (wanted,)
    tensors = (found,) if isinstance(found, Tensor) else tuple(found)
    names = [
        facts.outputs[each].name if isinstance(each, int) and each < len(facts.outputs) else each for each in expected
    ]
    if names == [tensor.name for tensor in tensors]:
        return None
    return found.name if isinstance(found, Tensor) else tuple(tensor.name for tensor in found)


def _efficient_nms(facts: Facts, said: Said) -> list[Candidate]:
    count, boxes = facts.output("num_dets", "num_detections"), facts.output("det_boxes", "detection_boxes")
    scores, classes = facts.output("det_scores"), facts.output("det_classes")
    if count is None or boxes is None or scores is None or classes is None:
        return []
    why = "its outputs are called num_dets, det_boxes, det_scores and det_classes, as the plugin EfficientNMS has them"
    roles = ((count, "count"), (boxes, "boxes x1, y1, x2, y2 in pixels"), (scores, "scores"), (classes, "classes"))
    places = {"boxes": boxes, "scores": scores, "classes": classes, "count": count}
    return [candidate("EfficientNMS", "efficient_nms", by.ULTRALYTICS, why, facts, said, roles=roles, places=places)]


def _super_gradients(facts: Facts, said: Said) -> list[Candidate]:
    count, boxes = facts.output("num_predictions"), facts.output("pred_boxes")
    scores, classes = facts.output("pred_scores"), facts.output("pred_classes")
    if count is None or boxes is None or scores is None or classes is None:
        return []
    why = (
        "its outputs are called num_predictions, pred_boxes, pred_scores and pred_classes, as super-gradients has them"
    )
    roles = ((count, "count"), (boxes, "boxes x1, y1, x2, y2 in pixels"), (scores, "scores"), (classes, "classes"))
    places = {"boxes": boxes, "scores": scores, "classes": classes, "count": count}
    return [
        candidate(
            "YOLO-NAS (super-gradients)", "yolo_nas_nms", by.ULTRALYTICS, why, facts, said, roles=roles, places=places
        )
    ]


def _tensorflow_detection(facts: Facts, said: Said) -> list[Candidate]:
    boxes, scores = facts.output("detection_boxes"), facts.output("detection_scores")
    classes = facts.output("detection_classes")
    if boxes is None or scores is None or classes is None:
        return []
    why = "its outputs are called detection_boxes, detection_scores and detection_classes, as TensorFlow's detectors"
    roles = ((boxes, "boxes y1, x1, y2, x2 as shares"), (scores, "scores"), (classes, "classes from 1"))
    places = {"boxes": boxes, "scores": scores, "classes": classes, "count": facts.output("num_detections")}
    return [
        candidate(
            f"TensorFlow Object Detection{of}", preset, by.STRETCHED, why, facts, said, roles=roles, places=places
        )
        for preset, of in (("tf_od", ""), ("tf_od_coco", ", published weights"))
    ]


def _detr_triple(facts: Facts, said: Said) -> list[Candidate]:
    """RT-DETR, D-FINE and DEIM with their postprocessor: boxes come in pixels of the original image."""
    labels, boxes, scores = facts.output("labels"), facts.output("boxes"), facts.output("scores")
    if labels is None or boxes is None or scores is None or labels.dtype not in _INTEGERS:
        return []
    roles = ((boxes, "boxes x1, y1, x2, y2"), (scores, "scores"), (labels, "classes"))
    extra = [tensor for tensor in facts.inputs if tensor.sizes[-1:] == (2,) and len(tensor.shape) == 2]
    if len(boxes.shape) == 3 and extra:
        why = f"it takes {extra[0]} beside the image, and gives labels, boxes and scores: boxes of the original image"
        places = {"boxes": boxes, "scores": scores, "classes": labels}
        return [
            candidate("RT-DETR, D-FINE or DEIM", "rtdetr", by.STRETCHED, why, facts, said, roles=roles, places=places)
        ]
    if len(boxes.shape) == 2 and len(labels.shape) == 1:
        why = "its outputs are boxes (n, 4), labels (n) and scores (n) without a batch dimension, as torchvision's"
        places = {"boxes": boxes, "scores": scores, "classes": labels}
        return [
            candidate(f"torchvision{of}", preset, by.STRETCHED, why, facts, said, roles=roles, places=places)
            for preset, of in (("torchvision", ""), ("torchvision_coco", ", published weights"))
        ]
    return []


def _detr_pair(facts: Facts, said: Said) -> list[Candidate]:
    """Boxes (N, Q, 4) as shares of the image, and logits (N, Q, C)."""
    boxes = facts.output("dets", "pred_boxes")
    logits = facts.output("labels", "pred_logits", "logits")
    if boxes is None or logits is None or boxes.sizes[-1] != 4 or len(logits.shape) != 3:
        return []
    if logits.dtype in _INTEGERS:
        return []
    roles = ((boxes, "boxes cx, cy, w, h as shares"), (logits, "logits"))
    columns = logits.sizes[-1]
    places = {"boxes": boxes, "scores": logits}
    if boxes.name.lower().endswith("dets") or said.exporter == "RF-DETR":
        why = f"it gives '{boxes.name}' (N, Q, 4) and '{logits.name}' (N, Q, {columns}) of floats, as RF-DETR exports"
        coco = columns == 91
        note = "91 columns are COCO's category ids 1 to 90" if coco else "the last column is the background"
        return [
            candidate(
                "RF-DETR", "rfdetr_coco" if coco else "rfdetr", by.STRETCHED_IMAGENET, why, facts, said,
                classes=80 if coco else columns - 1, roles=roles, note=note, places=places,
            )
        ]  # fmt: skip
    why = f"it gives '{logits.name}' and '{boxes.name}' (N, Q, 4), as a DETR without its postprocessor"
    sigmoid = candidate(
        "RT-DETR, D-FINE, Deformable or Conditional DETR, raw", "rtdetr_logits", by.STRETCHED,
        f"{why}: sigmoid scores", facts, said, classes=columns, roles=roles, places=places,
    )  # fmt: skip
    softmax = candidate(
        "DETR or YOLOS, raw", "detr", by.STRETCHED_IMAGENET, f"{why}: softmax scores, the last no object",
        facts, said, classes=columns - 1, roles=roles, places=places,
    )  # fmt: skip
    if said.labels is not None:
        return [each for each in (sigmoid, softmax) if each.classes == len(said.labels.value)] or [sigmoid, softmax]
    return [sigmoid, softmax]


def _mmdeploy(facts: Facts, said: Said) -> list[Candidate]:
    boxes, labels = facts.output("dets"), facts.output("labels")
    if boxes is None or labels is None or boxes.sizes[-1] != 5 or labels.dtype not in _INTEGERS:
        return []
    why = "it gives dets (N, K, 5) and integer labels (N, K), as MMDeploy exports RTMDet"
    roles = ((boxes, "boxes x1, y1, x2, y2 in pixels and score"), (labels, "classes"))
    return [candidate("RTMDet (MMDeploy)", "rtmdet", by.OPENMMLAB, why, facts, said, roles=roles)]


def _paddle(facts: Facts, said: Said) -> list[Candidate]:
    factors = next((tensor for tensor in facts.inputs if tensor.name == "scale_factor"), None)
    rows = next((tensor for tensor in facts.outputs if len(tensor.shape) == 2 and tensor.sizes[-1] == 6), None)
    if factors is None or rows is None:
        return []
    why = "it takes scale_factor and gives rows (n, 6) of class, score and corners, as PaddleDetection exports"
    roles = ((rows, "class, score, x1, y1, x2, y2 in pixels of the original image"),)
    return [candidate("PaddleDetection", "paddle", by.STRETCHED_IMAGENET, why, facts, said, roles=roles)]


def _yunet(facts: Facts, said: Said) -> list[Candidate]:
    names = {tensor.name for tensor in facts.outputs}
    if not all(f"{part}_{stride}" in names for part in ("cls", "obj", "bbox") for stride in _FACE_STRIDES):
        return []
    why = "its outputs are called cls_8, obj_8, bbox_8 and so on, as YuNet's"
    roles = [(tensor, tensor.name.partition("_")[0]) for tensor in facts.outputs]
    return [candidate("YuNet", "yunet", by.YUNET, why, facts, said, classes=1, roles=roles)]


def _faces_by_level(facts: Facts, said: Said) -> list[Candidate]:
    """SCRFD: scores, boxes and points of each level, in tensors of their own."""
    if len(facts.outputs) not in (6, 9) or facts.size is None:
        return []
    found = [(tensor, tensor.sizes[-2:]) for tensor in facts.outputs if len(tensor.shape) in (2, 3)]
    for anchors in (2, 1):
        counts = [anchors * cells(facts.size, (stride,)) for stride in _FACE_STRIDES]
        wanted = [(count, width) for width in ((1, 4, 10) if len(facts.outputs) == 9 else (1, 4)) for count in counts]
        if sorted(sizes for _, sizes in found) == sorted(wanted):
            why = (
                f"it gives scores, boxes{' and points' if len(facts.outputs) == 9 else ''} of the strides 8, 16 and "
                f"32 with {anchors} anchors a cell, as SCRFD"
            )
            parts = {1: "scores", 4: "boxes l, t, r, b in strides", 10: "points"}
            roles = [(tensor, parts[sizes[-1]]) for tensor, sizes in found]
            by_size = sorted(found, key=lambda pair: -pair[1][0])
            places = {
                "scores": [tensor for tensor, sizes in by_size if sizes[-1] == 1],
                "boxes": [tensor for tensor, sizes in by_size if sizes[-1] == 4],
            }
            keys: dict[str, Any] = {} if anchors == 2 else {"grid": {"per_cell": anchors}}
            return [
                candidate(
                    "SCRFD", "scrfd", by.FACES_SCRFD, why, facts, said, classes=1, roles=roles, places=places, **keys
                )
            ]
    return []


def _prior_boxes(facts: Facts, said: Said) -> list[Candidate]:
    """RetinaFace and other SSDs of priors: locations, confidences and perhaps landmarks, with or without a batch."""
    tensors = [tensor for tensor in facts.outputs if len(tensor.shape) in (2, 3)]
    if len(tensors) not in (2, 3) or len({tensor.sizes[-2] for tensor in tensors}) != 1:
        return []
    widths = {tensor.sizes[-1]: tensor for tensor in tensors}
    boxes, landmarks = widths.get(4), widths.get(10) or widths.get(8)
    scores = widths.get(2)
    if boxes is None or scores is None or (len(tensors) == 3 and landmarks is None):
        return []
    if landmarks is None and "loc" not in boxes.name.lower():
        return []
    if facts.size is not None and boxes.sizes[-2] not in (-1, _PRIORS_A_CELL * cells(facts.size, _FACE_STRIDES)):
        return []  # such as the second half of a cascade, which looks at one face
    why = (
        f"it gives (P, 4), (P, 2) and (P, {landmarks.sizes[-1]}): offsets from priors, two confidences and landmarks, "
        "as RetinaFace" if landmarks is not None else "it gives locations (P, 4) and confidences (P, 2), as an SSD"
    )  # fmt: skip
    roles = ((boxes, "offsets from priors"), (scores, "background and face"), (landmarks, "landmarks"))
    places = {"boxes": boxes, "scores": scores}
    keys: dict[str, Any] = {"batched": len(boxes.shape) == 3}
    probable = facts.values.get(scores.name)
    if probable is not None and are_probabilities(probable) is False:
        keys["activation"] = "softmax"
    return [
        candidate(
            "RetinaFace", "retinaface", by.RETINAFACE, why, facts, said, classes=1, roles=roles, places=places, **keys
        )
    ]


def _blazeface(facts: Facts, said: Said) -> list[Candidate]:
    if len(facts.outputs) != 2:
        return []
    boxes = next((tensor for tensor in facts.outputs if tensor.sizes[-1:] == (16,)), None)
    scores = next((tensor for tensor in facts.outputs if tensor.sizes[-1:] == (1,)), None)
    if boxes is None or scores is None or boxes.sizes[-2] != scores.sizes[-2] or len(boxes.shape) != 3:
        return []
    anchors = boxes.sizes[1]
    why = f"it gives (N, {anchors}, 16) and (N, {anchors}, 1): a box with six points and a logit, as BlazeFace"
    roles = ((boxes, "box and six points, in pixels from the anchor"), (scores, "logits"))
    places = {"boxes": boxes, "scores": scores}
    keys: dict[str, Any] = {} if (grid := _blazeface_grid(anchors, facts.size)) is None else {"grid": grid}
    return [
        candidate(
            "BlazeFace", "blazeface", by.MEDIAPIPE, why, facts, said, classes=1, roles=roles, places=places, **keys
        )
    ]


def _blazeface_grid(anchors: int, size: Size | None) -> dict[str, Any] | None:
    """Return the grid of MediaPipe's variants: two levels of 2 and 6 anchors a cell, or one of 1 (full range)."""
    if size is None:
        return None
    for stride in (8, 16):
        if 2 * cells(size, (stride,)) + 6 * cells(size, (2 * stride,)) == anchors:
            return {"strides": (stride, 2 * stride), "per_cell": (2, 6)}
    return {"strides": (4,), "per_cell": (1,)} if cells(size, (4,)) == anchors else None


def _picodet(facts: Facts, said: Said) -> list[Candidate]:
    if len(facts.outputs) not in (6, 8) or facts.size is None:
        return []
    strides = (8, 16, 32, 64)[: len(facts.outputs) // 2]
    counts = [cells(facts.size, (stride,)) for stride in strides]
    scores = [tensor for tensor in facts.outputs if len(tensor.shape) == 3 and tensor.sizes[-1] != 32]
    bins = [tensor for tensor in facts.outputs if len(tensor.shape) == 3 and tensor.sizes[-1] == 32]
    if [tensor.sizes[1] for tensor in scores] != counts or [tensor.sizes[1] for tensor in bins] != counts:
        return []
    why = "it gives scores (N, A, C) and 4 × 8 bins (N, A, 32) of each level, as PicoDet without postprocessing"
    roles = [*((tensor, "scores") for tensor in scores), *((tensor, "bins of the distances") for tensor in bins)]
    classes = scores[0].sizes[-1]
    return [candidate("PicoDet", "picodet", by.STRETCHED_IMAGENET, why, facts, said, classes=classes, roles=roles)]


def _yolo_levels(facts: Facts, said: Said) -> list[Candidate]:
    """Three tensors (N, 3, h, w, 5 + C) of logits: YOLOv5 and YOLOv7 without their last layer."""
    if not facts.outputs or any(len(tensor.shape) != 5 or tensor.sizes[1] != 3 for tensor in facts.outputs):
        return []
    classes = facts.outputs[0].sizes[-1] - 5
    why = "it gives (N, 3, h, w, 5 + C) of each level: logits of YOLOv5 or YOLOv7, exported without --grid"
    roles = [(tensor, "logits of one level") for tensor in facts.outputs]
    return [
        candidate(
            "YOLOv5 or YOLOv7, raw", "yolov5_levels", by.ULTRALYTICS, why, facts, said, classes=classes, roles=roles
        )
    ]


_READINGS: tuple[Callable[[Facts, Said], list[Candidate]], ...] = (
    _efficient_nms,
    _super_gradients,
    _tensorflow_detection,
    _detr_triple,
    _mmdeploy,
    _detr_pair,
    _paddle,
    _yunet,
    _faces_by_level,
    _blazeface,
    _prior_boxes,
    _picodet,
    _yolo_levels,
)
"""From those whose names tell most to those that only shapes tell."""
