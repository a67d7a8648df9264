"""Training on whatever hardware there is: devices, reduced types, threads, full memory and early stops."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from test_train import CONFIG, HALVES_SPEC, SPOTS_SPEC, Brighter, Spotter, halves, seeded, silent, spots
from torch import Tensor, nn

from edgeopt.config import Augmentation, TrainConfig, parse_config
from edgeopt.errors import ConfigError
from edgeopt.pipeline.training import described
from edgeopt.spec import replace
from edgeopt.train import Trained, train
from edgeopt.train.ahead import Ahead
from edgeopt.train.device import Place, place_of
from edgeopt.train.loop import worker_count

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


def trained(work: Path, module: nn.Module | None = None, **settings: object) -> tuple[nn.Module, Trained]:
    module = module or seeded(Brighter)
    config = replace(CONFIG, **settings)
    return module, train(module, HALVES_SPEC, halves(40), halves(16, seed=1), config, work, silent)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0, msg=name)


@WITHOUT_GPU
def test_auto_takes_the_processor_where_there_is_no_gpu_and_others_are_refused(tmp_path: Path) -> None:
    assert place_of(TrainConfig()).reduced is None
    assert_same(trained(tmp_path / "a")[0], trained(tmp_path / "b", device="cpu")[0])
    for name in ("cuda", "cuda:3"):
        with pytest.raises(ConfigError, match=f"device = '{name}' is not on this machine, which has .*cpu"):
            place_of(TrainConfig(device=name))
    with pytest.raises(ConfigError, match="'fp16' needs a CUDA GPU"):
        place_of(TrainConfig(device="cpu", precision="fp16"))
    with pytest.raises(ConfigError, match="device"):
        parse_config('name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[train]\ndevice = "gpu"')


def test_where_a_training_runs_does_not_make_it_another_training() -> None:
    assert TrainConfig(device="cpu", workers=3, tensorboard="runs", mlflow="m.db").deciding == TrainConfig().deciding
    assert TrainConfig(precision="bf16").deciding != TrainConfig().deciding


# Threads


def test_batches_of_threads_give_the_very_same_weights(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / f"{count}", workers=count)[0] for count in (0, 3))
    assert_same(first, second)
    config = TrainConfig(epochs=2, batch_size=4, augmentation=Augmentation(mosaic=0.5, brightness=0.3))
    found = []
    for workers in (0, 2):
        module = seeded(Spotter)
        settings = replace(config, workers=workers)
        train(module, SPOTS_SPEC, spots(12), None, settings, tmp_path / f"spots{workers}", silent)
        found.append(module)
    assert_same(*found)


def test_threads_run_ahead_no_further_than_they_may() -> None:
    made: list[int] = []
    gate = threading.Semaphore(0)

    def make(number: int) -> int:
        gate.acquire()
        made.append(number)
        return 10 * number

    with Ahead(make, 100, workers=2) as items:
        gate.release(100)
        assert [items.take(number) for number in range(3)] == [0, 10, 20]
        assert max(made) <= 2 + 4
        assert items.take(50) == 500
        assert items.take(1) == 10
    assert len(made) < 20


def test_what_fails_in_a_thread_fails_where_it_is_asked_for() -> None:
    def broken(number: int) -> int:
        raise ConfigError(f"no {number}")

    with Ahead(broken, 3, workers=1) as items, pytest.raises(ConfigError, match="no 0"):
        items.take(0)


def test_processors_prepare_batches_themselves_and_gpus_are_fed() -> None:
    assert worker_count(TrainConfig(), torch.device("cpu")) == 0
    assert worker_count(TrainConfig(), torch.device("cuda")) >= 1
    assert worker_count(TrainConfig(workers=0), torch.device("cuda")) == 0


# Types and memory


class Small(Brighter):
    """A network for which memory holds no more than some images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().forward(images)


def test_a_batch_that_does_not_fit_says_which_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"16 images does not fit into the memory of cpu: 4 fit\. Set .* = 4"):
        trained(tmp_path / "a", Small(5), batch_size=16)
    with pytest.raises(ConfigError, match="not even one fits"):
        trained(tmp_path / "b", Small(0), batch_size=16)


def test_other_errors_pass(tmp_path: Path) -> None:
    class Broken(Brighter):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trained(tmp_path, Broken())


def test_in_bfloat16_weights_and_losses_stay_float(tmp_path: Path) -> None:
    module, result = trained(tmp_path, precision="bf16", device="cpu")
    assert all(value.dtype != torch.bfloat16 for value in module.state_dict().values())
    assert result.metric is not None
    assert result.metric > 0.8
    other = trained(tmp_path / "float")[0]
    differences = [(a - b).abs().max() for a, b in zip(module.parameters(), other.parameters(), strict=True)]
    assert 0 < max(differences) < 0.2


def test_in_float16_the_loss_is_scaled_and_a_resumed_training_knows_by_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(torch.device("cpu"), torch.float16)
    monkeypatch.setattr("edgeopt.train.loop.place_of", lambda config: place)
    whole, _ = trained(tmp_path / "whole")
    stopped = Stop(at=7)
    config = CONFIG
    with pytest.raises(KeyboardInterrupt):
        train(seeded(Brighter), HALVES_SPEC, halves(40), halves(16, seed=1), config, tmp_path / "cut", stopped)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["scaler"]["scale"] > 1
    resumed, _ = trained(tmp_path / "cut")
    assert_same(whole, resumed)


class Stop:
    """Interrupts after some steps."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, _: object) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


# Early stops


class Stuck(Brighter):
    """Its best class never changes."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 0.0 + torch.tensor([1.0, 0.0])


def test_a_training_that_gets_no_better_stops_and_stays_stopped(tmp_path: Path) -> None:
    for _ in range(2):
        _, result = trained(tmp_path, seeded(Stuck), epochs=9, patience=2)
        assert result.stopped_early
        assert len(result.history) == 3
    _, result = trained(tmp_path / "all", seeded(Stuck), epochs=4)
    assert not result.stopped_early
    assert len(result.history) == 4


def test_an_early_stop_is_told() -> None:
    result = Trained("top-1", 0.9, 3, (), 0, stopped_early=True)
    assert "stopped early, as it got no better" in described(result, 10, 40)
