"""Training against attacks: what it learns from, what it leaves as it was, and that it holds better than without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import SPOTS_SPEC, spots
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt.config import Adversarial, TrainConfig
from edgeopt.dataset import Dataset
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.errors import ConfigError
from edgeopt.perturb.ascent import pgd
from edgeopt.perturb.pixels import as_levels, to_network, to_pixels
from edgeopt.spec import ClassificationDecoding, ModelSpec, Normalization, Preprocessing, TensorSpec, replace
from edgeopt.train import train
from edgeopt.train.pictures import Pictures
from edgeopt.train.tasks import make_objective

SIDE = 8
SPEC = ModelSpec(
    name="two",
    task="classification",
    input=TensorSpec(name="images", shape=("N", 3, SIDE, SIDE)),
    outputs=(TensorSpec(name="logits", shape=("N", 2)),),
    preprocessing=Preprocessing(normalization=Normalization(mean=(0.5,) * 3, std=(0.25,) * 3)),
    decoding=ClassificationDecoding(),
    labels=("left", "right"),
)
CONFIG = TrainConfig(epochs=12, batch_size=16, learning_rate=0.02, warmup_epochs=0.0, weight_decay=0.0)
RADIUS = 24.0


def sides(count: int, seed: int = 0) -> Dataset:
    """Two cues: which half is much brighter, and a faint pattern of single pixels that always tells, too.

    A network that learns the pattern, which is the easier one for it, is turned by little.
    """
    rng, samples = np.random.default_rng(seed), []
    pattern = np.random.default_rng(9).choice([-1, 1], (SIDE, SIDE, 1))
    for index in range(count):
        target = index % 2
        picture = np.full((SIDE, SIDE, 3), 110.0) + rng.normal(0, 2, (SIDE, SIDE, 3))
        half = slice(SIDE // 2, None) if target else slice(SIDE // 2)
        if rng.random() < 0.9:
            picture[:, half] += 60
        picture += (8 if target else -8) * pattern
        samples.append(Sample(f"{seed}-{index}", target, ArrayPicture(np.clip(picture, 0, 255).astype(np.uint8))))
    return Dataset("classification", SPEC.labels, tuple(samples))


class Small(nn.Module):
    """A layer of convolutions and one of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(),
            nn.Linear(8 * SIDE * SIDE, 2),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def trained(work: Path, adversarial: Adversarial | None) -> tuple[nn.Module, str, float | None]:
    torch.manual_seed(0)
    module = Small()
    config = replace(CONFIG, adversarial=adversarial)
    found = train(module, SPEC, sides(96), sides(48, seed=1), config, work, lambda _: None)
    return module, found.metric_name, found.metric


def under_attack(module: nn.Module, data: Dataset) -> float:
    """Top-1 under PGD, measured apart from the objective."""
    images = np.stack([data.image(index)[..., ::-1] for index in range(len(data))]).transpose(0, 3, 1, 2)
    pixels = torch.from_numpy(images.astype(np.float32) / 255.0)
    labels = torch.tensor([int(sample.target) for sample in data.samples])  # type: ignore[arg-type]

    def loss(changed: Tensor) -> Tensor:
        return F.cross_entropy(module(to_network(changed, SPEC.preprocessing)), labels, reduction="none")

    changed = pgd(loss, pixels, RADIUS / 255.0, steps=20, random=torch.Generator().manual_seed(3))
    return float((module(to_network(changed, SPEC.preprocessing)).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_a_network_that_was_trained_under_attack_holds_better(tmp_path: Path, method: str) -> None:
    plain, name, _ = trained(tmp_path / "plain", None)
    hard, hard_name, metric = trained(tmp_path / "hard", Adversarial(method=method, radius=RADIUS, steps=5))  # type: ignore[arg-type]
    assert (name, hard_name) == ("top-1", "top-1 under attack")
    unseen = sides(60, seed=5)
    assert under_attack(hard, unseen) > under_attack(plain, unseen) + 0.1
    assert metric is not None
    assert metric > 0.5


@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_what_is_learnt_from_stays_within_the_radius_and_is_worse_than_the_clean_picture(method: str) -> None:
    torch.manual_seed(0)
    module, seen = Small(), list[Tensor]()
    data = sides(16)
    pictures = Pictures(data, SPEC.preprocessing)
    objective = make_objective(SPEC, replace(CONFIG, adversarial=Adversarial(method=method, radius=RADIUS)), pictures)  # type: ignore[arg-type]
    batch = objective.prepare(np.arange(16), [np.random.default_rng(0)] * 16, closing=True)
    module.train()
    statistics = module.body[1].running_mean.clone()  # type: ignore[union-attr,operator]
    handle = module.register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0].detach().clone()) if layer.body[1].training else None
    )
    loss = objective.loss(module, batch)
    handle.remove()
    away = (to_pixels(seen[-1], SPEC.preprocessing) - to_pixels(batch.images, SPEC.preprocessing)).abs() * 255.0
    assert 0.9 * RADIUS < away.max() <= RADIUS + 0.01
    assert len(seen) == (1 if method == "pgd" else 3), "only what is learnt from passes in training mode"
    assert loss.requires_grad
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not torch.equal(statistics, module.body[1].running_mean)  # type: ignore[union-attr,arg-type]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    settings = Adversarial(radius=RADIUS, steps=2)
    first, second = (trained(tmp_path / name, settings)[0].state_dict() for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("normalization", [None, Normalization(), Normalization(mean=(0.4,) * 3, std=(0.2,) * 3)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_and_the_networks_input_are_the_same_picture(normalization: Normalization | None, layout: str) -> None:
    preprocessing = Preprocessing(normalization=normalization, layout=layout)  # type: ignore[arg-type]
    pixels = as_levels(torch.rand(2, *((3, 4, 5) if layout == "NCHW" else (4, 5, 3))))
    torch.testing.assert_close(to_pixels(to_network(pixels, preprocessing), preprocessing), pixels)


def test_detectors_are_refused() -> None:
    config = TrainConfig(adversarial=Adversarial())
    with pytest.raises(ConfigError, match=r"\[train.adversarial\] is for classification"):
        make_objective(SPOTS_SPEC, config, Pictures(spots(1), SPOTS_SPEC.preprocessing))
