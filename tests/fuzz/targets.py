"""Everything that reads what came from outside, as functions of bytes; an `EdgeoptError` is an answer."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import shutil
import struct
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny

from edgeopt import config, intervals
from edgeopt.bundle import Bundle, golden, manifest, recorded, splits
from edgeopt.bundle.provenance import provenance_of
from edgeopt.cli.output import printable, printable_block
from edgeopt.cli.views.maker import maker_lines
from edgeopt.config import DataSource
from edgeopt.dataset import load
from edgeopt.dataset.survey import survey
from edgeopt.errors import DataError, EdgeoptError
from edgeopt.postprocess.decoding import decode, require_numbers
from edgeopt.preprocess import read_image
from edgeopt.preprocess.image import to_bgr
from edgeopt.runtime import Inferred, Predictor, engine_cache, speeds
from edgeopt.runtime import load as open_predictor
from edgeopt.runtime.stream import address
from edgeopt.spec import ModelSpec, TensorSpec, preset, replace
from edgeopt.trust import keys, provenance, releases, sealing, signature

Seeds = Callable[[], Sequence[bytes]]
Read = Callable[[bytes, Path], object]

DATA = Path(__file__).resolve().parents[1] / "data"


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        read: called with an input and a folder that is its own for the whole run; raises `EdgeoptError` or nothing.
        seeds: inputs to begin with, most of which it accepts.
        needs: modules without which it is not tried.
        largest: bytes of an input at most.
    """

    read: Read
    seeds: Seeds
    needs: tuple[str, ...] = ()
    largest: int = 1 << 13

    def __call__(self, content: bytes, folder: Path) -> bool:
        """Read one input, of which no more than `largest` bytes; True if it was accepted."""
        return self.answers(content[: self.largest], folder)

    def answers(self, content: bytes, folder: Path) -> bool:
        """Read an input of any size; True if it was accepted."""
        try:
            self.read(content, folder)
        except EdgeoptError as error:
            if not str(error).strip():
                raise ValueError("an error without a message") from error
            return False
        return True


def written(folder: Path, name: str, content: bytes) -> Path:
    """Write a file for a reader of paths."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def text(content: bytes) -> str:
    """Return what a command line or an environment variable would hold."""
    return content.decode("utf-8", "surrogateescape")


# Recipes and what stands on the command line


RECIPE = """
name = "tiny"
[model]
source = "edgeopt:lenet5"
labels = ["a", "b"]
[model.preprocessing]
channels = "BGR"
[data.train]
format = "image_folder"
path = "images"
[train]
epochs = 3
[[model.inputs]]
name = "scale"
holds = "constant"
value = [1.0]
[quantize]
repairs = ["equalization"]
[budget]
max_drop = "0.5%"
[compile]
targets = ["ort", "ov"]
"""


def read_recipe(content: bytes, folder: Path) -> object:
    return config.find_recipe(str(written(folder, "edgeopt.toml", content)))


def read_override(content: bytes, _: Path) -> object:
    return config.parse_config(RECIPE, overrides=[text(content)])


def read_table(content: bytes, folder: Path) -> object:
    return config.data_source(str(written(folder, "data.toml", content)))


def read_names(content: bytes, folder: Path) -> object:
    from edgeopt.source.specification import read_labels

    path = written(folder, "names.txt", content)
    return read_labels(config.ModelConfig(source="edgeopt:lenet5", labels=str(path)), folder)


# Bundles and what lies beside them


@functools.cache
def manifest_text() -> bytes:
    spec = replace(tiny.CLASSIFIER, name="tiny")
    variants = tuple(
        replace(
            variant,
            accuracy=tiny.accuracy(0.9, images=10),
            measured=tiny.measured(tiny.identity(), p50_ms=2.0),
            diagnosis=tiny.diagnosis(),
        )
        for variant, _ in tiny.engines(spec)
    )
    described = tiny.manifest(spec, variants=variants)
    files = {variant.file: manifest.FileRecord(size=len(engine), sha256="0" * 64) for variant, engine in tiny.engines()}
    return manifest.encode(replace(described, files=files))


def body(whole: bytes) -> bytes:
    """Return a manifest's text without its checksum, which every changed one would lack."""
    return b"{" + whole.partition(b'",')[2]


def read_manifest(content: bytes, _: Path) -> object:
    return manifest.decode(content, "manifest.json")


def read_checked_manifest(content: bytes, folder: Path) -> object:
    """Read a manifest whose checksum was made again, and show everything that it says."""
    from edgeopt.report.content import content as report
    from edgeopt.report.html import to_html
    from edgeopt.report.materials import bill_of_materials
    from edgeopt.report.text import to_json, to_markdown, to_terminal

    found = manifest.decode(manifest.with_checksum(content), "manifest.json")
    manifest.encode(found)
    with few_resamples():
        shown = report(found)
        to_terminal(shown)
        return to_json(shown), to_markdown(shown), to_html(shown), bill_of_materials(Bundle(folder, found))


@contextlib.contextmanager
def few_resamples() -> Iterator[None]:
    """Draw 20 resamples instead of 2,000: they take all the time, and what is read does not depend on them."""
    picks = intervals._picks
    intervals._picks = lambda count, resamples, seed: picks(count, min(resamples, 20), seed)
    try:
        yield
    finally:
        intervals._picks = picks


def read_measured(content: bytes, _: Path) -> object:
    return recorded.join(manifest.decode(manifest_text(), "manifest.json"), content, "measured.json")


def measured_text() -> list[bytes]:
    _, found = recorded.split(manifest.decode(manifest_text(), "manifest.json"))
    return [found or b"{}"]


@functools.cache
def empty_bundle(folder: Path) -> Bundle:
    return tiny.write(folder / "tiny.edgeopt")


def read_bundle(content: bytes, folder: Path) -> object:
    """Open a folder of which one file is the input: the byte that it begins with says which."""
    names = ("manifest.json", "measured.json", "model.sig", "variants/ort-fp32/model.onnx", "extra.bin")
    bundle = empty_bundle(folder)
    place = bundle.path / names[(content or b"\0")[0] % len(names)]
    before = place.read_bytes() if place.exists() else None
    try:
        place.write_bytes(content[1:])
        return Bundle.open(bundle.path)
    finally:
        if before is None:
            place.unlink()
        else:
            place.write_bytes(before)


def read_splits(content: bytes, folder: Path) -> object:
    written(folder, splits.SPLITS_FILE, content)
    named = manifest.decode(manifest_text(), "manifest.json")
    record = manifest.FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return splits.recorded_splits(Bundle(folder, replace(named, files={splits.SPLITS_FILE: record})))


def read_arrays(content: bytes, _: Path) -> object:
    return golden.unpack(content, "golden.npz")


def arrays() -> list[bytes]:
    plain = io.BytesIO()
    np.savez(plain, x=np.zeros((1, 3, 4, 4), np.uint8))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        content = io.BytesIO()
        np.lib.format.write_array(content, np.arange(5.0), allow_pickle=False)
        archive.writestr("x.npy", content.getvalue())
    return [golden.pack({"x": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.array(3)}), plain.getvalue(),
            packed.getvalue()]  # fmt: skip


def read_calibration(content: bytes, folder: Path) -> object:
    """Read arrays that calibrate `edgeopt quantize`."""
    from edgeopt.pipeline.standalone import array_feeds

    return list(itertools.islice(array_feeds(written(folder, "calibration.npz", content)), 3))


def read_calibration_table(content: bytes, folder: Path) -> object:
    from edgeopt.calibrate.table import CalibrationTable

    return CalibrationTable.load(written(folder, "table.npz", content))


def calibration_tables() -> list[bytes]:
    from edgeopt.bundle.calibration import Convergence
    from edgeopt.calibrate.table import CalibrationTable, TensorStatistics
    from edgeopt.config import CalibrateConfig

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        CalibrationTable({"x": TensorStatistics()}, (), CalibrateConfig(), Convergence((1,), (0.0,), (0.0,))).save(path)
        return [path.read_bytes()]


def read_packed(content: bytes, folder: Path) -> object:
    """Unpack a tar archive, which is compressed here: changed bytes of xz end at its checksums."""
    from edgeopt.fleet.packed import unpack

    place = folder / "unpacked"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    unpack(written(folder, "tiny.edgeopt.tar.xz", lzma.compress(content, preset=0)), place)
    return Bundle.open(place)


def archives() -> list[bytes]:
    from edgeopt.fleet.packed import pack

    with tempfile.TemporaryDirectory() as folder:
        bundle, packed = tiny.write(Path(folder) / "tiny.edgeopt"), Path(folder) / "tiny.edgeopt.tar.xz"
        pack(bundle.path, packed)
        return [lzma.decompress(packed.read_bytes())]


# Signatures, keys, sealed files, and what a device keeps


@functools.cache
def private_key() -> keys.PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "key.pem", made)
        path.chmod(0o600)
        return keys.read_private(path)


def signatures() -> list[bytes]:
    return [signature.sign("tiny", {"manifest.json": "0" * 64, "a/b.onnx": "1" * 64}, private_key(), beside=("x",))]


def read_signature(content: bytes, _: Path) -> object:
    return signature.verify(content, (private_key().public,), "model.sig")


def statements() -> list[bytes]:
    return [base64.b64decode(json.loads(signatures()[0])["dsseEnvelope"]["payload"])]


def read_statement(content: bytes, _: Path) -> object:
    return signature._files(content, "model.sig")


FILES = {"manifest.json": "0" * 64, "a/b.onnx": "1" * 64}


def read_provenance(content: bytes, _: Path) -> object:
    return list(maker_lines("key.pub", 1, provenance.read(content, FILES, "provenance.sigstore.json")))


def provenances() -> list[bytes]:
    made = provenance_of(
        tiny.manifest(recipe=config.parse_config(RECIPE), versions={"edgeopt": "0.1.0"}, datasets={"test": "ab" * 32}),
        "https://ci.example.com",
        "tiny",
    )
    signed = provenance.attest(FILES, made, private_key())
    return [base64.b64decode(json.loads(signed)["dsseEnvelope"]["payload"])]


def read_key(content: bytes, folder: Path) -> object:
    path = written(folder, "key.pem", content)
    path.chmod(0o600)
    try:
        return keys.read_public(path)
    except EdgeoptError:
        return keys.read_private(path, b"passphrase")


def pems() -> list[bytes]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    pem, made = serialization.Encoding.PEM, []
    for key in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        made.append(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        made.append(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"other"))
        )
    return made


CIPHER = sealing.Cipher(bytes(range(32)))


def sealed() -> list[bytes]:
    return [CIPHER.seal(bytes(size), "engine.onnx") for size in (0, 10, 200)]


def read_sealed(content: bytes, _: Path) -> object:
    return CIPHER.unseal(content, "engine.onnx")


@functools.cache
def identity() -> Any:
    import pyrage

    return pyrage.x25519.Identity.generate()


def wrapped_keys() -> list[bytes]:
    return [sealing.new_cipher([str(identity().to_public())], "tiny")[1]]


def read_wrapped_key(content: bytes, folder: Path) -> object:
    file = folder / "identity.txt"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(str(identity()))
    os.environ[sealing.IDENTITY_VARIABLE] = str(file)
    return sealing.open_cipher(content, "tiny")


@functools.cache
def _wrapped() -> bytes:
    return wrapped_keys()[0]


def read_identity(content: bytes, folder: Path) -> object:
    file = written(folder, "identity-2.txt", content)
    file.chmod(0o600)
    os.environ[sealing.IDENTITY_VARIABLE] = str(file)
    return sealing.open_cipher(_wrapped(), "tiny")


def read_releases(content: bytes, folder: Path) -> object:
    os.environ[releases.STATE_VARIABLE] = str(folder)
    written(folder, releases._NAME, content).chmod(0o600)
    return releases.check_release("tiny", 3, folder)


def read_cache(content: bytes, folder: Path) -> object:
    """Read an engine's record and plan: any damage means to build again, and is never an error."""
    record, _, plan = content.partition(b"\0\0")
    path = folder / "cache" / "slot.plan"
    for name, part in ((path.with_suffix(".json"), record), (path, plan)):
        written(path.parent, name.name, part).chmod(0o600)
    path.parent.chmod(0o700)
    return engine_cache._load(path, {"gpu": "Orin"}, None)


def cache_records() -> list[bytes]:
    from edgeopt.files import sha256

    record = engine_cache.Record(key={"gpu": "Orin"}, plan_sha256=sha256(b"plan"), seconds=1.0)
    return [msgspec.json.encode(record) + b"\0\0plan"]


def read_speeds(content: bytes, folder: Path) -> object:
    path = written(folder, "speeds.json", content)
    path.chmod(0o600)
    return speeds.read_speeds(path)


def read_results(content: bytes, folder: Path) -> object:
    from edgeopt.benchmark.results import read_results
    from edgeopt.gate.bundles import read_stored

    path = written(folder, "results.json", content)
    read_results(path)
    return read_stored(path)


def results() -> list[bytes]:
    return [msgspec.json.encode({"ort-fp32": tiny.latency(2.0)})]


def read_board(content: bytes, folder: Path) -> object:
    from edgeopt.report.board import board_rows, board_to_markdown, board_to_terminal, read_board

    found = read_board(written(folder, "board.json", content))
    return board_rows(found), board_to_markdown(found), board_to_terminal(found)


def boards() -> list[bytes]:
    verify = {
        "command": "edgeopt verify",
        "exit_status": 0,
        "seconds": 1,
        "result": {"replayed": {"trt-int8": {"difference": 0.1, "tolerance": 0.2}}},
    }
    times = {"command": "x", "exit_status": 1, "seconds": 1, "result": {"trt-int8": {"value": 0.5}}, "log": ["x"]}
    steps = {"verify": verify, "evaluate": times, "benchmark": times, "trtexec": times}
    return [json.dumps({"schema_version": 1, "bundle": {"name": "x"}, "ok": True, "steps": steps}).encode()]


def read_stage(content: bytes, folder: Path) -> object:
    from edgeopt.pipeline.workspace import RECORD, _whole

    written(folder, RECORD, content)
    return _whole(folder, "key")


# Sources of images


SECRET = "hunter2"


def show_address(content: bytes, _: Path) -> object:
    """Show an address with a password in the usual places, between parts of the input."""
    first, _, second = text(content).partition("\0")
    for url in (
        f"rtsp://admin:{SECRET}@{first}",
        f"{first}://admin:{SECRET}@host/{second}" if first.isalpha() else f"http://host/{first}?password={SECRET}",
        f"rtsp://host/{first}?token={SECRET}&{second}",
        f"http://host/user=admin&password={SECRET}/{first}",
    ):
        assert SECRET not in address.shown(url), url
    address.is_network(first)
    address.is_pipeline(first)
    return address.shown(text(content))


def print_text(content: bytes, _: Path) -> object:
    for shown in (printable(text(content)), printable_block(text(content))):
        assert not any((ord(each) < 32 and each not in "\n\t") or 0x7F <= ord(each) < 0xA0 for each in shown), shown
    assert "\n" not in printable(text(content))
    return None


def read_picture(content: bytes, _: Path) -> object:
    image = to_bgr(read_image(content))
    assert image.ndim == 3
    assert image.dtype == np.uint8
    return image


def pictures() -> list[bytes]:
    random = np.random.default_rng(0)
    suffixes = (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm", ".gif", ".jp2", ".avif", ".ras", ".hdr")
    made = []
    for suffix in suffixes:
        pixels = random.integers(0, 256, (40, 48, 3) if suffix == ".jp2" else (6, 8, 3), np.uint8)
        encoded, content = cv2.imencode(suffix, pixels.astype(np.float32) if suffix == ".hdr" else pixels)
        made += [content.tobytes()] if encoded else []
    made.append(cv2.imencode(".png", pixels.astype(np.uint16) * 200)[1].tobytes())
    return made


# Labels


def photos(folder: Path, *names: str) -> Path:
    place = folder / "set"
    for name in names:
        path = place / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([*name.encode()]).integers(0, 256, (12, 16, 3), np.uint8)
            path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return place


def labels(name: str, *, labels: Sequence[str] | None = None, **source: Any) -> Read:
    """Read a data set of two pictures of which one label file is the input."""

    def read(content: bytes, folder: Path) -> object:
        place = photos(folder / name.replace("/", "-"), "images/a.png", "images/b.png")
        written(place, name, content)
        found = load(DataSource(**source), place, labels=None if labels is None else tuple(labels))
        return [sample.target for sample in found]

    return read


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}, {"id": "2", "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0},
        {"id": 2, "image_id": "2", "category_id": 2, "segmentation": [[1, 1, 5, 1, 5, 5]], "bbox": []},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
VOC = """<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>a.png</filename><size><width>16</width><height>12</height></size><object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8.5</ymax></bndbox></object>
<object><name>dog</name><robndbox><cx>5</cx><cy>5</cy><w>4</w><h>2</h><angle>0.3</angle></robndbox></object></annotation>"""
CVAT = """<annotations><version>1.1</version><image id="0" name="a.png" width="16" height="12">
<box label="cat" xtl="1" ytl="2" xbr="5" ybr="6" occluded="0"/><polygon label="dog" points="1,1;4,1;4,5"/></image>
<image id="1" name="b.png" width="16" height="12"><tag label="cat"/></image></annotations>"""
LABELME = {
    "imagePath": "a.png", "imageWidth": 16, "imageHeight": 12, "version": "5.0",
    "shapes": [{"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [5, 6]]},
               {"label": "dog", "shape_type": "polygon", "points": [[1, 2], [5, 6], [3, 9]]}],
}  # fmt: skip
CREATEML = [
    {"image": "a.png", "annotations": [{"label": "cat", "coordinates": {"x": 5, "y": 5, "width": 3, "height": 4}}]},
    {"image": "b.png", "annotations": []},
]
KITTI = (
    "Car 0.00 0 -1.58 1 2 9 8 1.65 1.67 3.64 -0.65 1.71 46.7 -1.59\nDontCare -1 -1 -10 1 1 2 2 -1 -1 -1 -1 -1 -1 -1\n"
)
WIDER = "images/a.png\n1\n1 2 3 4 0 0 0 0 0 0 \nimages/b.png\n0\n0 0 0 0 0 0 0 0 0 0\n"


def idx(*shape: int) -> bytes:
    size = int(np.prod(shape))
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(index % 3 for index in range(size))


def read_idx(content: bytes, folder: Path) -> object:
    """Read images and classes of which one file is the input."""
    images, classes = idx(2, 4, 4), idx(2)
    first, content = (content or b"\0")[0] % 2, content[1:]
    written(folder, "images.idx", content if first else images)
    written(folder, "classes.idx", classes if first else content)
    found = load(DataSource(format="idx", path="images.idx", annotations="classes.idx"), folder)
    return [sample.target for sample in found]


def read_any(content: bytes, folder: Path) -> object:
    """Look at a folder, and at a file, of somebody's data; the first byte says what the file is called."""
    names = ("x.json", "x.xml", "x.csv", "x.txt", "data.yaml", "obj.data", "x.jsonl", "images/a.txt", "x.tsv")
    place = photos(folder / "any", "images/a.png", "images/b.png")
    path = written(place, names[(content or b"\0")[0] % len(names)], content[1:])
    try:
        found = survey(place)
        return [load(source, place) for source in found.sets.values()]
    finally:
        path.unlink()


def read_voc_list(content: bytes, folder: Path) -> object:
    place = photos(folder / "voc-list", "images/a.png", "images/b.png")
    for name in "ab":
        written(place, f"Annotations/{name}.xml", VOC.encode())
    written(place, "ImageSets/Main/train.txt", content)
    source = DataSource(format="voc", path="images", annotations="Annotations", split="train")
    return list(load(source, place, labels=("cat", "dog")))


def read_yolo_list(content: bytes, folder: Path) -> object:
    place = photos(folder / "yolo-list", "images/a.png", "images/b.png")
    written(place, "labels/a.txt", b"0 .5 .5 .2 .2\n")
    written(place, "train.txt", content)
    return list(load(DataSource(format="yolo", path="train.txt"), place, labels=("cat",)))


def any_seeds() -> list[bytes]:
    texts = (json.dumps(COCO), VOC, "file,label\nimages/a.png,cat\nimages/b.png,dog\n", WIDER,
             "train: images\nnames: [cat, dog]\n", "train = train.txt\nnames = obj.names\n",
             '{"file_name": "a.png"}\n', "0 .5 .5 .2 .2\n", "image\tlabel\nimages/a.png\tcat\n")  # fmt: skip
    return [bytes([index]) + each.encode() for index, each in enumerate(texts)]


# Graphs and their outputs


def graphs() -> list[bytes]:
    return [(DATA / name).read_bytes() for name in ("tiny_classifier.onnx", "tiny_classifier_int8.onnx")]


def read_graph(content: bytes, folder: Path) -> object:
    from edgeopt.source.graph import open_onnx

    path = written(folder, "model.onnx", content)
    model = config.ModelConfig(source=str(path), preprocessing=tiny.CLASSIFIER.preprocessing)
    return open_onnx(path, model, folder, ("red", "green", "blue"))


def optimize_graph(content: bytes, folder: Path) -> object:
    from edgeopt.passes.rewrite.opset import raise_opset
    from edgeopt.passes.rewrite.optimize import optimize
    from edgeopt.source.onnx_file import read_onnx

    return optimize(raise_opset(read_onnx(written(folder, "model.onnx", content)), 18, "it", lowest=1))


def lint(content: bytes, folder: Path) -> object:
    from edgeopt.lint.graphs import lint_graph

    return [lint_graph(written(folder, "model.onnx", content), target) for target in ("ort", "trt")]


def inspect(content: bytes, folder: Path) -> object:
    from edgeopt.source.identified import identify_file

    return identify_file(written(folder, "model.onnx", content))


OUTPUTS: Mapping[str, ModelSpec] = {
    "classifier": tiny.CLASSIFIER,
    "yolox": tiny.DETECTOR,
    "yolov8": replace(
        tiny.DETECTOR,
        outputs=(TensorSpec(name="predictions", shape=("N", 7, 6)),),
        decoding=preset("yolov8", score_threshold=0.1),
    ),
    "yolov10": replace(
        tiny.DETECTOR,
        outputs=(TensorSpec(name="predictions", shape=("N", 5, 6)),),
        decoding=preset("yolov10", score_threshold=0.1),
    ),
}


def read_outputs(content: bytes, _: Path) -> object:
    """Decode outputs of any numbers: a result has none that is not finite, or is refused."""
    from edgeopt.preprocess import preprocess

    name = sorted(OUTPUTS)[(content or b"\0")[0] % len(OUTPUTS)]
    spec = OUTPUTS[name]
    shape = tuple(2 if side == "N" else side for side in spec.outputs[0].shape)
    count = int(np.prod(shape))
    numbers = np.frombuffer((content[1:] or b"\0").ljust(4 * count, content[-1:] or b"\0")[: 4 * count], np.float32)
    _, geometry = preprocess(tiny.colour("red"), spec.preprocessing)
    given = {spec.outputs[0].name: numbers.reshape(shape).copy()}
    require_numbers(given, spec)
    for found in decode(given, spec, [geometry] * 2):
        msgspec.json.encode(found.to_dict())
        scores = getattr(found, "scores", None)
        assert scores is None or np.isfinite(np.asarray(scores)).all()
    return None


def outputs() -> list[bytes]:
    random = np.random.default_rng(0)
    return [bytes([index]) + random.normal(0, 9, 90).astype(np.float32).tobytes() for index in range(len(OUTPUTS))]


# Requests to the server


@functools.cache
def served(folder: Path) -> Predictor:
    return open_predictor(tiny.write(folder / "served.edgeopt", tiny.DETECTOR).path, variant="ort-fp32")


def read_request(content: bytes, folder: Path) -> object:
    """Read a request: a byte that names the model, the header with the length of the JSON, a line feed, the body."""
    from edgeopt.serve import limits, models, protocol

    head, _, body = content.partition(b"\n")
    model = models.models(served(folder))[(head or b"\0")[0] % 2]
    try:
        asked = protocol.read_request(body, text(head[1:]) or None)
        rows = model.rows(asked, 1e9)
    except limits.Refused as refused:
        raise DataError(refused.message) from refused
    answer = {spec.name: np.zeros((1, *spec.shape[1:]), np.float32) for spec in tiny.DETECTOR.outputs}
    outputs = model.outputs(asked, [Inferred(answer, (row.geometry,)) for row in rows])
    return protocol.write_answer(model.name, "1", asked, outputs)


def requests() -> list[bytes]:
    picture = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
    tensor = {"name": "image", "shape": [1, 3, 16, 16], "datatype": "UINT8", "parameters": {"binary_data_size": 768}}
    files = {"name": "image", "shape": [1], "datatype": "BYTES"}
    binary = {**files, "parameters": {"binary_data_size": len(picture) + 4}}
    coded = {**files, "parameters": {"content_type": "base64"}, "data": [base64.b64encode(picture).decode()]}
    made = []
    for name, given, data in ((b"\0", binary, struct.pack("<I", len(picture)) + picture), (b"\0", coded, b""),
                              (b"\1", tensor, bytes(768))):  # fmt: skip
        asked = json.dumps({"id": "a", "inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        made.append(name + (str(len(asked)).encode() if data else b"") + b"\n" + asked + data)
    return made


# Sweeps, shards, updates, and pages that are written again


SWEEP = """
recipe = "digits"
[models.small]
set = {"train.epochs" = 1}
[settings]
"quantize.repairs" = [["equalization"], []]
"""


def read_sweep(content: bytes, folder: Path) -> object:
    from edgeopt.sweep.plan import read_plan

    plan = read_plan(written(folder, "sweep.toml", content))
    return [plan.trial(indices).key for indices in itertools.islice(plan.grid(), 3)]


def read_trial(content: bytes, folder: Path) -> object:
    """Read what another machine wrote of a trial, and show it on the sweep's page; anything else counts as absent."""
    from edgeopt.sweep.page import sweep_html, table
    from edgeopt.sweep.results import RESULT, read_result

    written(folder, RESULT, content)
    found = read_result(folder, "key")
    if found is None:
        raise DataError("there is no row")
    return table([found]), sweep_html("tiny", [found])


def trials() -> list[bytes]:
    from edgeopt.sweep.results import TrialResult, variant_results

    found = variant_results(manifest.decode(manifest_text(), "manifest.json"))
    return [msgspec.json.encode(TrialResult(key="key", model="a", target="ort", settings={}, variants=found))]


def shards() -> list[bytes]:
    from edgeopt.evaluate.shards import Shards, evaluate_in_shards

    with tempfile.TemporaryDirectory() as name:
        bundle, dataset = sharded(Path(name))
        evaluate_in_shards(bundle, dataset, None, Shards(Path(name) / "shards", 1))
        (shard,) = (Path(name) / "shards").glob("*.npz")
        arrays = golden.unpack(shard.read_bytes(), "shard")
    return [golden.pack(arrays), *(golden.pack({**arrays, name: array[:0]}) for name, array in arrays.items())]


@functools.cache
def sharded(folder: Path) -> tuple[Bundle, Any]:
    """Return a bundle and its labelled pictures."""
    for index, label in enumerate(tiny.CLASSIFIER.labels):
        file = folder / "labelled" / label / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(".png", tiny.colour(label))[1].tobytes())
    data = load(DataSource(format="image_folder", path="labelled"), folder, labels=tiny.CLASSIFIER.labels)
    return tiny.write(folder / "sharded.edgeopt"), data


def read_shard(content: bytes, folder: Path) -> object:
    """Evaluate from a shard that is there, which another machine may have written."""
    from edgeopt.evaluate.shards import Shards, evaluate_in_shards

    bundle, dataset = sharded(folder)
    place = Shards(folder / "shards", 1)
    if not (files := list(place.folder.glob("*.npz"))):
        evaluate_in_shards(bundle, dataset, None, place)
        files = list(place.folder.glob("*.npz"))
    files[0].write_bytes(content)
    return evaluate_in_shards(bundle, dataset, None, place)


def read_page(content: bytes, folder: Path) -> object:
    """Take over the pictures of a report's earlier page."""
    from edgeopt.report.kept import pictures_of

    return pictures_of(written(folder, "x.html", content), page_report())


@functools.cache
def page_report() -> Any:
    from edgeopt.report.content import content as report

    with few_resamples():
        return report(manifest.decode(manifest_text(), "manifest.json"))


def pages() -> list[bytes]:
    from edgeopt.report.kept import evidence

    stored = json.dumps({"evidence": evidence(page_report()), "shots": []})
    return [f'<img src="data:image/"><script type="application/json" id="shots">{stored}</script>'.encode()]


def read_mark(content: bytes, folder: Path) -> object:
    """Start a device whose update was cut short, with the mark that it left."""
    from edgeopt.fleet import Slots
    from edgeopt.trust.releases import TRIAL_NAME

    slots = folder / "slots"
    slots.mkdir(exist_ok=True)
    written(slots, TRIAL_NAME, content)
    return Slots(slots, lambda _: None).recover()


def read_timings(content: bytes, folder: Path) -> object:
    """Read a timing cache and its pin: any damage means to measure again."""
    from edgeopt.runtime.trt.on_device import TimingCache

    pin, _, timings = content.partition(b"\n")
    cache = TimingCache.__new__(TimingCache)
    cache._path, cache._pin = folder / "timing" / "x.cache", folder / "timing" / "x.sha256"
    for path, part in ((cache._path, timings), (cache._pin, pin)):
        written(path.parent, path.name, part).chmod(0o600)
    return cache.read()


def timings() -> list[bytes]:
    from edgeopt.files import sha256

    return [sha256(b"timings").encode() + b"\ntimings"]


def read_onnx_header(content: bytes, _: Path) -> object:
    """Read an engine's graph as a device without onnx does."""
    from edgeopt.runtime.trt.onnx_header import read_header

    return read_header(content)


# Weights, checkpoints and programs


def read_weights(content: bytes, folder: Path) -> object:
    """Read weights; the byte that they begin with says in which form."""
    from edgeopt.source.weights import read_weights

    name = ("x.pth", "x.safetensors")[(content or b"\0")[0] % 2]
    return read_weights(written(folder, name, content[1:]))


@functools.cache
def pickled() -> bytes:
    import torch

    made = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, made)
    return made.getvalue()


def weights() -> list[bytes]:
    import torch
    from safetensors.torch import save

    return [b"\0" + pickled(), b"\1" + save({"fc.weight": torch.zeros(2, 2)})]


def read_checkpoint(content: bytes, folder: Path) -> object:
    from edgeopt.train.checkpoint import _read

    return _read(written(folder, "checkpoint.pt", content))


def read_program(content: bytes, folder: Path) -> object:
    from edgeopt.source.program import _load

    return _load(written(folder, "x.pt2", content))


@functools.cache
def programs() -> list[bytes]:
    import torch

    made = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 3, 4, 4),)), made)
    return [made.getvalue()]


def read_input_spec(content: bytes, folder: Path) -> object:
    """Read how `edgeopt quantize` prepares pictures."""
    from edgeopt.pipeline.standalone import InputSpec

    return config.read_toml(written(folder, "spec.toml", content), InputSpec)


INPUT_SPEC = """
[preprocessing]
channels = "RGB"
[[preprocessing.steps]]
type = "resize"
size = [8, 8]
"""


def read_video(content: bytes, folder: Path) -> object:
    """Read all frames of a video."""
    from edgeopt.runtime.stream.sources import open_source

    source = open_source(str(written(folder, "x.avi", content)))
    with contextlib.closing(source):
        return [frame.name for frame in itertools.islice(source.frames(threading.Event()), 20)]


def videos() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (16, 16))
        for value in range(3):
            writer.write(np.full((16, 16, 3), value * 100, np.uint8))
        writer.release()
        return [path.read_bytes()]


_DETECTION = {"path": "images", "labels": ("cat", "dog")}
TARGETS: Mapping[str, Target] = {
    "recipe": Target(read_recipe, lambda: [RECIPE.encode()]),
    "override": Target(
        read_override,
        lambda: [b"train.epochs=3", b'model.labels=["a"]', b"data.train.path=x", b"budget.max_drop=1%"],
        largest=200,
    ),
    "data table": Target(
        read_table, lambda: [b'format = "coco"\npath = "images"\nannotations = "a.json"\nlimit = 5\n']
    ),
    "class names": Target(read_names, lambda: [b"cat\ndog\n"], largest=500),
    "manifest": Target(read_manifest, lambda: [manifest_text()], largest=1 << 16),
    "manifest, checksum made again": Target(
        read_checked_manifest, lambda: [body(manifest_text())], needs=("jinja2",), largest=1 << 16
    ),
    "measured.json": Target(read_measured, measured_text, largest=1 << 15),
    "bundle": Target(read_bundle, lambda: [bytes([index]) + b"{}" for index in range(5)]),
    "packed bundle": Target(read_packed, archives, largest=1 << 15),
    "splits.json": Target(read_splits, lambda: [b'{"train": [{"name": "a.png", "sha256": "' + b"0a" * 32 + b'"}]}']),
    "golden arrays": Target(read_arrays, arrays),
    "calibration arrays": Target(read_calibration, arrays),
    "calibration table": Target(read_calibration_table, calibration_tables),
    "signature": Target(read_signature, signatures, needs=("cryptography",)),
    "signed statement": Target(read_statement, statements, needs=("cryptography",)),
    "provenance": Target(read_provenance, provenances, needs=("cryptography",)),
    "key": Target(read_key, pems, needs=("cryptography",)),
    "sealed file": Target(read_sealed, sealed, needs=("cryptography",)),
    "wrapped key": Target(read_wrapped_key, wrapped_keys, needs=("cryptography", "pyrage")),
    "age identity": Target(read_identity, lambda: [str(identity()).encode()], needs=("cryptography", "pyrage")),
    "releases": Target(read_releases, lambda: [b'{"tiny": 2}'], largest=500),
    "engine cache": Target(read_cache, cache_records),
    "kept speeds": Target(
        read_speeds, lambda: [msgspec.json.encode({"a": speeds.Speed(p50_ms=1.0, reference="a")})], largest=1000
    ),
    "benchmark results": Target(read_results, results, largest=1 << 14),
    "board's results": Target(read_board, boards),
    "stage record": Target(read_stage, lambda: [b'{"key": "key", "summary": "", "files": {}, "records": {}}']),
    "request to the server": Target(read_request, requests, needs=("onnxruntime",)),
    "address": Target(show_address, lambda: [b"10.0.0.1:554/live\0x", b"u:p@h/a?b#c@d", b"rtsp\0/"], largest=200),
    "text for the terminal": Target(print_text, lambda: [b"cat \x1b]0;x\x07\n\xc2\x9b\xff"], largest=200),
    "picture": Target(read_picture, pictures),
    "coco": Target(
        labels("a.json", format="coco", path="images", annotations="a.json"), lambda: [json.dumps(COCO).encode()]
    ),
    "voc": Target(
        labels("Annotations/a.xml", labels=("cat", "dog"), format="voc", path="images", annotations="Annotations"),
        lambda: [VOC.encode(), VOC.replace("utf-8", "latin-1").encode("latin-1")],
    ),
    "voc's lists": Target(
        read_voc_list,
        lambda: [b"a\nb\n", b"a 1\nb -1\n"],
        largest=300,
    ),
    "yolo": Target(
        labels("labels/a.txt", labels=("cat", "dog"), format="yolo", path="images"),
        lambda: [b"0 .5 .5 .2 .2\n1.0 .1 .1 .2 .2 .9\n", b"0 .1 .1 .5 .1 .5 .6 .1 .6\n"],
        largest=500,
    ),
    "yolo's list": Target(
        read_yolo_list,
        lambda: [b"images/a.png\n./images/b.png\n"],
        largest=300,
    ),
    "csv": Target(
        labels("a.csv", format="csv", path="a.csv"),
        lambda: [
            b"file,label\nimages/a.png,cat\nimages/b.png,dog\n",
            b"images/a.png 0\nimages/b.png 1\n",
            b"filename,width,height,class,xmin,ymin,xmax,ymax\nimages/a.png,16,12,cat,1,2,5,6\n",
            b"file,class_index\nimages/a.png,3\n",
        ],
    ),
    "idx": Target(read_idx, lambda: [b"\1" + idx(2, 4, 4), b"\0" + idx(2), b"\1" + gzip.compress(idx(2, 4, 4))]),
    "labelme": Target(labels("images/a.json", format="labelme", path="images"), lambda: [json.dumps(LABELME).encode()]),
    "cvat": Target(labels("a.xml", format="cvat", path="images", annotations="a.xml"), lambda: [CVAT.encode()]),
    "createml": Target(
        labels("a.json", format="createml", path="images", annotations="a.json"),
        lambda: [json.dumps(CREATEML).encode()],
    ),
    "kitti": Target(
        labels("label_2/a.txt", format="kitti", path="images", annotations="label_2"), lambda: [KITTI.encode()]
    ),
    "wider face": Target(
        labels("faces.txt", format="wider_face", path="images", annotations="faces.txt"), lambda: [WIDER.encode()]
    ),
    "list of images": Target(
        labels("list.txt", format="images", path="list.txt"), lambda: [b"images/a.png\nimages/b.png\n"], largest=300
    ),
    "any data": Target(read_any, any_seeds),
    "onnx": Target(read_graph, graphs, needs=("onnx", "torch"), largest=1 << 14),
    "onnx, optimized": Target(optimize_graph, graphs, needs=("onnx",), largest=1 << 14),
    "onnx, linted": Target(lint, graphs, needs=("onnx",), largest=1 << 14),
    "onnx, inspected": Target(inspect, graphs, needs=("onnx", "torch"), largest=1 << 14),
    "sweep": Target(read_sweep, lambda: [SWEEP.encode()]),
    "trial's row": Target(read_trial, trials),
    "shard": Target(read_shard, shards, needs=("onnxruntime",), largest=1 << 15),
    "earlier page": Target(read_page, pages, needs=("jinja2",)),
    "mark of an update": Target(read_mark, lambda: [b"a\n", b"b"], largest=100),
    "timing cache": Target(read_timings, timings, largest=500),
    "onnx, header": Target(read_onnx_header, graphs, largest=1 << 14),
    "weights": Target(read_weights, weights, needs=("torch", "safetensors")),
    "checkpoint": Target(read_checkpoint, lambda: [pickled()], needs=("torch",)),
    "exported program": Target(read_program, programs, needs=("torch",), largest=1 << 15),
    "input specification": Target(read_input_spec, lambda: [INPUT_SPEC.encode()]),
    "video": Target(read_video, videos, largest=1 << 14),
    "outputs of a network": Target(read_outputs, outputs, largest=1024),
}
