"""Files that are whole or not there, locks, and folders of one user."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import pytest

from edgeopt import files
from edgeopt.errors import StorageError
from edgeopt.files import is_own_file, locked, private_folder, sha256, write_atomically

needs_modes = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes: who may write was not tested")


def refuse() -> None:
    raise StorageError("busy")


def test_the_hash_of_bytes_and_of_a_file(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert sha256(content) == sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [b"new", lambda file: file.write(b"new")], ids=["bytes", "function"])
def test_a_file_is_replaced(tmp_path: Path, content: Any) -> None:
    (tmp_path / "file").write_bytes(b"old")
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mode of a file")
def test_others_may_read_what_is_not_private_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for private, mode in ((True, 0o600), (False, 0o640)):
            write_atomically(tmp_path / "file", b"content", private=private)
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("no more")

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "file", fail)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_holds_a_lock_and_its_file_goes_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), pytest.raises(StorageError, match="busy"), locked(tmp_path / "lock", refuse):
        pytest.fail("two hold it")
    with locked(tmp_path / "lock", refuse):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_threads_hold_a_lock_one_after_another(tmp_path: Path) -> None:
    """Each takes the file away, while others have it open already."""
    inside, most, turns = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(5):
            with locked(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                turns += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 30)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no shared locks: none was tested")
def test_several_hold_a_shared_lock_and_nobody_an_exclusive_one(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", shared=True):
        with locked(tmp_path / "lock", refuse, shared=True):
            pass
        with pytest.raises(StorageError, match="busy"), locked(tmp_path / "lock", refuse):
            pass
    with (
        locked(tmp_path / "lock", refuse),
        pytest.raises(StorageError, match="busy"),
        locked(tmp_path / "lock", refuse, shared=True),
    ):
        pass


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    script = """
import os, pathlib, signal, sys
from edgeopt.files import locked
with locked(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "lock"], check=False, timeout=60)
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", refuse):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_in_the_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="is a link"), locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "victim").exists()


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "_try_lock", unsupported)
    with pytest.raises(StorageError, match=r"No locks available\. Choose a folder"), locked(tmp_path / "lock"):
        pass


@needs_modes
def test_a_private_folder_is_made_and_one_that_others_may_write_is_closed(tmp_path: Path) -> None:
    private_folder(tmp_path / "new" / "cache")
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    private_folder(tmp_path / "open")
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o755


@needs_modes
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to the user with number"):
        private_folder(tmp_path)


@needs_modes
def test_which_files_are_only_ours(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not is_own_file(file)
    file.touch(mode=0o644)
    assert is_own_file(file)
    (tmp_path / "link").symlink_to(file)
    assert not is_own_file(tmp_path / "link")
    file.chmod(0o664)
    assert not is_own_file(file)


def test_modules_import_where_there_is_no_fcntl_or_resource() -> None:
    """Windows has neither; `sys.platform` cannot be faked in time, so that only the names are blocked."""
    script = """
import sys
sys.platform, sys.modules["fcntl"], sys.modules["resource"] = "win32", None, None
import types
locking = types.ModuleType("msvcrt")
locking.locking, locking.LK_NBLCK = lambda *_: None, 2
sys.modules["msvcrt"] = locking
from edgeopt import files
from edgeopt.measure.environment import peak_memory_mib
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder, files.locked(pathlib.Path(folder, "lock")):
    files.write_atomically(pathlib.Path(folder, "file"), b"content")
    files.private_folder(pathlib.Path(folder, "cache"))
    assert files.is_own_file(pathlib.Path(folder, "file"))
assert peak_memory_mib() == 0.0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
