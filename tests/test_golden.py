"""Golden pictures: what another library or a changed specification does to pictures and answers is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle, write_bundle
from edgeopt.cli import main
from edgeopt.errors import BundleError
from edgeopt.runtime.golden import decoding_difference, draw, preparation_difference, record_answers, record_picture
from edgeopt.runtime.verify import verify
from edgeopt.spec import CodeDecoding, ModelSpec, Normalization, Resize, replace

SPECS = [tiny.CLASSIFIER, tiny.DETECTOR]


def test_the_picture_is_the_same_everywhere_and_leaves_room_for_a_level() -> None:
    assert np.array_equal(draw(), draw())
    assert draw().min() >= 1
    assert draw().max() <= 254


@pytest.mark.parametrize("spec", SPECS, ids=["classifier", "detector"])
def test_here_it_is_prepared_as_recorded(spec: ModelSpec) -> None:
    difference, allowed = preparation_difference(record_picture(spec), spec, "x")
    assert difference == 0.0
    assert allowed > 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"steps": (Resize(size=(8, 8), interpolation="nearest"),)},
        {"channels": "BGR"},
        {"normalization": Normalization(mean=(0.5,), std=(0.25,))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_preprocessing_is_noticed(change: dict[str, object]) -> None:
    recorded = record_picture(tiny.CLASSIFIER)
    other = replace(tiny.CLASSIFIER, preprocessing=replace(tiny.CLASSIFIER.preprocessing, **change))
    difference, allowed = preparation_difference(recorded, other, "x")
    assert difference > allowed


def test_a_grey_level_is_forgiven_and_two_are_not() -> None:
    recorded = record_picture(tiny.CLASSIFIER)
    for levels, forgiven in ((1, True), (2, False)):
        shifted = {**recorded, "prepared": recorded["prepared"] + np.uint8(levels)}
        difference, allowed = preparation_difference(shifted, tiny.CLASSIFIER, "x")
        assert (difference <= allowed) is forgiven


def test_a_bundle_verifies_what_is_around_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny.write_golden(tmp_path / "x.edgeopt")
    found = verify(bundle.path)
    assert found.ok
    assert found.prepared.keys() == found.decoded.keys() == found.replayed.keys() or not found.replayed
    text = CliRunner().invoke(main, ["verify", str(bundle.path)]).output
    assert "decoded as where it was built: yes" in text.replace("\n", " ")


def test_decoding_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    bundle = tiny.write_golden(tmp_path / "x.edgeopt", tiny.DETECTOR)
    content = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    decoding = replace(bundle.manifest.spec.decoding, score_threshold=0.999)
    changed = write_bundle(
        tmp_path / "y.edgeopt",
        replace(bundle.manifest, spec=replace(bundle.manifest.spec, decoding=decoding)),
        content,
    )
    with pytest.raises(BundleError, match="golden outputs are not decoded as where the bundle was built"):
        verify(changed.path).require()


def test_outputs_of_varying_rows_are_decoded_sample_by_sample() -> None:
    scores = {"scores": np.asarray([[0.1, 2.0, 0.3], [3.0, 0.0, 0.0]], np.float32)}
    whole = record_answers(scores, tiny.CLASSIFIER)
    parts = {f"scores[{row}]": scores["scores"][row : row + 1] for row in range(2)}
    split = record_answers(parts, tiny.CLASSIFIER)
    assert whole.keys() == split.keys() == {"0.classes", "0.scores", "1.classes", "1.scores"}
    assert decoding_difference(parts, whole, tiny.CLASSIFIER)[0] == 0.0


def test_a_decoding_of_the_users_is_left_alone() -> None:
    spec = replace(tiny.CLASSIFIER, decoding=CodeDecoding(call="shop.decoding:decode"))
    assert record_answers({"scores": np.zeros((1, 3), np.float32)}, spec) is None


def test_a_bundle_without_pictures_is_verified_as_before(tmp_path: Path) -> None:
    bundle = tiny.write_golden(tmp_path / "x.edgeopt")
    variants = tuple(
        replace(each, golden=each.golden and replace(each.golden, picture=None, answers=None))
        for each in bundle.manifest.variants
    )
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    old = write_bundle(tmp_path / "old.edgeopt", replace(bundle.manifest, variants=variants), files)
    assert Bundle.open(old.path).golden_picture("ort-fp32") is None
    assert not verify(old.path).prepared


def test_an_output_whose_first_dimension_is_not_the_images_is_decoded_as_the_network_gave_it() -> None:
    """Ultralytics' exports with a dynamic batch declare outputs of one image, and get a dimension when recorded."""
    output = replace(tiny.DETECTOR.outputs[0], shape=(1, *tiny.DETECTOR.outputs[0].shape[1:]))
    spec = replace(tiny.DETECTOR, outputs=(output,))
    given = np.random.default_rng(0).random((1, 4, 8), np.float32) * 8
    name = tiny.DETECTOR.outputs[0].name
    plain = record_answers({name: np.concatenate([given, given])}, tiny.DETECTOR)
    wrapped = record_answers({name: np.stack([given, given])}, spec)
    assert plain.keys() == wrapped.keys()
    assert all(np.array_equal(plain[key], wrapped[key]) for key in plain)
    parts = record_answers({f"{name}[0]": given[None], f"{name}[1]": given[None]}, spec)
    assert all(np.array_equal(plain[key], parts[key]) for key in plain)
