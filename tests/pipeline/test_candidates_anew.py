"""A candidate that is quantized anew, in a whole build: both branches of a sum instead of one."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt.config import parse_config
from edgeopt.passes.qdq.candidates import raises
from edgeopt.pipeline import build

NETWORK = """
from torch import nn
from edgeopt.spec import ClassificationDecoding, ModelSpec, Normalization, Preprocessing, Resize, TensorSpec

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.last = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = nn.functional.silu(self.first(x))
        return self.head((x + nn.functional.silu(self.last(x))).mean((2, 3)))

def network():
    return Branches(), ModelSpec(
        name="branches",
        task="classification",
        input=TensorSpec(name="images", shape=("N", 3, 16, 16)),
        outputs=(TensorSpec(name="logits", shape=("N", 10)),),
        preprocessing=Preprocessing(steps=(Resize(size=(16, 16)),), normalization=Normalization()),
        decoding=ClassificationDecoding(),
        labels=tuple("0123456789"),
    )
"""


def test_a_gpu_is_offered_both_branches_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "branches.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path / "site")
    text = RECIPE.replace("edgeopt:lenet5", "branches:network")
    overrides = ('compile.targets=["ort", "trt"]', "compile.candidates=true", "quantize.repairs=[]")
    bundle = build(parse_config(text, overrides=overrides), tmp_path, tmp_path, tmp_path / "work", Watch()).bundle
    asked = {one.name: one.candidate.question for one in bundle.manifest.variants if one.candidate is not None}
    assert asked["trt-int8-residual"] == "residual"
    assert "ort-int8-residual" not in asked, "its kernels quantize both in the first place"
    assert raises(ir.load(bundle.file("trt-int8")), "residual")
    assert not raises(ir.load(bundle.file("trt-int8-residual")), "residual")
    other = bundle.variant("trt-int8-residual")
    assert (other.candidate.of, other.candidate.floats) == ("trt-int8", ())
    assert other.accuracy.images == bundle.variant("trt-int8").accuracy.images
