"""Faster R-CNN: against torchvision and ONNX's reference, its loss, its export and forms for engines, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from made_weights import HEIGHT, WIDTH, made_images, made_weights
from onnx.reference import ReferenceEvaluator
from torch import nn

from edgeopt import models
from edgeopt.bundle import EngineSettings
from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig, ExportConfig, ModelConfig, parse_config
from edgeopt.errors import ConfigError, ModelError
from edgeopt.export import Exported, export
from edgeopt.models.faster_rcnn import ROWS, FasterRCNN, Projection, Regions
from edgeopt.models.faster_rcnn_loss import faster_rcnn_loss, matched, sampled
from edgeopt.models.regions import BIN, aligned, decode, encode, is_suppressed
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import TENSORRT
from edgeopt.passes.rewrite.fixed_regions import fixed_regions, has_regions
from edgeopt.passes.rewrite.float16_guards import guarded_nodes
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.preflight import preflight
from edgeopt.postprocess import decode as read
from edgeopt.preprocess import preprocess
from edgeopt.runtime.ort import OrtSession
from edgeopt.source import classes_in_weights, resolve
from edgeopt.source.reference import Source
from edgeopt.spec import ModelSpec, Normalization
from edgeopt.spec import replace as changed
from edgeopt.targets import rtx

RECORD = Path(__file__).parent / "data" / "faster_rcnn.npz"
SIZE = (64, 96)


class TwoLevels(nn.Module):
    """The smallest body: two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 8, stride=8)
        self.second = nn.Conv2d(8, 12, 2, stride=2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine = self.first(images).relu()
        return [fine, self.second(fine).relu()]


def tiny(**changes: object) -> FasterRCNN:
    regions = Regions(
        sizes=((12, 20), (32, 48)), candidates=(40, 40), proposals=(30, 24), pooled=2, samples=(32, 16)
    )  # fmt: skip
    torch.manual_seed(0)
    module = FasterRCNN(TwoLevels(), Projection((8, 12), 8), 8, 3, replace(regions, **changes), 16)
    for layer, spread in ((module.rpn.head.cls_logits, 1.0), (module.roi_heads.box_predictor.cls_score, 0.8)):
        nn.init.normal_(layer.weight, std=spread)
    return module


def spec_of(size: tuple[int, int] = SIZE) -> ModelSpec:
    spec = models.default_spec("faster_rcnn_nano", ("a", "b", "c"), size)
    return changed(spec, preprocessing=changed(spec.preprocessing, normalization=Normalization()))


@pytest.fixture(scope="module")
def exported() -> Exported:
    return export(Source(spec=spec_of(), module=tiny().eval(), has_weights=True), ExportConfig())


def boxes_and_scores(count: int, images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(count)
    corner, side = rng.random((images, count, 2)) * 60, 5 + rng.random((images, count, 2)) * 40
    boxes = np.concatenate([corner, corner + side], axis=2).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.random((images, count)).astype(np.float32))


def text(body: str, inputs: str, output: str) -> ir.Model:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g ({inputs}) => ({output}) {{ {body} }}')
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


SUPPRESSION = """
    apart = Constant <value_ints: ints = [1]> ()
    places = Constant <value_ints: ints = [0, 2]> ()
    kind = Constant <value_int: int = 1> ()
    most = Constant <value_ints: ints = [90]> ()
    overlap = Constant <value_floats: floats = [0.3]> ()
    least = Constant <value_floats: floats = [0.1]> ()
    one = Constant <value_float: float = 1.0> ()
    by_class = Unsqueeze(scores, apart)
    kept = NonMaxSuppression(boxes, by_class, most, overlap, least)
    where = Gather <axis: int = 1> (kept, places)
    class = Gather <axis: int = 1> (kept, kind)
    zeros = Cast <to: int = 1> (class)
    size = Shape(scores)
    ones = Expand(one, size)
    y = ScatterND(ones, where, zeros)
"""
ALIGNMENT = f"""
    y = RoiAlign <coordinate_transformation_mode: string = "output_half_pixel", mode: string = "avg",
                  output_height: int = {BIN}, output_width: int = {BIN}, sampling_ratio: int = 2,
                  spatial_scale: float = 1.0> (x, boxes, images)
"""


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        return session.run(feeds)["y"].copy()


def test_suppression_is_onnx_s_and_can_be_written_in_fixed_shapes() -> None:
    boxes, scores = boxes_and_scores(90)
    scores[:, 40:44] = scores[:, 40:41]  # of equal scores the first stays
    boxes[:, 41] = boxes[:, 40]
    model = text(SUPPRESSION, "float[N, 90, 4] boxes, float[N, 90] scores", "float[N, 90] y")
    feeds = {"boxes": boxes.numpy(), "scores": scores.numpy()}
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]
    assert 0 < expected.sum() < expected.size
    own = is_suppressed(boxes, scores, 0.3, 0.1).numpy()
    np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(run(model, feeds), expected)
    fixed = fixed_regions(model)
    assert not {node.op_type for node in fixed.graph} & {"NonMaxSuppression", "ScatterND"}
    np.testing.assert_array_equal(run(fixed, feeds), expected)


def test_suppression_whose_choice_is_used_otherwise_stays() -> None:
    body = SUPPRESSION.replace("y = ScatterND", "z = ScatterND") + "y = Gather <axis: int = 0> (kept, kind)"
    assert not has_regions(text(body, "float[1, 90, 4] boxes, float[1, 90] scores", "int64[3] y"))


@pytest.mark.parametrize(
    ("written", "otherwise"),
    [
        ("ints = [90]", "ints = [7]"),
        ("NonMaxSuppression(", "NonMaxSuppression <center_point_box: int = 1> ("),
        ("overlap, least)", "overlap)"),
        (
            "by_class =",
            "one_class = Unsqueeze(scores, apart)  by_class = Concat <axis: int = 1> (one_class, one_class)  z =",
        ),
    ],
)
def test_suppression_that_leaves_out_more_than_overlaps_stays(written: str, otherwise: str) -> None:
    """At most 7 boxes, centers for corners, no threshold of scores, two classes."""
    arguments = "float[1, 90, 4] boxes, float[1, 90] scores", "float[1, 90] y"
    assert has_regions(text(SUPPRESSION, *arguments))
    changed = SUPPRESSION.replace(written, otherwise)
    assert changed != SUPPRESSION
    assert not has_regions(text(changed, *arguments))


def test_roi_align_is_onnx_s_and_can_be_written_in_fixed_shapes() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((2, 3, 9, 14), np.float32)
    boxes, _ = boxes_and_scores(30, images=1)
    regions = (boxes[0] / 6).numpy()
    regions[:3] = [[0, 0, 14, 9], [13.9, 8.9, 14, 9], [4, 4, 4.2, 4.1]]
    images = np.arange(30, dtype=np.int64) % 2
    model = text(ALIGNMENT, "float[N, 3, 9, 14] x, float[R, 4] boxes, int64[R] images", f"float[R, 3, {BIN}, {BIN}] y")
    feeds = {"x": features, "boxes": regions, "images": images}
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]
    own = aligned(*(torch.from_numpy(each) for each in feeds.values())).numpy()
    np.testing.assert_allclose(own, expected, atol=1e-5)
    np.testing.assert_allclose(run(model, feeds), expected, atol=1e-5)
    fixed = fixed_regions(model)
    assert [node.op_type for node in fixed.graph].count("GridSample") == 1
    np.testing.assert_allclose(run(fixed, feeds), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn"])
def test_finds_what_torchvision_finds_with_the_same_weights(name: str) -> None:
    with torch.device("meta"):  # its own first weights would take seconds
        module = models.create(name, num_classes=5).eval()
    module.rpn.regions = replace(module.regions, candidates=(60, 60), proposals=(50, 50))
    module.load_state_dict(made_weights(module.state_dict()), assign=True)
    images = torch.from_numpy(made_images())
    with torch.inference_mode():
        proposed, scores, *_ = module.rpn(module.backbone(images), (HEIGHT, WIDTH))
        rows = module(images).numpy()
    with np.load(RECORD) as record:
        for number, found in enumerate(rows):
            expected = {key: record[f"{name}/{number}/{key}"] for key in ("proposals", "boxes", "labels", "scores")}
            assert (scores[number] > 0).all()
            np.testing.assert_allclose(proposed[number][: len(expected["proposals"])], expected["proposals"], atol=1e-3)
            spec = models.default_spec(name, ("a", "b", "c", "d", "e"), (HEIGHT, WIDTH))
            spec = changed(spec, decoding=changed(spec.decoding, score_threshold=0.02, max_detections=20))
            _, geometry = preprocess(np.zeros((HEIGHT, WIDTH, 3), np.uint8), spec.preprocessing)
            (detections,) = read({"predictions": found[None]}, spec, [geometry])
            # Of two boxes with the same score, which differ by hundredths of a pixel, either may stay.
            np.testing.assert_allclose(detections.boxes, expected["boxes"], atol=0.05)
            np.testing.assert_allclose(detections.scores, expected["scores"], atol=1e-4)
            np.testing.assert_array_equal(detections.classes + 1, expected["labels"])


def test_offsets_and_boxes_are_each_other_s_inverse() -> None:
    anchors, _ = boxes_and_scores(20, images=1)
    boxes, _ = boxes_and_scores(21, images=1)
    wanted = boxes[0, :20]
    found = decode(encode(wanted, anchors[0], (10.0, 5.0)), anchors[0], (10.0, 5.0), (200, 200))
    torch.testing.assert_close(found, wanted)


def test_regions_show_the_box_that_they_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    regions = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 4], [30, 30, 40, 40], [52, 52, 68, 68], [0, 0, 10, 5.5]])
    assert matched(boxes, regions, 0.5, 0.7, best_too=False).tolist() == [0, -1, -1, -1, -2]
    assert matched(boxes, regions, 0.5, 0.7, best_too=True).tolist() == [0, -1, -1, 1, -2]
    assert matched(torch.zeros(0, 4), regions, 0.5, 0.7, best_too=True).tolist() == [-1] * 5


def test_no_more_objects_are_sampled_than_their_share() -> None:
    shown = torch.tensor([0] * 30 + [-1] * 30 + [-2] * 30)
    chosen = sampled(shown, 16, 0.25)
    assert len(chosen) == 16
    assert (shown[chosen] == 0).sum() == 4
    assert (shown[chosen] != -2).all()


def test_learns_also_from_pictures_without_boxes() -> None:
    module = tiny().train()
    images = torch.rand(2, 3, *SIZE)
    boxes = [torch.tensor([[8.0, 8, 40, 40]]), torch.zeros(0, 4)]
    classes = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = faster_rcnn_loss(module(images), boxes, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    nothing = faster_rcnn_loss(module(images), [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    nothing.backward()
    assert torch.isfinite(nothing)


def test_loss_of_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'faster_rcnn' is that of .* gives a Tensor in training"):
        faster_rcnn_loss(torch.zeros(1), [], [])  # type: ignore[arg-type]


def test_exported_graph_is_made_of_onnx_s_operators_and_runs_in_both_engines(exported: Exported) -> None:
    kinds = [node.op_type for node in exported.model.graph]
    assert (kinds.count("RoiAlign"), kinds.count("NonMaxSuppression")) == (1, 2)
    assert {node.domain for node in exported.model.graph} == {""}
    assert exported.spec.outputs[0].shape == ("N", ROWS, 6)
    openvino = pytest.importorskip("openvino")
    content = ir.to_proto(exported.model).SerializeToString()
    images = np.random.default_rng(0).random((1, 3, *SIZE), np.float32)
    with OrtSession(content) as session:
        expected = session.run({"images": images})["predictions"].copy()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(content), "CPU", settings)
    found = compiled(images)[0]
    assert (expected[0, :, 4] > 0.1).sum() > 5
    np.testing.assert_allclose(found[..., 4], expected[..., 4], atol=1e-4)


def test_graph_in_fixed_shapes_finds_the_same(exported: Exported) -> None:
    assert has_regions(exported.model)
    fixed = fixed_regions(exported.model)
    assert not {node.op_type for node in fixed.graph} & {"NonMaxSuppression", "RoiAlign", "ScatterND"}
    names = [node.name for node in fixed.graph]
    assert len(set(names)) == len(names)
    images = np.random.default_rng(0).random((2, 3, *SIZE), np.float32)
    found = []
    for model in (exported.model, fixed):
        with OrtSession(ir.to_proto(model).SerializeToString()) as session:
            found.append(session.run({"images": images})["predictions"].copy())
    np.testing.assert_allclose(found[1][..., 4], found[0][..., 4], atol=1e-5)
    np.testing.assert_allclose(np.sort(found[1][..., :4], axis=1), np.sort(found[0][..., :4], axis=1), atol=1e-2)


def test_boxes_stay_float32_where_layers_become_float16(exported: Exported) -> None:
    images = np.random.default_rng(0).random((1, 3, *SIZE), np.float32)
    table = calibrate(exported.model, [("noise", {"images": images})], CalibrateConfig(minimum_images=1))
    kept = guarded_nodes(exported.model.graph, table)
    kinds = {node.op_type for node in exported.model.graph if node.name in kept}
    assert {"RoiAlign", "NonMaxSuppression", "ScatterND", "Exp"} <= kinds
    assert not kinds & {"Conv", "Gemm"}


def test_nothing_is_found_where_nothing_is_proposed() -> None:
    module = tiny(least_score=1.0).eval()
    with torch.inference_mode():
        rows = module(torch.rand(1, 3, *SIZE)).numpy()
    assert (rows[..., 4] == 0).all()
    spec = spec_of()
    _, geometry = preprocess(np.zeros((*SIZE, 3), np.uint8), spec.preprocessing)
    assert len(read({"predictions": rows}, spec, [geometry])[0]) == 0


def published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict as torchvision published it: older keys, and classes of COCO's numbering."""
    older = {}
    for key, tensor in state.items():
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_blocks." in key and key.startswith("backbone.fpn."):
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if "box_predictor" in key:
            columns = 4 if "bbox_pred" in key else 1
            rows = torch.arange(91 * columns, dtype=torch.float32) // columns
            tensor = rows.reshape(-1, *[1] * (tensor.ndim - 1)).expand(-1, *tensor.shape[1:]).clone()
        older[key] = tensor
    return older


def test_published_weights_are_read_by_their_older_keys_and_numbers(tmp_path: Path) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    state = published(models.create(name, num_classes=80).state_dict())
    torch.save(state, tmp_path / "published.pth")
    source = resolve(ModelConfig(source=f"edgeopt:{name}", weights="published.pth"), tmp_path)
    assert source.untrained == ()
    assert source.module is not None
    predictor = source.module.roi_heads.box_predictor
    numbers = predictor.cls_score.bias.tolist()
    assert (numbers[0], numbers[1], numbers[12], numbers[80]) == (
        0,
        1,
        13,
        90,
    )  # 12 is a street sign, which COCO left out
    assert predictor.bbox_pred.bias[4 * 12 : 4 * 13].tolist() == [13] * 4


def test_weights_of_the_backbone_leave_the_heads_to_training(tmp_path: Path) -> None:
    torch.save(models.create("yolox_nano").state_dict(), tmp_path / "yolox.pth")
    source = resolve(ModelConfig(source="edgeopt:faster_rcnn_nano", weights="yolox.pth"), tmp_path, ("a", "b"))
    assert source.untrained
    assert all(key.startswith(("backbone.fpn.", "rpn.", "roi_heads.")) for key in source.untrained)


def test_weights_of_something_else_are_named(tmp_path: Path) -> None:
    state = models.create("faster_rcnn_nano").state_dict()
    torch.save({**state, "mask_head.weight": torch.zeros(1)}, tmp_path / "mask.pth")
    with pytest.raises(ModelError, match=r"1 unexpected: mask_head.weight"):
        resolve(ModelConfig(source="edgeopt:faster_rcnn_nano", weights="mask.pth"), tmp_path)
    torch.save(models.create("resnet18").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match=r"unexpected: conv1.weight"):
        resolve(ModelConfig(source="edgeopt:faster_rcnn_nano", weights="resnet.pth"), tmp_path)


def test_integers_stop_where_regions_begin(exported: Exported) -> None:
    rng = np.random.default_rng(0)
    images = [(str(number), {"images": rng.random((1, 3, *SIZE), np.float32)}) for number in range(4)]
    calibration = CalibrateConfig(minimum_images=1)
    model = optimize(exported.model)
    table = calibrate(model, images, calibration)
    integers = quantize(model, table, TENSORRT)
    layers = {"Conv", "Gemm", "DequantizeLinear", "Reshape"}
    for node in integers.graph:
        if node.op_type == "DequantizeLinear":
            assert {usage.node.op_type for usage in node.outputs[0].uses()} <= layers | {"QuantizeLinear"}
    with OrtSession(ir.to_proto(integers).SerializeToString()) as session:
        rows = session.run(images[0][1])["predictions"]
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        expected = session.run(images[0][1])["predictions"]
    np.testing.assert_allclose(rows[0, :20, 4], expected[0, :20, 4], atol=0.05)


def test_tensorrt_rtx_builds_it_in_one_engine(exported: Exported) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = rtx.compile(ir.to_proto(fixed_regions(exported.model)).SerializeToString(), EngineSettings())
    assert len(engine) > 10_000


def test_what_needs_a_teacher_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    sets = "".join(
        f'[data.{name}]\nformat = "digit_scenes"\nsplit = "{name}"\nlimit = 20\n'
        for name in ("train", "validation", "test", "calibration")
    )
    text = (
        'name = "r"\n[model]\nsource = "edgeopt:faster_rcnn_nano"\ninput_size = [64, 64]\n'
        + sets
        + "[train]\nquantize = true\n[compress]\nparameters = 0.5\n"
    )
    with pytest.raises(ConfigError, match=r"a teacher's: \[compress\] and \[train\] quantize cannot be had"):
        preflight(parse_config(text), tmp_path, (tmp_path,), "bundle")


def test_weights_tell_their_number_of_classes_without_the_background(tmp_path: Path) -> None:
    torch.save(models.create("faster_rcnn_nano", num_classes=3).state_dict(), tmp_path / "own.pth")
    assert classes_in_weights(ModelConfig(source="edgeopt:faster_rcnn_nano", weights="own.pth"), tmp_path) == 3
