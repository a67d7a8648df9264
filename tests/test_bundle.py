"""Bundles: written whole or not at all, and distrusted when read."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bundle import (
    Bundle,
    Calibration,
    FileRecord,
    Manifest,
    Variant,
    folder,
    golden,
    manifest,
    pack,
    reading,
    storage,
    unpack,
    write_bundle,
)
from edgeopt.bundle.manifest import with_checksum
from edgeopt.bundle.records import ImplicitCalibration, RepairTrial, StageRecords
from edgeopt.config import CalibrateConfig, Config, ModelConfig
from edgeopt.errors import BundleError, StorageError
from edgeopt.hardware.probing import CudaDriverState, machine
from edgeopt.spec import preset, replace


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """With golden arrays, so that it has files of every kind."""
    plain = tiny.manifest()
    arrays = pack({"image": np.zeros((2, 3, 8, 8), np.uint8)})
    kept = manifest.Golden(inputs="golden/inputs.npz", outputs="golden/outputs.npz", tolerance=1e-3)
    variants = tuple(replace(variant, golden=kept) for variant in plain.variants)
    files = {variant.file: engine for variant, engine in tiny.engines()}
    files |= {"golden/inputs.npz": arrays, "golden/outputs.npz": arrays}
    return write_bundle(tmp_path / "x.edgeopt", replace(plain, variants=variants), files)


def rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as an attacker would."""
    path = bundle.path / "manifest.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    write_manifest(path, content)


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2).encode()
    path.write_bytes(text if content["schema_version"] in (1, 2, 3) else with_checksum(text))


# What it holds


def test_it_comes_back_as_it_was_written(bundle: Bundle) -> None:
    again = Bundle.open(str(bundle.path))
    assert again == bundle
    assert again.manifest.baseline == "ort-fp32"
    assert again.variant("ov-int8").scheme == "openvino"
    assert again.spec("ov-int8") == tiny.CLASSIFIER
    assert again.file("ov-int8").read_bytes() == (tiny.DATA / "tiny_classifier_int8.onnx").read_bytes()
    assert again.manifest.size_bytes(again.variant("ov-int8")) == again.file("ov-int8").stat().st_size


def test_a_variant_may_have_its_own_specification(tmp_path: Path) -> None:
    own = replace(tiny.CLASSIFIER, name="other")
    plain = tiny.manifest()
    variants = (replace(plain.variants[0], spec=own), *plain.variants[1:])
    bundle = tiny.write(tmp_path / "x.edgeopt", variants=variants)
    assert bundle.spec("ort-fp32").name == "other"
    assert bundle.spec("ov-fp32").name == "tiny-classifier"


def test_an_unknown_variant(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no variant 'ov-int4'\. Did you mean 'ov-int8'"):
        bundle.file("ov-int4")


def test_files_are_copied_from_paths_too(tmp_path: Path) -> None:
    files = {}
    for index, (variant, engine) in enumerate(tiny.engines()):
        files[variant.file] = tmp_path / f"{index}.onnx"
        files[variant.file].write_bytes(engine)
    written = write_bundle(tmp_path / "a.edgeopt", tiny.manifest(), files)
    assert written.manifest == tiny.write(tmp_path / "b.edgeopt").manifest


def test_equal_content_makes_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny.write(tmp_path / name)
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def fill(whole: Manifest) -> Manifest:
    """A manifest with every kind of record."""
    first, second, *others = whole.variants
    tried = RepairTrial("ranges", float("nan"), 0.5)
    stages = StageRecords(repairs=(tried,), kept_float32={"node": "reaches 900"}, evaluated_in="ONNX Runtime")
    first = replace(first, accuracy=tiny.accuracy(0.9), measured=tiny.measured(tiny.identity(), 2.0), nodes={"Conv": 3})
    second = replace(second, stages=stages, diagnosis=tiny.diagnosis())
    return replace(
        whole,
        variants=(first, second, *others),
        calibration=Calibration(method="mse", images=1, fingerprint="f", names=("a",), settings=CalibrateConfig()),
        versions={"edgeopt": "0.1.0"},
        machine=machine(cuda=CudaDriverState(problem="not asked")),
        parity=1e-7,
        recipe=Config(name="tiny", model=ModelConfig(source="tiny.onnx")),
        files={variant.file: FileRecord(sha256="0" * 64, size=1) for variant in whole.variants},
    )


def test_a_manifest_survives_json() -> None:
    whole = fill(tiny.manifest())
    assert manifest.decode(manifest.encode(whole), "test") == whole


def test_a_manifest_holds_no_untyped_table() -> None:
    """But for what belongs to others: a network's constructor, and the options of a target."""
    untyped = {path for path, kind in fields_of(Manifest) if kind == dict[str, Any]}
    assert {path.rsplit(".", 2)[-2:][-1] for path in untyped} == {"options", "arguments"}


def fields_of(kind: Any, path: str = "manifest") -> Iterator[tuple[str, Any]]:
    """Every field that a structure or the structures in it have, with its type."""
    yield path, kind
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield from fields_of(field.type, f"{path}.{field.name}")
    elif kind != dict[str, Any]:
        for argument in get_args(kind):
            yield from fields_of(argument, path)


# Bundles of earlier versions

VERSION_1 = sorted(tiny.DATA.glob("manifest_v1_*.json"))


@pytest.mark.parametrize("path", VERSION_1, ids=[path.stem for path in VERSION_1])
def test_a_bundle_of_schema_version_1_opens_with_all_that_it_holds(path: Path, tmp_path: Path) -> None:
    """Their manifests were written by the last edgeopt of that version; the engines here are zeros."""
    for name, record in json.loads(path.read_text())["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(record["size"]))
    (tmp_path / "manifest.json").write_bytes(path.read_bytes())
    opened = Bundle.open(tmp_path, check_hashes=False)
    int8 = opened.variant("ort-int8")
    assert int8.accuracy.images == 40
    (found,) = int8.measured.values()
    assert found.latency.ratio.baseline == "ort-fp32"
    assert found.machine.title == "AMD EPYC, 2 cores, onnxruntime 1.32.0"
    assert found.recorded == opened.manifest.created
    assert int8.stages.helped[0] == "equalization"
    assert "gptq" in opened.manifest.recipe.quantize.repairs
    assert opened.manifest.machine.cpu.model == "AMD EPYC"
    assert opened.manifest.calibration.settings.images == 200
    if "trt" in path.stem:
        half = opened.variant("trt-fp16")
        assert "tensorrt" in half.stages.evaluated_in
        assert half.stages.kept_float32 == {}
        assert int8.diagnosis.layers
        assert opened.variant("ort-fp32").tuned["0123456789abcdef"]["latency"].threads == 2
    else:
        assert int8.stages.search.status == "refused"
    recorded = opened.record("ort-int8", verdict="seen")
    assert Bundle.open(tmp_path, check_hashes=False) == recorded
    assert json.loads((tmp_path / "manifest.json").read_text())["schema_version"] == 4


def test_implicit_int8_of_schema_version_1(bundle: Bundle) -> None:
    def older(content: dict[str, Any]) -> None:
        content["schema_version"] = 1
        for each in content["variants"]:
            del each["stages"]
        made = {"calibrated by": "TensorRT's entropy calibrator", "images": 7, "of": "trt-fp32"}
        content["variants"][0]["settings"] = made

    rewrite(bundle, older)
    again = Bundle.open(bundle.path).manifest.variants[0]
    assert again.stages.implicit == ImplicitCalibration(source="trt-fp32", images=7)


@pytest.mark.parametrize("record", ["accuracy", "stages"])
def test_a_record_of_a_newer_edgeopt_gives_one_message(bundle: Bundle, record: str) -> None:
    path = bundle.path / "manifest.json"
    filled = fill(bundle.manifest)
    content = json.loads(manifest.encode(replace(filled, files=bundle.manifest.files)))
    del content["checksum"]
    content["variants"][0][record]["something_new"] = 1
    write_manifest(path, content)
    with pytest.raises(BundleError, match=rf"unknown field `something_new` - at `\$\.variants\[0\]\.{record}`"):
        Bundle.open(bundle.path)
    content["versions"] = {"edgeopt": "99.1"}
    write_manifest(path, content)
    with pytest.raises(BundleError, match=r"written by edgeopt 99\.1, and edgeopt .* cannot read it: .*Install that"):
        Bundle.open(bundle.path)


# What readers refuse


@pytest.mark.parametrize(
    "name", ["variants/ort-fp32/model.onnx", "variants/ov-int8/model.onnx", "golden/inputs.npz", "golden/outputs.npz"]
)
@pytest.mark.parametrize("position", [0, -1])
def test_a_changed_byte_is_found_in_every_kind_of_file(bundle: Bundle, name: str, position: int) -> None:
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was changed"):
        Bundle.open(bundle.path)
    Bundle.open(bundle.path, check_hashes=False)


def test_a_changed_byte_of_the_manifest_is_found_or_changes_no_reference(bundle: Bundle) -> None:
    """The manifest has no hash over itself; what it says about files is held against the files."""
    path = bundle.path / "manifest.json"
    whole = path.read_bytes()
    start = whole.index(b'"files"')
    for position in range(start, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            opened = Bundle.open(bundle.path)
        except BundleError:
            continue
        assert opened.manifest == bundle.manifest  # white space, for instance


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_a_cut_manifest(bundle: Bundle, cut: int) -> None:
    path = bundle.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BundleError, match=r"is not a manifest of edgeopt|was changed: the sha256 of its content"):
        Bundle.open(bundle.path)


def test_a_missing_an_extra_and_a_shorter_file(bundle: Bundle) -> None:
    engine = bundle.path / "variants/ov-fp32/model.onnx"
    content = engine.read_bytes()
    engine.unlink()
    with pytest.raises(BundleError, match=r"variants/ov-fp32/model\.onnx missing"):
        Bundle.open(bundle.path)
    engine.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=f"{len(content) - 1} bytes where the manifest says {len(content)}"):
        Bundle.open(bundle.path)
    engine.write_bytes(content)
    (bundle.path / "variants/extra.txt").touch()
    with pytest.raises(BundleError, match=r"holds variants/extra\.txt, which its manifest does not name"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", ".", "", "C:\\x", "a\\b", "a\0b", "manifest.json"],
)
def test_paths_that_leave_the_bundle(bundle: Bundle, path: str) -> None:
    def escape(content: dict[str, Any]) -> None:
        content["files"][path] = {"sha256": "0" * 64, "size": 1}

    rewrite(bundle, escape)
    with pytest.raises(BundleError, match="does not lie inside the bundle"):
        Bundle.open(bundle.path)


def test_writers_refuse_such_paths_as_well(tmp_path: Path) -> None:
    files = {variant.file: engine for variant, engine in tiny.engines()} | {"../escaped": b""}
    with pytest.raises(BundleError, match="does not lie inside"):
        write_bundle(tmp_path / "x.edgeopt", tiny.manifest(), files)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "variants/ov-fp32/model.onnx", "variants"])
def test_links_are_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    moved = tmp_path / "elsewhere"
    (bundle.path / name).rename(moved)
    (bundle.path / name).symlink_to(moved)
    with pytest.raises(BundleError, match=r"not an ordinary file|link or a special file"):
        Bundle.open(bundle.path)


def test_special_files_are_refused_without_opening_them(bundle: Bundle) -> None:
    os.mkfifo(bundle.path / "pipe")
    with pytest.raises(BundleError, match="link or a special file"):
        Bundle.open(bundle.path)


def hostile(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(changes)


def a_variant(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["variants"][0].update(changes)


def steps(found: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    """Preprocessing that takes all memory or hours."""
    return lambda content: content["spec"]["preprocessing"].update(steps=found)


def record(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["files"]["golden/inputs.npz"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        hostile(unknown=1),
        hostile(variants=[]),
        hostile(variants={}),
        hostile(files=[]),
        hostile(files={}),
        hostile(name="../x"),
        hostile(name=7),
        hostile(created="yesterday"),
        hostile(created="2026-11-22T12:00:00"),
        hostile(spec=None),
        hostile(baseline="none"),
        hostile(baseline=["ort-fp32"]),
        hostile(schema_version="1"),
        hostile(schema_version=10**30),
        hostile(schema_version=None),
        record(size=-1),
        record(size=10**15),
        record(size=10**400),
        record(size="1"),
        record(size=1.5),
        record(sha256="0"),
        record(sha256="Z" * 64),
        record(sha256=None),
        a_variant(name="a/b"),
        a_variant(name="ov-fp32"),
        a_variant(precision="int3"),
        a_variant(file="variants/none"),
        a_variant(file=["x"]),
        a_variant(measured={"this machine": {}}),
        a_variant(measured={"0" * 16: {}}),
        a_variant(nodes={"Conv": -1}),
        a_variant(engine={"threads": -1}),
        a_variant(engine={"threads": 10_000}),
        a_variant(engine={"batch": 10**9}),
        hostile(name="tiny\n"),
        steps([{"type": "resize", "size": [10**9, 10]}]),
        steps([{"type": "resize_shorter_side", "pixels": 40_000}]),
        steps([{"type": "resize", "size": [3000, 3000]}] * 400),
        a_variant(engine={"precision": "fp8"}),
        a_variant(golden={"inputs": "none", "outputs": "golden/outputs.npz", "tolerance": 1}),
        a_variant(golden={"inputs": "golden/inputs.npz", "outputs": "golden/outputs.npz", "tolerance": 0}),
        a_variant(accuracy=[1]),
        a_variant(accepted="yes"),
    ],
)
def test_hostile_manifests(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    rewrite(bundle, change)
    with pytest.raises(BundleError):
        Bundle.open(bundle.path)


def test_another_schema_version_says_what_to_do(bundle: Bundle) -> None:
    rewrite(bundle, hostile(schema_version=5, something_new=1))
    with pytest.raises(BundleError, match="has schema version 5; this edgeopt reads versions 1 to 4"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b'{"name": "\xff"}'])
def test_manifests_that_are_not_even_json(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="is not a manifest of edgeopt"):
        Bundle.open(bundle.path)


def test_deeply_nested_results_are_refused(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    deep = b"[" * 100_000 + b"]" * 100_000
    text = b"{" + path.read_bytes().partition(b",")[2]
    path.write_bytes(with_checksum(text.replace(b'"recipe": null', b'"recipe": ' + deep)))
    with pytest.raises(BundleError, match="is not a manifest of edgeopt"):
        Bundle.open(bundle.path)


def test_a_huge_manifest_is_not_read(bundle: Bundle) -> None:
    os.truncate(bundle.path / "manifest.json", 1 << 40)  # sparse
    with pytest.raises(BundleError, match="of at most 67108864"):
        Bundle.open(bundle.path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError):
        manifest.decode(content, "test")


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle .*x\.edgeopt\. Make one"):
        Bundle.open(tmp_path / "x.edgeopt")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_something_that_is_not_a_bundle(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(BundleError, match="is not a bundle: it has no manifest"):
        Bundle.open(tmp_path / "x")


# Golden arrays


def test_arrays_come_back_and_equal_arrays_are_equal_bytes() -> None:
    arrays = {"file": np.arange(6, dtype=np.float16).reshape(2, 3), "a/b": np.zeros((0, 2), np.uint8)}
    packed = pack(arrays)
    assert packed == pack(dict(reversed(arrays.items())))
    for name, array in unpack(packed, "test").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype


@pytest.mark.parametrize("cut", [0, 10, 100, -1])
def test_damaged_arrays(cut: int) -> None:
    with pytest.raises(BundleError, match="is not a file of arrays"):
        unpack(pack({"a": np.arange(100)})[:cut], "test")


def test_pickles_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BundleError, match="is not a file of arrays"):
        unpack(buffer.getvalue(), "test")


def test_a_zip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "LARGEST_BYTES", 1000)
    with pytest.raises(BundleError, match="refusing"):
        unpack(pack({"a": np.zeros(10_000, np.uint8)}), "test")


def test_golden_arrays_of_a_variant(bundle: Bundle, tmp_path: Path) -> None:
    inputs, outputs = bundle.golden("ov-int8")
    assert inputs["image"].shape == outputs["image"].shape == (2, 3, 8, 8)
    assert tiny.write(tmp_path / "plain").golden("ov-int8") is None


# Results


def test_results_are_replaced_and_nothing_else(bundle: Bundle) -> None:
    changed = bundle.record("ov-int8", accuracy=tiny.accuracy(0.9))
    changed = changed.record("ov-fp32", accepted=False, verdict="too low")
    assert Bundle.open(bundle.path) == changed
    assert changed.variant("ov-int8").accuracy == tiny.accuracy(0.9)
    assert changed.variant("ov-fp32").verdict == "too low"
    assert changed.manifest.files == bundle.manifest.files
    assert [path.name for path in bundle.path.parent.iterdir()] == ["x.edgeopt"]


def test_an_old_handle_does_not_undo_what_another_recorded(bundle: Bundle) -> None:
    bundle.record("ov-int8", verdict="seen")
    assert bundle.record("ov-int8", accuracy=tiny.accuracy(0.9)).variant("ov-int8").verdict == "seen"


def test_what_machines_found_stands_side_by_side_and_newer_replaces_older(bundle: Bundle) -> None:
    here, other = tiny.identity(), replace(tiny.identity(), power_mode="15W")
    for where, p50_ms in ((other, 9.0), (here, 4.0), (here, 3.0)):
        (found,) = tiny.measured(where, p50_ms).values()
        bundle.record_measured({"ov-int8": found})
    (evaluated,) = tiny.measured(here, accuracy=tiny.accuracy(0.5)).values()
    bundle.record_measured({"ov-int8": evaluated, "ort-fp32": evaluated})
    kept = Bundle.open(bundle.path).variant("ov-int8").measured
    assert {key: found.latency.end_to_end.p50_ms for key, found in kept.items()} == {
        here.fingerprint: 3.0, other.fingerprint: 9.0,
    }  # fmt: skip
    assert kept[here.fingerprint].accuracy.value == 0.5
    assert kept[other.fingerprint].accuracy is None


def test_a_bundle_that_was_replaced_while_it_was_measured_keeps_nothing_of_it(bundle: Bundle) -> None:
    (found,) = tiny.measured(tiny.identity(), 4.0).values()
    files = {variant.file: engine for variant, engine in tiny.engines()}
    write_bundle(bundle.path, tiny.manifest(), {**files, "variants/ov-int8/model.onnx": b"another"})
    with pytest.raises(BundleError, match="was replaced meanwhile, and its variant 'ov-int8' is another one now"):
        bundle.record_measured({"ov-int8": found})
    with pytest.raises(BundleError, match="was replaced meanwhile"):
        bundle.add(replace(bundle.variant("ov-int8"), name="one-more", file="variants/one-more/x"), b"x")
    bundle.record_measured({"ort-fp32": found})
    assert Bundle.open(bundle.path).variant("ort-fp32").measured


def test_a_variant_joins_what_was_recorded_meanwhile(bundle: Bundle) -> None:
    bundle.record("ov-int8", verdict="seen")
    joined = bundle.add(Variant(name="more", target="ort", precision="int8", file="variants/more/x.onnx"), b"x")
    assert Bundle.open(bundle.path) == joined
    assert joined.variant("ov-int8").verdict == "seen"
    assert joined.file("more").read_bytes() == b"x"


def test_a_manifest_that_no_reader_would_take_is_not_written(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (bundle.path / "manifest.json").stat().st_size
    monkeypatch.setattr("edgeopt.bundle.folder.LARGEST_MANIFEST_BYTES", size + 10)
    with pytest.raises(BundleError, match=r"would have .* evaluations hold the answer to each image"):
        bundle.record("ov-int8", verdict="much longer than ten letters")
    with pytest.raises(BundleError, match=r"would have .* evaluations hold the answer to each image"):
        tiny.write(bundle.path, notes=("much longer" * 1000,))
    assert Bundle.open(bundle.path) == bundle


def test_recording_beside_writing_never_breaks_a_bundle(tmp_path: Path) -> None:
    """Two processes for a second each in a tight loop: one replaces the bundle, one records in it."""
    path = tmp_path / "x.edgeopt"
    tiny.write(path)
    script = """
import sys, time, tiny
from pathlib import Path
from edgeopt.bundle import Bundle
from edgeopt.errors import BundleError
path, record = Path(sys.argv[1]), sys.argv[2] == "record"
for turn in range(40):
    if record:
        Bundle.open(path, check_hashes=False).record("ort-fp32", verdict=str(turn))
    else:
        tiny.write(path, tiny.DETECTOR if turn % 2 else tiny.CLASSIFIER)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen([sys.executable, "-c", script, path, what], env=environment, stderr=subprocess.PIPE, text=True)
        for what in ("write", "record")
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert workers[0].returncode == 0, errors[0]
    Bundle.open(path)
    if workers[1].returncode:  # it may have looked between two files of the old folder and the new one
        assert errors[1].strip().splitlines()[-1].startswith("edgeopt.errors.BundleError")
    assert [each.name for each in tmp_path.iterdir()] == ["x.edgeopt"]


def test_a_bundle_that_is_replaced_while_it_is_looked_at_is_the_new_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update beside a service that starts; what is not replaced is refused at once."""
    look, looks = reading.check_listing, []

    def replaced(path: Path, manifest: Manifest) -> None:
        looks.append(path)
        if len(looks) == 1:
            tiny.write(path, tiny.DETECTOR)
        look(path, manifest)

    monkeypatch.setattr(reading, "check_listing", replaced)
    assert Bundle.open(bundle.path).manifest.spec == tiny.DETECTOR
    assert len(looks) == 2
    (bundle.path / "more").write_bytes(b"")
    with pytest.raises(BundleError, match="which its manifest does not name"):
        Bundle.open(bundle.path)
    assert len(looks) == 3


def test_a_file_that_goes_while_the_folder_is_listed_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def gone(path: Path, **options: object) -> object:
        for parent, folders, names in walk(path, **options):
            yield parent, folders, [*names, "gone.onnx"]

    monkeypatch.setattr(os, "walk", gone)
    with pytest.raises(StorageError, match=r"cannot read .*gone\.onnx"):
        Bundle.open(bundle.path)


def test_only_results_can_be_recorded(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="file: not a result"):
        bundle.record("ov-int8", file="x")
    with pytest.raises(BundleError, match="no variant"):
        bundle.record("none", verdict="seen")
    with pytest.raises(BundleError, match="accepted"):
        bundle.record("ov-int8", accepted="fast")
    assert Bundle.open(bundle.path) == bundle


# Writing


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_an_existing_bundle_is_replaced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, *, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    written = tiny.write(bundle.path, tiny.DETECTOR)
    assert Bundle.open(bundle.path) == written
    assert [path.name for path in bundle.path.parent.iterdir()] == ["x.edgeopt"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    (tmp_path / "file").touch()
    for name in ("home", "link", "file"):
        with pytest.raises(BundleError, match="is not a bundle; choose another name"):
            tiny.write(tmp_path / name)
    assert (tmp_path / "home/thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    tiny.write(tmp_path / "empty")


def test_a_bundle_can_be_read_by_others(bundle: Bundle) -> None:
    assert bundle.path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose another folder"), (errno.EACCES, "choose a folder")],
)
@pytest.mark.parametrize("function", ["mkdtemp", "fsync"])
def test_a_disk_that_refuses(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, function: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.tempfile if function == "mkdtemp" else storage.os, function, refuse)
    with pytest.raises(StorageError, match=rf"cannot write .*x\.edgeopt.*; {advice}"):
        tiny.write(bundle.path)
    with pytest.raises(StorageError, match=advice):
        bundle.record("ov-int8", verdict="seen")
    monkeypatch.undo()
    assert Bundle.open(bundle.path) == bundle
    assert [path.name for path in bundle.path.parent.iterdir()] == ["x.edgeopt"]


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    script = """
import resource, signal, sys, tiny
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
tiny.write(tiny.Path(sys.argv[1]))
"""
    done = run(script, tmp_path / "x.edgeopt")
    assert "StorageError: cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_source_file_that_is_gone(tmp_path: Path) -> None:
    files = {variant.file: tmp_path / "gone.onnx" for variant, _ in tiny.engines()}
    with pytest.raises(StorageError, match=r"gone\.onnx: a file or folder of that path is not there"):
        write_bundle(tmp_path / "x.edgeopt", tiny.manifest(), files)


KILLED = """
import os, pathlib, signal, sys, tiny
from edgeopt.bundle import Bundle, storage
path, moment, action = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
count = 0

def counted(function):
    def call(*arguments, **options):
        global count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

storage.os.fsync = counted(os.fsync)
storage._put_in_place = counted(storage._put_in_place)
storage._exchange = counted(storage._exchange)
storage.shutil.rmtree = counted(storage.shutil.rmtree)
if action == "write":
    tiny.write(path, tiny.DETECTOR)
else:
    Bundle.open(path).record("ov-int8", verdict="seen")
"""


@pytest.mark.parametrize(("action", "moments"), [("write", range(1, 13)), ("record", range(1, 4))])
def test_a_killed_writer_leaves_the_old_bundle_or_the_new_one(tmp_path: Path, action: str, moments: range) -> None:
    old = tiny.write(tmp_path / "x.edgeopt")
    found = []
    for moment in moments:
        tiny.write(tmp_path / "x.edgeopt")
        done = run(KILLED, tmp_path / "x.edgeopt", str(moment), action)
        opened = Bundle.open(tmp_path / "x.edgeopt")
        found.append(opened == old)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert found[0]
    assert not found[-1]
    tiny.write(tmp_path / "x.edgeopt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.edgeopt"]  # leftovers went with the next write


def test_a_writer_killed_at_its_first_bundle_leaves_nothing_to_open(tmp_path: Path) -> None:
    for moment in (1, 3, 5):
        run(KILLED, tmp_path / "x.edgeopt", str(moment), "write")
        with pytest.raises(BundleError, match=r"it has no manifest|there is no bundle"):
            Bundle.open(tmp_path / "x.edgeopt")


@pytest.mark.parametrize("name", ["x.edgeopt", "[x] *.edgeopt"])
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path, name: str) -> None:
    (tmp_path / f".{name}.abc.tmp").mkdir()
    tiny.write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_bundle_is_not_replaced_while_a_result_is_recorded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the old manifest would lie beside the new files."""
    writer = threading.Thread(target=tiny.write, args=(bundle.path, tiny.DETECTOR))

    def replace_slowly(path: Path, content: bytes) -> None:
        writer.start()
        writer.join(timeout=0.3)
        storage.replace_file(path, content)

    monkeypatch.setattr(folder, "replace_file", replace_slowly)
    bundle.record("ov-int8", verdict="seen")
    writer.join()
    assert Bundle.open(bundle.path).manifest.spec == tiny.DETECTOR


def test_a_bundle_can_be_named_from_within(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.path)
    Bundle.open(".").record("ov-int8", verdict="seen")
    assert Bundle.open(".").variant("ov-int8").verdict == "seen"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a child process that can import the tests' own modules."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_manifest_is_for_people_too(bundle: Bundle) -> None:
    text = (bundle.path / "manifest.json").read_text()
    assert text.splitlines()[2] == '  "name": "tiny-classifier",'
    assert isinstance(bundle.manifest, Manifest)


@pytest.mark.parametrize(
    "former",
    [
        {"type": "yolox", "strides": [8], "score_threshold": 0.2, "iou_threshold": 0.5, "class_agnostic": True},
        {"type": "yolo", "score_threshold": 0.2, "iou_threshold": 0.5, "max_detections": 7},
    ],
    ids=["yolox", "yolo"],
)
def test_a_bundle_whose_head_was_a_type_of_its_own_decodes_as_before(bundle: Bundle, former: dict[str, Any]) -> None:
    def older(content: dict[str, Any]) -> None:
        content["schema_version"] = 2
        content["spec"] |= {"task": "detection", "decoding": former}
        content["recipe"] = {"name": "x", "model": {"source": "m.onnx", "decoding": former}}

    rewrite(bundle, older)
    manifest = Bundle.open(bundle.path).manifest
    decoding = manifest.spec.decoding
    assert manifest.recipe.model.decoding == decoding
    wanted = preset("yolox", grid={"strides": (8,)}) if former["type"] == "yolox" else preset("yolov8")
    kept = {key: former[key] for key in former if key not in ("type", "strides")}
    assert decoding == replace(wanted, **kept)
