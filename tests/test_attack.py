"""Attacks and corruptions: they stay within their bounds, do harm, and tables tell who loses what."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from torch import nn

from edgeopt.attack import measure_attacks
from edgeopt.attack.measuring import from_pixels, to_pixels
from edgeopt.attack.square import square
from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.config import DataSource, EvaluateConfig
from edgeopt.dataset import Dataset, load
from edgeopt.errors import DataError, SettingError
from edgeopt.evaluate.corruptions import KINDS, Corruption
from edgeopt.evaluate.robustness import Robustness, corruptions, measure_robustness
from edgeopt.perturb.ascent import apgd, fgsm, pgd
from edgeopt.spec import Normalization, replace

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.write_golden(tmp_path_factory.mktemp("bundle") / "x.edgeopt")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures whose colour is only a little stronger than the others, so that little turns them."""
    folder = tmp_path_factory.mktemp("data")
    for index, name in enumerate(tiny.COLOURS):
        (folder / name).mkdir()
        for number in range(4):
            picture = np.full((8, 8, 3), 120, np.uint8)
            picture[..., 2 - index] += 6 + 2 * number
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
    return load(DataSource(format="image_folder", path=str(folder)), Path.cwd(), labels=tiny.COLOURS)


# Corruptions


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_the_same_everywhere_and_grows(kind: str) -> None:
    changed = [Corruption(kind, severity)(PICTURE, 3) for severity in (1, 3, 5)]
    assert all(each.shape == PICTURE.shape and each.dtype == np.uint8 for each in changed)
    assert np.array_equal(Corruption(kind, 5)(PICTURE, 3), changed[-1])
    away = [np.abs(each.astype(float) - PICTURE).mean() for each in changed]
    assert 0 < away[0] < away[1] < away[2]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_takes_pictures_of_any_size(kind: str, size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 90, np.uint8)
    assert Corruption(kind, 5)(picture, 0).shape == picture.shape


def test_corruptions_grow_with_the_picture() -> None:
    """A 12-megapixel photo is blurred as much as its thumbnail."""
    large = cv2.resize(PICTURE, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    small_of_large = cv2.resize(
        Corruption("defocus_blur", 5)(large, 0), PICTURE.shape[1::-1], interpolation=cv2.INTER_AREA
    )
    assert np.abs(small_of_large.astype(float) - Corruption("defocus_blur", 5)(PICTURE, 0)).mean() < 8


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(SettingError, match=r"no corruption 'fogg'\. Did you mean 'fog'"):
        corruptions(["fogg"])
    with pytest.raises(SettingError, match="no severity 6"):
        corruptions([], [6])
    assert len(corruptions([], [1, 2, 3, 4, 5])) == 75


def test_every_variant_is_measured_beside_the_baseline_on_the_same_bad_pictures(
    bundle: Bundle, colours: Dataset
) -> None:
    chosen = corruptions(["gaussian_noise", "contrast"], [1, 5])
    found = measure_robustness(bundle, colours, EvaluateConfig(), chosen)
    assert found.clean["ort-fp32"] == 1.0
    assert found.corrupted.keys() == found.clean.keys()
    assert found.of_kind("ort-fp32", "gaussian_noise") < 1.0
    assert set(found.drops("ort-int8")) == {"gaussian_noise", "contrast"}


def test_drops_are_against_the_baseline_on_the_same_kind() -> None:
    found = Robustness(
        "top1", 10, "a", {"a": 0.9, "b": 0.9},
        {"a": {"fog": {1: 0.8, 3: 0.6}, "jpeg": {1: 0.9, 3: 0.9}},
         "b": {"fog": {1: 0.7, 3: 0.5}, "jpeg": {1: 0.9, 3: 0.8}}},
    )  # fmt: skip
    assert list(found.drops("b")) == ["fog", "jpeg"]
    assert found.drops("b")["fog"] == pytest.approx(0.1)
    assert found.mean("b") == pytest.approx((0.6 + 0.85) / 2)


# Attacks


def linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 4))
    pixels = torch.rand(8, 3, 6, 6)
    return network, pixels, network(pixels).argmax(1)


@pytest.mark.parametrize("radius", [0.01, 0.1])
def test_gradient_attacks_stay_within_the_ball_and_find_what_there_is_in_a_linear_network(radius: float) -> None:
    network, pixels, targets = linear()

    def loss(changed: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(network(changed), targets, reduction="none")

    before, random = loss(pixels), torch.Generator().manual_seed(0)
    found = {
        "fgsm": fgsm(loss, pixels, radius),
        "pgd": pgd(loss, pixels, radius, steps=10, random=random),
        "apgd": apgd(loss, pixels, radius, steps=20, random=random),
    }
    for name, changed in found.items():
        assert (changed - pixels).abs().max() <= radius + 1e-6, name
        assert changed.min() >= 0, name
        assert changed.max() <= 1, name
        assert (loss(changed) > before).all(), name
    assert (loss(found["apgd"]) >= loss(found["fgsm"]) - 1e-3).all()


def test_each_image_keeps_its_best() -> None:
    """A loss that any step lowers gives back the start's neighbour, never something worse than what was seen."""
    pixels = torch.full((2, 1, 4, 4), 0.5)

    def loss(changed: torch.Tensor) -> torch.Tensor:
        return -((changed - 0.5) ** 2).flatten(1).sum(1)

    changed = pgd(loss, pixels, 0.1, steps=10, random=torch.Generator().manual_seed(0))
    assert (loss(changed) > -0.1).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_square_sees_scores_alone_and_turns_a_linear_network(layout: str) -> None:
    network, pixels, targets = linear()
    truth = targets.numpy()

    def margin(changed: np.ndarray) -> np.ndarray:
        planes = changed if layout == "NCHW" else np.moveaxis(changed, -1, 1)
        with torch.no_grad():
            scores = network(torch.from_numpy(np.ascontiguousarray(planes))).numpy()
        lead = scores[np.arange(len(scores)), truth].copy()
        scores[np.arange(len(scores)), truth] = -np.inf
        return lead - scores.max(1)

    start = pixels.numpy() if layout == "NCHW" else np.moveaxis(pixels.numpy(), 1, -1)
    changed = square(margin, start, 0.15, queries=300, random=np.random.default_rng(0), layout=layout)
    assert changed.shape == start.shape
    assert np.abs(changed - start).max() <= 0.15 + 1e-6
    assert (margin(changed) < 0).mean() > (margin(start) < 0).mean() + 0.4


@pytest.mark.parametrize("normalization", [None, Normalization(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_go_to_the_network_and_back(normalization: Normalization | None, layout: str) -> None:
    preprocessing = replace(tiny.CLASSIFIER.preprocessing, normalization=normalization, layout=layout)
    spec = replace(tiny.CLASSIFIER, preprocessing=preprocessing)
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7) if layout == "NCHW" else (2, 5, 7, 3))
    pixels = (levels / 255).astype(np.float32)
    assert np.allclose(to_pixels(from_pixels(pixels, spec), spec), pixels, atol=1e-6)


def test_a_bundle_under_attack(bundle: Bundle, colours: Dataset) -> None:
    found = measure_attacks(bundle, colours, radii=(2, 16), queries=30)
    assert found.images == 12
    assert set(found.attacks) == {"fgsm", "pgd", "apgd", "adaptive", "square"}
    for name in found.clean:
        assert found.clean[name] == 1.0
        assert found.worst(name, 16) <= found.worst(name, 2) <= 1.0
    assert found.worst("ort-fp32", 16) < 0.5
    assert "ort-fp32" not in found.attacks["adaptive"]
    assert found.attacks["adaptive"]["ort-int8"][16] < 0.5


def test_images_with_other_labels_or_none_are_refused(tmp_path: Path, bundle: Bundle, colours: Dataset) -> None:
    with pytest.raises(DataError, match=r"not the labels of 'tiny-detector'\. Attacks need images with true boxes"):
        measure_attacks(tiny.write(tmp_path / "d.edgeopt", tiny.DETECTOR), colours)
    cv2.imwrite(str(tmp_path / "x.png"), PICTURE)
    unlabelled = load(DataSource(format="images", path=str(tmp_path)), Path.cwd())
    with pytest.raises(DataError, match="Attacks need images with true classes"):
        measure_attacks(bundle, unlabelled)


# The commands


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands(bundle: Bundle, colours: Dataset) -> None:
    data = Path(colours.origin)
    assert data.is_dir()
    text = run("robustness", bundle.path, "--data", data, "--corruption", "fog", "--severity", "2,4")
    assert "fog" in text
    assert "mean of kinds" in text
    text = run("attack", bundle.path, "--data", data, "--radius", "8", "--queries", "0")
    assert "8/255" in text
    assert "Believe the worst" in text.replace("\n", " ")
    found = json.loads(run("attack", bundle.path, "--data", data, "--radius", "8", "--queries", "0", "--json"))
    assert found["attacks"]["pgd"]["ort-fp32"]["8"] <= 1.0


@pytest.mark.parametrize("wrong", ["0", "1,9", "x", ""])
def test_severities_that_there_are_not(wrong: str, bundle: Bundle) -> None:
    result = CliRunner().invoke(main, ["robustness", str(bundle.path), "--severity", wrong])
    assert result.exit_code == 2
    assert "whole numbers from 1 to 5" in result.output.replace("\n", " ")
