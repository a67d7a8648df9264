"""Export: the graph computes what its source computed, looks the same every time, and bad sources are refused."""

from __future__ import annotations

import logging
import textwrap
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.numpy_helper import to_array
from tiny import DATA
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeopt import models
from edgeopt.calibrate.tap import onnx_session
from edgeopt.config import ExportConfig
from edgeopt.errors import ModelError, ParityError
from edgeopt.export import Exported, export
from edgeopt.export.clean import clean
from edgeopt.export.parity import difference, sample_inputs
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.spec import (
    ClassificationDecoding,
    ModelSpec,
    Normalization,
    Preprocessing,
    Resize,
    TensorSpec,
)

OPSET_18 = ExportConfig()


@dataclass(frozen=True)
class Given:
    """What the stage needs of a source."""

    spec: ModelSpec
    module: nn.Module | None = None
    program: ExportedProgram | None = None
    onnx: ir.Model | None = None


def spec_of(*, batch: int | str = "N", classes: int = 3, name: str = "net") -> ModelSpec:
    return ModelSpec(
        name=name,
        task="classification",
        input=TensorSpec(name="images", shape=(batch, 3, 8, 8)),
        outputs=(TensorSpec(name="scores", shape=(batch, classes)),),
        preprocessing=Preprocessing(steps=(Resize(size=(8, 8)),), normalization=Normalization()),
        decoding=ClassificationDecoding(),
        labels=tuple("abcdefgh"[:classes]),
    )


def from_text(body: str, *, opset: int = 17, batch: int | str = "N", extra: str = "") -> Given:
    text = f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        graph (float[{batch}, 3, 8, 8] images) => (float[{batch}, 3] scores) {extra}
        {{
            {body}
        }}
    """
    return Given(spec_of(batch=batch), onnx=ir.from_onnx_text(textwrap.dedent(text)))


def content(exported: Exported) -> bytes:
    return ir.to_proto(exported.model).SerializeToString()


def lenet() -> Given:
    torch.manual_seed(0)
    return Given(models.default_spec("lenet5", tuple("0123456789")), module=models.create("lenet5"))


@pytest.fixture(scope="module")
def exported_lenet() -> Exported:
    return export(lenet(), OPSET_18)


# From torch


def test_keeps_the_interface_of_the_specification(exported_lenet: Exported) -> None:
    graph = exported_lenet.model.graph
    assert [(value.name, [*map(str, value.shape)]) for value in graph.inputs] == [("images", ["N", "1", "28", "28"])]
    assert [(value.name, [*map(str, value.shape)]) for value in graph.outputs] == [("scores", ["N", "10"])]
    assert exported_lenet.parity <= 1e-6
    assert exported_lenet.model.opset_imports == {"": 18}


def test_names_nodes_after_the_modules_they_come_from(exported_lenet: Exported) -> None:
    names = [node.name for node in exported_lenet.model.graph]
    assert {"features.0", "features.1/Relu", "features.2/MaxPool", "classifier.4"} <= set(names)
    assert len(set(names)) == len(names)


def test_leaves_no_trace_of_the_machine(exported_lenet: Exported) -> None:
    model = exported_lenet.model
    assert not model.metadata_props
    assert not model.graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph)
    assert str(Path(__file__).parents[1]).encode() not in content(exported_lenet)


def test_gives_the_same_bytes_every_time(exported_lenet: Exported) -> None:
    assert content(export(lenet(), OPSET_18)) == content(exported_lenet)


def test_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    export(Given(spec_of(), module=Tiny()), OPSET_18)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    assert logging.getLogger("torch").level != logging.CRITICAL


class Pooled(nn.Module):
    """A classifier of the usual kind: convolution, global pooling, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


def test_global_pooling_reaches_opset_17() -> None:
    """torch.onnx gives 18 for it, whatever it is asked for."""
    result = export(Given(spec_of(), Pooled()), ExportConfig(opset=17))
    assert result.model.opset_imports == {"": 17}
    (mean,) = [node for node in result.model.graph if node.op_type == "ReduceMean"]
    assert list(mean.attributes.get_ints("axes")) == [-1, -2]
    assert result.parity <= 1e-6


class Tiny(nn.Module):
    """A classifier by mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean((2, 3)))


class Branches(Tiny):
    """Looks at values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if images.max() > 1 else -images)


class FixedBatch(Tiny):
    """Has the batch size built in."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.reshape(2, 3, 8, 8))


class Overflows(Tiny):
    """Divides by zero."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / 0.0


@pytest.mark.parametrize("module", [Branches(), FixedBatch()])
def test_says_why_torch_cannot_export(module: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"torch.export cannot follow net: \w+: .*must not branch"):
        export(Given(spec_of(), module=module), OPSET_18)


def test_refuses_results_that_are_not_finite() -> None:
    with pytest.raises(ParityError, match="not finite"):
        export(Given(spec_of(), module=Overflows()), OPSET_18)


@pytest.mark.slow
def test_exports_a_detector() -> None:
    spec = models.default_spec("yolox_nano", ("a", "b"), (64, 64))
    result = export(Given(spec, module=models.create("yolox_nano", num_classes=2)), OPSET_18)
    assert result.parity <= 1e-4
    assert result.spec == spec
    assert {"head.cls_preds.0", "backbone.lateral_conv0.conv"} <= {node.name for node in result.model.graph}


@pytest.mark.parametrize("dynamic", [({0: Dim("batch")},), None], ids=["dynamic", "fixed"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exports_a_program_for_any_batch(dynamic: Any) -> None:
    images = torch.zeros(2 if dynamic else 1, 3, 8, 8)
    program = torch.export.export(Tiny(), (images,), dynamic_shapes=dynamic)
    result = export(Given(spec_of(batch="N" if dynamic else 1), program=program), OPSET_18)
    assert result.spec.input.shape == ("N", 3, 8, 8)
    assert str(result.model.graph.outputs[0].shape[0]) == "N"


# From ONNX


def test_raises_an_old_opset() -> None:
    given = from_text("scores = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(images)", opset=11)
    result = export(given, OPSET_18)
    assert result.model.opset_imports == {"": 18}
    assert result.parity == 0.0
    assert given.onnx is not None
    assert given.onnx.opset_imports == {"": 11}


def test_keeps_an_opset_that_will_do() -> None:
    given = from_text("scores = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(images)", opset=13)
    assert export(given, OPSET_18).model.opset_imports == {"": 13}


def test_says_which_opset_cannot_be_raised() -> None:
    given = from_text("scores = NoSuchOperator(images)", opset=11)
    with pytest.raises(ModelError, match=r"opset 11, and cannot be raised to 18.*opset 13 or later"):
        export(given, OPSET_18)


def test_gives_anonymous_nodes_names() -> None:
    given = from_text("a = Relu(images)\n b = Relu(a)\n c = Relu(b)\n scores = ReduceMean<axes=[2, 3], keepdims=0>(c)")
    assert given.onnx is not None
    for node, name in zip(given.onnx.graph, ["first", "Relu_c", None, ""], strict=True):
        node.name = name
    names = [node.name for node in export(given, OPSET_18).model.graph]
    assert names[:2] == ["first", "Relu_c"]
    assert len(set(names)) == 4
    assert all(names)


@pytest.mark.parametrize("shape", ["{1, 3, -1}", "{1, 3, 64}"])
def test_frees_a_batch_of_one(shape: str) -> None:
    given = from_text(
        "flat = Reshape(images, shape)\n scores = ReduceMean<axes: ints = [2], keepdims: int = 0>(flat)",
        batch=1,
        extra=f"<int64[3] shape = {shape}>",
    )
    result = export(given, OPSET_18)
    assert result.spec == spec_of()
    assert str(result.model.graph.outputs[0].shape[0]) == "N"


def test_keeps_a_batch_of_one_that_cannot_be_freed(caplog: pytest.LogCaptureFixture) -> None:
    given = from_text(
        "mean = ReduceMean<axes: ints = [0, 2, 3], keepdims: int = 0>(images)\n scores = Reshape(mean, shape)",
        batch=1,
        extra="<int64[2] shape = {1, 3}>",
    )
    result = export(given, OPSET_18)
    assert result.spec.input.shape == (1, 3, 8, 8)
    assert "keeps its fixed batch of 1" in caplog.text


def test_refuses_a_larger_batch_that_cannot_be_freed() -> None:
    given = from_text(
        "mean = ReduceMean<axes: ints = [0, 2, 3], keepdims: int = 1>(images)\n"
        "all = Expand(mean, shape)\n scores = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(all)",
        batch=4,
        extra="<int64[4] shape = {4, 3, 1, 1}>",
    )
    with pytest.raises(ModelError, match="takes exactly 4 images at once"):
        export(given, OPSET_18)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_published_detector_takes_any_batch(shared: Path) -> None:
    given = Given(
        ModelSpec(
            name="yolox_nano",
            task="classification",
            input=TensorSpec(name="images", shape=(1, 3, 416, 416)),
            outputs=(TensorSpec(name="output", shape=(1, 3549, 85)),),
            preprocessing=Preprocessing(steps=(Resize(size=(416, 416)),), normalization=Normalization(scale=1.0)),
            decoding=ClassificationDecoding(),
            labels=("a",),
        ),
        onnx=ir.load(shared / "model_yolox_nano" / "yolox_nano.onnx"),
    )
    result = export(given, OPSET_18)
    assert result.spec.input.shape[0] == "N"
    assert result.parity <= 1e-5
    assert {str(value.shape[0]) for node in result.model.graph for value in node.outputs} == {"N"}


class Attention(nn.Module):
    """Its export multiplies batch and heads into one dimension for a while, which is not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.score = nn.Linear(3, 3 * 8), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.project(images.flatten(2).transpose(1, 2))
        heads = tokens.reshape(-1, 64, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        return self.score(mixed.transpose(1, 2).reshape(-1, 64, 8).mean(dim=1))


def test_only_the_batch_is_called_the_batch() -> None:
    module = Attention().eval()
    model = export(Given(spec_of(), module=module), OPSET_18).model
    (images,) = sample_inputs(spec_of(), 2, np.random.default_rng(0)).values()
    (scores,) = onnx_session(optimize(model)).run(None, {"images": images})
    np.testing.assert_allclose(scores, module(torch.from_numpy(images)).detach().numpy(), atol=1e-5)


# Parity


def test_parity_says_by_how_much_a_graph_differs() -> None:
    given = from_text("scores = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(images)")
    assert given.onnx is not None

    def wrong(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [100 * inputs["images"].mean((2, 3))]

    with pytest.raises(ParityError, match=r"'scores' changed by \d.* in a batch of 1, .* is more than .* = 1e-04"):
        difference(nullcontext(wrong), given.onnx, given.spec, 1e-4)


def test_parity_notices_another_shape() -> None:
    given = from_text("scores = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(images)")
    assert given.onnx is not None
    with pytest.raises(ParityError, match=r"shape \(1, 3\) after export, \(1, 2\) before"):
        difference(nullcontext(lambda inputs: [np.zeros((len(inputs["images"]), 2))]), given.onnx, given.spec, 1e-4)


def test_sample_inputs_look_like_images() -> None:
    (images,) = sample_inputs(spec_of(), 2, np.random.default_rng(0)).values()
    assert images.shape == (2, 3, 8, 8)
    assert 0.0 <= images.min() < 0.3 < 0.7 < images.max() <= 1.0
    assert not np.array_equal(images[0], images[1])


def test_notes_of_the_exporter_that_name_files_of_its_machine_are_left_out() -> None:
    """torch writes the stack of Python calls, with the paths of their files, into the graphs that it exports."""
    model, note = onnx.load(DATA / "tiny_classifier_int8.onnx"), "/home/somebody/net.py:7"
    graph = model.graph
    for each in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.doc_string = note
        each.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=note)
    kept = ir.to_proto(clean(ir.from_proto(model), "x"))
    assert note.encode() not in kept.SerializeToString()
    assert [(each.name, *to_array(each).ravel()) for each in kept.graph.initializer] == [
        (each.name, *to_array(each).ravel()) for each in graph.initializer
    ]
