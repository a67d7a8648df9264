"""Evaluation in pieces gives the figures of one run, goes on after a kill, and refuses what it cannot keep."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from edgeopt.bundle import Bundle, pack, unpack
from edgeopt.bundle.records import Accuracy, CountedOutcomes, MatchedOutcomes
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Boxes, Dataset
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.errors import DataError
from edgeopt.evaluate import evaluate_bundle
from edgeopt.evaluate.counts import ClassificationCounts, _key
from edgeopt.evaluate.shards import Shards, evaluate_in_shards
from edgeopt.spec import ModelSpec, replace


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


def same(found: dict[str, Accuracy], whole: dict[str, Accuracy]) -> None:
    """Everything of a detector, and of a classifier all that needs no image by itself; intervals are drawn anew."""
    assert found.keys() == whole.keys()
    for name, each in found.items():
        expected = whole[name]
        if each.task == "classification":
            assert isinstance(each.outcomes, CountedOutcomes)
            assert each.outcomes.counts.unpack().sum() == each.images
            if each.comparison is not None:
                drawn, other = each.comparison.drop, expected.comparison.drop
                assert drawn.estimate == other.estimate
                assert (drawn.low, drawn.high) == pytest.approx((other.low, other.high), abs=0.5 / each.images**0.5)
                assert each.comparison.kl == pytest.approx(expected.comparison.kl, rel=1e-9)
                comparison = replace(each.comparison, drop=other, kl=expected.comparison.kl, lost=())
                each = replace(each, comparison=comparison)
                expected = replace(expected, comparison=replace(expected.comparison, lost=()))
        else:
            assert isinstance(each.outcomes, MatchedOutcomes)
        assert replace(each, outcomes=expected.outcomes) == expected


@pytest.mark.parametrize("count", [4, 23])
def test_pieces_give_the_figures_of_one_run(case: tuple[Bundle, Dataset], tmp_path: Path, count: int) -> None:
    same(evaluate_in_shards(*case, None, Shards(tmp_path / "shards", count)), evaluate_bundle(*case))
    assert len(list((tmp_path / "shards").iterdir())) == min(count, len(case[1]))


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
    with pytest.raises(KeyboardInterrupt, match="finished shards are kept; run it again to go on"):
        evaluate_in_shards(bundle, dataset, None, Shards(tmp_path, 8))
    same(evaluate_in_shards(bundle, dataset, None, Shards(tmp_path, 8)), whole)
    count = len(dataset) * len(bundle.manifest.variants)
    assert count < len(seen) < count + 9, "what was kept is not read again"
    seen.clear()
    same(evaluate_in_shards(bundle, dataset, None, Shards(tmp_path, 8)), whole)
    assert seen == []


def test_pieces_of_several_runs_are_one(case: tuple[Bundle, Dataset], tmp_path: Path) -> None:
    whole = evaluate_bundle(*case)
    for number in (2, 0, 1):
        assert evaluate_in_shards(*case, None, Shards(tmp_path, 3, number)) == {}
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    same(evaluate_in_shards(*case, None, Shards(tmp_path, 3)), whole)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")} == kept


def test_the_rows_of_a_classifier_do_not_grow_with_its_images(tmp_path: Path) -> None:
    """But for five bytes each, by which the confidence is rated."""
    bundle, few = written(tmp_path), classes()
    many = Dataset(few.task, few.labels, [*few.samples] * 20)
    sizes = {}
    for name, data in (("few", few), ("many", many)):
        evaluate_in_shards(bundle, data, None, Shards(tmp_path / name, 1))
        (file,) = (tmp_path / name).iterdir()
        sizes[name] = sum(array.nbytes for array in unpack(file.read_bytes(), "x").values())
    per_variant = 5 * (len(many) - len(few))
    assert sizes["many"] - sizes["few"] == per_variant * len(bundle.manifest.variants)


def test_pieces_of_different_machines_are_not_mixed(tmp_path: Path, monkeypatch) -> None:
    bundle, dataset = written(tmp_path), classes()
    evaluate_in_shards(bundle, dataset, None, Shards(tmp_path / "shards", 2, 0))
    monkeypatch.setattr("edgeopt.evaluate.shards._machine", lambda _: "another machine")
    with pytest.raises(DataError, match=r"evaluated on another machine.*their kernels differ"):
        evaluate_in_shards(bundle, dataset, None, Shards(tmp_path / "shards", 2))


def test_classes_that_lost_are_found_in_counts(tmp_path: Path) -> None:
    """The float network is always right; the other takes one class in three images of four for another."""
    labels = ("a", "b", "c")
    true = np.repeat(np.arange(3), 200)
    wrong = (true == 1) & (np.arange(600) % 4 != 0)
    keys = [_key(true, true, np.where(wrong, 2, true) if off else true, np.ones(600, np.bool_), 3) for off in (0, 1)]
    spec = replace(tiny.CLASSIFIER, labels=labels)
    results: list[Accuracy] = []
    for each in keys:
        whole = ClassificationCounts(spec, EvaluateConfig(), results[0] if results else None)
        for part in np.array_split(each, 7):
            found, counts = np.unique(part, return_counts=True)
            whole.restore({"keys": found, "counts": counts, "images": np.array([len(part)])})
        results.append(whole.result(600, 0, "data"))
    comparison = results[1].comparison
    assert results[1].value == pytest.approx(0.75)
    assert comparison.agreement == pytest.approx(0.75)
    assert [each.label for each in comparison.lost] == ["b", "c"]
    assert comparison.drop.low < 0.25 < comparison.drop.high
    assert comparison.drop.low > 0.2
    images = np.arange(600)
    assert results[1].statistic()(images) == results[1].value
    assert results[1].outcomes.by_class(3)(images).tolist() == [each.f1 for each in results[1].metrics.per_class]


def test_pictures_that_were_replaced_under_their_names_are_evaluated_anew(tmp_path: Path) -> None:
    bundle, data, shards = written(tmp_path), classes(), Shards(tmp_path / "shards", 3)
    evaluate_in_shards(bundle, data, None, shards)
    there = set(shards.folder.iterdir())
    replaced = list(data.samples)
    replaced[2] = Sample(replaced[2].name, replaced[2].target, ArrayPicture(tiny.colour(tiny.COLOURS[0])))
    evaluate_in_shards(bundle, Dataset(data.task, data.labels, replaced), None, shards)
    assert len(set(shards.folder.iterdir()) - there) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc: no worker was killed")
def test_a_ray_worker_that_is_killed_loses_nothing(case: tuple[Bundle, Dataset], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: shards were not evaluated on it")
    script = """
import os, pathlib, pickle, signal, sys
from edgeopt.bundle import Bundle
from edgeopt.config import EvaluateConfig
from edgeopt.cluster import Cluster
from edgeopt.evaluate.shards import Shards, evaluate_in_shards
from edgeopt.evaluate.spread import SpreadEvaluation

folder = pathlib.Path(sys.argv[1])
dataset = pickle.loads((folder / "data").read_bytes())
bundle = Bundle.open(folder / "tiny.edgeopt")
killed = []

def with_a_kill(parts):
    for number, content in evaluate(parts):
        yield number, content
        for each in pathlib.Path("/proc").glob("[0-9]*") if not killed else ():
            try:
                mine = b"MARK=" + sys.argv[2].encode() in (each / "environ").read_bytes()
                if mine and (each / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                    os.kill(int(each.name), signal.SIGKILL)
                    killed.append(each.name)
            except OSError:
                pass

with Cluster(None, 1) as cluster:
    evaluate = SpreadEvaluation(cluster, bundle.path, EvaluateConfig())
    found = evaluate_in_shards(bundle, dataset, None, Shards(folder / "shards", 6), evaluate=with_a_kill)
assert killed
(folder / "found").write_bytes(pickle.dumps(found))
"""
    (tmp_path / "data").write_bytes(pickle.dumps(case[1]))
    mark = f"{tmp_path.name}-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), mark],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "MARK": mark, "RAY_worker_niceness": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    same(pickle.loads((tmp_path / "found").read_bytes()), evaluate_bundle(*case))


def test_other_settings_and_damaged_files_are_not_taken(tmp_path: Path) -> None:
    bundle, dataset = written(tmp_path), classes()
    evaluate_in_shards(bundle, dataset, None, Shards(tmp_path / "shards", 2))
    count = len(list((tmp_path / "shards").iterdir()))
    other = EvaluateConfig(limit=10)
    found = evaluate_in_shards(bundle, dataset, other, Shards(tmp_path / "shards", 2))
    same(found, evaluate_bundle(bundle, dataset, other))
    assert len(list((tmp_path / "shards").iterdir())) == 2 * count
    for file in (tmp_path / "shards").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"damaged\. Remove it"):
        evaluate_in_shards(bundle, dataset, None, Shards(tmp_path / "shards", 2))


@pytest.mark.parametrize("wrong", [None, np.zeros(0, np.int64), np.full(3, 2**62), np.array([b"x"])])
def test_a_shard_that_no_evaluation_wrote_is_refused(tmp_path: Path, wrong: np.ndarray | None) -> None:
    """Whole as a file, and each of its arrays missing, empty, absurd or of another kind."""
    bundle, dataset = written(tmp_path), classes()
    evaluate_in_shards(bundle, dataset, None, Shards(tmp_path / "shards", 1))
    (file,) = (tmp_path / "shards").iterdir()
    arrays, refused = unpack(file.read_bytes(), "shard"), 0
    for name in arrays:
        changed = {key: array for key, array in arrays.items() if key != name or wrong is not None}
        file.write_bytes(pack({**changed, **({} if wrong is None else {name: wrong})}))
        try:
            evaluate_in_shards(bundle, dataset, None, Shards(tmp_path / "shards", 1))
        except DataError as error:
            refused += 1
            assert "Remove" in str(error)  # noqa: PT017 - not all are wrong: some are left out where there are none
    assert refused >= len(arrays) // 2


def test_what_cannot_be_kept_in_pieces_is_refused(tmp_path: Path) -> None:
    bundle, dataset = written(tmp_path), classes()
    with pytest.raises(DataError, match="metrics of your own cannot be evaluated in shards"):
        evaluate_in_shards(bundle, dataset, EvaluateConfig(metrics=("worst_recall",)), Shards(tmp_path, 2))
    with pytest.raises(DataError, match="Number them from 0"):
        Shards(tmp_path, 2, 2)
