"""Each family's tail, on a network of its layout: cut off or put on, the same objects are found."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.family_graphs import Family, families
from benchmarks.family_judging import moved
from benchmarks.family_networks import pictures, seeded_network
from edgeopt.identify.identifying import identify
from edgeopt.identify.reading import facts_of

CHOOSING = {
    "yolov10", "ultralytics_rtdetr", "yolo_nas_nms", "yolo_nas_flat", "yolov7_end2end", "efficient_nms", "rtdetr",
    "rtdetr_rows", "rtmdet", "paddle", "torchvision or torchvision_coco", "tf_od or tf_od_coco",
}  # fmt: skip
"""Presets of networks that end in a TopK or a suppression."""


def tails(family: Family) -> set[str]:
    if family.preset == "deepstream":  # a row has the number of its best class, and nothing is chosen
        return set()
    return {"cut"} if family.preset in CHOOSING else {"topk", "nms"}


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_with_another_tail_the_same_objects_are_found(family: Family) -> None:
    found = identify(facts_of(ir.from_proto(seeded_network(family))))
    shares = moved(family, found, pictures(4, 3))
    assert set(shares) == tails(family)
    assert all(share > 0.99 for share in shares.values()), shares
