"""Training of INT8 graphs: what the losses see, what is written, and that a killed training goes on to the same."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tiny_recipe import RECIPE, Watch

from edgeopt.config import QuantizedTraining, parse_config
from edgeopt.errors import ConfigError, ModelError
from edgeopt.models import create
from edgeopt.models.catalog import default_spec
from edgeopt.passes.qdq.overflow import safe_processors
from edgeopt.passes.quantize.scheme import scheme
from edgeopt.passes.repair.fine_tune.network import LearnedNetwork
from edgeopt.pipeline import build, graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.preflight import preflight
from edgeopt.pipeline.quantized_training import TRAINING, quantized_and_trained
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.spec import ClassificationDecoding, replace
from edgeopt.train.loop import Trained
from edgeopt.train.optimizer import Average
from edgeopt.train.quantized import GraphNetwork, QuantizedTrained, train_quantized
from edgeopt.train.teacher import as_learnt

SETTINGS = ("train.epochs=2", "train.quantize.epochs=2", "train.batch_size=16", "quantize.repairs=[]")


def test_a_detector_gives_the_levels_that_its_loss_takes() -> None:
    torch.manual_seed(0)
    module, spec = create("yolox_nano", num_classes=3).eval(), default_spec("yolox_nano", ("a", "b", "c"), (64, 96))
    graph = GraphNetwork(lambda feeds: [module.eval()(feeds["images"])], spec)
    images = torch.rand(2, 3, 64, 96) * 255
    with torch.no_grad():
        found = graph.train()(images)
        as_learnt(module)
        expected = module(images)
        assert torch.equal(graph.eval()(images), module.eval()(images))
    assert [level.shape for level in found] == [level.shape for level in expected]
    for level, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(level, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("applied", ["softmax", "sigmoid"])
def test_scores_that_a_graph_has_squashed_are_logits_in_training(applied: str) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    scores = logits.softmax(1) if applied == "softmax" else logits.sigmoid()
    spec = replace(
        default_spec("lenet5", tuple("0123456789")), decoding=ClassificationDecoding(activation="none", applied=applied)
    )
    graph = GraphNetwork(lambda _: [scores], spec)
    found = graph.train()(torch.zeros(1, 1))
    torch.testing.assert_close(found.softmax(1), logits.softmax(1))
    assert torch.equal(graph.eval()(torch.zeros(1, 1)), scores)


def test_a_graph_that_takes_one_image_is_given_one_at_a_time() -> None:
    spec = default_spec("lenet5", tuple("0123456789"))
    spec = replace(spec, input=replace(spec.input, shape=(1, *spec.input.shape[1:])))
    seen = []

    def run(feeds: Any) -> list[torch.Tensor]:
        (images,) = feeds.values()
        seen.append(len(images))
        return [images.flatten(1).sum(1, keepdim=True)]

    images = torch.rand(3, 1, 28, 28)
    found = GraphNetwork(run, spec).eval()(images)
    torch.testing.assert_close(found, images.flatten(1).sum(1, keepdim=True))
    assert seen == [1, 1, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which everything before the training is soon done."""
    return tmp_path_factory.mktemp("work")


def job(folder: Path, *overrides: str, watch: Watch | None = None) -> Job:
    config = parse_config(RECIPE, overrides=(*SETTINGS, *overrides))
    return open_job(config, Path.cwd(), Workspace(folder), watch or Watch())


def before_training(work: Job) -> tuple[Artifact, Artifact, Artifact]:
    """The float graph, its calibration and the INT8 graph."""
    exact = graphs.optimized(work, graphs.exported(work, trained(work)))
    table = calibrated(work, exact)
    return exact, table, graphs.quantized(work, exact, table, "openvino")


def made(work: Job) -> tuple[Artifact, Artifact]:
    """The graph before, and after."""
    exact, table, quantized = before_training(work)
    return quantized, quantized_and_trained(work, exact, table, "openvino")


class StopsInEpoch(Watch):
    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        super().update(done, total, text)
        if self._stage == "train-int8" and text.startswith("epoch 2/"):
            raise KeyboardInterrupt


def test_what_was_learnt_is_told_and_a_stopped_training_goes_on_to_the_same_graph(untimed: None, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="run it again to go on"):
        made(job(folder, watch=StopsInEpoch()))
    _, resumed = made(job(folder))
    written = resumed.file(graphs.MODEL).read_bytes()
    shutil.rmtree(resumed.folder)
    before, whole = made(job(folder))
    assert whole.file(graphs.MODEL).read_bytes() == written
    (trial,) = whole.records.repairs
    assert trial.name == TRAINING
    assert f"validation loss {trial.before:.4f} → {trial.after:.4f}" in whole.summary
    assert (before.file(graphs.MODEL).read_bytes() == written) != trial.is_kept
    assert whole.records.coverage == before.records.coverage


def test_training_wins_back_what_crude_ranges_lost(untimed: None, folder: Path) -> None:
    """Most values of an activation are cut off; training is to widen its range, or to do without them."""
    work = job(folder, "train.epochs=8", "train.learning_rate=0.05", "train.quantize.epochs=4", "train.batch_size=8")
    exact, _, quantized = before_training(work)
    ruined = graphs.read_graph(quantized)
    ranges = [node for node in ruined.graph if node.op_type == "QuantizeLinear"][1].inputs[1]
    assert ranges is not None
    assert ranges.const_value is not None
    ranges.const_value = ir.tensor(ranges.const_value.numpy() * np.float32(0.25), name=ranges.name)
    config = work.config.train
    assert config is not None
    arguments = (graphs.read_graph(exact), ruined, scheme("openvino"), graphs.read_spec(quantized))
    learned = train_quantized(*arguments, work.split("train"), work.split("validation"), config, folder, lambda _: None)
    before, after = learned.losses
    assert after < 0.7 * before


def test_what_makes_it_worse_is_not_kept(untimed: None, folder: Path) -> None:
    before, after = made(job(folder, "train.quantize.learning_rate=1000.0", "train.quantize.epochs=1"))
    (trial,) = after.records.repairs
    assert not trial.is_kept
    assert "not kept: try a lower [train.quantize] learning_rate" in after.summary
    assert before.file(graphs.MODEL).read_bytes() == after.file(graphs.MODEL).read_bytes()


def test_a_loss_that_falls_while_accuracy_falls_too_is_not_kept(
    untimed: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruined(_: ir.Model, quantized: ir.Model, *__: Any) -> QuantizedTrained:
        """Every class alike, and a loss that claims otherwise."""
        model = quantized.clone()
        for value in model.graph.initializers.values():
            array = value.const_value.numpy()
            if array.dtype == np.int8 and array.ndim > 1:
                value.const_value = ir.tensor(np.zeros_like(array), name=value.name)
        return QuantizedTrained(model, Trained("top-1", None, 1, (), 0), (1.0, 0.5))

    monkeypatch.setattr("edgeopt.train.quantized.train_quantized", ruined)
    before, after = made(job(folder, "train.epochs=8", "train.learning_rate=0.05"))
    (trial,) = after.records.repairs
    assert not trial.is_kept
    assert re.fullmatch(r"top1 on the validation images fell from \d+\.\d\d% to \d+\.\d\d%", trial.declined)
    assert f"not kept: {trial.declined}" in after.summary
    assert before.file(graphs.MODEL).read_bytes() == after.file(graphs.MODEL).read_bytes()


def test_pairs_of_weights_stay_within_what_16_bits_hold(untimed: None, folder: Path, tmp_path: Path) -> None:
    work = job(folder, "train.quantize.epochs=1", "train.quantize.learning_rate=50.0")
    exact, _, before = before_training(work)
    arguments = (graphs.read_graph(exact), graphs.read_graph(before), scheme("openvino"), graphs.read_spec(before))
    config = work.config.train
    assert config is not None
    learned = train_quantized(
        *arguments, work.split("train"), work.split("validation"), config, tmp_path, lambda _: None
    )
    after = learned.model
    assert after.graph.initializers.keys() == graphs.read_graph(before).graph.initializers.keys()
    assert "avx2" in safe_processors(after)
    assert safe_processors(after) == safe_processors(graphs.read_graph(before))


def test_an_average_computes_with_its_own_weights_and_not_with_those_that_are_trained(
    untimed: None, folder: Path
) -> None:
    _, _, before = before_training(job(folder))
    learned, spec = LearnedNetwork(graphs.read_graph(before), scheme("openvino")), graphs.read_spec(before)
    module = GraphNetwork(learned.run, spec, learned.parameters()).eval()
    average, images = Average(module, decay=0.5), torch.rand(2, *spec.input.shape[1:])
    with torch.no_grad():
        start = module(images)
        for parameter in module.parameters():
            parameter.add_(300.0 * torch.randn_like(parameter))
        moved = module(images)
        assert not torch.allclose(moved, start)
        assert torch.equal(average.module(images), start)
        assert torch.equal(copy.deepcopy(module)(images), moved)
        for _ in range(60):
            average.update(1000)
        torch.testing.assert_close(average.module(images), moved)


def test_a_build_of_weights_that_are_good_already_trains_its_int8_graph_alone(
    untimed: None, folder: Path, tmp_path: Path
) -> None:
    weights = trained(job(folder))
    assert weights is not None
    path = tmp_path / "lenet5.safetensors"
    shutil.copyfile(weights.file("weights.safetensors"), path)
    overrides = (f'model.weights="{path}"', "train.epochs=0", "train.quantize=true", "quantize.repairs=[]")
    watch = Watch()
    result = build(parse_config(RECIPE, overrides=overrides), Path.cwd(), tmp_path, tmp_path / "work", watch)
    assert "train" not in watch.made
    assert "train-int8" in watch.made
    (int8,) = [each for each in result.bundle.manifest.variants if each.precision == "int8"]
    assert [trial.name for trial in int8.stages.repairs] == [TRAINING]


def test_an_operator_without_a_gradient_is_named(untimed: None, folder: Path, tmp_path: Path) -> None:
    work = job(folder)
    exact, _, before = before_training(work)
    model, config = graphs.read_graph(before), work.config.train
    assert config is not None
    next(node for node in model.graph if node.op_type == "MaxPool").op_type = "GridSample"
    arguments = (graphs.read_graph(exact), model, scheme("openvino"), graphs.read_spec(before))
    with pytest.raises(ModelError, match=r"cannot be trained in INT8 through GridSample\. Remove \[train\] quantize"):
        train_quantized(*arguments, work.split("train"), work.split("validation"), config, tmp_path, lambda _: None)


YOLOV8 = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[1, 3, 64, 64] images) => (float[1, 14, 64] output) {
  kernel = Constant<value = int64[4] {14, 3, 8, 8}>()
  w = ConstantOfShape(kernel)
  maps = Conv<strides=[8, 8]>(images, w)
  shape = Constant<value = int64[3] {1, 14, -1}>()
  output = Reshape(maps, shape)
}
"""


def test_a_detector_without_a_loss_is_refused_before_it_is_quantized(tmp_path: Path) -> None:
    sets = "".join(
        f'[data.{name}]\nformat = "digit_scenes"\nsplit = "{name}"\nlimit = 20\n'
        for name in ("train", "validation", "test", "calibration")
    )
    ir.save(ir.from_onnx_text(YOLOV8), tmp_path / "a.onnx")
    text = (
        f'name = "r"\n[model]\nsource = "a.onnx"\n[model.decoding]\npreset = "yolov8"\n{sets}'
        "[train]\nepochs = 0\nquantize = true\n"
    )
    with pytest.raises(ModelError, match="only YOLOX and edgeopt's Faster R-CNN have a loss here"):
        preflight(parse_config(text), tmp_path, (tmp_path,), "bundle")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.quantize=true", "quantize.enabled=false"), "enabled = false makes none"),
        (("train.quantize=true", 'quantize.file="a.onnx"'), "is another tool's"),
        (("train.quantize=true", "train.adversarial.steps=1"), "undoes what"),
        (("train.epochs=0",), "epochs = 0 trains nothing"),
        (("compress.parameters=0.5", "compress.train.quantize=true"), r"Move quantize from \[compress.train\] there"),
        (("train.quantize.epoch=1",), "Did you mean 'epochs'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(RECIPE, overrides=overrides)


def test_true_means_the_defaults_and_no_epoch_of_the_float_network() -> None:
    config = parse_config(RECIPE, overrides=("train.epochs=0", "train.quantize=true"))
    assert config.train is not None
    assert config.train.quantize is True
    assert not config.trains
    assert QuantizedTraining().epochs >= 1
