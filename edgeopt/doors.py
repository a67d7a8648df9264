"""Built-ins that a recipe or a command may name, with their places. ``package.module:callable`` may stand instead.

To add one of ours, write its module and its row here. Places are text: nothing is imported before it is asked for
(`references.resolve`), and all names are known on the ground floor, where recipes are checked.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeopt import presets

DATA_FORMATS: Mapping[str, str] = {
    "image_folder": "edgeopt.dataset.folders:read_image_folder",
    "csv": "edgeopt.dataset.table:read_csv",
    "coco": "edgeopt.dataset.coco:read_coco",
    "voc": "edgeopt.dataset.voc:read_voc",
    "yolo": "edgeopt.dataset.yolo:read_yolo",
    "labelme": "edgeopt.dataset.labelme:read_labelme",
    "cvat": "edgeopt.dataset.cvat:read_cvat",
    "createml": "edgeopt.dataset.createml:read_createml",
    "kitti": "edgeopt.dataset.kitti:read_kitti",
    "wider_face": "edgeopt.dataset.wider_face:read_wider_face",
    "idx": "edgeopt.dataset.idx:read_idx",
    "images": "edgeopt.dataset.folders:read_images",
    "digits": "edgeopt.dataset.digits:read_digits",
    "digit_scenes": "edgeopt.dataset.scenes:read_digit_scenes",
}
"""Values of ``[data.*] format``: each is a `dataset.listing.Reader`."""

DECODINGS: Mapping[str, str] = {
    "classification": "edgeopt.spec:ClassificationDecoding",
    **dict.fromkeys((*presets.PRESETS, *presets.FORMER), "edgeopt.spec:preset"),
}
"""Values of ``[model] decoding``: classification, or a preset of a detector's head. A user's is a
`spec.CodeDecoding`."""

LOSSES: Mapping[str, str] = {
    "cross_entropy": "torch.nn.functional:cross_entropy",
    "focal": "edgeopt.train.losses:focal",
    "class_balanced": "edgeopt.train.losses:ClassBalanced",
    "logit_adjusted": "edgeopt.train.losses:LogitAdjusted",
    "yolox": "edgeopt.models.yolox_loss:yolox_loss",
    "faster_rcnn": "edgeopt.models.faster_rcnn_loss:faster_rcnn_loss",
}
"""Values of ``[train] loss``: each is a `train.objective.ClassLoss` or `train.objective.BoxLoss`. YOLOX's is told
more, and those that know how frequent classes are, are made from their counts."""

METRICS: Mapping[str, str] = {
    "balanced_accuracy": "edgeopt.evaluate.extra:balanced_accuracy",
    "worst_recall": "edgeopt.evaluate.extra:worst_recall",
    "f1": "edgeopt.evaluate.extra:f1",
}
"""``[evaluate] metrics``: each is an `evaluate.extra.Metric`."""

REPAIRS: Mapping[str, str] = {
    "equalization": "edgeopt.passes.repair.equalize:equalize",
    "range_method": "edgeopt.passes.repair.ranges:by",
    "smoothing": "edgeopt.passes.repair.smooth:smooth",
    "ranges": "edgeopt.passes.repair.ranges:measure_ranges",
    "exemption": "edgeopt.passes.repair.exempt:harmed_layers",
    "floats": "edgeopt.passes.repair.activations:ActivationTrials",
    "bias_correction": "edgeopt.passes.repair.reconstruct:reconstruct",
    "weight_clipping": "edgeopt.passes.repair.reconstruct:reconstruct",
    "gptq": "edgeopt.passes.repair.reconstruct:reconstruct",
    "fine_tuning": "edgeopt.passes.repair.fine_tune.run:fine_tune",
}
"""Values of ``[quantize] repairs``: `passes.repair.trials` gives each of these what it needs. Any other is a
`trials.Repair`."""

TARGETS: Mapping[str, str] = {
    "ort": "edgeopt.targets.ort:TARGET",
    "ov": "edgeopt.targets.ov:TARGET",
    "trt": "edgeopt.targets.trt:TARGET",
    "trt8": "edgeopt.targets.trt8:TARGET",
    "rtx": "edgeopt.targets.rtx:TARGET",
}
"""Values of ``[compile] targets``: each is a `runtime.session.Target`."""
