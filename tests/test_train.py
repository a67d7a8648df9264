"""The training loop: it learns, it is reproducible, it survives a kill, and it says what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt import models
from edgeopt.config import Augmentation, TrainConfig
from edgeopt.dataset import ArrayPicture, Boxes, Dataset, Sample
from edgeopt.errors import ConfigError, DataError, ModelError, StorageError
from edgeopt.references import importable
from edgeopt.spec import (
    ClassificationDecoding,
    Letterbox,
    ModelSpec,
    Normalization,
    Preprocessing,
    Resize,
    TensorSpec,
    preset,
    replace,
)
from edgeopt.train import Trained, TrainProgress, train
from edgeopt.train.objective import class_weights
from edgeopt.train.optimizer import learning_rate
from edgeopt.train.pictures import Pictures
from edgeopt.train.tasks import make_objective

SIDES = {"left": 0, "right": 1}


class Brighter(nn.Module):
    """Which half is brighter: a few weights, with BatchNorm and dropout so that all kinds of state take part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 2))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).flatten(1))
        return logits


class Spotter(nn.Module):
    """The outputs of a YOLOX from two convolutions a level."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 16, stride, stride), nn.SiLU(), nn.Conv2d(16, 6, 1)) for stride in (8, 16, 32)
        )
        for level in self.levels:
            nn.init.constant_(level[2].bias[4:], -3.0)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        levels = [level(images / 255) for level in self.levels]
        if self.training:
            return levels
        joined = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
        return torch.cat([joined[..., :4], joined[..., 4:].sigmoid()], dim=2)


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def halves(count: int, seed: int = 0) -> Dataset:
    """Grey noise of which one half is brighter."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        side = number % 2
        pixels = rng.integers(0, 120, (8, 8), np.uint8)
        pixels[:, 4 * side : 4 * side + 4] += 100
        samples.append(Sample(f"{seed}-{number}", side, ArrayPicture(pixels)))
    return Dataset("classification", tuple(SIDES), tuple(samples))


def spots(count: int) -> Dataset:
    """White squares on black."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        pixels = np.zeros((48, 64, 3), np.uint8)
        left, top = (int(corner) for corner in rng.integers(0, 28, 2))
        pixels[top : top + 20, left : left + 20] = 255
        samples.append(Sample(str(number), Boxes.of([[left, top, left + 20, top + 20]], [0]), ArrayPicture(pixels)))
    return Dataset("detection", ("spot",), tuple(samples))


HALVES_SPEC = ModelSpec(
    name="brighter",
    task="classification",
    input=TensorSpec(name="images", shape=("N", 1, 8, 8)),
    outputs=(TensorSpec(name="scores", shape=("N", 2)),),
    preprocessing=Preprocessing(steps=(Resize(size=(8, 8)),), channels="GRAY", normalization=Normalization()),
    decoding=ClassificationDecoding(),
    labels=tuple(SIDES),
)
SPOTS_SPEC = ModelSpec(
    name="spotter",
    task="detection",
    input=TensorSpec(name="images", shape=("N", 3, 64, 64)),
    outputs=(TensorSpec(name="predictions", shape=("N", 84, 6)),),
    preprocessing=Preprocessing(
        steps=(Letterbox(size=(64, 64)),), channels="BGR", normalization=Normalization(scale=1)
    ),
    decoding=preset("yolox"),
    labels=("spot",),
)
CONFIG = TrainConfig(
    epochs=5,
    batch_size=8,
    learning_rate=0.05,
    ema=0.9,
    label_smoothing=0.1,
    class_weights="balanced",
    augmentation=Augmentation(brightness=0.2, translate=0.1, rotate_deg=5),
)


def silent(state: TrainProgress) -> None:
    pass


def train_halves(work: Path, config: TrainConfig = CONFIG, progress=silent) -> tuple[nn.Module, Trained]:
    module = seeded(Brighter)
    return module, train(module, HALVES_SPEC, halves(40), halves(16, seed=1), config, work, progress)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def kill_in_fourth_epoch(state: TrainProgress) -> None:
    if (state.epoch, state.step) == (4, 2):
        os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(work: Path, config: TrainConfig) -> None:
    train_halves(work, config, kill_in_fourth_epoch)


def test_a_classifier_learns(tmp_path: Path):
    module, trained = train_halves(tmp_path, replace(CONFIG, epochs=12))
    assert trained.metric_name == "top-1"
    assert trained.metric == 1.0
    assert not module.training
    assert trained.history[-1].loss < trained.history[0].loss
    assert [one.epoch for one in trained.history] == list(range(1, 13))


def test_a_detector_learns(tmp_path: Path):
    config = TrainConfig(
        epochs=12,
        batch_size=4,
        optimizer="adamw",
        learning_rate=0.003,
        no_augmentation_epochs=2,
        augmentation=Augmentation(scale=0.2, horizontal_flip=0.5, mosaic=0.5),
    )
    trained = train(seeded(Spotter), SPOTS_SPEC, spots(24), spots(6), config, tmp_path, silent)
    assert trained.metric_name == "AP50"
    assert trained.metric is not None
    assert trained.metric > 0.3
    assert trained.history[8].loss < 0.7 * trained.history[0].loss


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, optimizer: str):
    config = replace(CONFIG, optimizer=optimizer)
    child = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(tmp_path / "killed", config))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL

    resumed, result = train_halves(tmp_path / "killed", config)
    whole, expected = train_halves(tmp_path / "whole", config)
    assert result.resumed_from == 3
    assert expected.resumed_from == 0
    assert same_weights(resumed, whole)
    assert result.history == expected.history


def test_the_seed_decides_everything_whatever_was_drawn_before(tmp_path: Path):
    first, _ = train_halves(tmp_path / "first")
    torch.rand(7)
    np.random.default_rng().random()
    second, _ = train_halves(tmp_path / "second")
    other, _ = train_halves(tmp_path / "other", replace(CONFIG, seed=1))
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_training_leaves_the_global_generator_alone(tmp_path: Path):
    module = seeded(Brighter)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(module, HALVES_SPEC, halves(8), None, replace(CONFIG, epochs=1), tmp_path, silent)
    assert torch.equal(torch.rand(1), expected)


def test_a_finished_training_is_only_loaded(tmp_path: Path):
    first, before = train_halves(tmp_path)
    steps: list[TrainProgress] = []
    second, after = train_halves(tmp_path, progress=steps.append)
    assert not steps
    assert same_weights(first, second)
    assert (after.metric, after.epoch, after.history) == (before.metric, before.epoch, before.history)


def test_the_best_epoch_is_kept(tmp_path: Path):
    _, trained = train_halves(tmp_path)
    measured = [one.metric for one in trained.history]
    assert trained.metric == max(metric for metric in measured if metric is not None)
    assert measured[trained.epoch - 1] == trained.metric


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path):
    trained = train(seeded(Brighter), HALVES_SPEC, halves(8), None, CONFIG, tmp_path, silent)
    assert trained.metric is None
    assert trained.epoch == CONFIG.epochs


def test_validation_is_as_often_as_asked_and_at_the_end(tmp_path: Path):
    _, trained = train_halves(tmp_path, replace(CONFIG, validate_every=2))
    assert [one.metric is not None for one in trained.history] == [False, True, False, True, True]


def test_progress_counts_up_and_the_estimate_ends_at_zero(tmp_path: Path):
    states: list[TrainProgress] = []
    train_halves(tmp_path, progress=states.append)
    steps = [state for state in states if state.phase == "train"]
    assert [(state.epoch, state.step) for state in steps] == [(e, s) for e in range(1, 6) for s in range(1, 6)]
    assert all(state.steps == 5 and state.epochs == 5 and np.isfinite(state.loss) for state in steps)
    assert steps[0].eta_s > 0
    assert steps[-1].eta_s == 0
    assert steps[4].metric is None
    assert steps[5].metric is not None


def test_validation_tells_how_many_of_its_images_are_done(tmp_path: Path):
    states: list[TrainProgress] = []
    train_halves(tmp_path, replace(CONFIG, epochs=2), states.append)
    validating = [state for state in states if state.phase == "validation"]
    assert [(state.epoch, state.step, state.steps) for state in validating] == [
        *((1, 8, 16), (1, 16, 16)),
        *((2, 8, 16), (2, 16, 16)),
    ]


@pytest.mark.parametrize(
    ("change", "seed"),
    [({"learning_rate": 0.01}, 0), ({"epochs": 9}, 0), ({}, 1)],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: dict[str, float], seed: int):
    train_halves(tmp_path)
    with pytest.raises(ModelError, match=r"belongs to another training.*Delete it"):
        train(
            seeded(Brighter), HALVES_SPEC, halves(40, seed), halves(16, 1 - seed), replace(CONFIG, **change), tmp_path,
            silent,
        )  # fmt: skip


def test_other_first_weights_are_another_training(tmp_path: Path):
    train_halves(tmp_path)
    torch.manual_seed(9)
    with pytest.raises(ModelError, match="first weights"):
        train(Brighter(), HALVES_SPEC, halves(40), halves(16, seed=1), CONFIG, tmp_path, silent)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint\.pt cannot be read.*Delete it"):
        train_halves(tmp_path)


def test_a_checkpoint_that_would_run_code_is_not_read(tmp_path: Path):
    torch.save({"fingerprint": Path("x")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        train_halves(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write the checkpoint"):
        train_halves(tmp_path / "file")


def test_no_half_checkpoint_is_left(tmp_path: Path):
    train_halves(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_divergence_at_every_rate_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match=r"the loss is (nan|inf).*3 restarts.*learning_rate"):
        train_halves(tmp_path, replace(CONFIG, learning_rate=1e30, warmup_epochs=0.0))


class Fragile(Brighter):
    """Gives no number once its weights are large, as after too long a step."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits * torch.nan if self.head[1].weight.abs().max() > 3 else logits


def train_fragile(work: Path, progress=silent) -> tuple[nn.Module, Trained]:
    module = seeded(Fragile)
    config = replace(CONFIG, learning_rate=20.0, epochs=6, warmup_epochs=0.0)
    return module, train(module, HALVES_SPEC, halves(40), halves(16, seed=1), config, work, progress)


def test_a_loss_that_is_no_number_is_tried_again_at_a_lower_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rates: list[float] = []
    module, trained = train_fragile(tmp_path, lambda state: rates.append(state.learning_rate))
    assert trained.rate_scale < 1
    assert "going on from step" in caplog.text
    assert len(trained.history) == 6
    assert all(np.isfinite(value).all() for value in map(torch.Tensor.numpy, module.state_dict().values()))
    assert max(rates[-3:]) < 20.0 * trained.rate_scale


def test_a_training_that_was_slowed_resumes_to_the_same_weights(tmp_path: Path):
    def stop(state: TrainProgress) -> None:
        if (state.epoch, state.step, state.phase) == (3, 3, "train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_fragile(tmp_path / "stopped", stop)
    resumed, result = train_fragile(tmp_path / "stopped")
    whole, expected = train_fragile(tmp_path / "whole")
    assert same_weights(resumed, whole)
    assert result.rate_scale == expected.rate_scale < 1


def interrupt_in_first_epoch(state: TrainProgress) -> None:
    if (state.epoch, state.step) == (1, 3):
        raise KeyboardInterrupt


def test_an_interrupted_epoch_goes_on_where_it_stopped(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        train_halves(tmp_path / "stopped", progress=interrupt_in_first_epoch)
    steps: list[tuple[int, int]] = []
    resumed, result = train_halves(tmp_path / "stopped", progress=lambda state: steps.append((state.epoch, state.step)))
    whole, expected = train_halves(tmp_path / "whole")
    assert steps[0] == (1, 4)
    assert same_weights(resumed, whole)
    assert result.history == expected.history


def test_the_best_so_far_can_be_used_without_training_on(tmp_path: Path):
    def stop(state: TrainProgress) -> None:
        if (state.epoch, state.step, state.phase) == (4, 2, "train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_halves(tmp_path, progress=stop)
    module = seeded(Brighter)
    steps: list[TrainProgress] = []
    result = train(
        module, HALVES_SPEC, halves(40), halves(16, seed=1), CONFIG, tmp_path, steps.append, best_so_far=True
    )
    assert not steps
    assert len(result.history) == 3
    assert result.metric == max(one.metric for one in result.history if one.metric is not None)
    assert not same_weights(module, seeded(Brighter))


def test_an_unfinished_first_epoch_gives_what_it_has(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        train_halves(tmp_path, progress=interrupt_in_first_epoch)
    module = seeded(Brighter)
    result = train(module, HALVES_SPEC, halves(40), halves(16, seed=1), CONFIG, tmp_path, silent, best_so_far=True)
    assert (result.epoch, result.metric) == (0, None)
    assert not same_weights(module, seeded(Brighter))


def test_the_best_of_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match="no checkpoint of this training"):
        train(seeded(Brighter), HALVES_SPEC, halves(40), halves(16, seed=1), CONFIG, tmp_path, silent, best_so_far=True)


def test_frozen_batchnorm_keeps_its_statistics_and_learns_its_scale(tmp_path: Path):
    module = seeded(Brighter)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    train(module, HALVES_SPEC, halves(16), None, replace(CONFIG, freeze_batchnorm=True), tmp_path, silent)
    after = module.state_dict()
    assert torch.equal(after["body.1.running_mean"], before["body.1.running_mean"])
    assert torch.equal(after["body.1.running_var"], before["body.1.running_var"])
    assert not torch.equal(after["body.1.weight"], before["body.1.weight"])


def test_frozen_layers_stay_as_they_are(tmp_path: Path):
    module = seeded(Brighter)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    train(module, HALVES_SPEC, halves(16), None, replace(CONFIG, freeze=("body.",)), tmp_path, silent)
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("body."))
    assert not torch.equal(after["head.1.weight"], before["head.1.weight"])
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze": ("boddy",)}, "Did you mean 'body'"),
        ({"freeze": ("body", "head")}, "no parameter to train"),
        ({"augmentation": Augmentation(mosaic=0.5)}, "mosaic is for detection"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        train_halves(tmp_path, replace(CONFIG, **change))


@pytest.mark.parametrize("change", ["rotate_deg", "shear_deg", "elastic"])
def test_boxes_are_not_turned(tmp_path: Path, change: str):
    config = TrainConfig(augmentation=replace(Augmentation(), **{change: 0.5}))
    with pytest.raises(ConfigError, match=change):
        train(seeded(Spotter), SPOTS_SPEC, spots(4), None, config, tmp_path, silent)


def test_other_detectors_are_not_trained(tmp_path: Path):
    spec = replace(SPOTS_SPEC, decoding=preset("yolov8"))
    with pytest.raises(ModelError, match="YOLOX"):
        train(seeded(Spotter), spec, spots(4), None, TrainConfig(), tmp_path, silent)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Dataset("classification", tuple(SIDES), ()), "no image"),
        (spots(4), "does classification"),
        (Dataset("classification", ("up", "down"), halves(4).samples), "up, down"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, data: Dataset, message: str):
    with pytest.raises(DataError, match=message):
        train(seeded(Brighter), HALVES_SPEC, data, None, CONFIG, tmp_path, silent)


def test_an_image_without_a_label_is_named(tmp_path: Path):
    samples = (*halves(4).samples, Sample("nameless", None, ArrayPicture(np.zeros((8, 8), np.uint8))))
    with pytest.raises(DataError, match="nameless has no class label"):
        train(
            seeded(Brighter),
            HALVES_SPEC,
            Dataset("classification", tuple(SIDES), samples),
            None,
            CONFIG,
            tmp_path,
            silent,
        )


def test_class_weights_are_inverse_to_frequency_and_average_to_one():
    counts = np.array([10, 30, 0, 60])
    weights = class_weights(counts).numpy()
    assert weights[0] == pytest.approx(3 * weights[1]) == pytest.approx(6 * weights[3])
    assert weights[2] == 0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)


def test_the_learning_rate_warms_up_to_its_peak_and_falls():
    config = TrainConfig(epochs=10, learning_rate=0.1, warmup_epochs=2)
    rates = [learning_rate(step, 20, config) for step in range(200)]
    peak = int(np.argmax(rates))
    assert peak == 40
    assert rates[peak] == pytest.approx(0.1)
    assert all(np.diff(rates[:41]) > 0)
    assert all(np.diff(rates[40:]) < 0)
    assert 0 < rates[-1] < 0.002


def test_a_real_yolox_takes_a_step(tmp_path: Path):
    torch.manual_seed(0)
    module = models.create("yolox_nano", num_classes=1)
    spec = models.default_spec("yolox_nano", ("spot",), (64, 64))
    config = TrainConfig(epochs=1, batch_size=2, freeze_batchnorm=True, freeze=("backbone.backbone.",))
    trained = train(module, spec, spots(2), spots(2), config, tmp_path, silent)
    assert np.isfinite(trained.history[0].loss)


OWN_TRAINING = """
import torch
from torch.nn import functional as F
from edgeopt.train.augment import Scene

def squared(logits, labels):
    return ((logits - F.one_hot(labels, logits.shape[1]).float()) ** 2).mean()

def flat(logits, labels):
    return 1.0

def centres(outputs, boxes, classes):
    assert all(each.shape[1:] == (4,) for each in boxes) and len(boxes) == len(classes)
    return sum(level.square().mean() for level in outputs)

def inverted(scene, rng):
    return Scene(255 - scene.pixels, scene.boxes, scene.classes)

def cropped(scene, rng):
    return Scene(scene.pixels[1:], scene.boxes, scene.classes)
"""


@pytest.fixture
def own_training(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "own_training.py").write_text(OWN_TRAINING)
    with importable(tmp_path, "own_training:squared"):
        yield


UNSMOOTHED = replace(CONFIG, label_smoothing=0.0, class_weights="none")


def test_a_classifier_learns_by_a_loss_of_the_users_own(tmp_path: Path, own_training: None):
    _, trained = train_halves(tmp_path, replace(UNSMOOTHED, loss="own_training:squared"))
    assert trained.metric == 1.0


def test_a_detector_of_another_kind_takes_a_loss_of_the_users_own(tmp_path: Path, own_training: None):
    spec = replace(SPOTS_SPEC, decoding=preset("yolov8"))
    config = TrainConfig(epochs=1, batch_size=4, loss="own_training:centres")
    trained = train(seeded(Spotter), spec, spots(8), None, config, tmp_path, silent)
    assert trained.history[0].loss > 0


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("own_training:flat", "'own_training:flat' must give a scalar tensor with a gradient, and gave 1.0"),
        ("own_training:absent", "nothing callable named 'absent'"),
        ("yolox", "is for detection"),
    ],
)
def test_losses_that_cannot_be(tmp_path: Path, loss: str, message: str, own_training: None):
    with pytest.raises((ConfigError, ModelError), match=message):
        train_halves(tmp_path, replace(UNSMOOTHED, loss=loss))


def test_smoothing_belongs_to_cross_entropy():
    with pytest.raises(ConfigError, match="belong to cross_entropy"):
        TrainConfig(loss="own_training:squared", label_smoothing=0.1)


def test_augmentations_of_the_users_own_change_pictures_but_for_the_closing_epochs(own_training: None):
    pictures = Pictures(halves(2), HALVES_SPEC.preprocessing)
    seen: list[Tensor] = []

    def watch(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return seeded(Brighter)(images)

    config = TrainConfig(augmentation=Augmentation(custom=("own_training:inverted",)))
    module = seeded(Brighter)
    module.forward = watch  # type: ignore[method-assign]
    objective = make_objective(HALVES_SPEC, config, pictures)
    for closing in (False, True):
        batch = objective.prepare(np.arange(2), [np.random.default_rng(0)] * 2, closing=closing)
        objective.loss(module, batch)
    np.testing.assert_allclose(seen[0].numpy(), 1 - seen[1].numpy(), atol=1e-6)


def test_an_augmentation_that_changes_the_size_is_named(own_training: None):
    config = TrainConfig(augmentation=Augmentation(custom=("own_training:cropped",)))
    objective = make_objective(SPOTS_SPEC, config, Pictures(spots(1), SPOTS_SPEC.preprocessing))
    with pytest.raises(ConfigError, match="'own_training:cropped' must give a Scene of"):
        objective.prepare(np.arange(1), [np.random.default_rng(0)], closing=False)
