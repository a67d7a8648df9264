"""Several processes that train one network give the weights of one process, and fail as one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import CONFIG, HALVES_SPEC, SPOTS_SPEC, Brighter, Spotter, halves, seeded, silent, spots
from torch import Tensor, nn

from edgeopt.config import Augmentation, TrainConfig, parse_config
from edgeopt.dataset import Dataset
from edgeopt.errors import ConfigError, DataError, EdgeoptError, ModelError
from edgeopt.models.faster_rcnn_loss import sampled
from edgeopt.spec import ModelSpec, replace
from edgeopt.train import Trained, TrainProgress, train
from edgeopt.train.together import Group


class Steady(Brighter):
    """Without dropout, which every process draws by itself; with a layer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(16, 2))
        self.unread = nn.Linear(2, 2)


class Leaving(Steady):
    """Ends the process that did not start the training, in its first step."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            os._exit(3)
        return super().forward(images)


class Unlike(Steady):
    """Fails in the process that did not start the training."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            raise ModelError("the second process has no bananas")
        return super().forward(images)


class Full(Steady):
    """A network for which the memory of all processes holds no more than two images each."""

    ranks = (0, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > 2 and torch.distributed.get_rank() in self.ranks:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().forward(images)


class FullElsewhere(Full):
    """The memory of the process that did not start the training is the smaller one."""

    ranks = (1,)


class FullOfOne(Steady):
    """Memory holds no image."""

    def forward(self, images: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def trained(
    work: Path, kind: type[nn.Module], spec: ModelSpec, data: Dataset, held_out: Dataset | None, **settings: object
) -> tuple[nn.Module, Trained]:
    module = seeded(kind)
    found = train(module, spec, data, held_out, replace(CONFIG, **settings), work, silent)
    return module, found


def assert_near(first: nn.Module, second: nn.Module, tolerance: float) -> None:
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=tolerance, atol=tolerance, msg=name)


def test_two_processes_learn_the_weights_of_one(tmp_path: Path) -> None:
    """Statistics of BatchNorm, averages, weights of classes, an odd batch, and a layer without a gradient."""
    settings = {"epochs": 3, "batch_size": 5, "sampling": "balanced"}
    given = (Steady, HALVES_SPEC, halves(40), halves(16, seed=1))
    one, alone = trained(tmp_path / "one", *given, **settings)
    two, together = trained(tmp_path / "two", *given, processes=2, **settings)
    assert_near(one, two, 1e-4)
    np.testing.assert_allclose(
        [each.loss for each in alone.history], [each.loss for each in together.history], rtol=1e-4
    )
    assert [each.metric for each in alone.history] == [each.metric for each in together.history]
    assert "forward" not in vars(two.body[1]), "the BatchNorms are ordinary ones again"


def test_two_processes_learn_a_detector_as_one_does(tmp_path: Path) -> None:
    """The loss is divided by the objects of the whole batch, of which the processes have unlike numbers."""
    settings = {"epochs": 2, "batch_size": 4, "augmentation": Augmentation(mosaic=0.5, brightness=0.3)}
    given = (Spotter, SPOTS_SPEC, spots(12), None)
    one, _ = trained(tmp_path / "one", *given, **settings)
    two, _ = trained(tmp_path / "two", *given, processes=2, **settings)
    assert_near(one, two, 1e-4)


def test_what_one_process_has_learnt_two_go_on_with(tmp_path: Path) -> None:
    given = (Steady, HALVES_SPEC, halves(40), halves(16, seed=1))
    whole, _ = trained(tmp_path / "whole", *given, epochs=4, batch_size=8)
    module = seeded(Steady)
    config = replace(CONFIG, epochs=4, batch_size=8)

    def stop(state: TrainProgress) -> None:
        if state.epoch == 3:
            raise DataError("enough")

    with pytest.raises(DataError, match="enough"):
        train(module, HALVES_SPEC, halves(40), halves(16, seed=1), config, tmp_path / "work", stop)
    rest, found = trained(tmp_path / "work", *given, epochs=4, batch_size=8, processes=2)
    assert found.resumed_from == 2
    assert_near(whole, rest, 1e-4)


def test_a_process_that_ends_ends_the_training_with_what_it_said(tmp_path: Path) -> None:
    given = (HALVES_SPEC, halves(16), None)
    with pytest.raises(EdgeoptError, match="the second process has no bananas"):
        trained(tmp_path / "a", Unlike, *given, processes=2)
    with pytest.raises(
        ModelError, match=r"another process of the training failed: it ended with exit code 3\. Train in"
    ):
        trained(tmp_path / "b", Leaving, *given, processes=2)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("kind", "size", "advice"),
    [
        (Full, 16, r"Try \[train\] batch_size = 8"),
        (FullElsewhere, 16, r"Try \[train\] batch_size = 8"),
        (FullOfOne, 2, "That is one image each. Take a smaller"),
    ],
)
def test_a_batch_that_does_not_fit_in_several_processes(
    kind: type[nn.Module], size: int, advice: str, tmp_path: Path
) -> None:
    message = rf"a batch of {size} images in 2 processes does not fit into the memory of cpu\. {advice}"
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path, kind, HALVES_SPEC, halves(16), None, batch_size=size, processes=2)
    assert not torch.distributed.is_initialized()


def test_what_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    module = seeded(Steady)
    module.extra = lambda: None
    with pytest.raises(ConfigError, match=r"processes = 2 sends the network .* cannot be sent: .*lambda"):
        train(module, HALVES_SPEC, halves(16), None, replace(CONFIG, processes=2), tmp_path, silent)


def test_settings_that_several_processes_cannot_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"processes = 3 share each batch, and batch_size = 2"):
        TrainConfig(processes=3, batch_size=2)
    with pytest.raises(ConfigError, match=r"fewer images \(2\) than \[train\] processes = 3"):
        trained(tmp_path, Steady, HALVES_SPEC, halves(2), None, processes=3)
    recipe = 'name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[train]\nprocesses = 2\n'
    with pytest.raises(ConfigError, match=r"\[compress\] trains with a teacher, in one process"):
        parse_config(recipe + '[compress]\nlatency = "0.5x"\n')
    with pytest.raises(ConfigError, match=r"\[train.adversarial\] trains in one process"):
        parse_config(recipe + "[train.adversarial]\n")
    assert TrainConfig(processes=2).deciding == TrainConfig().deciding


def test_processes_have_all_images_of_a_batch_between_them() -> None:
    batch = np.arange(7)
    parts = [Group(rank, 3).share(batch) for rank in range(3)]
    assert np.concatenate(parts).tolist() == batch.tolist()
    assert min(map(len, parts)) == 2


def test_what_is_drawn_of_an_image_does_not_depend_on_the_others() -> None:
    shown = torch.tensor([0, -1, -1, 0, -1, -1, -1, -1])
    draws = [sampled(shown, 4, 0.25, torch.Generator().manual_seed(7)) for _ in range(2)]
    torch.rand(5)
    assert torch.equal(*draws)
