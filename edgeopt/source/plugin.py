"""Cut off EfficientNMS, TensorRT's plugin for suppression, which no other engine has."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.heads import BoxForm
from edgeopt.spec import DetectionDecoding, Part

PLUGINS = ("EfficientNMS_TRT",)
_CORNERS = 0
"""``box_coding`` of boxes as left, top, right, bottom; 1 is centre and size."""


def cut_plugin(network: ir.Model) -> DetectionDecoding | None:
    """Let a graph end in what its EfficientNMS takes, in place.

    Returns:
        The decoding that does the same: attributes of the plugin say how boxes are coded, whether scores still need
        their sigmoid, and the thresholds. None where there is no such node.
    """
    node = next((node for node in network.graph if node.op_type in PLUGINS), None)
    if node is None or len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    boxes, scores = node.inputs[0], node.inputs[1]
    names = {"score_activation": 0, "box_coding": _CORNERS, "background_class": -1, "class_agnostic": 0}
    told = {name: attribute.value for name, attribute in node.attributes.items()}
    said = {name: int(told.get(name, default)) for name, default in names.items()}
    form: BoxForm = "xyxy" if said["box_coding"] == _CORNERS else "cxcywh"
    for value in (boxes, scores):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    del network.graph.outputs[:]
    network.graph.outputs.extend([boxes, scores])
    network.graph.remove(node, safe=True)
    common.RemoveUnusedNodesPass()(network)
    return DetectionDecoding(
        boxes=Part(output=boxes.name or 0),
        scores=Part(output=scores.name or 1),
        form=form,
        activation="sigmoid" if said["score_activation"] else "none",
        background="first" if said["background_class"] == 0 else "none" if said["background_class"] < 0 else "last",
        class_agnostic=bool(said["class_agnostic"]),
        score_threshold=float(told.get("score_threshold", 0.25)),
        iou_threshold=float(told.get("iou_threshold", 0.5)),
        max_detections=int(told.get("max_output_boxes", 100)),
    )
