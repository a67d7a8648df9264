"""Every reader of what comes from outside answers damaged inputs: a few dozen of each, the same every time.

`tests/fuzz/fuzz.py` gives them as many as one likes, grown by atheris; `make nightly` calls it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import itertools
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "fuzz"))

from fuzz import place_of
from mutation import mutations
from targets import DATA, TARGETS, Target

from edgeopt.bundle.golden import unpack
from edgeopt.bundle.records.latency import Histogram
from edgeopt.errors import BundleError, ModelError
from edgeopt.source.identified import identify_file
from edgeopt.source.onnx_file import external_files, read_onnx
from edgeopt.trust.keys import read_public
from edgeopt.trust.releases import STATE_VARIABLE
from edgeopt.trust.sealing import IDENTITY_VARIABLE

INPUTS = 60
SLOW = {"manifest, checksum made again": 30, "any data": 30, "onnx, linted": 30}
HOSTILE = Path(__file__).resolve().parents[2] / "shared" / "cases" / "hostile"
FOUND_IN = {"cache": "engine cache", "vocsplit": "voc's lists"} | {name: name for name in TARGETS}
"""Targets by the beginning of the files' names; all others are pictures."""


def available(target: Target) -> Target:
    missing = [each for each in target.needs if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"not tested without {', '.join(missing)}")
    return target


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (IDENTITY_VARIABLE, STATE_VARIABLE):
        monkeypatch.setenv(variable, str(tmp_path))  # so that what a target sets is put back
    target = available(TARGETS[name])
    seeds = target.seeds()
    assert any(target(seed, tmp_path) for seed in seeds), "no seed is accepted: the target looks at nothing"
    found = {}
    for content in itertools.islice(mutations(seeds, target.largest), SLOW.get(name, INPUTS)):
        if (where := fault(target, content, tmp_path)) is not None:
            found[where] = content
    assert found == {}


def fault(target: Target, content: bytes, folder: Path) -> str | None:
    """Kind and place of an exception that is not an answer."""
    try:
        target(content, folder)
    except Exception as error:  # noqa: BLE001 - that is what this looks for
        return place_of(error)
    return None


@pytest.mark.parametrize("file", sorted(HOSTILE.iterdir()) if HOSTILE.is_dir() else [], ids=lambda file: file.name)
def test_what_was_found_once_is_answered(file: Path, tmp_path: Path) -> None:
    target = available(TARGETS[FOUND_IN.get(file.name.partition("-")[0], "picture")])
    target.answers(file.read_bytes(), tmp_path)


def test_arrays_whose_compressed_bytes_are_damaged_are_refused() -> None:
    """zlib and lzma raise errors of their own, at a place of the file that its directory does not know."""
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream, array = io.BytesIO(), io.BytesIO()
        np.save(array, np.arange(1000.0))
        with zipfile.ZipFile(stream, "w", compression) as archive:
            archive.writestr("x.npy", array.getvalue())
        content = bytearray(stream.getvalue())
        for place in range(35, len(content), 7):
            content[place] ^= 0x55
            with contextlib.suppress(BundleError):
                unpack(bytes(content), "golden.npz")
            content[place] ^= 0x55


COCO = TARGETS["coco"].seeds()[0]


@pytest.mark.parametrize(
    ("target", "content"),
    [
        ("override", b'train.epochs="\xbb"'),
        ("checkpoint", b"archive"),
        ("exported program", TARGETS["exported program"].seeds()[0].replace(b"/version", b"/v\xa9rsion")),
        ("csv", b""),
        ("csv", b"sep=,\n"),
        ("csv", b"\n\n"),
        ("csv", b"file,label\n" + b"a" * 5000 + b".png,cat\n"),
        ("csv", b"a" * 200_000 + b",b\n"),
        ("yolo's list", b"images/a.png\n" + b"b" * 300 + b".png\n"),
        ("coco", COCO.replace(b"a.png", b"x" * 300 + b".png")),
        ("calibration table", b""),
        ("board's results", TARGETS["board's results"].seeds()[0].replace(b"0.1", b"[]")),
        ("board's results", TARGETS["board's results"].seeds()[0].replace(b"difference", b"x")),
        ("outputs of a network", b"\3" + np.tile(np.array([0, 0, 0, 0, 3e38, 3e38, 0, 0], np.float32), 8).tobytes()),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_was_found_by_these_targets_is_answered(target: str, content: bytes, tmp_path: Path) -> None:
    TARGETS[target].answers(content, tmp_path)


def test_a_key_of_a_kind_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """`cryptography` has an error for it that is no ValueError."""
    pem = available(TARGETS["key"]).seeds()[0].decode()
    kind = bytes.fromhex("2a8648ce3d02")  # id-ecPublicKey is number 1 below it
    content = base64.b64decode("".join(pem.splitlines()[1:-1])).replace(kind + b"\1", kind + b"\x09")
    file = tmp_path / "key.pem"
    file.write_text(f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(content).decode()}\n-----END PUBLIC KEY-----\n")
    with pytest.raises(BundleError, match="no public key in PEM form that is known"):
        read_public(file)


def test_a_graph_that_breaks_the_rules_is_refused_by_name(tmp_path: Path) -> None:
    """onnx_ir reads it, and fails only where it writes it again."""
    file = tmp_path / "model.onnx"
    model = onnx.load(DATA / "tiny_classifier_int8.onnx")
    model.graph.node[1].input[0] = "pixels\xff"
    model.graph.node[2].output[0] = model.graph.node[1].output[0]
    onnx.save(model, file)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        read_onnx(file)


def test_a_graph_whose_names_are_not_text_is_refused_by_every_reader(tmp_path: Path) -> None:
    """protobuf reads them as bytes; `edgeopt inspect` takes operators that nobody knows, and came to write them."""
    file = tmp_path / "model.onnx"
    content = (DATA / "tiny_classifier_int8.onnx").read_bytes()
    file.write_bytes(content.replace(b"DequantizeLinear", b"Dequant\xc1\x83eLinear"))
    for read in (read_onnx, identify_file, external_files):
        with pytest.raises(ModelError, match=r"model\.onnx is malformed: the op_type b'Dequant\\xc1.* is not UTF-8"):
            read(file)


@pytest.mark.parametrize("counts", [(), (1,), (1, 2, 3)])
def test_a_histogram_whose_bins_and_edges_do_not_fit_is_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="counts need one edge more"):
        Histogram(edges_ms=(0.0, 1.0, 2.0), counts=counts)


def test_mutations_are_the_same_every_time() -> None:
    first, second = (list(itertools.islice(mutations([b"abc", b"{}"], 50, seed=3), 200)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 100
