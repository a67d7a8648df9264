"""`edgeopt run` as a person, a script and a service use it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result

from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.errors import DataError
from edgeopt.metrics import PrecisionRecallCurve
from edgeopt.runtime.stream import VideoWriter
from edgeopt.spec import replace


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(main, ["run", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "c.edgeopt").path


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "d.edgeopt", tiny.DETECTOR).path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Black, and red on the right half: two objects."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = tiny.colour("red", 32, 32)
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), image)
    return path


def photos(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), tiny.colour(name.split(".")[0].rstrip("0123456789")))
    return [folder / name for name in names]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_says_which_variant_runs_and_why_not_the_others(classifier: Path, tmp_path: Path) -> None:
    (photo,) = photos(tmp_path, "red.png")
    result = run(classifier, photo)
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    names = {variant.name for variant, _ in tiny.engines()}
    assert lines[0].partition(" runs: ")[0] in names
    assert {lines[0].split()[0], *(line.split()[1].rstrip(":") for line in lines[1:4])} == names
    assert result.stdout.startswith(f"{photo}: red 0.9"), "standard output has the results only"
    assert (
        "ort-fp32 runs: it was asked for\n  not ort-int8: 'ort-fp32' was asked for"
        in run(classifier, photo, "--variant", "ort-fp32").stderr
    )


def test_lines_have_boxes(detector: Path, scene: Path) -> None:
    line = run(detector, scene).stdout.strip()
    assert re.fullmatch(rf"{scene}: (red 0\.\d\d \[\d+ \d+ \d+ \d+\](, )?)+", line)


def test_a_score_is_that_of_the_call(detector: Path, classifier: Path, scene: Path, tmp_path: Path) -> None:
    found = {score: run(detector, scene, "--score", score).stdout.count("[") for score in (0, 0.1, 0.9)}
    assert found[0] > found[0.1] > found[0.9] == 0
    (photo,) = photos(tmp_path, "red.png")
    assert run(classifier, photo, "--score", 0.5).stdout == f"{photo}: red 0.996\n"
    assert run(classifier, photo, "--score", 1).stdout == f"{photo}: nothing of what was asked for\n"
    assert run(classifier, photo, "--score", 30).exit_code == 2


def test_only_the_labels_that_are_asked_for(detector: Path, scene: Path, tmp_path: Path) -> None:
    assert run(detector, scene, "--labels", "green,blue").stdout == f"{scene}: nothing found\n"
    drawn = tmp_path / "drawn"
    assert "red" in run(detector, scene, "--labels", "green", "--labels", "red", "--draw", drawn).stdout
    wrong = run(detector, scene, "--labels", "read")
    assert wrong.exit_code == 2
    assert "no label 'read'. Did you mean 'red'?" in wrong.output


def test_a_label_may_hold_a_comma(tmp_path: Path) -> None:
    labels = ("red, dark", "green", "blue")
    bundle = tiny.write(tmp_path / "x.edgeopt", replace(tiny.CLASSIFIER, labels=labels)).path
    (photo,) = photos(tmp_path, "red.png")
    assert "red, dark 0.9" in run(bundle, photo, "--labels", "red, dark").stdout


def test_a_table_has_a_row_for_each_object_and_one_for_an_image_without(
    detector: Path, scene: Path, tmp_path: Path
) -> None:
    black = tmp_path / "black.png"
    cv2.imwrite(str(black), np.zeros((32, 64, 3), np.uint8))
    out = tmp_path / "found.csv"
    assert run(detector, scene, black, "--csv", out).exit_code == 0
    rows = table(out)
    assert [row["image"] for row in rows[:-1]] == [str(scene)] * (len(rows) - 1)
    assert {row["label"] for row in rows[:-1]} == {"red"}
    assert all(31 <= float(row["left"]) < float(row["right"]) <= 64 for row in rows[:-1])
    assert rows[-1] == {**dict.fromkeys(rows[-1], ""), "image": str(black), "frame": "1"}


def test_a_table_of_classes(classifier: Path, tmp_path: Path) -> None:
    run(classifier, *photos(tmp_path, "red.png", "blue.png"), "--csv", tmp_path / "found.csv", "--score", 0.5)
    rows = table(tmp_path / "found.csv")
    assert [(row["label"], row["class"], row["left"]) for row in rows] == [("red", "0", ""), ("blue", "2", "")]


def test_json_lines_are_those_of_json(detector: Path, scene: Path, tmp_path: Path) -> None:
    printed = run(detector, scene, "--json", "--jsonl", tmp_path / "found.jsonl").stdout
    assert (tmp_path / "found.jsonl").read_text() == printed
    assert json.loads(printed)["detections"][0]["label"] == "red"


def test_a_file_that_cannot_be_written_is_an_error(detector: Path, scene: Path, tmp_path: Path) -> None:
    result = run(detector, scene, "--csv", tmp_path / "nowhere" / "found.csv")
    assert result.exit_code == 17
    assert "nowhere" in result.output


def test_one_broken_image_of_many_is_left_out(classifier: Path, tmp_path: Path) -> None:
    files = photos(tmp_path / "photos", *(f"red{number}.png" for number in range(11)))
    files[5].write_bytes(b"broken")
    for sources in (files, [tmp_path / "photos"]):
        result = run(classifier, *sources)
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == 10
        assert "red5.png is corrupt" in result.stderr


def test_many_broken_images_are_an_error_after_the_others(classifier: Path, tmp_path: Path) -> None:
    files = photos(tmp_path / "photos", "red1.png", "red2.png", "red3.png")
    files[1].write_bytes(b"broken")
    for sources in (files, [tmp_path / "photos"]):
        result = run(classifier, *sources)
        assert result.exit_code == DataError.exit_code
        assert len(result.stdout.splitlines()) == 2
        assert "1 of 3" in result.stderr


def test_a_video_that_is_cut_off_is_an_error_after_its_frames(classifier: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.avi"
    random = np.random.default_rng(0)
    with VideoWriter(film, 25.0) as writer:
        for _ in range(60):
            writer.write(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    result = run(classifier, film)
    assert result.exit_code == DataError.exit_code
    count = len(result.stdout.splitlines())
    assert 10 < count < 50
    assert f"{60 - count} of 60 frames could not be read" in result.stderr


@pytest.mark.parametrize("source", ["gone.png", "*.png", "rtps://user:secret@host/live"])
def test_what_is_not_there_is_said_before_an_engine_is_loaded(tmp_path: Path, source: str) -> None:
    result = run(tmp_path / "no.edgeopt", source)
    assert result.exit_code == DataError.exit_code
    assert "secret" not in result.output
    assert "edgeopt" not in result.output


def test_the_source_may_come_from_the_environment(classifier: Path, tmp_path: Path) -> None:
    (photo,) = photos(tmp_path, "green.png")
    assert "green 0.9" in run(classifier, env={"EDGEOPT_SOURCE": str(photo)}).stdout
    assert "Say what to run on" in run(classifier, env={"EDGEOPT_SOURCE": ""}).output


def test_it_advises_on_thresholds_that_were_measured_here(detector: Path, scene: Path, tmp_path: Path) -> None:
    image = {"id": 1, "file_name": scene.name, "width": 64, "height": 32}
    boxes = [
        {"id": row, "image_id": 1, "category_id": 1, "bbox": [32, 16 * row, 32, 16], "area": 512} for row in (0, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(tiny.COLOURS, 1)]
    data = tmp_path / "instances.json"
    data.write_text(json.dumps({"images": [image], "annotations": boxes, "categories": categories}))
    assert CliRunner().invoke(main, ["evaluate", str(detector), "--data", str(data)]).exit_code == 0
    shown = run(detector, scene).stderr
    assert "the best F1" in shown
    assert "was not measured on this machine" in shown, "its speed was not"
    assert ", only on" not in shown


def test_it_advises_on_thresholds_where_they_were_measured(detector: Path, scene: Path) -> None:

    curve = PrecisionRecallCurve(thresholds=(0.1, 0.5), precision=(0.5, 1.0), recall=(1.0, 0.4))
    measured = replace(tiny.accuracy(1.0), curve=curve, score_threshold=0.1)
    Bundle.open(detector).record("ort-fp32", accuracy=measured)
    shown = run(detector, scene, "--variant", "ort-fp32").stderr
    assert "score ≥ 0.10: precision 50.0 %, recall 100.0 %: the best F1" in shown
    assert "--score" in shown
    assert "the best F1" not in run(detector, scene, "--variant", "ort-fp32", "--score", 0.2).stderr
