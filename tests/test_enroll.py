"""Enrolling classes on a device: without the workstation's packages, signed off, and refused where it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from test_device import BLOCKED, WORKSTATION, child

from edgeopt.bundle import Bundle
from edgeopt.bundle.reading import SIGNATURE_NAME
from edgeopt.cli import main
from edgeopt.errors import AccuracyError, BundleError, DataError
from edgeopt.postprocess.neighbors import with_prototypes, without_last
from edgeopt.report import content, to_json
from edgeopt.runtime import availability, enroll, load, pictures_of, verify
from edgeopt.spec import NeighborsDecoding, replace

COLOURS = {"red": (0, 0, 200), "green": (0, 200, 0), "blue": (200, 0, 0)}
YELLOW, ORANGE, DARK_RED = (0, 200, 200), (0, 130, 230), (0, 0, 170)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose three scores count as an embedding, with two prototypes of red, green and blue."""
    if not any(availability(name).ok for name in tiny.TARGETS):
        pytest.skip("not tested: neither onnxruntime nor openvino can be imported")
    folder = tmp_path_factory.mktemp("whole")
    plain = tiny.write_golden(folder / "plain.edgeopt")
    classes = []
    with load(plain.path) as predictor:
        for colour in COLOURS.values():
            shown = [predictor.infer(predictor.prepare(picture(colour, seed)), copy=True) for seed in (0, 1)]
            classes.append(np.concatenate([each.outputs["scores"] for each in shown]))
    decoding = with_prototypes(NeighborsDecoding(temperature=0.05), classes)
    spec = replace(tiny.CLASSIFIER, name="tiny-neighbors", decoding=decoding)
    return tiny.write_golden(folder / "tiny.edgeopt", spec).path


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(whole, tmp_path / "tiny.edgeopt"))


def picture(colour: tuple[int, int, int], seed: int) -> np.ndarray:
    noise = np.random.default_rng((seed, *colour)).integers(-20, 21, (20, 20, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def folder_of(path: Path, colour: tuple[int, int, int], count: int = 8, first: int = 10) -> Path:
    path.mkdir(parents=True)
    for seed in range(first, first + count):
        assert cv2.imwrite(str(path / f"{seed}.png"), picture(colour, seed))
    return path


def test_a_class_is_added_and_recognized(made: Bundle, tmp_path: Path) -> None:
    before = (made.path / "manifest.json").read_bytes()
    record = enroll(made.path, "yellow", pictures_of(folder_of(tmp_path / "yellow", YELLOW)))
    assert record.prototypes == 6
    assert record.validation == 2
    assert set(record.recognized.values()) == {2}
    assert record.kept_before == record.kept_after == 1.0
    with load(made.path) as predictor:
        assert predictor.labels == ("red", "green", "blue", "yellow")
        assert predictor.predict(picture(YELLOW, 99)).label == "yellow"
        assert predictor.predict(picture(COLOURS["red"], 99)).label == "red"
    opened = Bundle.open(made.path)
    assert opened.manifest.enrolled == (record,)
    assert opened.manifest.spec.decoding.counts == (2, 2, 2, 6)
    assert (made.path / "manifest.json").read_bytes() != before
    verify(made.path).require()
    report = content(opened.manifest)
    assert json.loads(to_json(report))["enrolled"][0]["label"] == "yellow"


def test_recorded_answers_stay_true_of_the_classes_that_were_built(made: Bundle, tmp_path: Path) -> None:
    enroll(made.path, "yellow", pictures_of(folder_of(tmp_path / "yellow", YELLOW)))
    spec = Bundle.open(made.path).manifest.spec
    assert without_last(spec, 1) == made.manifest.spec
    assert without_last(spec, 0) == spec


def test_every_variant_that_runs_signs_it_off(made: Bundle, tmp_path: Path) -> None:
    record = enroll(made.path, "yellow", pictures_of(folder_of(tmp_path / "yellow", YELLOW)))
    runnable = {each.name for each in made.manifest.variants if availability(each.target).ok}
    assert set(record.recognized) == runnable


def test_a_second_class_may_follow(made: Bundle, tmp_path: Path) -> None:
    enroll(made.path, "yellow", pictures_of(folder_of(tmp_path / "yellow", YELLOW)))
    enroll(made.path, "violet", pictures_of(folder_of(tmp_path / "violet", (200, 0, 200))))
    with load(made.path) as predictor:
        assert predictor.predict(picture((200, 0, 200), 99)).label == "violet"
        assert predictor.predict(picture(YELLOW, 99)).label == "yellow"


def test_it_needs_nothing_of_the_workstation(made: Bundle, tmp_path: Path) -> None:
    folder_of(tmp_path / "yellow", YELLOW)
    script = (
        BLOCKED
        + f"""
from click.testing import CliRunner
from edgeopt.cli import main
done = CliRunner().invoke(main, ["enroll", *sys.argv[1:]], catch_exceptions=False)
print(done.exit_code, sorted({{name.partition(".")[0] for name in sys.modules}} & set({WORKSTATION})))
"""
    )
    assert child(script, made.path, tmp_path / "yellow").splitlines()[-1] == "0 []"
    assert Bundle.open(made.path).manifest.spec.labels[-1] == "yellow"


def test_the_command_prints_its_record(made: Bundle, tmp_path: Path) -> None:
    new, checked = folder_of(tmp_path / "new", YELLOW, 3), folder_of(tmp_path / "checked", YELLOW, 4, first=50)
    arguments = ["enroll", str(made.path), str(new), "--label", "gelb", "--validation", str(checked), "--json"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert (record["label"], record["prototypes"], record["validation"]) == ("gelb", 3, 4)


# Refused: nothing is written


@pytest.fixture
def untouched(made: Bundle):
    """A bundle whose manifest must be the same afterwards."""
    before = (made.path / "manifest.json").read_bytes()
    yield made
    assert (made.path / "manifest.json").read_bytes() == before


def test_a_class_that_exists_is_refused(untouched: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the class 'red' already, with 2 prototypes"):
        enroll(untouched.path, "red", pictures_of(folder_of(tmp_path / "red", DARK_RED)))


def test_an_unreadable_picture_is_refused_by_its_name(untouched: Bundle, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "yellow", YELLOW)
    (folder / "13.png").write_bytes((folder / "13.png").read_bytes()[:100])
    with pytest.raises(DataError, match=r"13\.png.*Nothing was enrolled"):
        enroll(untouched.path, "yellow", pictures_of(folder))


def test_the_same_picture_twice_would_sign_itself_off(untouched: Bundle, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "yellow", YELLOW)
    (folder / "99.png").write_bytes((folder / "10.png").read_bytes())
    with pytest.raises(DataError, match=r"is the same picture as .*Nothing was enrolled"):
        enroll(untouched.path, "yellow", pictures_of(folder))


def test_a_single_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 pictures, and a class needs 2 at least"):
        pictures_of(folder_of(tmp_path / "one", YELLOW, 1))


def test_a_class_that_is_not_recognized_is_refused(untouched: Bundle, tmp_path: Path) -> None:
    new, other = folder_of(tmp_path / "new", YELLOW, 4), folder_of(tmp_path / "other", COLOURS["green"], 4)
    with pytest.raises(AccuracyError, match=r"recognizes 0 of 4 validation pictures.* it takes 4 for 'green'"):
        enroll(untouched.path, "yellow", pictures_of(new, other))


def test_a_class_that_takes_others_pictures_is_refused(untouched: Bundle, tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match=r"'rouge' looks like other classes: 100.0 % .* 66.7 % with it"):
        enroll(untouched.path, "rouge", pictures_of(folder_of(tmp_path / "rouge", COLOURS["red"], 40)), recall=0.0)


def test_a_signed_bundle_is_refused(untouched: Bundle, tmp_path: Path) -> None:
    """The classes are what its signer vouches for."""
    (untouched.path / SIGNATURE_NAME).write_bytes(b"someone's")
    with pytest.raises(BundleError, match="is signed, and a new class would break the signature"):
        enroll(untouched.path, "yellow", pictures_of(folder_of(tmp_path / "yellow", YELLOW)))


def test_a_bundle_of_another_classifier_is_refused(tmp_path: Path) -> None:
    made = tiny.write_golden(tmp_path / "tiny.edgeopt")
    with pytest.raises(BundleError, match=r'only a build can add one.* classifier = "knn"'):
        enroll(made.path, "yellow", pictures_of(folder_of(tmp_path / "yellow", YELLOW)))
