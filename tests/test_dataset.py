"""Samples, boxes, content hashes, and what `load` does to any format: checking, excluding, drawing, relabelling."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.config import DataSource
from edgeopt.dataset import ArrayPicture, Boxes, Dataset, Sample, load
from edgeopt.dataset.loading import fitted
from edgeopt.dataset.sampling import sample_indices
from edgeopt.errors import ConfigError, DataError


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, seed: int, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(seed, **size))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with four and two images."""
    for number in range(4):
        write(tmp_path / "cat" / f"{number}.png", number)
    for number in range(2):
        write(tmp_path / "dog" / f"{number}.png", 10 + number)
    return tmp_path


def read(folder: Path, **options: object) -> Dataset:
    return load(DataSource(format="image_folder", path=".", **options), folder)


def in_memory(*targets: int | Boxes | None) -> Dataset:
    samples = (Sample(str(n), target, ArrayPicture(picture(n))) for n, target in enumerate(targets))
    return Dataset("classification", ("a", "b"), tuple(samples))


def test_a_dataset_is_a_sequence_that_decodes_on_demand(folder: Path) -> None:
    dataset = read(folder)
    assert len(dataset) == 6
    assert [sample.name for sample in dataset][:2] == ["cat/0.png", "cat/1.png"]
    assert [sample.target for sample in dataset] == [0, 0, 0, 0, 1, 1]
    np.testing.assert_array_equal(dataset.image(4), picture(10))
    assert len(dataset[1:3]) == 2
    assert dataset.class_counts().tolist() == [4, 2]


def test_copies_have_one_content_hash_whatever_their_format_or_name(folder: Path) -> None:
    write(folder / "dog" / "copy.bmp", 0)
    dataset = read(folder)
    names = [sample.name for sample in dataset]
    original, copy, other = (names.index(name) for name in ("cat/0.png", "dog/copy.bmp", "cat/1.png"))
    assert dataset.content_hash(original) == dataset.content_hash(copy)
    assert dataset.content_hash(original) != dataset.content_hash(other)


def test_a_hash_tells_shapes_apart() -> None:
    flat = np.zeros((2, 8), np.uint8)
    assert ArrayPicture(flat).digest() != ArrayPicture(flat.reshape(4, 4)).digest()


def test_grey_arrays_are_read_as_three_equal_channels() -> None:
    grey = picture(1)[..., 0]
    image = ArrayPicture(grey).read()
    assert image.shape == (12, 16, 3)
    np.testing.assert_array_equal(image[..., 2], grey)


def test_a_changed_file_is_read_anew(folder: Path) -> None:
    before = read(folder).content_hash(0)
    write(folder / "cat" / "0.png", 99, height=14)
    assert read(folder).content_hash(0) != before


def test_the_fingerprint_follows_contents_targets_and_order() -> None:
    dataset = in_memory(0, 1, 0)
    same = in_memory(0, 1, 0).fingerprint()
    assert dataset.fingerprint() == same
    assert in_memory(0, 1, 1).fingerprint() != same
    assert dataset.subset([0, 2, 1]).fingerprint() != same
    box = Boxes.of([(1, 2, 3, 4)], [0])
    assert in_memory(box).fingerprint() != in_memory(Boxes.of([(1, 2, 3, 5)], [0])).fingerprint()


def test_a_subset_keeps_its_samples_and_their_hashes() -> None:
    dataset = in_memory(0, 1, 0)
    hashes = [dataset.content_hash(index) for index in range(3)]
    part = dataset.subset([2, 1])
    assert [sample.name for sample in part] == ["2", "1"]
    assert [part.content_hash(0), part.content_hash(1)] == [hashes[2], hashes[1]]


def test_boxes_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        Boxes(np.zeros((2, 4), np.float32), np.zeros(1, np.int64), np.zeros(2, np.bool_))


def test_no_boxes_still_have_four_columns() -> None:
    assert Boxes.of([], []).boxes.shape == (0, 4)


def test_crowds_do_not_count_as_examples_of_their_class() -> None:
    boxes = Boxes.of([(0, 0, 4, 4), (0, 0, 8, 8)], [1, 1], [False, True])
    assert in_memory(boxes).class_counts().tolist() == [0, 1]


@pytest.mark.parametrize("damage", ["empty", "text", "cut jpeg", "cut png"])
def test_a_damaged_image_is_left_out_with_one_counted_warning(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write(folder / "whole.jpg", 5, height=64, width=64), write(folder / "whole.png", 5, height=64, width=64)
    jpeg, png = (path.read_bytes() for path in whole)
    content = {"empty": b"", "text": b"no image", "cut jpeg": jpeg[: len(jpeg) // 2], "cut png": png[: len(png) // 2]}
    bad = folder / "cat" / ("bad.png" if damage == "cut png" else "bad.jpg")
    bad.write_bytes(content[damage])
    with caplog.at_level(logging.WARNING):
        dataset = read(folder)
    assert len(dataset) == 6
    assert len(dataset.skipped) == 1
    assert "cat/bad." in dataset.skipped[0]
    assert [record.message.count("1 of 7 images left out") for record in caplog.records] == [1]


def test_a_jpeg_with_a_thumbnail_before_the_cut_is_still_cut_off(folder: Path) -> None:
    jpeg = write(folder / "whole.jpg", 5, height=64, width=64).read_bytes()
    thumbnail = b"\xff\xe1\x00\x08Ex\xff\xd9xx"
    (folder / "cat" / "bad.jpg").write_bytes(jpeg[:2] + thumbnail + jpeg[2 : len(jpeg) // 2])
    assert len(read(folder).skipped) == 1


def test_too_few_usable_images_are_an_error_that_says_why(folder: Path) -> None:
    for path in (folder / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 images can be used, at least 3 are needed.*is empty.*and 1 more"):
        load(DataSource(format="image_folder", path="."), folder, minimum_images=3)


def test_exclude_matches_paths_and_file_names(folder: Path) -> None:
    assert len(read(folder, exclude=("cat/*",))) == 2
    assert len(read(folder, exclude=("0.*", "cat/3.png"))) == 3


def test_an_exclude_pattern_that_matches_nothing_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(folder, exclude=("bird/*",))
    assert "'bird/*' matches no image" in caplog.text


def test_limit_draws_evenly_over_the_classes(folder: Path) -> None:
    assert read(folder, limit=4).class_counts().tolist() == [2, 2]
    assert read(folder, limit=5).class_counts().tolist() == [3, 2]
    assert len(read(folder, limit=100)) == 6


def test_limit_is_drawn_by_seed(folder: Path) -> None:
    def names(seed: int) -> list[str]:
        return [sample.name for sample in read(folder, limit=3, seed=seed)]

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(8)}) > 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 9))
def test_an_even_draw_is_as_even_as_the_classes_allow(classes: list[int], count: int, seed: int) -> None:
    chosen = sample_indices(classes, count, seed, "even")
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(classes))
    have, drawn = np.bincount(classes, minlength=5), np.bincount([classes[i] for i in chosen], minlength=5)
    fullest = drawn.max() if len(chosen) else 0
    assert all(drawn[c] == have[c] or drawn[c] >= fullest - 1 for c in range(5))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_proportional_draw_keeps_the_shares_of_the_classes(sizes: list[int], part: float, seed: int) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes).tolist()
    count = round(part * len(classes))
    drawn = np.bincount(
        [classes[i] for i in sample_indices(classes, count, seed, "proportional")], minlength=len(sizes)
    )
    assert drawn.sum() == count
    # What Webster's method means: no image given to one class would bring another nearer to its share.
    assert ((drawn - 0.5) / sizes).max() <= ((drawn + 0.5) / sizes).min() + 1e-9


def test_the_models_labels_are_matched_by_name(folder: Path) -> None:
    dataset = load(DataSource(format="image_folder", path="."), folder, labels=("dog", "bird", "cat"))
    assert dataset.labels == ("dog", "bird", "cat")
    assert dataset.class_counts().tolist() == [2, 0, 4]


def test_a_source_with_labels_of_its_own_is_mapped_onto_the_models(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", 1)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 .5 .5 .5 .5\n")
    source = DataSource(format="yolo", path="images", labels=("cat", "dog"))
    dataset = load(source, tmp_path, labels=("dog", "horse"))
    boxes = dataset[0].target
    assert isinstance(boxes, Boxes)
    assert boxes.classes.tolist() == [0]


def test_a_class_that_the_model_lacks_is_an_error_with_a_suggestion(folder: Path) -> None:
    with pytest.raises(DataError, match=r"class 'dog' is not among the 2 labels. Did you mean 'dogs'\?"):
        load(DataSource(format="image_folder", path="."), folder, labels=("cat", "dogs"))


def test_a_class_that_is_like_none_of_many_is_answered_with_some_of_them_and_where_to_name_others(folder: Path) -> None:
    labels = tuple(f"class {number:03d}" for number in range(80))
    with pytest.raises(
        DataError, match=r"class 018, class 019 and 60 more\. If .* \[model\] labels = \[\"cat\", \.\.\.\]"
    ):
        load(DataSource(format="image_folder", path="."), folder, labels=labels)


def test_a_format_that_needs_a_path_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'coco' needs `path`"):
        load(DataSource(format="coco"), tmp_path)


box = st.tuples(*[st.floats(-50, 150, width=32)] * 4)


@given(st.lists(box, max_size=8), st.booleans())
def test_fitted_boxes_lie_inside_the_image_and_have_a_size(rows: list[tuple[float, ...]], fractional: bool) -> None:
    boxes = fitted(Boxes.of(rows, [0] * len(rows)), (40, 90), fractional=fractional).boxes
    assert (boxes >= 0).all()
    assert (boxes <= [90, 40, 90, 40]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_boxes_that_are_not_finite_are_dropped() -> None:
    target = Boxes.of([(0, 0, np.nan, 5), (0, 0, np.inf, 5), (1, 1, 3, 3)], [0, 1, 2], [False, False, True])
    kept = fitted(target, (10, 10), fractional=False)
    assert kept.classes.tolist() == [2]
    assert kept.crowd.tolist() == [True]
