"""Augmentation: pixels and boxes move together, colours change alone, and a seed says it all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.config import Augmentation
from edgeopt.train.augment import (
    Scene,
    augment_image,
    augment_scene,
    clip,
    distort,
    mosaic,
    random_affine,
    recolor,
    warp,
)

FILL = 114
SIZE = (96, 128)
EVERYTHING = Augmentation(
    brightness=0.4, contrast=0.4, color_balance=0.2, scale=0.5, translate=0.2, horizontal_flip=0.5, mosaic=1.0
)


def rectangle_scene(box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Scene:
    """A white rectangle on black, boxed exactly."""
    pixels = np.zeros((*size, 3), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return Scene(pixels, np.array([box], np.float32), np.array([3], np.int64))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)


def test_no_change_returns_the_image_itself():
    pixels = noise()
    assert augment_image(pixels, Augmentation(), np.random.default_rng(0)) is pixels


def test_a_flip_mirrors_pixels_and_boxes_exactly():
    scene = rectangle_scene((10, 20, 40, 60))
    flipped = augment_scene([scene], SIZE, Augmentation(horizontal_flip=1.0), FILL, np.random.default_rng(0))
    assert np.array_equal(flipped.pixels, scene.pixels[:, ::-1])
    assert flipped.boxes.tolist() == [[88.0, 20.0, 118.0, 60.0]]
    assert flipped.classes.tolist() == [3]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), left=st.integers(2, 60), top=st.integers(2, 40))
def test_boxes_stay_on_their_objects(seed: int, left: int, top: int):
    scene = rectangle_scene((left, top, left + 40, top + 30))
    changes = Augmentation(scale=0.4, translate=0.3, horizontal_flip=0.5)
    moved = augment_scene([scene], SIZE, changes, 0, np.random.default_rng(seed))
    rows, columns = np.nonzero(moved.pixels[..., 0] > 127)
    if not len(moved.boxes):
        assert len(rows) < 0.5 * 40 * 30
        return
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(moved.boxes[0] - seen).max() <= 1.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_boxes_of_a_mosaic_lie_in_it_and_are_on_their_objects(seed: int):
    scenes = [rectangle_scene((left, 20, left + 50, 70)) for left in (4, 30, 50, 70)]
    joined = mosaic(scenes, SIZE, FILL, np.random.default_rng(seed))
    assert joined.pixels.shape == (192, 256, 3)
    for left, top, right, bottom in joined.boxes.astype(int):
        assert 0 <= left < right <= 256
        assert 0 <= top < bottom <= 192
        assert (joined.pixels[top:bottom, left:right] == 255).all()


def test_four_scenes_come_back_as_one_of_the_same_size():
    scenes = [rectangle_scene((30, 20, 80, 70))] * 4
    scene = augment_scene(scenes, SIZE, EVERYTHING, FILL, np.random.default_rng(1))
    assert scene.pixels.shape == (96, 128, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.boxes.dtype == np.float32
    assert len(scene.boxes) == len(scene.classes)


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([10, 10, 30, 30], [10, 10, 30, 30]),
        ([-10, 10, 10, 30], [0, 10, 10, 30]),  # half is left
        ([-18, 10, 2, 30], None),  # a tenth is left
        ([50, 10, 51, 30], None),  # thinner than two pixels
        ([200, 10, 220, 30], None),
    ],
)
def test_boxes_are_cut_at_the_border_or_dropped(box: list[int], kept: list[int] | None):
    scene = clip(Scene(np.zeros((64, 64, 3), np.uint8), np.array([box], np.float32), np.array([0])))
    assert scene.boxes.tolist() == ([kept] if kept else [])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_centre_stays_without_a_shift(seed: int):
    changes = Augmentation(scale=0.5, rotate_deg=90, shear_deg=20, horizontal_flip=0.5)
    matrix = random_affine(changes, (40, 60), (80, 20), np.random.default_rng(seed))
    assert matrix @ [30.0, 20.0, 1.0] == pytest.approx([10.0, 40.0, 1.0])


def test_turning_by_a_quarter_is_exact():
    pixels = noise()[:40, :40]
    quarter = np.array([[0.0, -1.0, 40.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.array_equal(warp(pixels, quarter, (40, 40), fill=0), np.rot90(pixels, -1))


def test_what_no_image_covers_is_filled_or_continued():
    pixels = np.full((8, 8, 3), 200, np.uint8)
    shift = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert (warp(pixels, shift, (8, 8), fill=FILL)[:, :3] == FILL).all()
    assert (warp(pixels, shift, (8, 8), fill=None) == 200).all()


def test_a_distortion_is_local_and_no_larger_than_asked():
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None] * 4, 60, axis=0).repeat(3, axis=2)
    moved = distort(ramp, 0.05, np.random.default_rng(0))
    shifts = (moved.astype(int) - ramp)[..., 0] / 4
    assert 0.5 < np.abs(shifts).max() <= 4.0  # 3 pixels; a cubic overshoots by up to a quarter
    assert np.abs(np.diff(shifts, axis=0)).max() < 1.0


def test_colour_changes_keep_shape_and_type_and_move_nothing():
    pixels = noise()
    changed = recolor(pixels, Augmentation(brightness=0.5, contrast=0.5, color_balance=0.5), np.random.default_rng(2))
    assert changed.shape == pixels.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, pixels)
    for channel in range(3):  # a brighter pixel stays at least as bright
        order = np.argsort(pixels[..., channel], axis=None)
        assert (np.diff(changed[..., channel].ravel()[order].astype(int)) >= 0).all()


def test_the_seed_decides_everything():
    scenes = [rectangle_scene((left, 20, left + 50, 70)) for left in (4, 30, 50, 70)]
    first, again, other = (
        augment_scene(scenes, SIZE, EVERYTHING, FILL, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_originals_are_not_written_to():
    scenes = [rectangle_scene((30, 20, 80, 70))] * 4
    for scene in scenes:
        scene.pixels.flags.writeable = False
    before = scenes[0].boxes.copy()
    augment_scene(scenes, SIZE, EVERYTHING, FILL, np.random.default_rng(0))
    assert np.array_equal(scenes[0].boxes, before)
