"""Resizing, padding and letterboxes as the libraries that networks are trained with do them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgeopt.errors import DataError
from edgeopt.preprocess import preprocess
from edgeopt.preprocess.antialias import taps
from edgeopt.spec import Letterbox, Pad, Preprocessing, Resize, ResizeLongerSide, ResizeShorterSide, Step

PILLOW = {"linear": "BILINEAR", "cubic": "BICUBIC", "lanczos": "LANCZOS"}
TORCH = {"linear": "bilinear", "cubic": "bicubic"}


def picture(height: int = 131, width: int = 173) -> np.ndarray:
    """Edges, slopes and noise."""
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (9, 11, 3)), np.ones((16, 17, 1)))[:height, :width]
    return np.clip(image + random.normal(0, 20, image.shape), 0, 255).astype(np.uint8)


def prepared(image: np.ndarray, *steps: Step) -> np.ndarray:
    spec = Preprocessing(steps=steps, channels="BGR", layout="NHWC")
    return preprocess(image, spec)[0]


def by_torch(image: np.ndarray, size: tuple[int, int], mode: str, *, antialias: bool) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="torch is not installed: parity with it was not tested")
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    tensor = tensor if antialias else tensor.float()
    found = torch.nn.functional.interpolate(tensor, size=size, mode=mode, antialias=antialias)
    return found[0].permute(1, 2, 0).numpy()


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - np.clip(np.rint(second), 0, 255).astype(int)).max())


class TestParity:
    @pytest.mark.parametrize("size", [(64, 64), (32, 160), (97, 40)])
    @pytest.mark.parametrize("interpolation", TORCH)
    def test_antialiased_as_torch_within_one_level(self, interpolation, size):
        found = prepared(picture(), Resize(size=size, interpolation=interpolation, antialias=True))
        assert distance(found, by_torch(picture(), size, TORCH[interpolation], antialias=True)) <= 1

    @pytest.mark.parametrize("size", [(64, 64), (300, 250), (32, 160)])
    @pytest.mark.parametrize("interpolation", TORCH)
    def test_without_antialiasing_as_torch_within_one_level(self, interpolation, size):
        found = prepared(picture(), Resize(size=size, interpolation=interpolation))
        assert distance(found, by_torch(picture(), size, TORCH[interpolation], antialias=False)) <= 1

    @pytest.mark.parametrize("size", [(131, 64), (40, 173), (131, 250), (64, 64), (200, 300)])
    @pytest.mark.parametrize("interpolation", PILLOW)
    def test_antialiased_as_pillow_within_one_level(self, interpolation, size):
        pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: parity with it was not tested")
        expected = np.asarray(
            pillow.fromarray(picture()).resize(size[::-1], getattr(pillow.Resampling, PILLOW[interpolation]))
        )
        found = prepared(picture(), Resize(size=size, interpolation=interpolation, antialias=True))
        assert distance(found, expected) <= 1

    def test_the_wrong_filter_is_far_away(self):
        fine = prepared(picture(), Resize(size=(32, 32), interpolation="cubic", antialias=True))
        assert distance(fine, prepared(picture(), Resize(size=(32, 32), interpolation="cubic"))) > 30


@pytest.mark.parametrize("interpolation", PILLOW)
@pytest.mark.parametrize(("before", "after"), [(640, 224), (7, 100), (5, 1), (1, 3)])
def test_weights_sum_to_one_and_lie_in_the_image(before, after, interpolation):
    for first, end, weights in taps(before, after, interpolation):
        assert 0 <= first < end <= before
        assert weights.sum() == pytest.approx(1.0, abs=1e-5)


def test_one_colour_stays_one_colour():
    image = np.full((50, 70, 3), (3, 128, 252), np.uint8)
    found = prepared(image, ResizeShorterSide(pixels=20, interpolation="lanczos", antialias=True))
    assert found.shape == (20, 28, 3)
    assert (found == (3, 128, 252)).all()


def test_yolo_nas_scales_to_636_and_pads_to_640():
    found = prepared(np.full((480, 640, 3), 9, np.uint8), ResizeLongerSide(pixels=636), Pad(size=(640, 640)))
    rows, columns = np.nonzero((found == 9).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (81, 557, 2, 637)
    assert (found[0] == 114).all()


class TestPad:
    def test_to_multiples_at_the_top_left_with_a_colour(self):
        image = np.full((33, 64, 3), 9, np.uint8)
        found = prepared(image, Pad(multiple=32, fill=(1, 2, 3), anchor="top_left"))
        assert found.shape == (64, 64, 3)
        assert (found[:33] == 9).all()
        assert (found[33:] == (3, 2, 1)).all()  # blue first

    def test_boxes_find_their_way_back(self):
        steps = (ResizeLongerSide(pixels=60, antialias=True), Pad(multiple=32, fill=0))
        _, geometry = preprocess(np.zeros((90, 120, 3), np.uint8), Preprocessing(steps=steps))
        boxes = np.array([[10.0, 20.0, 50.0, 80.0]], np.float32)
        np.testing.assert_allclose(geometry.to_original(geometry.to_network(boxes)), boxes, atol=1e-4)
        assert (geometry.offset_x, geometry.offset_y) == (2.0, 9.0)

    def test_an_image_that_is_larger_is_refused(self):
        with pytest.raises(DataError, match="640 x 480 pixels cannot be padded to 320 x 320"):
            prepared(np.zeros((480, 640, 3), np.uint8), Pad(size=(320, 320)))

    @pytest.mark.parametrize("step", [{}, {"size": [8, 8], "multiple": 8}])
    def test_either_a_size_or_a_multiple(self, step):
        with pytest.raises(msgspec.ValidationError, match="either size"):
            msgspec.convert({"type": "pad", **step}, Pad)


class TestLetterbox:
    def test_sides_are_cut_off_or_rounded(self):
        image = np.full((427, 640, 3), 9, np.uint8)  # 427 * .65 = 277.55
        for rounding, rows in (("down", 277), ("nearest", 278)):
            found = prepared(image, Letterbox(size=(416, 416), rounding=rounding))
            assert int((found == 9).all(axis=(1, 2)).sum()) == rows

    def test_the_rest_may_have_a_colour(self):
        found = prepared(np.zeros((10, 20, 3), np.uint8), Letterbox(size=(20, 20), fill=(123, 116, 103)))
        assert found[0, 0].tolist() == [103, 116, 123]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"type": "resize", "size": [8, 8], "antialias": True}, "antialias goes with"),
        ({"type": "resize", "size": [8, 8], "interpolation": "area", "antialias": True}, "not with 'area'"),
        ({"type": "letterbox", "size": [8, 8], "interpolation": "lanczos"}, "add antialias"),
        ({"type": "letterbox", "size": [8, 8], "fill": [1, 2, 256]}, "256|<= 255"),
    ],
)
def test_what_no_library_computes_is_refused(step, why):
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert(step, Step)
