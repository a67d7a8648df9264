"""Every preset beside its family's own code: what its package finds in random outputs.

`data/record_decoders.py` makes the records. Each names the package, its version and what of it was run. ``faster_rcnn``
is edgeopt's own: `test_faster_rcnn.py` compares whole networks with torchvision's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recorded_decoders import RECORDS, Recorded, packages
from edgeopt.presets import PRESETS

OWN = {"faster_rcnn"}
"""Presets that no other package has."""


@pytest.mark.parametrize("name", RECORDS)
def test_a_preset_finds_what_its_familys_own_code_finds(name: str) -> None:
    recorded = Recorded(name)
    found, expected = recorded.decoded(), recorded.expected()
    assert len(expected) > 10
    ours = sorted(zip(found.scores.tolist(), found.classes.tolist(), found.boxes.tolist(), strict=True), reverse=True)
    assert [row[1] for row in ours] == [row[1] for row in expected]
    np.testing.assert_allclose([row[0] for row in ours], [row[0] for row in expected], atol=1e-5)
    np.testing.assert_allclose([row[2] for row in ours], [row[2] for row in expected], rtol=1e-4, atol=5e-3)


def test_every_preset_was_compared() -> None:
    assert {Recorded(name).about["preset"] for name in RECORDS} == set(PRESETS) - OWN


def test_every_record_says_which_code_of_which_version_made_it() -> None:
    for name in RECORDS:
        package, _, what = Recorded(name).about["by"].partition(": ")
        assert any(part[0].isdigit() or part in ("at",) for part in package.split())
        assert what


def test_the_table_of_families_says_whom_a_preset_was_compared_with() -> None:
    assert packages("rtdetr_logits") == [("RT-DETR at 068dfde", True), ("transformers 5.24.0", True)]
    assert packages("deepstream") == [("marcoslucianops/DeepStream-Yolo at 46f06c8", True)]
    assert packages("faster_rcnn") == []
