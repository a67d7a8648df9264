"""Pictures that OpenCV does not read and Pillow does; images that are Pillow's own, and arrays with red first."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import tiny

from edgeopt.config import DataSource
from edgeopt.dataset import load
from edgeopt.errors import DataError
from edgeopt.preprocess import pillow, read_image, to_bgr
from edgeopt.runtime import availability
from edgeopt.runtime import load as load_bundle

Image = pytest.importorskip("PIL.Image", reason="Pillow is optional: nothing of it was tested")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)


def written(kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind, **options)
    return target.getvalue()


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    pillow._SAID.clear()


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "QOI"])
def test_formats_that_opencv_does_not_know_are_read_and_told_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgeopt"):
        for _ in range(2):
            np.testing.assert_array_equal(read_image(written(kind)), PIXELS[..., ::-1])
    assert len(caplog.records) == 1
    assert f"the format {kind}, which OpenCV does not know" in caplog.text


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_what_opencv_knows_is_left_to_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr("edgeopt.preprocess.image.read_with_pillow", refuse)
    np.testing.assert_array_equal(read_image(written(kind)), PIXELS[..., ::-1])
    with pytest.raises(DataError, match="corrupt or of a format"):
        read_image(written("PNG")[:60])


def test_palettes_and_grey_become_three_channels() -> None:
    grey = np.repeat(PIXELS[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(written("TGA", PIXELS[..., 0])), grey)


def test_too_many_pixels_are_refused_before_they_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_LARGEST_PIXELS", "50")
    with pytest.raises(DataError, match="9 x 12 pixels"):
        read_image(written("TGA"))


def test_a_tiff_in_lab_colours_has_the_colours_that_it_was_written_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """libtiff inside OpenCV takes another white: red came out as (208, 0, 0)."""
    cms = pytest.importorskip("PIL.ImageCms")
    rgb = np.full((8, 8, 3), (200, 30, 30), np.uint8)
    to_lab = cms.buildTransform(cms.createProfile("sRGB"), cms.createProfile("LAB"), "RGB", "LAB")
    stream = io.BytesIO()
    cms.applyTransform(Image.fromarray(rgb), to_lab).save(stream, "TIFF")
    np.testing.assert_allclose(read_image(stream.getvalue()), rgb[..., ::-1], atol=3)
    monkeypatch.setattr(pillow, "_library", lambda: None)
    with pytest.raises(DataError, match=r"TIFF in CIE L\*a\*b\* colours. Install Pillow"):
        read_image(stream.getvalue())


def test_without_pillow_the_message_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "_library", lambda: None)
    with pytest.raises(DataError, match="corrupt or of a format OpenCV cannot read"):
        read_image(written("TGA"))


def test_postscript_is_not_handed_to_another_program() -> None:
    with pytest.raises(DataError):
        read_image(written("EPS"))


def test_a_data_set_may_hold_them(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.tga").write_bytes(written("TGA", PIXELS + (label == "dog")))
    found = load(DataSource(format="image_folder", path=str(tmp_path)), tmp_path)
    assert found.labels == ("cat", "dog")
    np.testing.assert_array_equal(found.image(0), PIXELS[..., ::-1])


def test_an_array_says_its_order_and_a_pil_image_knows_it(tmp_path: Path) -> None:
    """Nothing is guessed from the pixels: the same array is red or blue by what is said of it."""
    target = next((name for name in tiny.TARGETS if availability(name).ok), None)
    if target is None:
        pytest.skip("not tested: neither onnxruntime nor openvino can be imported")
    rgb = np.ascontiguousarray(tiny.colour("red")[..., ::-1])
    with load_bundle(tiny.write(tmp_path / "x.edgeopt").path, variant=f"{target}-fp32") as predictor:
        assert predictor.predict(rgb, color="RGB").label == "red"
        assert predictor.predict(rgb).label == "blue"
        assert predictor.predict(Image.fromarray(rgb)).label == "red"
        assert [each.label for each in predictor.predict_batch([Image.fromarray(rgb), tiny.colour("red")])] == [
            "red"
        ] * 2
    with pytest.raises(DataError, match="color is 'rgb'"):
        to_bgr(rgb, "rgb")  # type: ignore[arg-type]
