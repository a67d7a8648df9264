"""Evaluation in pieces gives the figures of one run, goes on after a kill, and refuses what it cannot keep."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from edgeopt.bundle import Bundle
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Boxes, Dataset
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.errors import DataError
from edgeopt.evaluate import evaluate_bundle
from edgeopt.evaluate.shards import Shards
from edgeopt.spec import ModelSpec


def classes() -> Dataset:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(23):
        pixels = cv2.add(tiny.colour(tiny.COLOURS[number % 3]), rng.integers(0, 250, (20, 30, 3), dtype=np.uint8))
        samples.append(Sample(f"{number}.png", int(rng.integers(3)), ArrayPicture(pixels)))
    return Dataset("classification", tiny.COLOURS, samples)


def objects() -> Dataset:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(17):
        image = rng.integers(0, 40, (32, 64, 3), dtype=np.uint8)
        truth = Boxes.of([], [])
        if number % 4:
            left = 32 * (number % 2)
            image[:, left : left + 32] = tiny.colour(tiny.COLOURS[number % 3], 32, 32)
            truth = Boxes.of([[left, 0, left + 31, 31]], [number % 3])
        samples.append(Sample(f"{number}.png", truth, ArrayPicture(image)))
    return Dataset("detection", tiny.COLOURS, samples)


CASES = {"classes": (tiny.CLASSIFIER, classes), "objects": (tiny.DETECTOR, objects)}


@pytest.fixture(params=sorted(CASES))
def case(request, tmp_path: Path) -> tuple[Bundle, Dataset]:
    spec, data = CASES[request.param]
    return written(tmp_path, spec), data()


def written(folder: Path, spec: ModelSpec = tiny.CLASSIFIER) -> Bundle:
    """A bundle for one engine."""
    variants = tuple(each for each in tiny.manifest(spec).variants if each.target == "ort")
    return tiny.write(folder / "tiny.edgeopt", spec, variants=variants)


@pytest.mark.parametrize("count", [4, 23])
def test_pieces_give_the_figures_of_one_run(case: tuple[Bundle, Dataset], tmp_path: Path, count: int) -> None:
    whole = evaluate_bundle(*case)
    assert evaluate_bundle(*case, shards=Shards(tmp_path / "shards", count)) == whole
    assert len(list((tmp_path / "shards").iterdir())) == min(count, len(case[1])) * len(case[0].manifest.variants)


def test_a_run_that_was_killed_goes_on(case: tuple[Bundle, Dataset], tmp_path: Path, monkeypatch) -> None:
    bundle, dataset = case
    whole = evaluate_bundle(bundle, dataset)
    read = Dataset.image
    seen: list[int] = []

    def killed(self: Dataset, index: int) -> np.ndarray:
        seen.append(index)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(Dataset, "image", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_bundle(bundle, dataset, shards=Shards(tmp_path, 8))
    assert evaluate_bundle(bundle, dataset, shards=Shards(tmp_path, 8)) == whole
    count = len(dataset) * len(bundle.manifest.variants)
    assert count < len(seen) < count + 9, "what was kept is not read again"
    seen.clear()
    assert evaluate_bundle(bundle, dataset, shards=Shards(tmp_path, 8)) == whole
    assert seen == []


def test_pieces_of_several_runs_are_one(case: tuple[Bundle, Dataset], tmp_path: Path) -> None:
    whole = evaluate_bundle(*case)
    for number in (2, 0, 1):
        assert evaluate_bundle(*case, shards=Shards(tmp_path, 3, number)) == {}
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    assert evaluate_bundle(*case, shards=Shards(tmp_path, 3)) == whole
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")} == kept


def test_other_settings_and_damaged_files_are_not_taken(tmp_path: Path) -> None:
    bundle, dataset = written(tmp_path), classes()
    evaluate_bundle(bundle, dataset, shards=Shards(tmp_path / "shards", 2))
    count = len(list((tmp_path / "shards").iterdir()))
    other = EvaluateConfig(limit=10)
    assert evaluate_bundle(bundle, dataset, other, shards=Shards(tmp_path / "shards", 2)) == evaluate_bundle(
        bundle, dataset, other
    )
    assert len(list((tmp_path / "shards").iterdir())) == 2 * count
    for file in (tmp_path / "shards").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"damaged\. Remove it"):
        evaluate_bundle(bundle, dataset, shards=Shards(tmp_path / "shards", 2))


def test_what_cannot_be_kept_in_pieces_is_refused(tmp_path: Path) -> None:
    bundle, dataset = written(tmp_path), classes()
    with pytest.raises(DataError, match="metrics of your own cannot be evaluated in shards"):
        evaluate_bundle(bundle, dataset, EvaluateConfig(metrics=("worst_recall",)), shards=Shards(tmp_path, 2))
    with pytest.raises(DataError, match="Number them from 0"):
        Shards(tmp_path, 2, 2)
