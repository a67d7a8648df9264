"""Signing and sealing under bad luck: killed at every step, on a disk that fills and on one that is read-only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle
from edgeopt.bundle.reading import PROVENANCE_NAME, SIGNATURE_NAME
from edgeopt.cli import main
from edgeopt.config import Config, ModelConfig
from edgeopt.errors import StorageError
from edgeopt.trust.keys import read_public

pyrage = pytest.importorskip("pyrage")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")

BUILDER = "https://ci.example.com/edgeopt"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here: processes were not killed")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "key.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return tiny.write(
        tmp_path / "place" / "x.edgeopt",
        versions={"edgeopt": "0.1.0"},
        datasets={"test": "ab" * 32},
        build_key="ef" * 32,
        recipe=Config(name="x", model=ModelConfig(source="model.onnx")),
    )


def commands(bundle: Path) -> dict[str, list[str]]:
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    key = str(bundle.parents[1] / "key.pem") if bundle.parent.name == "place" else ""
    return {
        "sign": ["sign", str(bundle), "--key", key, "--release", "3", "--provenance", BUILDER],
        "seal": ["seal", str(bundle), "--to", recipient],
    }


_STEPS = ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "open")


def killed_at(step: int, command: list[str]) -> bool:
    """Run a command in a process that is killed before its `step`-th change of a disk; True if it was."""
    child = os.fork()
    if child == 0:
        done = 0

        def counted(real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                writes = real is not opened or bool(arguments[1] & (os.O_WRONLY | os.O_RDWR))
                done += writes
                if writes and done == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        opened = os.open
        for name in _STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            main(command, standalone_mode=False)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_signing_killed_at_every_step_leaves_a_whole_bundle(bundle: Bundle) -> None:
    """Signed wholly or not at all; what stands in it was never changed, and signing again finishes it."""
    keys = (read_public(bundle.path.parents[1] / "key.pub"),)
    command, states = commands(bundle.path)["sign"], set()
    for step in range(1, 200):
        was_killed = killed_at(step, command)
        found = Bundle.open(bundle.path)
        assert found.manifest.variants == bundle.manifest.variants
        states.add((found.is_signed, (bundle.path / PROVENANCE_NAME).exists(), found.manifest.release))
        if found.is_signed:
            stated = Bundle.open(bundle.path, keys=keys).provenance()
            assert stated is None or stated.run_details.builder.id == BUILDER
        if not was_killed:
            break
    assert step > 8, "it was killed nowhere"
    assert {(False, False, 0), (False, False, 3), (False, True, 3), (True, True, 3)} <= states
    assert Bundle.open(bundle.path, keys=keys).manifest.release == 3
    assert [each.name for each in bundle.path.parent.iterdir()] == ["x.edgeopt"], "leftovers went with the next write"


def test_sealing_killed_at_every_step_leaves_nothing_half(bundle: Bundle) -> None:
    command, out = commands(bundle.path)["seal"], bundle.path.parent / "x.sealed.edgeopt"
    before, engines = Bundle.open(bundle.path), [bundle.engine(each.name) for each in bundle.manifest.variants]
    for step in range(1, 300):
        was_killed = killed_at(step, command)
        assert Bundle.open(bundle.path) == before
        if out.exists():
            assert Bundle.open(out).manifest.sealed is not None
        for file in (
            each for each in bundle.path.parent.rglob("*") if each.is_file() and bundle.path not in each.parents
        ):
            assert file.read_bytes() not in engines
        if not was_killed:
            break
    assert step > 8, "it was killed nowhere"
    assert sorted(each.name for each in bundle.path.parent.iterdir()) == ["x.edgeopt", "x.sealed.edgeopt"]


@contextlib.contextmanager
def small_disk(folder: Path, pages: int) -> Iterator[None]:
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root mounts a small disk")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("action", ["sign", "seal"])
@pytest.mark.parametrize("free", [0, 1, 2, 4, "read-only"])
def test_a_full_or_read_only_disk_leaves_the_bundle_as_it_was_or_whole(
    bundle: Bundle, tmp_path: Path, action: str, free: int | str
) -> None:
    with small_disk(tmp_path / "disk", 64):
        path = tmp_path / "disk" / "x.edgeopt"
        shutil.copytree(bundle.path, path)
        key = str(tmp_path / "key.pem")
        command = [key if each == "" else each for each in commands(path)[action]]
        room = os.statvfs(path).f_bavail
        if isinstance(free, int):
            (tmp_path / "disk" / "filling").write_bytes(bytes((room - free) * 4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        ran = CliRunner().invoke(main, command)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        assert ran.exit_code in (
            (0, StorageError.exit_code) if free not in (0, "read-only") else (StorageError.exit_code,)
        )
        found = Bundle.open(path)
        assert found.manifest.variants == bundle.manifest.variants
        if found.is_signed:
            Bundle.open(path, keys=(read_public(tmp_path / "key.pub"),))
        left = {each.name for each in path.parent.iterdir()} - {"filling"}
        assert left == {"x.edgeopt", *(["x.sealed.edgeopt"] if action == "seal" and ran.exit_code == 0 else [])}
        if ran.exit_code == 0:
            assert (path / SIGNATURE_NAME).exists() or action == "seal"
