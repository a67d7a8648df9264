"""The training stage: interrupted it goes on or gives what it has, and it says what it did."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt.config import Config, parse_config
from edgeopt.errors import ModelError
from edgeopt.pipeline import train_model


class StopsInEpoch(Watch):
    """Interrupts the training in its `epoch`th epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._epoch = f"epoch {epoch}/"

    def update(self, done: float, total: float, text: str = "") -> None:
        super().update(done, total, text)
        if text.startswith(self._epoch):
            raise KeyboardInterrupt


def recipe(*overrides: str) -> Config:
    return parse_config(RECIPE, overrides=("train.epochs=3", *overrides))


def interrupted(work: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="--best-so-far"):
        train_model(recipe(), Path.cwd(), work, work / "never.safetensors", StopsInEpoch(2))


def test_an_interrupted_training_gives_its_best_and_can_still_be_finished(tmp_path: Path) -> None:
    interrupted(tmp_path)
    watch = Watch()
    best = train_model(recipe(), Path.cwd(), tmp_path, tmp_path / "best.safetensors", watch, best_so_far=True)
    finished = train_model(recipe(), Path.cwd(), tmp_path, tmp_path / "finished.safetensors", Watch())
    whole = train_model(recipe(), Path.cwd(), tmp_path / "anew", tmp_path / "whole.safetensors", Watch())
    assert best.read_bytes() != finished.read_bytes()
    assert finished.read_bytes() == whole.read_bytes()


def test_the_best_of_a_finished_training_is_the_training(tmp_path: Path) -> None:
    whole = train_model(recipe(), Path.cwd(), tmp_path, tmp_path / "whole.safetensors", Watch())
    watch = Watch()
    best = train_model(recipe(), Path.cwd(), tmp_path, tmp_path / "best.safetensors", watch, best_so_far=True)
    assert best.read_bytes() == whole.read_bytes()
    assert "train" in watch.reused


def test_accuracy_reads_as_everywhere_else(tmp_path: Path) -> None:
    watch = Watch()
    train_model(recipe("train.epochs=1"), Path.cwd(), tmp_path, tmp_path / "one.safetensors", watch)
    assert re.match(r"1 epoch on 180 images, validation top-1 \d+\.\d\d %", watch.said["train"])


def test_the_best_of_no_training_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint of this training"):
        train_model(recipe(), Path.cwd(), tmp_path, tmp_path / "best.safetensors", Watch(), best_so_far=True)


def test_own_weights_keep_the_classes_of_the_data_without_training(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from edgeopt.pipeline.sources import is_published

    whole = train_model(recipe(), Path.cwd(), tmp_path, tmp_path / "ten.safetensors", Watch())
    state = load_file(whole)
    state["classifier.4.weight"], state["classifier.4.bias"] = (
        state["classifier.4.weight"][:3].contiguous(),
        state["classifier.4.bias"][:3].contiguous(),
    )
    save_file(state, tmp_path / "three.safetensors")
    text = RECIPE.replace("[train]\nepochs = 1\n", "")
    ten = parse_config(text, overrides=(f"model.weights={whole}",))
    three = parse_config(text, overrides=(f"model.weights={tmp_path / 'three.safetensors'}",))
    assert is_published(ten, Path.cwd())
    assert not is_published(three, Path.cwd())
