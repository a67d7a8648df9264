"""Holding out, and refusing overlap."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeopt.config import DataConfig, DataSource
from edgeopt.dataset import Splits, imbalance, load, load_splits
from edgeopt.errors import DataError


def fill(folder: Path, first: int, **counts: int) -> None:
    """Write so many small images into each class folder, seeded from `first` on."""
    seed = first
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / name / f"{number}.png"), pixels)
            seed += 1


def folder_source(path: str) -> DataSource:
    return DataSource(format="image_folder", path=path)


def split(root: Path, calibration_images: int = 5, minimum_images: int = 2, **data: object) -> Splits:
    config = DataConfig(**data)
    return load_splits(config, root, calibration_images=calibration_images, minimum_images=minimum_images)


def names(splits: Splits) -> dict[str, set[str]]:
    return {name: {sample.name for sample in dataset} for name, dataset in splits.present().items()}


def test_missing_sets_are_held_out_from_train_by_class(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=30, dog=10)
    splits = split(tmp_path, train=folder_source("train"), holdout=0.2)
    assert {name: dataset.class_counts().tolist() for name, dataset in splits.present().items()} == {
        "train": [14, 5],
        "validation": [6, 2],
        "test": [6, 2],
        "calibration": [4, 1],
    }
    parts = names(splits)
    assert len(set.union(*parts.values())) == 40 == sum(map(len, parts.values()))


def test_holding_out_follows_the_seed(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=30, dog=10)
    first, again, other = (names(split(tmp_path, train=folder_source("train"), seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_given_sets_are_not_touched(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=20)
    fill(tmp_path / "test", 100, cat=7)
    splits = split(tmp_path, train=folder_source("train"), test=folder_source("test"), holdout=0.1)
    assert {name: len(dataset) for name, dataset in splits.present().items()} == {
        "train": 16,
        "validation": 2,
        "test": 7,
        "calibration": 2,
    }


def test_sets_without_a_train_set_stay_missing(tmp_path: Path) -> None:
    fill(tmp_path / "test", 0, cat=3)
    splits = split(tmp_path, test=folder_source("test"))
    assert list(splits.present()) == ["test"]
    assert splits.calibration is None


def test_a_given_calibration_set_is_cut_evenly(tmp_path: Path) -> None:
    fill(tmp_path / "calibration", 0, cat=20, dog=3)
    splits = split(tmp_path, calibration_images=6, calibration=folder_source("calibration"))
    assert splits.calibration is not None
    assert splits.calibration.class_counts().tolist() == [3, 3]


def test_too_few_calibration_images_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "calibration", 0, cat=3)
    with pytest.raises(DataError, match="3 of 3 images can be used, at least 4 are needed"):
        split(tmp_path, minimum_images=4, calibration=folder_source("calibration"))


def test_an_overlap_names_both_files_and_a_way_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=20)
    fill(tmp_path / "test", 100, cat=4)
    shutil.copy(tmp_path / "train" / "cat" / "3.png", tmp_path / "test" / "cat" / "copy.png")
    with pytest.raises(DataError, match=r"test image cat/copy.png is the same .* train image cat/3.png.*exclude"):
        split(tmp_path, train=folder_source("train"), test=folder_source("test"))


def test_calibration_and_test_may_not_overlap_either(tmp_path: Path) -> None:
    fill(tmp_path / "one", 0, cat=4)
    with pytest.raises(DataError, match=r"calibration image .* test image .*and 3 more"):
        split(tmp_path, test=folder_source("one"), calibration=folder_source("one"))


def test_an_image_that_train_holds_twice_is_never_held_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=20)
    for number in range(10):
        shutil.copy(tmp_path / "train" / "cat" / f"{number}.png", tmp_path / "train" / "cat" / f"copy{number}.png")
    splits = split(tmp_path, train=folder_source("train"), holdout=0.1)
    assert splits.train is not None
    hashes = [{d.content_hash(i) for i in range(len(d))} for d in splits.present().values()]
    assert all(not hashes[0] & other for other in hashes[1:])


def test_a_train_set_too_small_to_part_says_which_sets_to_give(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=6)
    with pytest.raises(DataError, match=r"has 6 images: too few to hold out .*\[data.calibration\]"):
        split(tmp_path, minimum_images=4, train=folder_source("train"))


def test_labels_that_differ_between_sets_are_found_before_any_image_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "train", 0, ant=10, cat=10)
    fill(tmp_path / "test", 100, bee=4)
    monkeypatch.setattr("edgeopt.dataset.loading.inspect_all", lambda paths: pytest.fail("images were read first"))
    with pytest.raises(DataError, match="class 'bee' is not among the 2 labels"):
        split(tmp_path, train=folder_source("train"), test=folder_source("test"))


def test_all_sets_have_the_labels_of_the_first(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, ant=10, cat=10)
    fill(tmp_path / "test", 100, cat=4)
    splits = split(tmp_path, train=folder_source("train"), test=folder_source("test"))
    assert splits.test is not None
    assert splits.test.labels == ("ant", "cat")
    assert splits.test[0].target == 1


def test_unlabelled_images_can_calibrate(tmp_path: Path) -> None:
    fill(tmp_path / "test", 0, cat=4)
    fill(tmp_path / "any", 50, mixed=8)
    splits = split(tmp_path, test=folder_source("test"), calibration=DataSource(format="images", path="any"))
    assert splits.calibration is not None
    assert splits.calibration.task is None
    assert len(splits.calibration) == 5


def test_sets_of_different_tasks_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=9)
    (tmp_path / "boxes").mkdir()
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "boxes" / "0.png")
    (tmp_path / "boxes" / "0.txt").write_text("0 .5 .5 .5 .5")
    test = DataSource(format="yolo", path="boxes", annotations="boxes", labels=("cat",))
    with pytest.raises(DataError, match=r"different tasks .train: classification, test: detection"):
        split(tmp_path, train=folder_source("train"), test=test)


def test_rare_and_absent_classes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "train", 0, cat=60, dog=3)
    with caplog.at_level(logging.WARNING):
        split(tmp_path, train=folder_source("train"))
    assert re.search(r"'cat' occurs 4\d times, 'dog' only \d. Consider class_weights", caplog.text)
    dataset = load(folder_source("train"), tmp_path, labels=("cat", "dog", "eel"))
    assert "1 of 3 classes have no example: eel" in (imbalance(dataset) or "")


def test_even_classes_are_not_warned_of(tmp_path: Path) -> None:
    fill(tmp_path / "train", 0, cat=4, dog=8)
    assert imbalance(load(folder_source("train"), tmp_path)) is None
