"""Sealed bundles: only the devices that they were made for read them, and nothing lies on a disk in the clear."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_first_load import Board
from test_trust import write_key

from edgeopt.bundle import Bundle, write_bundle
from edgeopt.bundle.splits import SPLITS_FILE, recorded_splits
from edgeopt.cli import main
from edgeopt.errors import BundleError, StorageError
from edgeopt.runtime import load
from edgeopt.runtime.engine_cache import Built, obtain
from edgeopt.runtime.verify import verify
from edgeopt.trust import sealing
from edgeopt.trust.keys import read_private
from edgeopt.trust.sealing import Cipher, cipher_of, new_cipher, open_cipher

pyrage = pytest.importorskip("pyrage")
pytest.importorskip("cryptography")

PICTURE = np.full((8, 8, 3), 200, np.uint8)


def write_identity(path: Path) -> str:
    """Write a device's identity as age-keygen does, and return its public key."""
    identity = pyrage.x25519.Identity.generate()
    path.touch(mode=0o600)
    path.write_text(f"# created: 2026-11-27\n# public key: {identity.to_public()}\n{identity}\n")
    return str(identity.to_public())


@pytest.fixture
def recipient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Public key of this device, whose identity is where the environment says."""
    monkeypatch.setenv("EDGEOPT_IDENTITY", str(tmp_path / "identity"))
    return write_identity(tmp_path / "identity")


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    return tiny.write_golden(tmp_path / "x.edgeopt")


# The cipher


@given(st.integers(0, 40), st.sampled_from([7, 16]))
@settings(max_examples=60, deadline=None)
def test_content_of_any_length_comes_back(length: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "_CHUNK_BYTES", chunk)
        cipher, content = Cipher(bytes(32)), os.urandom(length)
        sealed = cipher.seal(content, "engine")
        back = cipher.unseal(sealed, "engine")
        assert back == content
        assert cipher_of(back) == cipher
        assert length < 8 or content not in sealed


def test_chunks_can_neither_be_moved_nor_cut_nor_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_CHUNK_BYTES", 8)
    cipher = Cipher(bytes(32))
    sealed = cipher.seal(bytes(range(32)), "engine")
    begin, step = len(sealed) - 4 * 24, 24
    first, second, rest = (
        sealed[begin : begin + step],
        sealed[begin + step : begin + 2 * step],
        sealed[begin + 2 * step :],
    )
    for changed in (
        sealed[:begin] + second + first + rest,
        sealed[:-step],
        sealed[: begin + step],
        sealed[:begin],
        sealed + sealed[-step:],
        b"",
    ):
        with pytest.raises(BundleError, match=r"was changed|is not a sealed file"):
            cipher.unseal(changed, "engine")
    with pytest.raises(BundleError, match="'other' was changed"):
        cipher.unseal(sealed, "other")
    with pytest.raises(BundleError, match="sealed under another key"):
        Cipher(bytes(31) + b"x").unseal(sealed, "engine")
    for place in range(len(sealed)):
        flipped = bytearray(sealed)
        flipped[place] ^= 1
        with pytest.raises(BundleError):
            cipher.unseal(bytes(flipped), "engine")


def test_a_key_is_not_shown() -> None:
    cipher = Cipher(b"k" * 32)
    assert "kkk" not in repr(cipher)
    assert "secret" not in repr(cipher.unseal(cipher.seal(b"secret", "x"), "x"))


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_age_opens_the_data_key(tmp_path: Path, recipient: str) -> None:
    cipher, wrapped = new_cipher([recipient], "x")
    (tmp_path / "key.age").write_bytes(wrapped)
    command = ["age", "-d", "-i", tmp_path / "identity", tmp_path / "key.age"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == cipher.key


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_a_key_that_age_wrapped_opens(tmp_path: Path, recipient: str) -> None:
    wrapped = subprocess.run(["age", "-r", recipient], input=b"k" * 32, capture_output=True, check=True).stdout
    assert open_cipher(wrapped, "x") == Cipher(b"k" * 32)


# Bundles


def test_a_sealed_bundle_answers_as_the_plain_one(plain: Bundle, recipient: str, tmp_path: Path) -> None:
    other = write_identity(tmp_path / "other")
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [other, recipient])
    assert sealed == Bundle.open(sealed.path)
    for variant in plain.manifest.variants:
        assert sealed.engine(variant.name) == plain.engine(variant.name)
        assert sealed.file(variant.name).read_bytes() != plain.engine(variant.name)
    with load(plain.path) as one, load(sealed.path) as two:
        assert np.array_equal(one.predict(PICTURE).scores, two.predict(PICTURE).scores)
    assert verify(sealed.path).ok
    assert verify(sealed.path).replayed.keys() == verify(plain.path).replayed.keys()


def test_a_sealed_bundle_tells_which_images_it_was_built_with(plain: Bundle, recipient: str, tmp_path: Path) -> None:
    """Its record was read as if it were not sealed, and `edgeopt attack` and `evaluate` ended with an error."""
    record = msgspec.json.encode({"test": [{"sha256": "0" * 64, "name": "a.png"}]})
    files: dict[str, bytes | Path] = {name: plain.path / name for name in plain.manifest.files}
    kept = write_bundle(tmp_path / "kept.edgeopt", plain.manifest, {**files, SPLITS_FILE: record})
    sealed = kept.seal(tmp_path / "sealed.edgeopt", [recipient])
    assert recorded_splits(sealed) == recorded_splits(kept)
    assert [image.name for image in recorded_splits(sealed)["test"]] == ["a.png"]


def test_other_devices_cannot_open_it_and_see_why(
    plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipient: str
) -> None:
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [write_identity(tmp_path / "other")])
    assert Bundle.open(sealed.path).manifest.spec.labels == plain.manifest.spec.labels
    with pytest.raises(BundleError, match="was not sealed for this device, whose identity is"):
        load(sealed.path)
    monkeypatch.delenv("EDGEOPT_IDENTITY")
    monkeypatch.setattr(sealing, "IDENTITY_FILE", tmp_path / "none")
    with pytest.raises(BundleError, match="this device has no identity to open it"):
        load(sealed.path)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (tmp_path / "other").rename(credentials / "edgeopt.identity")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    load(sealed.path).close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_an_identity_that_others_may_read_is_refused(plain: Bundle, recipient: str, tmp_path: Path) -> None:
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [recipient])
    (tmp_path / "identity").chmod(0o640)
    with pytest.raises(StorageError, match="an identity that other users may read"):
        load(sealed.path)


def test_a_sealed_bundle_is_signed_as_any_other(
    plain: Bundle, recipient: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [recipient])
    sealed.sign(read_private(write_key(tmp_path)))
    trusted = tmp_path / "trusted"
    trusted.mkdir(mode=0o755)
    (tmp_path / "key.pub").rename(trusted / "key.pub")
    monkeypatch.setenv("EDGEOPT_TRUSTED", str(trusted))
    monkeypatch.setenv("EDGEOPT_STATE", str(tmp_path / "state"))
    load(sealed.path).close()


def test_what_needs_the_plain_files_says_so(plain: Bundle, recipient: str, tmp_path: Path) -> None:
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [recipient])
    with pytest.raises(BundleError, match="needs its files in the clear"):
        sealed.plain_file("ort-fp32")
    with pytest.raises(BundleError, match="is sealed already"):
        sealed.seal(tmp_path / "twice.edgeopt", [recipient])


@pytest.mark.parametrize("wrong", ["", "age1", "ssh-ed25519 AAAA", "age1" + "q" * 58])
def test_what_is_no_recipient(wrong: str, plain: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not an age key"):
        plain.seal(tmp_path / "sealed.edgeopt", [wrong])
    assert not (tmp_path / "sealed.edgeopt").exists()


def test_a_secret_key_given_by_mistake_is_not_repeated(plain: Bundle, tmp_path: Path) -> None:
    secret = str(pyrage.x25519.Identity.generate())
    result = CliRunner().invoke(main, ["seal", str(plain.path), "--to", secret])
    assert result.exit_code == 16
    assert secret not in result.output
    assert "secret key" in result.output


def test_the_command(plain: Bundle, recipient: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["seal", str(plain.path), "--to", recipient])
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", " ").rstrip().endswith("sealed for 1 device")
    assert verify(tmp_path / "x.sealed.edgeopt").ok


# Nothing in the clear


def test_an_engine_that_is_built_from_a_secret_is_kept_as_one(tmp_path: Path) -> None:
    plan, cipher = os.urandom(64), Cipher(bytes(32))

    def build(reason: str, seconds: float | None) -> Built:
        return Built(plan=plan)

    built = obtain(tmp_path / "cache", "slot", {"a": "b"}, build, cipher=cipher)
    assert built.plan == plan
    assert all(plan not in file.read_bytes() for file in (tmp_path / "cache").iterdir())
    assert obtain(tmp_path / "cache", "slot", {"a": "b"}, build, cipher=cipher).rebuilt_because == ""
    other = Cipher(b"x" * 32)
    assert "cannot be decrypted" in obtain(tmp_path / "cache", "slot", {"a": "b"}, build, cipher=other).rebuilt_because


def test_engines_of_tensorrt_are_cached_encrypted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipient: str
) -> None:
    board = Board(monkeypatch, tmp_path)
    sealed = board.bundle.seal(tmp_path / "sealed.edgeopt", [recipient])
    for _ in range(2):
        with load(sealed.path) as predictor:
            assert predictor.variant.target == "trt"
    plans = list((tmp_path / "cache").rglob("*.plan"))
    assert plans
    assert all(plan.read_bytes().startswith(b"edgeopt sealed 1\n") for plan in plans)


SCRIPT = """
import sys, numpy as np
from edgeopt.runtime import load
with load(sys.argv[1], variant=sys.argv[2]) as predictor:
    predictor.predict(np.full((8, 8, 3), 200, np.uint8))
"""


def free_ports() -> tuple[int, int]:
    """Return a port and the one after it, where libtss2-tcti-swtpm looks for the control channel."""
    while True:
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            second.bind(("127.0.0.1", port + 1))
            return port, port + 1


@contextlib.contextmanager
def emulated_tpm(state: Path) -> Iterator[str]:
    """A TPM 2.0 in a process of its own, by swtpm; its name for systemd."""
    state.mkdir(exist_ok=True)
    port, control = free_ports()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    command += ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={control}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", control), 1):
                    break
                time.sleep(0.05)
            yield f"swtpm:host=127.0.0.1,port={port}"
        finally:
            process.terminate()


def systemd_creds(verb: str, tpm: str, *more: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-creds", verb, f"--tpm2-device={tpm}", "--name=edgeopt.identity", *map(str, more)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(
    not (shutil.which("swtpm") and shutil.which("systemd-creds")), reason="needs swtpm and systemd-creds: no TPM tested"
)
def test_an_identity_that_a_tpm_keeps(plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key on the disk is encrypted for the board's TPM; systemd gives it to the service, and to no other board."""
    recipient = write_identity(tmp_path / "identity")
    with emulated_tpm(tmp_path / "board") as tpm:
        made = systemd_creds("encrypt", tpm, "--with-key=tpm2", tmp_path / "identity", tmp_path / "credential")
        if made.returncode:
            pytest.skip(f"systemd-creds cannot use swtpm here: {made.stderr.strip()[-200:]}")
        secret = (tmp_path / "identity").read_text().split()[-1]
        assert secret not in (tmp_path / "credential").read_text()
        (tmp_path / "identity").unlink()
        given = tmp_path / "given"  # what LoadCredentialEncrypted= does for a service
        given.mkdir(mode=0o700)
        os.close(os.open(given / "edgeopt.identity", os.O_CREAT, 0o400))
        opened = systemd_creds("decrypt", tpm, tmp_path / "credential", given / "edgeopt.identity")
        assert opened.returncode == 0, opened.stderr
    (given / "edgeopt.identity").chmod(0o400)
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [recipient])
    monkeypatch.setattr(sealing, "IDENTITY_FILE", tmp_path / "none")
    with pytest.raises(BundleError, match="this device has no identity to open it"):
        load(sealed.path, variant="ort-fp32")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    with load(sealed.path, variant="ort-fp32") as predictor:
        assert predictor.predict(PICTURE).labels
    with emulated_tpm(tmp_path / "other") as tpm:
        stolen = systemd_creds("decrypt", tpm, tmp_path / "credential", "-")
    assert stolen.returncode != 0
    assert secret not in stolen.stdout


WRITES = "write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,sendfile,copy_file_range,splice,vmsplice"
OPENS = "open,openat,openat2,creat,memfd_create"


def traced(log: Path, path: Path, variant: str) -> tuple[str, list[str]]:
    """Open a bundle and predict under strace: what was written, and the files that were opened to be written."""
    command = ["strace", "-f", "-s", "1000000", "-e", f"trace={WRITES},{OPENS}", "-xx", "-o", log]
    command += [sys.executable, "-c", SCRIPT, path, variant]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = log.read_text(errors="replace").splitlines()
    opened = [
        bytes.fromhex("".join(re.findall(r"\\x([0-9a-f]{2})", call))).decode()
        for call in calls
        if re.search("open|creat", call) and re.search("O_WRONLY|O_RDWR|O_CREAT|creat", call) and " = -1 " not in call
    ]
    return "\n".join(calls), opened


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("variant", ["ort-int8", "ov-int8"])
def test_no_write_of_the_process_holds_a_part_of_the_engine(
    plain: Bundle, recipient: str, tmp_path: Path, variant: str
) -> None:
    """Nor does a file that it opened for writing: mapped memory, or an engine library's cache of models."""
    if variant not in verify(plain.path).replayed:
        pytest.skip(f"no engine for {variant} here")
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [recipient])
    written, opened = traced(tmp_path / "strace", sealed.path, variant)
    engine = plain.engine(variant)
    middle = len(engine) // 2
    for part in (engine[:24], engine[middle : middle + 24], engine[-24:]):
        assert "".join(f"\\x{byte:02x}" for byte in part) not in written
        for file in map(Path, opened):  # onnxruntime keeps a data base of its telemetry, which it also maps into memory
            assert not file.is_file() or part not in file.read_bytes()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_trace_would_show_an_engine_that_is_written(
    plain: Bundle, recipient: str, tmp_path: Path, monkeypatch
) -> None:
    kept = f"""
from edgeopt.bundle import Bundle, write_bundle
from edgeopt.bundle.splits import SPLITS_FILE, recorded_splits
open({str(tmp_path / "kept")!r}, "wb").write(Bundle.open(sys.argv[1]).engine(sys.argv[2]))
"""
    monkeypatch.setitem(globals(), "SCRIPT", SCRIPT + kept)
    sealed = plain.seal(tmp_path / "sealed.edgeopt", [recipient])
    written, opened = traced(tmp_path / "strace", sealed.path, "ort-int8")
    assert "".join(f"\\x{byte:02x}" for byte in plain.engine("ort-int8")[:24]) in written
    assert str(tmp_path / "kept") in opened
