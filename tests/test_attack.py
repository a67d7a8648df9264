"""Attacks and corruptions: they stay within their bounds, do harm, and tables tell who loses what."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

from edgeopt.attack import measure_attacks
from edgeopt.attack.measuring import Attacked, Patched, from_pixels, to_pixels
from edgeopt.attack.square import square
from edgeopt.boxes import Boxes
from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.cli.views.robustness import attack_table, robustness_table
from edgeopt.config import DataSource, EvaluateConfig
from edgeopt.dataset import Dataset, load
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.errors import DataError, SettingError
from edgeopt.evaluate.corruptions import KINDS, Corruption
from edgeopt.evaluate.robustness import Robustness, corruptions, measure_robustness
from edgeopt.gate import GateConfig, to_markdown
from edgeopt.gate.decide import with_robustness
from edgeopt.gate.run import verdict_of
from edgeopt.gate.verdict import RobustnessFinding
from edgeopt.perturb.ascent import apgd, fgsm, pgd
from edgeopt.report import content, to_json, write_page
from edgeopt.report.robustness import robustness_cards
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


@pytest.fixture(scope="module")
def cells() -> Dataset:
    """A cell of 8 x 8 pixels in one colour, bright enough to be found."""
    samples = []
    for number, name in enumerate(tiny.COLOURS * 2):
        picture = np.zeros((16, 16, 3), np.uint8)
        left, top = (8, 8) if number % 2 else (8, 0)
        picture[top : top + 8, left : left + 8, 2 - number % 3] = 90
        boxes = Boxes.of([[left, top, left + 8, top + 8]], [tiny.COLOURS.index(name)])
        samples.append(Sample(str(number), boxes, ArrayPicture(picture)))
    return Dataset("detection", tiny.COLOURS, tuple(samples))


def test_a_detector_under_attack_no_longer_finds_what_it_found(tmp_path: Path, cells: Dataset) -> None:
    found = measure_attacks(tiny.write(tmp_path / "d.edgeopt", tiny.DETECTOR), cells, radii=(2, 90), queries=20)
    assert found.metric == "ap"
    assert set(found.attacks) == {"pgd", "square"}
    assert found.clean["ort-fp32"] == found.attacks["pgd"]["ort-fp32"][2] == 1.0
    assert found.attacks["pgd"]["ort-fp32"][90] == found.worst("ort-fp32", 90) == 0.0
    assert found.patch is None


def test_a_patch_is_compared_with_a_grey_one(tmp_path: Path, bundle: Bundle, colours: Dataset, cells: Dataset) -> None:
    found = measure_attacks(bundle, colours, radii=(1,), queries=0, patch=0.4).patch
    assert found is not None
    assert set(found.grey) == set(found.made) > set(found.adaptive) == {"ort-int8", "ov-int8"} & set(found.grey)
    assert found.grey["ort-fp32"] == 1.0, "grey has no strongest colour"
    assert found.made["ort-fp32"] < 0.5
    detector = measure_attacks(
        tiny.write(tmp_path / "d.edgeopt", tiny.DETECTOR), cells, radii=(1,), queries=0, patch=0.5
    )
    assert detector.patch is not None
    assert detector.patch.made["ort-fp32"] <= 1.0


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


def test_the_table_of_all_attacks_fits_into_80_columns() -> None:
    """With a patch's rows, variants' names were cut to "ort-in…" and shares to "100.0…"."""
    whole = {"ort-fp32": {128: 1.0}, "ort-int8": {128: 1.0}}
    attacks = dict.fromkeys(("fgsm", "pgd", "apgd", "square", "adaptive"), whole)
    found = Attacked("top-1", 18, "ort-fp32", (128,), dict.fromkeys(whole, 1.0), attacks)
    found.patch = Patched(0.2, dict.fromkeys(whole, 1.0), dict.fromkeys(whole, 1.0))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(attack_table(found))
    text = console.export_text()
    assert "…" not in text
    assert "ort-int8" in text
    assert "patch 20%" in text


def test_a_variant_that_loses_nowhere_loses_nothing() -> None:
    """The largest of losses that are none was told as "loses most on gaussian noise: +0.00"."""
    noise = {"gaussian_noise": {1: 0.5}, "jpeg": {1: 0.25}}
    found = Robustness(
        "top1", 18, "ort-fp32", {"ort-fp32": 1.0, "ort-int8": 1.0}, {"ort-fp32": noise, "ort-int8": noise}
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(robustness_table(found))
    text = console.export_text()
    assert "ort-int8 loses nothing on any kind" in text
    assert "loses most" not in text


# What a bundle keeps


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that was measured on bad and on hostile pictures by the commands."""
    bundle = tiny.write_golden(tmp_path_factory.mktemp("measured") / "x.edgeopt")
    folder = tmp_path_factory.mktemp("pictures")
    for index, name in enumerate(tiny.COLOURS):
        (folder / name).mkdir()
        for number in range(6):
            picture = np.full((8, 8, 3), 120, np.uint8)
            picture[..., 2 - index] += 6 + 2 * number
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
    run("robustness", bundle.path, "--data", folder, "--severity", "1,5")
    run("attack", bundle.path, "--data", folder, "--radius", "2,16", "--queries", "0", "--patch", "40")
    return Bundle.open(bundle.path)


def test_a_bundle_keeps_what_was_measured_beside_its_float_variant(measured: Bundle) -> None:
    variant = measured.variant("ort-int8")
    bad, hostile = variant.on_bad_pictures, variant.under_attack
    assert bad is not None
    assert hostile is not None
    assert (bad.images, bad.severities, set(bad.kinds)) == (18, (1, 5), set(KINDS))
    assert bad.drop == pytest.approx(np.mean([each.baseline - each.variant for each in bad.kinds.values()]))
    assert hostile.worst.keys() == {"2", "16"}
    assert hostile.patch_share == 0.4
    assert hostile.drop >= max(each.drop for each in hostile.worst.values())
    assert bad.metric == hostile.metric == "top1"
    assert measured.variant("ort-fp32").under_attack is None


def test_a_few_pictures_or_kinds_are_shown_but_not_kept(tmp_path: Path, colours: Dataset) -> None:
    bundle = tiny.write_golden(tmp_path / "x.edgeopt")
    text = run("robustness", bundle.path, "--data", colours.origin, "--corruption", "fog")
    assert "not kept in the bundle" in text
    assert "fewer than 16" in run("attack", bundle.path, "--data", colours.origin, "--queries", "0", "--radius", "2")
    assert not (bundle.path / "measured.json").exists()


def test_the_report_shows_both(tmp_path: Path, measured: Bundle) -> None:
    report = content(measured.manifest)
    assert [card.title for card in robustness_cards(report)] == [
        f"{name} {what}" for what in ("on bad pictures", "under attack") for name in report.on_bad_pictures
    ]
    page = write_page(report, tmp_path / "page.html", force=True).read_text()
    assert "Bad pictures and attacks" in page
    assert "16/255" in page
    assert "patch 40%" in page
    assert '"on_bad_pictures"' in to_json(report).decode()


def test_the_gate_fails_a_variant_that_loses_more_than_is_allowed() -> None:
    findings = [
        RobustnessFinding(pictures="bad pictures", metric="top-1", drop=0.02, allowed=0.01, images=100),
        RobustnessFinding(pictures="pictures under attack", metric="top-1", drop=0.001, allowed=0.01, images=64),
    ]
    passed = replace(verdict_of(("a", "b"), None, None, (), (), GateConfig()), outcome="pass", reasons=())
    failed = with_robustness(passed, findings)
    assert failed.outcome == "fail"
    assert failed.reasons == ("top-1 on 100 bad pictures is 2.00 points below FP32's where 1.00 are allowed",)
    assert with_robustness(passed, findings[1:]).outcome == "pass"
    assert with_robustness(replace(passed, outcome="invalid"), findings[1:]).outcome == "invalid"
    assert with_robustness(passed, []) == passed
    assert "top-1 on bad pictures, from FP32" in to_markdown(failed)


def test_a_gate_without_the_figures_says_how_to_make_them(tmp_path: Path, measured: Bundle) -> None:
    bare = tiny.write_golden(tmp_path / "x.edgeopt")
    both = ("gate", f"{bare.path}@ort-fp32", f"{bare.path}@ort-int8", "--max-robustness-drop", "0.1")
    result = CliRunner().invoke(main, list(both))
    assert result.exit_code != 0
    assert "never measured on bad or hostile pictures. Run: edgeopt robustness" in " ".join(result.output.split())
