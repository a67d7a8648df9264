"""preprocess: every step against an independent computation, and boxes that find their way back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import ConfigError, DataError
from edgeopt.preprocess import Scratch, adjust, batch, header, preprocess, read_image, to_pictures
from edgeopt.preprocess.header import image_size
from edgeopt.spec import (
    Adjust,
    CenterCrop,
    Letterbox,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
)

sides = st.integers(1, 90)


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


FORMATS = (
    *(".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pam", ".pfm", ".hdr", ".sr"),
)


def tiff_entry(tag: int, value: int) -> bytes:
    """A big-endian directory entry: one LONG."""
    return tag.to_bytes(2, "big") + b"\0\x04\0\0\0\x01" + value.to_bytes(4, "big")


class TestReadImage:
    def test_decodes_to_bgr_from_a_path_or_from_bytes(self, tmp_path: Path):
        image = picture()
        file = tmp_path / "a.png"
        cv2.imwrite(str(file), image)
        for source in (file, str(file), file.read_bytes()):
            np.testing.assert_array_equal(read_image(source), image)

    def test_spreads_grey_and_drops_alpha(self, tmp_path: Path):
        grey, transparent = tmp_path / "grey.png", tmp_path / "alpha.png"
        cv2.imwrite(str(grey), picture()[:, :, 0])
        cv2.imwrite(str(transparent), np.dstack([picture(), picture()[:, :, 0]]))
        assert read_image(grey).shape == (48, 64, 3)
        np.testing.assert_array_equal(read_image(transparent), picture())

    def test_applies_exif_orientation(self, tmp_path: Path):
        jpeg = cv2.imencode(".jpg", picture(20, 30))[1].tobytes()
        entry = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"  # orientation 6: turn right
        exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + entry + b"\x00\x00\x00\x00"
        segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        assert read_image(jpeg[:2] + segment + jpeg[2:]).shape == (30, 20, 3)

    @pytest.mark.parametrize("content", [b"", b"not an image", "half"])
    def test_a_file_that_is_no_image_is_named(self, tmp_path: Path, content: bytes | str):
        file = tmp_path / "broken.png"
        png = cv2.imencode(".png", picture())[1].tobytes()
        file.write_bytes(png[: len(png) // 2] if isinstance(content, str) else content)
        with pytest.raises(DataError, match=r"broken\.png"):
            read_image(file)

    def test_a_missing_file_is_named(self, tmp_path: Path):
        with pytest.raises(DataError, match=r"nowhere\.jpg.*No such file"):
            read_image(tmp_path / "nowhere.jpg")

    def test_empty_bytes(self):
        with pytest.raises(DataError, match="0 bytes"):
            read_image(b"")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_the_header_says_how_large_it_is(self, suffix: str):
        pixels = picture(37, 53)
        if suffix in (".pgm", ".pbm"):
            pixels = pixels[..., 0]
        if suffix in (".hdr", ".pfm"):
            pixels = pixels.astype(np.float32)
        try:
            content = cv2.imencode(suffix, pixels)[1].tobytes()
        except cv2.error:
            pytest.skip(f"this OpenCV does not write {suffix}: its header not tested")
        assert image_size(content) == (37, 53)

    def test_the_header_of_lossy_and_of_old_files(self):
        lossy = cv2.imencode(".webp", picture(37, 53), [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
        assert image_size(lossy) == (37, 53)
        extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x34\0\0" + b"\x24\0\0"
        assert image_size(extended) == (37, 53)
        assert image_size(b"BM" + bytes(12) + b"\x0c\0\0\0" + b"\x35\0\x25\0") == (37, 53)
        assert image_size(b"MM\0*\0\0\0\x08\0\x02" + tiff_entry(256, 53) + tiff_entry(257, 37)) == (37, 53)
        assert image_size(b"P5 # a comment\n53 # another\n37 255\n") == (37, 53)

    @given(st.binary(max_size=200), st.sampled_from([magic for magic, _ in header._READERS]))
    def test_a_header_of_anything_is_a_size_or_none(self, content: bytes, magic: bytes):
        size = image_size(magic + content)
        assert size is None or (len(size) == 2 and min(size) >= 0)

    def test_too_many_pixels_are_refused_before_memory_is_taken(self, monkeypatch: pytest.MonkeyPatch):
        content = cv2.imencode(".png", picture(40, 50))[1].tobytes()
        monkeypatch.setattr(header, "LARGEST_PIXELS", 1999)
        with pytest.raises(DataError, match=r"50 x 40 pixels.*EDGEOPT_LARGEST_PIXELS"):
            read_image(content)
        monkeypatch.setenv("EDGEOPT_LARGEST_PIXELS", "2000")
        assert read_image(content).shape == (40, 50, 3)
        monkeypatch.setenv("EDGEOPT_LARGEST_PIXELS", "64M")
        with pytest.raises(ConfigError, match="64M"):
            read_image(content)

    @pytest.mark.parametrize("name", ["bomb-32767.png", "bomb-32767-trunc.png", "lf-image-timeout-*"])
    def test_files_that_unpack_into_all_memory(self, shared: Path, name: str):
        files = sorted((shared.parent / "cases" / "hostile").glob(name))
        if not files:
            pytest.skip(f"{name} is not here: not tested on it")
        with pytest.raises(DataError, match="million"):
            read_image(files[0])


class TestScratch:
    @given(st.lists(st.tuples(sides, sides), min_size=1, max_size=4))
    def test_what_an_image_left_behind_is_not_seen(self, shapes):
        steps = (
            Letterbox(size=(40, 30), fill=9),
            Resize(size=(20, 24)),
            CenterCrop(size=(18, 20)),
            Resize(size=(20, 24)),
        )
        spec = Preprocessing(steps=steps)
        scratch = Scratch()
        for seed, shape in enumerate(shapes):
            image = picture(*shape, seed)
            fresh, _ = preprocess(image, spec)
            again, _ = preprocess(image, spec, scratch=scratch)
            np.testing.assert_array_equal(again, fresh)

    def test_images_of_one_size_are_planned_once(self):
        spec, scratch = Preprocessing(steps=(ResizeShorterSide(pixels=9),)), Scratch()
        preparation = scratch.preparation(spec, (48, 64))
        assert scratch.preparation(spec, (48, 64)) is preparation
        assert scratch.preparation(spec, (64, 48)) is not preparation

    def test_another_specification_is_another_plan(self):
        scratch = Scratch()
        for size in ((8, 6), (6, 8)):
            tensor, _ = preprocess(picture(), Preprocessing(steps=(Resize(size=size),)), scratch=scratch)
            assert tensor.shape[1:] == size


class TestTensor:
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    @pytest.mark.parametrize("channels", ["RGB", "BGR", "GRAY"])
    @pytest.mark.parametrize("normalized", [False, True])
    def test_channels_layout_and_normalization(self, layout, channels, normalized):
        image = picture()
        count = 1 if channels == "GRAY" else 3
        normalization = Normalization(mean=(0.1, 0.2, 0.3)[:count], std=(0.5, 0.6, 0.7)[:count])
        spec = Preprocessing(channels=channels, layout=layout, normalization=normalization if normalized else None)
        expected = {
            "RGB": image[:, :, ::-1],
            "BGR": image,
            "GRAY": cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None],
        }[channels]
        if normalized:
            expected = (expected / 255.0 - normalization.mean) / normalization.std
        expected = np.moveaxis(expected, 2, 0) if layout == "NCHW" else expected
        tensor, _ = preprocess(image, spec)
        assert tensor.dtype == (np.float32 if normalized else np.uint8)
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-7)

    def test_one_mean_serves_all_channels(self):
        tensor, _ = preprocess(
            picture(), Preprocessing(normalization=Normalization(scale=1.0, mean=(10.0,), std=(2.0,)))
        )
        np.testing.assert_array_equal(tensor[0], (picture()[:, :, 2].astype(np.float32) - 10) / 2)

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    @pytest.mark.parametrize("normalization", [None, Normalization()])
    def test_writes_into_memory_that_is_given(self, layout, normalization):
        spec = Preprocessing(steps=(Resize(size=(8, 6)),), layout=layout, normalization=normalization)
        expected, _ = preprocess(picture(), spec)
        memory = np.zeros((2, *expected.shape), expected.dtype)
        tensor, _ = preprocess(picture(), spec, out=memory[1])
        assert np.shares_memory(tensor, memory)
        np.testing.assert_array_equal(memory[1], expected)
        assert not memory[0].any()

    def test_memory_of_another_shape_is_refused(self):
        with pytest.raises(DataError, match=r"\(3, 48, 64\).*\(3, 8, 8\)"):
            preprocess(picture(), Preprocessing(), out=np.zeros((3, 8, 8), np.uint8))

    def test_grey_images_equal_their_three_channel_form(self):
        grey = picture()[:, :, 0]
        spec = Preprocessing(channels="GRAY")
        for image in (grey, grey[:, :, None], np.dstack([grey] * 3), np.dstack([grey] * 4)):
            np.testing.assert_array_equal(preprocess(image, spec)[0][0], grey)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 2), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
        ],
    )
    def test_what_is_no_image_is_refused(self, image):
        with pytest.raises(DataError, match=r"image must"):
            preprocess(image, Preprocessing())

    @pytest.mark.parametrize("normalization", [Normalization(mean=(0.0, 0.0)), Normalization(std=(1.0, 0.0, 1.0))])
    def test_normalization_that_does_not_fit(self, normalization):
        with pytest.raises(ConfigError, match=r"normalization\.(mean|std)"):
            preprocess(picture(), Preprocessing(normalization=normalization))


class TestSteps:
    def test_resize_auto_averages_when_shrinking(self):
        image = np.zeros((4, 4, 3), np.uint8)
        image[::2, ::2] = 200
        tensor, _ = preprocess(image, Preprocessing(steps=(Resize(size=(2, 2)),)))
        assert (tensor == 50).all()

    @pytest.mark.parametrize(
        ("shape", "expected"), [((100, 133), (50, 66)), ((133, 100), (66, 50)), ((50, 50), (50, 50))]
    )
    def test_resize_shorter_side(self, shape, expected):
        tensor, _ = preprocess(picture(*shape), Preprocessing(steps=(ResizeShorterSide(pixels=50),)))
        assert tensor.shape[1:] == expected

    @pytest.mark.parametrize("shape", [(1, 65_500, 3), (1_000_000, 1, 3)])
    def test_a_thin_strip_is_not_scaled_into_all_memory(self, shape):
        spec = Preprocessing(steps=(ResizeShorterSide(pixels=256), CenterCrop(size=(224, 224))))
        with pytest.raises(DataError, match="as preprocessing scales or fills it"):
            preprocess(np.zeros(shape, np.uint8), spec)

    @pytest.mark.parametrize("step", [Resize, CenterCrop, Letterbox])
    def test_a_specification_of_a_huge_size_is_refused(self, step: type):
        with pytest.raises(DataError, match="40000 x 40000 pixels"):
            preprocess(picture(), Preprocessing(steps=(step(size=(40_000, 40_000)),)))

    def test_memory_of_a_huge_image_is_given_back(self):
        spec = Preprocessing(steps=(ResizeShorterSide(pixels=256), CenterCrop(size=(224, 224))))
        scratch = Scratch()
        preprocess(np.zeros((10, 2000, 3), np.uint8), spec, scratch=scratch)
        assert sum(memory.nbytes for memory in scratch._memory.values()) > 30e6
        preprocess(np.zeros((300, 300, 3), np.uint8), spec, scratch=scratch)
        assert sum(memory.nbytes for memory in scratch._memory.values()) < 1e6

    def test_center_crop_cuts_the_middle(self):
        image = picture(11, 9)
        tensor, _ = preprocess(image, Preprocessing(steps=(CenterCrop(size=(5, 5)),), channels="BGR", layout="NHWC"))
        np.testing.assert_array_equal(tensor, image[3:8, 2:7])

    def test_center_crop_pads_with_zeros(self):
        image = picture(4, 20) | 1
        spec = Preprocessing(steps=(CenterCrop(size=(8, 10)),), channels="BGR", layout="NHWC")
        tensor, _ = preprocess(image, spec)
        np.testing.assert_array_equal(tensor[2:6], image[:, 5:15])
        assert not tensor[[0, 1, 6, 7]].any()

    def test_letterbox_is_that_of_yolox(self):
        image = picture(333, 500)
        ratio = min(416 / 333, 416 / 500)
        resized = cv2.resize(image, (int(500 * ratio), int(333 * ratio)), interpolation=cv2.INTER_LINEAR)
        expected = np.full((416, 416, 3), 114, np.uint8)
        expected[: resized.shape[0], : resized.shape[1]] = resized
        steps = (Letterbox(size=(416, 416), anchor="top_left"),)
        tensor, _ = preprocess(image, Preprocessing(steps=steps, channels="BGR", layout="NHWC"))
        np.testing.assert_array_equal(tensor, expected)

    def test_letterbox_in_the_middle(self):
        steps = (Letterbox(size=(20, 20), fill=7),)
        tensor, _ = preprocess(np.full((10, 20, 3), 200, np.uint8), Preprocessing(steps=steps, layout="NHWC"))
        assert (tensor[:5] == 7).all()
        assert (tensor[15:] == 7).all()
        assert (tensor[5:15] == 200).all()


@given(height=sides, width=sides, data=st.data())
def test_boxes_map_to_the_network_and_back(height, width, data):
    steps = data.draw(
        st.lists(
            st.one_of(
                st.builds(Resize, size=st.tuples(sides, sides)),
                st.builds(ResizeShorterSide, pixels=sides),
                st.builds(CenterCrop, size=st.tuples(sides, sides)),
                st.builds(Letterbox, size=st.tuples(sides, sides), anchor=st.sampled_from(["center", "top_left"])),
            ),
            max_size=2,
        )
    )
    # A very long image would be resized to a longer one still: bound what the test computes.
    width = min(width, 4 * height)
    height = min(height, 4 * width)
    _, geometry = preprocess(picture(height, width), Preprocessing(steps=tuple(steps)))
    boxes = np.array([[0, 0, width, height], [1, 2, 3, 5]], np.float32)
    np.testing.assert_allclose(geometry.to_original(geometry.to_network(boxes)), boxes, atol=0.02)
    assert (geometry.width, geometry.height) == (width, height)


def test_geometry_follows_the_pixels():
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 40:120] = 255
    steps = (Letterbox(size=(64, 96), fill=0), CenterCrop(size=(60, 90)))
    tensor, geometry = preprocess(image, Preprocessing(steps=steps))
    rows, columns = np.nonzero(tensor[0] > 127)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(geometry.to_network(np.array([[40, 20, 120, 60]], np.float32)), seen, atol=0.6)


def test_clip_keeps_boxes_inside_the_image():
    _, geometry = preprocess(picture(10, 20), Preprocessing())
    clipped = geometry.clip(np.array([[-3, -4, 30, 40], [1, 2, 3, 4]], np.float32))
    np.testing.assert_array_equal(clipped, [[0, 0, 20, 10], [1, 2, 3, 4]])


class TestBatch:
    def test_equals_one_by_one(self):
        images = [picture(30, 40, 1), picture(50, 20, 2)]
        spec = Preprocessing(steps=(Letterbox(size=(32, 32)),), normalization=Normalization())
        tensor, geometries = batch(images, spec)
        for index, image in enumerate(images):
            expected, geometry = preprocess(image, spec)
            np.testing.assert_array_equal(tensor[index], expected)
            assert geometries[index] == geometry

    def test_images_of_different_size_need_a_step_that_fixes_it(self):
        with pytest.raises(DataError, match="fix the size"):
            batch([picture(30, 40), picture(50, 20)], Preprocessing())

    def test_no_images(self):
        with pytest.raises(DataError, match="0 images"):
            batch([], Preprocessing())


class TestAdjust:
    def test_nothing_to_do_changes_nothing(self):
        np.testing.assert_array_equal(adjust(picture(), Adjust()), picture())

    def test_brightness_multiplies_and_saturates(self):
        expected = np.minimum(np.rint(picture() * 1.5), 255)
        np.testing.assert_array_equal(adjust(picture(), Adjust(brightness=1.5)), expected)

    def test_contrast_turns_about_the_mean_grey(self):
        image = picture()
        grey = (image * [0.114, 0.587, 0.299]).sum(axis=2).mean()
        expected = np.clip(np.rint((image - grey) * 0.5 + grey), 0, 255)
        np.testing.assert_allclose(adjust(image, Adjust(contrast=0.5)), expected, atol=1)

    def test_gray_world_makes_the_channel_means_equal(self):
        image = (picture() * [0.3, 0.6, 0.5]).astype(np.uint8)
        means = adjust(image, Adjust(color_balance="gray_world")).mean(axis=(0, 1))
        np.testing.assert_allclose(means, image.mean(axis=(0, 1)).mean(), atol=0.5)

    def test_gains_are_red_green_blue(self):
        image = np.full((2, 2, 3), 100, np.uint8)
        assert adjust(image, Adjust(gains=(1.5, 1.0, 0.5)))[0, 0].tolist() == [50, 100, 150]

    def test_is_a_step_of_preprocessing(self):
        step = Adjust(brightness=0.5, gains=(1.0, 0.9, 1.1))
        tensor, geometry = preprocess(picture(), Preprocessing(steps=(step,), channels="BGR", layout="NHWC"))
        np.testing.assert_array_equal(tensor, adjust(picture(), step))
        assert geometry.scale_x == 1.0

    def test_a_black_image_stays_black(self):
        black = np.zeros((3, 3, 3), np.uint8)
        assert not adjust(black, Adjust(contrast=2.0, color_balance="gray_world")).any()


@pytest.mark.parametrize("channels", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("normalization", [None, Normalization(mean=(0.4,), std=(0.2,))])
def test_pictures_of_a_tensor_give_that_tensor(channels, layout, normalization):
    spec = Preprocessing(channels=channels, layout=layout, normalization=normalization)
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    tensors, _ = batch(list(images), spec)
    pictures = to_pictures(tensors, spec)
    assert pictures[0].shape == (5, 4, 3)
    again, _ = batch(pictures, spec)
    np.testing.assert_array_equal(again, tensors)
    if channels != "GRAY":
        np.testing.assert_array_equal(pictures, images)
