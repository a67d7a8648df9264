"""What hostile input once did to a whole command or process: all memory, another machine's secrets, planted code.

Single readers have their tests beside them; here the way from the outside to the answer is gone as a user goes it.
"""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle
from edgeopt.bundle.manifest import with_checksum
from edgeopt.cli import main
from edgeopt.config import DataSource
from edgeopt.dataset import load
from edgeopt.dataset.arrays import read_arrays
from edgeopt.errors import BundleError, DataError, EdgeoptError
from edgeopt.runtime.engine_cache import Built, obtain
from edgeopt.runtime.stream import VideoWriter

HOSTILE = Path(__file__).resolve().parents[2] / "shared" / "cases" / "hostile"
PICTURES = sorted(file for each in ("*.png", "image-*", "lf-image-*") for file in HOSTILE.glob(each))
WITHOUT_MODES = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes and limits")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "x.edgeopt").path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def memory_of(script: str, *arguments: object) -> tuple[int, str]:
    """Run Python code in a process of its own: MiB that it took beyond its imports, and the last line it printed."""
    measured = f"""
import resource, sys
import cv2, numpy, edgeopt.preprocess, edgeopt.dataset
from edgeopt.errors import EdgeoptError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {script}
except EdgeoptError as error:
    found = f"{{type(error).__name__}}: {{error}}"
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, " ".join(str(found).split()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", measured, *map(str, arguments)], env=environment, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    taken, _, said = ran.stdout.strip().splitlines()[-1].partition(" ")
    return int(taken), said


# Pictures that ask for all memory

IMAGENET = """
    from edgeopt.preprocess import preprocess, read_image
    from edgeopt.spec import CenterCrop, Preprocessing, ResizeShorterSide
    steps = Preprocessing(steps=(ResizeShorterSide(pixels=256), CenterCrop(size=(224, 224))))
    found = preprocess(read_image(sys.argv[1]), steps)[0].shape
""".strip()


@WITHOUT_MODES
@pytest.mark.parametrize("file", PICTURES, ids=lambda file: file.name)
def test_a_small_file_of_a_huge_picture_takes_little_memory(file: Path) -> None:
    """Through the preprocessing of every ImageNet recipe, whose first step makes a long picture longer still."""
    taken, said = memory_of(IMAGENET, file)
    assert taken < 600, said
    assert said.startswith(("(1, ", "DataError: "))


@WITHOUT_MODES
@pytest.mark.parametrize("length", [12_000, 65_500])
def test_a_picture_of_one_column_takes_little_memory(length: int, tmp_path: Path) -> None:
    """Its shorter side made 256 wide, 65,500 rows of it were 12.9 GB."""
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((length, 1, 3), np.uint8))
    taken, said = memory_of(IMAGENET, tmp_path / "long.png")
    assert taken < 100, said


# Data sets that unpack into all memory


@WITHOUT_MODES
@pytest.mark.parametrize("announced", [10, 2000])
def test_a_small_gzip_file_of_zeros_takes_little_memory(announced: int, tmp_path: Path) -> None:
    """200 MB of zeros behind a header of ten images, or of two thousand."""
    with gzip.open(tmp_path / "images.gz", "wb", compresslevel=1) as file:
        file.write(struct.pack(">IIII", 0x803, announced, 28, 28))
        for _ in range(200):
            file.write(bytes(1 << 20))
    (tmp_path / "classes").write_bytes(struct.pack(">II", 0x801, announced) + bytes(announced))
    script = """
    from pathlib import Path
    from edgeopt.config import DataSource
    from edgeopt.dataset import load
    found = len(load(DataSource(format="idx", path="images.gz", annotations="classes"), Path(sys.argv[1])))
    """.strip()
    taken, said = memory_of(script, tmp_path)
    assert taken < 60, said


@WITHOUT_MODES
def test_a_row_of_class_twenty_million_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", tiny.colour("red"))[1].tobytes())
    (tmp_path / "a.csv").write_text("file,class_index\na.png,20000000\n")
    script = """
    from pathlib import Path
    from edgeopt.config import DataSource
    from edgeopt.dataset import load
    found = len(load(DataSource(format="csv", path="a.csv"), Path(sys.argv[1])))
    """.strip()
    taken, said = memory_of(script, tmp_path)
    assert taken < 100
    assert said.startswith("DataError: ")
    assert "has class index 20000000 in 1 rows" in said


# What a manifest says


def labels(content: dict[str, Any]) -> None:
    content["spec"]["labels"] = ["blue", "green", "red"]


def verdict(content: dict[str, Any]) -> None:
    content["variants"][0]["accepted"] = not content["variants"][0]["accepted"]


def version(content: dict[str, Any]) -> None:
    content["versions"]["torch"] = "1.0"


@pytest.mark.parametrize("change", [labels, verdict, version])
def test_a_manifest_that_was_changed_by_hand_is_refused_by_every_command(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """Each field once could be changed and nothing said so."""
    (tmp_path / "red.png").write_bytes(cv2.imencode(".png", tiny.colour("red"))[1].tobytes())
    content = json.loads((bundle / "manifest.json").read_bytes())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content, indent=2) + "\n")
    for command in (["run", bundle, tmp_path / "red.png"], ["verify", bundle], ["inspect", bundle], ["report", bundle]):
        result = run(*command)
        assert result.exit_code == BundleError.exit_code, result.output
        assert "manifest.json was changed" in " ".join(result.output.split())


def test_whitespace_in_a_manifest_is_a_change_too(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(text + b"\n")
    with pytest.raises(BundleError, match="was changed"):
        Bundle.open(bundle)


def test_a_checksum_that_was_made_again_is_found_by_who_trusts_keys(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checksum is against accidents, a signature against people."""
    pytest.importorskip("cryptography")
    from test_trust import write_key

    from edgeopt.trust.keys import read_private

    private = read_private(write_key(tmp_path))
    Bundle.open(bundle).sign(private)
    text = (bundle / "manifest.json").read_bytes()
    rest = b"{" + text.partition(b'",')[2].replace(b'"red"', b'"rot"')
    (bundle / "manifest.json").write_bytes(with_checksum(rest))
    assert Bundle.open(bundle).manifest.spec.labels[0] == "rot"
    with pytest.raises(BundleError, match=r"is not what was signed: manifest\.json changed"):
        Bundle.open(bundle, keys=(private.public,))


# Secrets in addresses


@pytest.mark.parametrize(
    "address",
    [
        "http://admin:hunter2@127.0.0.1:9/live",
        "http://127.0.0.1:9/live?user=a&password=hunter2",
        "http://127.0.0.1:9/live?token=hunter2",
        "rtsp://u:hun/hunter2@127.0.0.1:9/live",
        "rtsp://u:hun@hunter2@127.0.0.1:9/live",
        "rtps://u:hunter2@127.0.0.1/live",
        "http://127.0.0.1:9/user=admin&password=hunter2",
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_no_secret_of_an_address_is_printed(
    bundle: Path, address: str, more: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    result = run("run", bundle, address, "--variant", "ort-fp32", *more)
    assert result.exit_code == DataError.exit_code, result.output
    assert "hunter2" not in result.output + caplog.text


# Videos of which parts are lost


def test_a_damaged_video_is_read_to_its_end(bundle: Path, tmp_path: Path) -> None:
    """The first frame that could not be decoded was taken for the end, and 207 of 5,000 frames for all."""
    film, random = tmp_path / "film.avi", np.random.default_rng(0)
    with VideoWriter(film, 25.0) as writer:
        for _ in range(150):
            writer.write(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    content = bytearray(film.read_bytes())
    for start in random.integers(len(content) // 10, len(content) * 4 // 5, 60):
        content[start : start + 64] = random.integers(0, 256, 64, dtype=np.uint8).tobytes()
    film.write_bytes(content)
    result = run("run", bundle, film, "--variant", "ort-fp32")
    count = len([line for line in result.stdout.splitlines() if "film.avi#" in line])
    assert 90 <= count < 150
    assert f"{150 - count} of 150 frames could not be read" in " ".join(result.output.split())
    assert result.exit_code == 0


# Engines that somebody else put there


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away: not tested")
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_an_engine_of_another_user_is_not_loaded(tmp_path: Path, mode: int) -> None:
    """TensorRT's plans are code. A folder that all may write, where somebody planted a plan with its right hash."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    obtain(cache, "slot", {"gpu": "Orin"}, lambda *_: Built(b"planted"))
    for name in ("slot.plan", "slot.json"):
        os.chown(cache / name, 12345, 12345)
        (cache / name).chmod(mode)
    cache.chmod(0o777)
    found = obtain(cache, "slot", {"gpu": "Orin"}, lambda *_: Built(b"own"))
    assert found.plan == b"own"
    assert cache.stat().st_mode & 0o022 == 0


def test_a_list_that_names_the_root_folder_is_refused_by_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("/\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: train.txt\nnames: [a]\n")
    with pytest.raises(EdgeoptError):
        load(DataSource(format="yolo", path=str(tmp_path / "data.yaml")), tmp_path)


def test_an_array_whose_header_does_not_end_is_refused_by_an_error_of_ours(tmp_path: Path) -> None:
    """numpy reads an old header again by Python's tokenizer, which has an error of its own."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,".ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", array)
    with pytest.raises(DataError):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("command", ["inspect", "lint"])
@pytest.mark.parametrize("name", ["not_serialized", "node_without_outputs"])
def test_damaged_graphs_of_our_own_end_in_an_answer(name: str, command: str) -> None:
    """Found by the fuzzer: a graph that onnx_ir reads and cannot write, and a layer that gives nothing."""
    result = CliRunner().invoke(main, [command, str(Path(__file__).parent / "data" / "damaged" / f"{name}.onnx")])
    assert result.exception is None or isinstance(result.exception, SystemExit)


def _with_weight(path: Path, weight: onnx.TensorProto) -> Path:
    """Write a network of one MatMul with this weight of shape (8, 4), an initializer or a Constant node."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[1, 8] x) => (float[1, 4] y) {
        w = Constant <value = float {0}> ()
        y = MatMul(x, w)
    }"""
    model = onnx.parser.parse_model(text)
    if path.stem == "node":
        model.graph.node[0].attribute[0].t.CopyFrom(weight)
    else:
        del model.graph.node[0]
        model.graph.initializer.add().CopyFrom(weight)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("command", ["inspect", "lint"])
@pytest.mark.parametrize("place", ["initializer", "node"])
@pytest.mark.parametrize(
    ("kind", "held", "says"),
    [
        ("INT8", {"raw_data": bytes(3)}, "int8 [8, 4], has 3 bytes of data where 32 fill it"),
        ("INT4", {"raw_data": bytes(3)}, "int4 [8, 4], has 3 bytes of data where 16 fill it"),
        ("UINT4", {"raw_data": bytes(17)}, "has 17 bytes of data where 16 fill it"),
        ("FLOAT", {"raw_data": b""}, "has 0 bytes of data where 128 fill it"),
        ("FLOAT", {}, "has no data"),
        ("FLOAT", {"float_data": [0.0] * 5}, "cannot be read"),
        ("INT8", {"float_data": [0.0] * 32}, "cannot be read"),
        ("FLOAT", {"file": bytes(3)}, "ends at byte 128 of w.bin, which has 3"),
    ],
)
def test_a_constant_that_its_data_do_not_fill_is_refused_where_its_file_is_read(
    tmp_path: Path, command: str, place: str, kind: str, held: dict[str, Any], says: str
) -> None:
    """Lint ended in numpy's traceback, at the first rule that looked at the constant."""
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.DataType.Value(kind), dims=[8, 4])
    for field, value in held.items():
        if field == "file":
            (tmp_path / "w.bin").write_bytes(value)
            weight.data_location = onnx.TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="w.bin")
        elif field == "raw_data":
            weight.raw_data = value
        else:
            getattr(weight, field).extend(value)
    result = run(command, _with_weight(tmp_path / f"{place}.onnx", weight))
    assert isinstance(result.exception, SystemExit)
    output = " ".join(result.output.split())
    assert f"{place}.onnx is malformed: its constant " in output
    assert says in output
