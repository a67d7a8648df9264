"""Candidates in a whole build: those that are quantized anew, and one whose float part stays float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt.bundle import Bundle
from edgeopt.config import parse_config
from edgeopt.graph.operators import is_dequantized
from edgeopt.pipeline import build
from edgeopt.pipeline.quantized_training import TRAINING

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


def branches_anew(model: ir.Model) -> list[int]:
    """How many inputs of each sum come out of a DequantizeLinear."""
    sums = [node for node in model.graph if node.op_type == "Add"]
    return [sum(is_dequantized(value) for value in node.inputs) for node in sums]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bundle]:
    """Build the network with candidates."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "branches.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path / "site")

    def make(candidates: str, *others: str) -> Bundle:
        text = RECIPE.replace("edgeopt:lenet5", "branches:network")
        overrides = ('compile.targets=["ort", "trt"]', "quantize.repairs=[]", f"compile.candidates={candidates}")
        config = parse_config(text, overrides=(*overrides, *others))
        return build(config, tmp_path, tmp_path, tmp_path / "work", Watch()).bundle

    return make


def asked(bundle: Bundle) -> dict[str, str]:
    return {one.name: one.candidate.question for one in bundle.manifest.variants if one.candidate is not None}


def test_a_gpu_is_offered_both_branches_in_int8(built: Callable[..., Bundle]) -> None:
    bundle = built("true")
    found = asked(bundle)
    assert found["trt-int8-residual"] == "residual"
    assert "ort-int8-residual" not in found, "its kernels quantize both in the first place"
    assert branches_anew(ir.load(bundle.file("trt-int8"))) == [1]
    assert branches_anew(ir.load(bundle.file("trt-int8-residual"))) == [2]
    other = bundle.variant("trt-int8-residual")
    assert (other.candidate.of, other.candidate.floats) == ("trt-int8", ())
    assert other.accuracy.images == bundle.variant("trt-int8").accuracy.images


def scale_types(path: Path) -> set[ir.DataType]:
    return {node.inputs[1].dtype for node in ir.load(path).graph if node.op_type == "QuantizeLinear"}


def test_a_gpu_is_offered_scales_in_float32(built: Callable[..., Bundle], caplog: pytest.LogCaptureFixture) -> None:
    """TensorRT 10 takes both, moves FP16 ones wrongly at times (NVIDIA/TensorRT issue 4832), and rounds them."""
    bundle = built('["float32", "hardswish"]')
    assert asked(bundle) == {"trt-int8-float32": "float32"}, "of those named, as far as the network raises them"
    assert "has no candidate 'hardswish': the network does not raise that question" in caplog.text
    assert scale_types(bundle.file("trt-int8")) == {ir.DataType.FLOAT16}
    assert scale_types(bundle.file("trt-int8-float32")) == {ir.DataType.FLOAT}
    default, other = bundle.variant("trt-int8"), bundle.variant("trt-int8-float32")
    assert (other.candidate.of, other.candidate.floats) == ("trt-int8", ())
    assert other.nodes["QuantizeLinear"] == default.nodes["QuantizeLinear"]
    assert other.accuracy is not None
    assert default.accuracy is not None
    assert not asked(built('["float32"]', 'precision.gpu="fp32"')), "there is no other answer then"


def test_what_is_quantized_anew_is_trained_like_the_default(built: Callable[..., Bundle]) -> None:
    bundle = built("true", "train.quantize.epochs=1")
    for name in ("trt-int8", "trt-int8-residual"):
        assert [trial.name for trial in bundle.variant(name).stages.repairs] == [TRAINING]
