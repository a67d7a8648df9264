"""From a bundle to a result: which variant, which answer, and whether it is still the recorded one."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny

from edgeopt.bundle import Bundle, EngineSettings, Golden, Manifest, pack, write_bundle
from edgeopt.bundle.records import Acceptance, Ratio
from edgeopt.errors import BundleError, DataError, ModelError, TargetError
from edgeopt.hardware import Identity, ThisMachine
from edgeopt.postprocess import Classification, Detections
from edgeopt.preprocess import to_bgr
from edgeopt.references import ALLOWED_VARIABLE
from edgeopt.runtime import Availability, Predictor, load, open_variant, predictor, verify
from edgeopt.runtime.choice import Candidates, choose
from edgeopt.runtime.golden import answers_difference, difference
from edgeopt.spec import CodeDecoding, TensorSpec, preset, replace

MISSING = Availability(ok=False, reason="not here")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny.write(tmp_path / "x.edgeopt")


@pytest.fixture
def classifier(bundle: Bundle) -> Iterator[Predictor]:
    with load(bundle.path) as predictor:
        yield predictor


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Predictor]:
    with load(tiny.write(tmp_path / "d.edgeopt", tiny.DETECTOR).path) as predictor:
        yield predictor


# Code of others

LAST = """
import numpy as np
from edgeopt.postprocess import Classification

def last(outputs, spec, geometries):
    label = spec.decoding.arguments.get("label", spec.labels[-1])
    best = np.array([spec.labels.index(label)])
    return [Classification(best, np.ones(1, np.float32), (label,)) for _ in geometries]

def nothing(outputs, spec, geometries):
    return []
"""


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Bundles whose results are made by a module that is installed, as far as Python can tell."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "theirs.py").write_text(LAST)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv(ALLOWED_VARIABLE, "")

    def write(call: str, **arguments: str) -> Path:
        spec = replace(tiny.CLASSIFIER, decoding=CodeDecoding(call=call, arguments=arguments))
        return tiny.write(tmp_path / "coded.edgeopt", spec).path

    yield write
    sys.modules.pop("theirs", None)


def test_code_that_a_bundle_names_runs_only_where_its_loader_allows_it(coded: Callable[..., Path]) -> None:
    path = coded("theirs:last", label="green")
    with pytest.raises(BundleError, match=f"'theirs:last' is code outside edgeopt.*{ALLOWED_VARIABLE}"):
        load(path)
    assert "theirs" not in sys.modules
    with load(path, allow_code=["theirs"]) as predictor:
        assert predictor.predict(tiny.colour("red")).label == "green"
        assert [result.label for result in predictor.predict_batch([tiny.colour("red")] * 3)] == ["green"] * 3
    with load(path):  # once allowed, in this process
        pass


def test_code_that_a_bundle_names_has_to_be_installed(coded: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="cannot be imported: ModuleNotFoundError"):
        load(coded("absent:last"), allow_code=["absent"])
    with pytest.raises(BundleError, match=r"nothing callable named 'lst'\. Did you mean 'last'"):
        load(coded("theirs:lst"), allow_code=["theirs"])


def test_code_that_gives_no_results_is_named(coded: Callable[..., Path]) -> None:
    with (
        load(coded("theirs:nothing"), allow_code=["theirs"]) as predictor,
        pytest.raises(ModelError, match=r"'theirs:nothing' must give a list of 1 Classification, .* gave \[\]"),
    ):
        predictor.predict(tiny.colour("red"))


def test_a_target_of_others_is_not_chosen_where_it_is_not_allowed(tmp_path: Path) -> None:
    plain = tiny.manifest()
    foreign = replace(plain.variant("ort-int8"), name="npu-int8", target="theirs:NPU")
    bundle = tiny.write(tmp_path / "npu.edgeopt", variants=plain.variants)
    files = {name: bundle.path / name for name in bundle.manifest.files}
    write_bundle(bundle.path, replace(bundle.manifest, variants=(foreign, *plain.variants)), files)
    with load(bundle.path) as predictor:
        assert "is code outside edgeopt" in predictor.rejected["npu-int8"]


# Predicting


@pytest.mark.parametrize("colour", tiny.COLOURS)
def test_it_classifies(classifier: Predictor, colour: str) -> None:
    result = classifier.predict(tiny.colour(colour))
    assert isinstance(result, Classification)
    assert result.label == colour
    assert result.score > 0.9


@pytest.mark.parametrize("variant", [variant.name for variant, _ in tiny.engines()])
def test_every_variant_predicts(bundle: Bundle, variant: str) -> None:
    with load(bundle.path, variant=variant, threads=1) as predictor:
        assert predictor.predict(tiny.colour("green")).label == "green"
        assert predictor.variant.name == variant


def test_it_takes_a_path_or_bytes(classifier: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), tiny.colour("blue"))
    for source in (path, str(path), path.read_bytes()):
        assert classifier.predict(source).label == "blue"
    with pytest.raises(DataError, match=r"none\.png"):
        classifier.predict(tmp_path / "none.png")


def test_a_pil_image_is_rgb_and_turned_as_its_file(classifier: Predictor, tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed: PIL images not tested")
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), tiny.colour("blue"))
    for mode in ("RGB", "RGBA", "P"):
        assert classifier.predict(images.open(path).convert(mode)).label == "blue"
    grey = images.open(path).convert("L")
    np.testing.assert_array_equal(to_bgr(grey), np.stack([np.asarray(grey)] * 3, axis=-1))
    exif = images.Exif()
    exif[0x0112] = 6  # orientation: turn right
    images.open(path).save(tmp_path / "turned.png", exif=exif)
    assert to_bgr(images.open(tmp_path / "turned.png")).shape == (30, 20, 3)
    with pytest.raises(DataError, match="mode I;16 is not 8-bit"):
        classifier.predict(images.new("I;16", (4, 4)))


def test_channels_in_the_other_order(classifier: Predictor) -> None:
    rgb = np.ascontiguousarray(tiny.colour("blue")[..., ::-1])
    assert classifier.predict(rgb).label == "red"
    assert classifier.predict(rgb, color="RGB").label == "blue"
    assert [each.label for each in classifier.predict_batch(np.stack([rgb, rgb]), color="RGB")] == ["blue", "blue"]
    with pytest.raises(DataError, match="color is 'rgb'"):
        classifier.predict(rgb, color="rgb")


@pytest.mark.parametrize(
    ("image", "cure"),
    [
        (None, "cv2.imread"),
        ([[0, 1], [2, 3]], "predict_batch"),
        (3, "of type int is not an image"),
        (np.zeros((4, 4, 3)), "Scale 16-bit and float images"),
    ],
)
def test_what_is_no_image_is_refused_with_the_cure(classifier: Predictor, image: Any, cure: str) -> None:
    with pytest.raises(DataError, match=cure):
        classifier.predict(image)
    with pytest.raises(DataError, match=cure):
        classifier.predict_batch([image])


@pytest.mark.parametrize(
    "image", ["a.jpg", b"bytes", Path("a.jpg"), tiny.colour("red")], ids=lambda each: type(each).__name__
)
def test_one_image_where_several_are_due(classifier: Predictor, image: Any) -> None:
    with pytest.raises(DataError, match="was given one image"):
        classifier.predict_batch(image)


def test_a_score_of_the_call(detector: Predictor) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = tiny.colour("red", 32, 32)
    every = detector.predict(image, score=0.0)
    best = float(every.scores[0])
    assert len(every) > len(detector.predict(image)) > len(detector.predict(image, score=min(1.0, best + 1e-3))) == 0
    assert len(detector.predict_batch([image], score=best)[0]) >= 1
    with pytest.raises(DataError, match="from 0 to 1"):
        detector.predict(image, score=30)


def test_a_classifier_has_no_score_threshold(classifier: Predictor) -> None:
    with pytest.raises(DataError, match="is a classifier"):
        classifier.predict(tiny.colour("red"), score=0.5)


def test_it_says_what_it_is(classifier: Predictor) -> None:
    assert classifier.labels == tiny.COLOURS
    assert "tiny-classifier" in repr(classifier)
    assert classifier.variant.name in repr(classifier)
    classifier.close()
    assert "closed" in repr(classifier)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_an_error(
    classifier: Predictor, detector: Predictor, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    for network in (classifier, detector):
        run = network._session.run

        def broken(inputs: Any, run: Callable[..., Any] = run) -> dict[str, np.ndarray]:
            outputs = {name: array.copy() for name, array in run(inputs).items()}
            for array in outputs.values():
                array[0, -1] = value
            return outputs

        monkeypatch.setattr(network._session, "run", broken)
        with pytest.raises(TargetError, match="not finite"):
            network.predict(tiny.colour("red"))


def test_boxes_are_in_the_original_images_pixels(detector: Predictor) -> None:
    """A 64 x 32 picture is letterboxed to 16 x 8 on top of nothing: cells of 8 are 32 pixels, centred vertically."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = tiny.colour("red", 32, 32)
    result = detector.predict(image)
    assert isinstance(result, Detections)
    assert set(result.labels) == {"red"}
    assert ((result.boxes[:, 0] >= 31) & (result.boxes[:, 2] <= 64)).all()
    assert len(detector.predict(np.zeros((32, 64, 3), np.uint8))) == 0


def test_batches_are_predicted_like_single_images(classifier: Predictor) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, 9, 3), dtype=np.uint8) for height in range(3, 10)]
    together = classifier.predict_batch(images)
    for image, result in zip(images, together, strict=True):
        np.testing.assert_allclose(result.scores, classifier.predict(image).scores, rtol=1e-5)
    assert classifier.predict_batch([]) == []


def test_a_fixed_batch_takes_any_number_of_images(tmp_path: Path) -> None:
    plain = tiny.manifest()
    fixed = tuple(replace(variant, engine=EngineSettings(batch=4)) for variant in plain.variants)
    path = tiny.write(tmp_path / "x.edgeopt", variants=fixed).path
    colours = [tiny.COLOURS[index % 3] for index in range(10)]
    with load(path) as predictor:
        results = predictor.predict_batch([tiny.colour(name) for name in colours])
        assert [result.label for result in results] == colours
        assert predictor.predict(tiny.colour("green")).label == "green"
        with pytest.raises(DataError, match="takes 1 to 4 images at once, and was given 5"):
            predictor.prepare_batch([tiny.colour("red")] * 5)


def test_results_stay_when_the_next_image_comes(classifier: Predictor, detector: Predictor) -> None:
    for network in (classifier, detector):
        first = network.predict(tiny.colour("red"))
        before = first.scores.copy()
        network.predict(tiny.colour("blue"))
        np.testing.assert_array_equal(first.scores, before)
        assert set(first.labels) >= {"red"}


def test_the_stages_are_the_whole(classifier: Predictor) -> None:
    image = tiny.colour("green")
    staged = classifier.decode(classifier.infer(classifier.prepare(image)))
    np.testing.assert_array_equal(staged.scores, classifier.predict(image).scores)


def test_stages_overlap_with_memory_of_their_own(classifier: Predictor) -> None:
    buffers = [classifier.buffer() for _ in tiny.COLOURS]
    prepared = [classifier.prepare(tiny.colour(name), out=out) for name, out in zip(tiny.COLOURS, buffers, strict=True)]
    inferred = [classifier.infer(item, copy=True) for item in prepared]
    assert [classifier.decode(item).label for item in inferred] == list(tiny.COLOURS)


def test_memory_that_does_not_fit(classifier: Predictor) -> None:
    with pytest.raises(DataError, match="room for"):
        classifier.prepare(tiny.colour("red"), out=np.zeros((1, 3, 7, 8), np.uint8))


def test_predicting_allocates_no_tensor(classifier: Predictor) -> None:
    one, two = classifier.prepare(tiny.colour("red")), classifier.prepare(tiny.colour("blue"))
    assert one.tensor is two.tensor
    first = classifier.infer(one).outputs["scores"]
    assert classifier.infer(two).outputs["scores"] is first


def test_a_predictor_a_thread(bundle: Bundle) -> None:
    wrong = []

    def work(colour: str) -> None:
        with load(bundle.path, threads=1) as predictor:
            image = tiny.colour(colour)
            wrong.extend(result for _ in range(50) if (result := predictor.predict(image)).label != colour)

    threads = [threading.Thread(target=work, args=(name,)) for name in tiny.COLOURS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_predictor_says_so(bundle: Bundle) -> None:
    with load(bundle.path) as predictor:
        pass
    predictor.close()
    with pytest.raises(TargetError, match="closed"):
        predictor.predict(tiny.colour("red"))


def test_an_engine_that_is_not_of_its_specification(bundle: Bundle) -> None:
    other = replace(tiny.CLASSIFIER, input=TensorSpec(name="pixels", shape=("N", 3, 8, 8), dtype="uint8"))
    described = replace(bundle.manifest, spec=other)
    with pytest.raises(BundleError, match=r"inputs are image, and the specification .* says pixels"):
        open_variant(replace_manifest(bundle, described), described.variants[0])


def replace_manifest(bundle: Bundle, described: Manifest) -> Bundle:
    return Bundle(bundle.path, described)


# Choosing


def changed(**by_name: dict[str, Any]) -> Manifest:
    """The tiny manifest with fields of some variants changed; `_` in a name stands for `-`."""
    plain = tiny.manifest()
    fields = {name.replace("_", "-"): values for name, values in by_name.items()}
    return replace(
        plain, variants=tuple(replace(variant, **fields.get(variant.name, {})) for variant in plain.variants)
    )


def machine(**cpu: Any) -> ThisMachine:
    """This machine with another processor."""
    here = ThisMachine()
    here.__dict__["processor"] = replace(here.processor, cpu=replace(here.processor.cpu, **cpu))
    return here


def took(target: str, p50_ms: float, **ratio: float) -> dict[str, Any]:
    """A latency measured here, and its ratio to the baseline."""
    against = Ratio(baseline="ort-fp32", **ratio) if ratio else None
    found = tiny.measured(tiny.identity(target), latency=tiny.latency(p50_ms, ratio=against))
    return {"measured": found}


def here(_: str) -> Availability:
    return Availability(ok=True)


def test_paired_ratios_decide_and_not_the_medians_of_a_drifting_machine() -> None:
    described = changed(
        ort_fp32=took("ort", 134.0), ov_fp32=took("ov", 140.0, estimate=0.86, low=0.84, high=0.88),
        ort_int8=took("ort", 120.0, estimate=1.5, low=1.4, high=1.6),
    )  # fmt: skip
    choice = choose(described, here)
    assert (choice.name, choice.hint) == ("ov-fp32", "")
    assert choice.reason == "it is the fastest that was measured here, at 0.86× the latency of 'ort-fp32'"
    assert choice.rejected == {
        "ort-fp32": "slower here: 1.16× the latency of 'ov-fp32'",
        "ort-int8": "slower here: 1.74× the latency of 'ov-fp32'",
        "ov-int8": "it was not measured on this machine, and 'ov-fp32' goes before it until it is",
    }


def test_int8_has_to_be_faster_beyond_doubt() -> None:
    described = changed(
        ort_fp32=took("ort", 10.0), ort_int8=took("ort", 9.0, estimate=0.97, low=0.91, high=1.03),
        ov_int8=took("ov", 9.0, estimate=0.9, low=0.8, high=1.01),
    )  # fmt: skip
    choice = choose(described, here)
    assert choice.name == "ort-fp32"
    assert choice.rejected["ov-int8"] == (
        "not faster beyond doubt here: 0.90× the latency of 'ort-fp32', up to 1.01×; INT8 has to be, since it costs "
        "accuracy"
    )
    surely = changed(ort_fp32=took("ort", 10.0), ov_int8=took("ov", 9.0, estimate=0.9, low=0.8, high=0.99))
    assert choose(surely, here).name == "ov-int8"


def test_what_another_machine_measured_neither_decides_nor_is_quoted() -> None:
    other = replace(tiny.identity("ov"), cpu=replace(tiny.identity("ov").cpu, model="Atom x7"))
    described = changed(ov_int8={"measured": tiny.measured(other, 1.0)}, ort_fp32=took("ort", 5.0))
    assert choose(described, here).name == "ort-fp32"
    choice = choose(changed(ov_int8={"measured": tiny.measured(other, 7.125)}), here, machine(features=()))
    assert choice.name == "ort-fp32"
    assert choice.hint.startswith("'tiny-classifier' was not measured on this machine (")
    assert "only on Atom x7, " in choice.hint
    assert "7.1" not in str(choice)


@pytest.mark.parametrize("field", ["cpu", "board", "power_mode", "libraries"])
def test_a_machine_is_another_one_when(field: str) -> None:
    plain = tiny.identity()
    different = {"cpu": replace(plain.cpu, cores=99), "libraries": {"onnxruntime": "0.1"}}.get(field, "another")
    other = replace(plain, **{field: different})
    assert other.fingerprint != plain.fingerprint
    assert choose(changed(ort_fp32={"measured": tiny.measured(other, 1.0)}), here).hint


@pytest.mark.parametrize(
    ("features", "name"),
    [
        (("sse4_2",), "ort-fp32"),
        (("avx2",), "ov-int8"),
        (("avx2", "avx512_vnni"), "ov-int8"),
        (("asimddp",), "ov-int8"),
    ],
)
def test_the_default_order_of_a_processor(features: tuple[str, ...], name: str) -> None:
    architecture = "aarch64" if "asimddp" in features else "x86_64"
    choice = choose(tiny.manifest(), here, machine(features=features, architecture=architecture))
    assert choice.name == name
    assert choice.reason == "nothing was measured here, and the default order for this processor begins with it"


def test_an_unaccepted_accuracy_is_never_chosen() -> None:
    described = changed(
        ov_int8={"accepted": False, "verdict": "top-1 fell by 3 points", **took("ov", 1.0)}, ov_fp32=took("ov", 3.0)
    )
    choice = choose(described, here)
    assert choice.name == "ov-fp32"
    assert choice.rejected["ov-int8"] == "it was not accepted: top-1 fell by 3 points"


@pytest.mark.parametrize("accepted", [True, False])
def test_what_was_accepted_here_decides_here_alone(*, accepted: bool) -> None:
    found = Acceptance(accepted=accepted, verdict="it loses 9.00 points")
    described = changed(
        ov_int8={
            "accepted": not accepted,
            "measured": tiny.measured(tiny.identity("ov"), 1.0, accuracy=tiny.accuracy(0.5), acceptance=found),
        },
        ov_fp32=took("ov", 3.0),
    )
    choice = choose(described, here)
    assert choice.name == ("ov-int8" if accepted else "ov-fp32")
    if not accepted:
        assert choice.rejected["ov-int8"] == "it was not accepted here: it loses 9.00 points"


def test_an_absent_library_is_said_as_such() -> None:
    described = changed(ov_int8=took("ov", 1.0), ort_fp32=took("ort", 2.0))
    choice = choose(described, lambda target: MISSING if target == "ov" else Availability(ok=True))
    assert choice.name == "ort-fp32"
    assert choice.rejected["ov-int8"] == choice.rejected["ov-fp32"] == "target 'ov' cannot run here: not here"


class WithoutOpenVino(ThisMachine):
    def identity(self, distributions: Iterable[str], *, accelerated: bool) -> Identity:
        return super().identity([name for name in distributions if name != "openvino"], accelerated=accelerated)


def test_an_absent_library_is_said_where_it_cannot_win_and_is_not_imported() -> None:
    candidates = Candidates(changed(ort_fp32=took("ort", 2.0)), here, WithoutOpenVino())
    found = candidates.chosen(next(iter(candidates)))
    assert found.name == "ort-fp32"
    assert found.rejected["ov-fp32"] == "it was not measured on this machine, where 'openvino' is not installed"
    assert "until it is" in found.rejected["ort-int8"]


def gpu(name: str, precision: str) -> dict[str, Any]:
    return {"target": "trt", "name": name, "precision": precision}


def test_on_a_gpu_fp16_goes_before_int8_until_both_were_measured() -> None:
    described = changed(ort_fp32=gpu("trt-fp16", "fp16"), ort_int8=gpu("trt-int8", "int8"), ov_int8=took("ov", 1.0))
    described = replace(described, baseline="ov-fp32")
    choice = choose(described, here)
    assert choice.name == "trt-fp16"
    assert (
        choice.rejected["trt-int8"] == "it was not measured on this machine, and 'trt-fp16' goes before it until it is"
    )
    assert choice.rejected["ov-int8"] == "'trt-fp16' runs on this machine's GPU"
    without = choose(described, lambda target: MISSING if target == "trt" else Availability(ok=True))
    assert without.name == "ov-int8"


def test_a_gpu_that_was_measured_to_be_slower_than_the_processor_is_not_used() -> None:
    slow = Ratio(baseline="ov-fp32", estimate=3.0, low=2.9, high=3.1)
    described = changed(
        ort_fp32={
            **gpu("trt-fp16", "fp16"),
            "measured": tiny.measured(tiny.identity("trt"), latency=tiny.latency(9.0, ratio=slow)),
        },
        ov_fp32=took("ov", 3.0),
    )  # fmt: skip
    choice = choose(replace(described, baseline="ov-fp32"), here)
    assert choice.name == "ov-fp32"
    assert choice.rejected["trt-fp16"] == "slower here: 3.00× the latency of 'ov-fp32'"


def test_engines_that_cannot_win_are_not_even_imported() -> None:
    asked = []

    def available(target: str) -> Availability:
        asked.append(target)
        return Availability(ok=True)

    next(iter(Candidates(changed(ov_int8=took("ov", 1.0)), available)))
    assert asked == ["ov"]


def test_nothing_runs_here(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "availability", lambda _: MISSING)
    with pytest.raises(TargetError, match=r"no variant of bundle 'tiny-classifier' runs .*ov-int8: .* not here"):
        load(bundle.path)


def test_a_variant_that_does_not_load_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {variant.file: engine for variant, engine in tiny.engines()}
    files["variants/ov-int8/model.onnx"] = b"of another age"
    path = write_bundle(tmp_path / "x.edgeopt", changed(ov_int8=took("ov", 1.0), ort_fp32=took("ort", 2.0)), files).path
    with load(path) as found:
        assert found.variant.name == "ort-fp32"
        assert "does not load here: openvino" in found.rejected["ov-int8"]
    assert "variant 'ov-int8' does not load here" in caplog.text
    with pytest.raises(TargetError, match="cannot load"):
        load(path, variant="ov-int8")


def test_asking_for_a_variant(bundle: Bundle) -> None:
    with load(bundle.path, variant="ov-fp32") as found:
        assert found.rejected["ort-int8"] == "'ov-fp32' was asked for"
    with pytest.raises(BundleError, match="Did you mean 'ov-fp32'"):
        load(bundle.path, variant="ov-fp23")


def test_a_damaged_bundle_is_not_loaded(bundle: Bundle) -> None:
    engine = bundle.file("ort-fp32")
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="was changed"):
        load(bundle.path)


def test_the_threads_of_the_call_are_the_engines(bundle: Bundle) -> None:
    with load(bundle.path, threads=1) as found:
        assert found._session.settings.threads == 1


# Verifying


@pytest.mark.parametrize("spec", [tiny.CLASSIFIER, tiny.DETECTOR], ids=lambda spec: spec.task)
def test_golden_outputs_are_reproduced(tmp_path: Path, spec: Any) -> None:
    bundle = tiny.write_golden(tmp_path / "x.edgeopt", spec)
    found = verify(bundle.path)
    assert found.ok
    assert found.skipped == {}
    assert set(found.replayed) == {variant.name for variant in bundle.manifest.variants}
    assert all(replayed.difference <= 1e-6 for replayed in found.replayed.values())
    found.require()


def test_what_is_not_replayed_is_said(bundle: Bundle, tmp_path: Path) -> None:
    assert verify(bundle.path).skipped["ov-int8"] == "it has no golden inputs"
    whole = tiny.write_golden(tmp_path / "g.edgeopt")
    found = verify(whole.path, available=lambda target: MISSING if target == "ov" else Availability(ok=True))
    assert found.skipped == dict.fromkeys(("ov-fp32", "ov-int8"), "target 'ov' cannot run here: not here")
    assert set(found.replayed) == {"ort-fp32", "ort-int8"}
    found.require()


def test_a_bundle_of_which_nothing_could_be_run_is_not_called_right(tmp_path: Path) -> None:
    whole = tiny.write_golden(tmp_path / "g.edgeopt")
    with pytest.raises(TargetError, match="none of its variants was run"):
        verify(whole.path, available=lambda target: MISSING).require()


def golden_bundle(path: Path, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> Bundle:
    """A bundle of one variant with golden arrays as given."""
    variant, engine = tiny.engines()[0]
    golden = Golden(inputs="in.npz", outputs="out.npz", tolerance=0.01)
    described = tiny.manifest(variants=(replace(variant, golden=golden),))
    return write_bundle(path, described, {variant.file: engine, "in.npz": pack(inputs), "out.npz": pack(outputs)})


IMAGES = {"image": np.full((2, 3, 8, 8), 255, np.uint8)}


@pytest.mark.parametrize(("answer", "ok"), [(8.0, True), (8.05, True), (8.2, False), (np.nan, False), (np.inf, False)])
def test_the_tolerance_is_relative_to_the_largest_output(tmp_path: Path, answer: float, *, ok: bool) -> None:
    bundle = golden_bundle(tmp_path / "x.edgeopt", IMAGES, {"scores": np.full((2, 3), answer, np.float32)})
    found = verify(bundle.path)
    assert found.ok is ok
    if not ok:
        with pytest.raises(BundleError, match=r"ort-fp32 differs by .* \(allowed 0\.01\)"):
            found.require()


def test_golden_outputs_of_another_shape_or_name(tmp_path: Path) -> None:
    shaped = golden_bundle(tmp_path / "a.edgeopt", IMAGES, {"scores": np.zeros((1, 3), np.float32)})
    assert not verify(shaped.path).ok
    named = golden_bundle(tmp_path / "b.edgeopt", IMAGES, {"logits": np.zeros((2, 3), np.float32)})
    with pytest.raises(BundleError, match=r"gives \['scores'\], its golden outputs are \['logits'\]"):
        verify(named.path)


def test_golden_inputs_that_are_not_the_networks(tmp_path: Path) -> None:
    empty = golden_bundle(tmp_path / "a.edgeopt", {"image": np.zeros((0, 3, 8, 8), np.uint8)}, {})
    with pytest.raises(BundleError, match="at least one"):
        verify(empty.path)
    floats = golden_bundle(tmp_path / "b.edgeopt", {"image": np.zeros((1, 3, 8, 8), np.float32)}, {})
    with pytest.raises(DataError, match="must be uint8"):
        verify(floats.path)


RANKED = replace(
    tiny.DETECTOR,
    decoding=preset("yolov10"),
    outputs=(TensorSpec(name="output0", shape=(1, 4, 6)),),
)
ROWS = np.array([[[0, 0, 4, 4, 0.9, 0], [2, 2, 8, 8, 0.5, 1], [1, 0, 5, 7, 0.5, 0], [3, 3, 6, 6, 0.1, 1]]], np.float32)


def ranked_difference(rows: np.ndarray) -> float:
    return answers_difference({"output0": ROWS}, {"output0": rows.astype(np.float32)}, RANKED, "fp32")


def test_rows_that_the_network_ranks_are_compared_by_what_they_say() -> None:
    assert ranked_difference(ROWS[:, [0, 2, 1, 3]]) == 0.0  # equal scores in another order
    moved = ROWS.copy()
    moved[0, 1, :4] += 0.08
    assert ranked_difference(moved[:, [0, 2, 1, 3]]) == pytest.approx(0.01, abs=1e-4)
    last = ROWS.copy()
    last[0, 3] = (0, 5, 2, 8, 0.101, 0)  # another object fell behind the last row
    assert ranked_difference(last) < 0.01
    lost = ROWS.copy()
    lost[0, 0] = (3, 3, 6, 6, 0.1, 1)
    assert ranked_difference(lost) > 0.3
    other_class = ROWS.copy()
    other_class[0, 0, 5] = 1
    assert ranked_difference(other_class) > 0.3
    assert ranked_difference(np.full_like(ROWS, np.nan)) == np.inf


CELLS = np.array([[[0, 0, 0, 0, 0.9, 1, 0, 0], *[[0, 0, 0, 0, 0.001, 0.5, 0, 0]] * 3]], np.float32)
"""An object in the first of four cells, as YOLOX gives them."""


def int8_difference(change: dict[tuple[int, int], float]) -> float:
    cells = CELLS.copy()
    for (row, column), value in change.items():
        cells[0, row, column] = value
    return answers_difference({"predictions": CELLS}, {"predictions": cells}, tiny.DETECTOR, "int8")


def test_int8_detectors_are_compared_by_their_objects() -> None:
    assert int8_difference({}) == 0.0
    assert int8_difference({(1, 0): 1.0, (2, 2): 0.8, (3, 4): 0.002}) < 0.01  # what no cell with an object says
    assert int8_difference({(0, 4): 0.87}) == pytest.approx(0.03 / 0.9, abs=0.01)
    assert int8_difference({(0, 4): 0.001}) > 0.9  # the object is lost
    assert int8_difference({(2, 4): 0.9, (2, 5): 1.0}) > 0.2  # another is invented
    assert int8_difference({(0, 0): 1.0}) > 0.3  # it is elsewhere
    assert int8_difference({(0, 5): 0.0, (0, 6): 1.0}) > 0.9  # it is of another class
    assert int8_difference(dict.fromkeys(np.ndindex(4, 8), np.nan)) == np.inf


def test_int8_detectors_that_see_nothing_agree() -> None:
    nothing = CELLS * np.float32([1, 1, 1, 1, 0.001, 1, 1, 1])
    noisy = nothing + np.float32([1, 1, 1, 1, 0, 0, 0, 0])
    assert answers_difference({"predictions": nothing}, {"predictions": noisy}, tiny.DETECTOR, "int8") < 0.05
    assert answers_difference({"predictions": nothing}, {"predictions": CELLS}, tiny.DETECTOR, "int8") > 0.5


def test_differences() -> None:
    small, large = np.array([0.5, 0.1]), np.array([100.0, 0.0])
    assert difference(small, small + 0.01) == pytest.approx(0.01)
    assert difference(large, large + 1) == pytest.approx(0.01)
    assert difference(np.zeros(0), np.zeros(0)) == 0
    assert difference(np.array([0], np.uint8), np.array([255], np.uint8)) == 255


def test_a_predictor_does_not_carry_what_was_measured(tmp_path: Path) -> None:
    bundle = tiny.write(tmp_path / "t.edgeopt").record("ort-fp32", accuracy=tiny.accuracy(0.5))
    with load(bundle.path, variant="ort-fp32") as predictor:
        assert predictor.variant.accuracy is None
        assert predictor.variant.measured == {}
    assert Bundle.open(bundle.path).variant("ort-fp32").accuracy is not None


@pytest.mark.parametrize("target", tiny.TARGETS)
@pytest.mark.parametrize("after", ["removed", "replaced"])
def test_what_was_verified_is_what_runs_whatever_becomes_of_the_bundle(bundle: Bundle, target: str, after: str) -> None:
    path = bundle.path
    with load(path, variant=f"{target}-fp32") as predictor:
        file = path / predictor.variant.file
        if after == "removed":
            shutil.rmtree(path)
        else:
            file.write_bytes(b"another model")
        red = tiny.colour("red")
        assert predictor.predict(red).label == "red"
        assert [each.label for each in predictor.predict_batch([red, tiny.colour("blue")])] == ["red", "blue"]


def test_an_engine_that_changed_since_the_bundle_was_opened_is_not_run(bundle: Bundle) -> None:
    variant = bundle.variant("ort-fp32")
    content = bundle.file(variant.name).read_bytes()
    bundle.file(variant.name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="was changed"):
        open_variant(bundle, variant)
