"""Bundles as files, slots that a killed process leaves whole, and a repository that cannot go back unnoticed."""

from __future__ import annotations

import functools
import http.server
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from edgeopt.bundle import Bundle
from edgeopt.errors import BundleError, StorageError
from edgeopt.fleet import Slots, pack, self_test, unpack
from edgeopt.fleet.slots import CURRENT
from edgeopt.trust.releases import STATE_VARIABLE, TRIAL_NAME, is_on_trial

ROOT = Path(__file__).resolve().parents[1]
NOTHING = lambda _: None  # noqa: E731 - a test that everything passes


def release(folder: Path, number: int) -> Path:
    """A packed bundle of that number."""
    bundle = tiny.write(folder / f"{number}.edgeopt", release=number)
    file = folder / f"{number}.tar.xz"
    pack(bundle.path, file)
    return file


@pytest.fixture
def files(tmp_path: Path) -> dict[int, Path]:
    return {number: release(tmp_path, number) for number in (1, 2, 3)}


def number_of(slots: Path) -> int:
    return Bundle.open(slots / CURRENT).manifest.release


# Files


def test_the_same_bundle_is_packed_to_the_same_bytes(tmp_path: Path) -> None:
    first = tiny.write(tmp_path / "one.edgeopt")
    second = tiny.write(tmp_path / "other" / "two.edgeopt")
    os.utime(second.path / "manifest.json", (0, 0))
    (second.path / "manifest.json").chmod(0o600)
    sizes = [pack(each.path, tmp_path / f"{each.path.name}.xz") for each in (first, second)]
    contents = [(tmp_path / name).read_bytes() for name in ("one.edgeopt.xz", "two.edgeopt.xz")]
    assert contents[0] == contents[1]
    assert sizes == [len(contents[0])] * 2


def test_a_packed_bundle_is_the_bundle(tmp_path: Path) -> None:
    bundle = tiny.write_golden(tmp_path / "tiny.edgeopt")
    bundle.record("ort-int8", diagnosis=tiny.diagnosis())
    pack(bundle.path, tmp_path / "packed")
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "packed", tmp_path / "out")
    assert Bundle.open(tmp_path / "out").manifest == Bundle.open(bundle.path).manifest


def test_a_path_too_long_for_an_archive_is_refused(tmp_path: Path) -> None:
    bundle = tiny.write_long(tmp_path / "long.edgeopt")
    with pytest.raises(BundleError, match="cannot be packed"):
        pack(bundle.path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def rewritten(file: Path, change: Any) -> None:
    """Change the members of a packed bundle: a list of (TarInfo, bytes)."""
    with tarfile.open(file, "r:xz") as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive.getmembers()]
    change(members)
    with tarfile.open(file, "w:xz", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def named(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda members: members.append((named("../outside"), b"x")), "not as its manifest says"),
        (lambda members: members.append((named("/tmp/outside"), b"x")), "not as its manifest says"),
        (lambda members: members.append((named("more.bin"), b"x")), "not as its manifest says"),
        (lambda members: members.append(members[-1]), "not as its manifest says"),
        (lambda members: members.append((named("x", type=tarfile.SYMTYPE, linkname="/etc"), b"")), "not an ordinary"),
        (lambda members: members.append((named("a" * 300), b"x")), "not an ordinary file"),
        (lambda members: members.pop(), "is missing"),
        (lambda members: members.reverse(), "does not begin with its manifest"),
        (lambda members: members.clear(), "is missing"),
        (lambda members: members.append((members.pop()[0], b"shorter")), "not as its manifest says"),
    ],
)
def test_hostile_archives_are_refused(files: dict[int, Path], tmp_path: Path, change: Any, said: str) -> None:
    rewritten(files[1], change)
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match=said):
        unpack(files[1], tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_damaged_files_are_refused(files: dict[int, Path], tmp_path: Path) -> None:
    content = files[1].read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    wrong = (b"", b"no archive", content[:-20], bytes(damaged), lzma.compress(b"x" * 5000), lzma.compress(content))
    for number, each in enumerate(wrong):
        files[1].write_bytes(each)
        (tmp_path / f"out{number}").mkdir()
        with pytest.raises(BundleError, match=r"packed bundle|is not whole|more than a bundle"):
            unpack(files[1], tmp_path / f"out{number}")
    with pytest.raises(StorageError, match="Check the path"):
        unpack(tmp_path / "nothing", tmp_path)


# Slots


def test_releases_take_turns_and_go_back(files: dict[int, Path], tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", NOTHING)
    assert slots.current is None
    assert [slots.install(files[number]).path.name for number in (1, 2, 3)] == ["a", "b", "a"]
    assert number_of(slots.folder) == 3
    assert slots.roll_back() == "b"
    assert number_of(slots.folder) == 2
    assert {each.name for each in slots.folder.iterdir()} == {"a", "b", CURRENT}


def test_nothing_changes_where_a_release_is_not_good(files: dict[int, Path], tmp_path: Path) -> None:
    def failing(_: Path) -> None:
        raise BundleError("it answers otherwise")

    Slots(tmp_path / "slots", NOTHING).install(files[1])
    with pytest.raises(BundleError, match="answers otherwise"):
        Slots(tmp_path / "slots", failing).install(files[2])
    files[2].write_bytes(files[2].read_bytes()[:-50])
    with pytest.raises(BundleError, match="damaged"):
        Slots(tmp_path / "slots", NOTHING).install(files[2])
    assert number_of(tmp_path / "slots") == 1
    assert {each.name for each in (tmp_path / "slots").iterdir()} == {"a", CURRENT}
    with pytest.raises(BundleError, match="no other slot"):
        Slots(tmp_path / "slots", NOTHING).roll_back()


def test_a_command_that_fails_brings_the_release_before_back(files: dict[int, Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = tmp_path / "then.sh"
    script.write_text(f'#!/bin/sh\nreadlink "{tmp_path}/slots/current" >> {log}\ntest "$(tail -n 1 {log})" = a\n')
    slots = Slots(tmp_path / "slots", NOTHING)
    slots.install(files[1], ["sh", str(script)])
    with pytest.raises(BundleError, match="ended with status 1 for the new release: the one before runs again"):
        slots.install(files[2], ["sh", str(script)])
    assert log.read_text().split() == ["a", "b", "a"], "and once more for the one before"
    assert number_of(slots.folder) == 1
    with pytest.raises(BundleError, match="status 127"):
        slots.install(files[2], [str(tmp_path / "nothing")])
    with pytest.raises(BundleError, match="no release before"):
        Slots(tmp_path / "others", NOTHING).install(files[1], ["false"])
    assert Slots(tmp_path / "others").current is None


def test_a_release_on_trial_does_not_lock_out_the_one_before(files: dict[int, Path], tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", NOTHING)
    slots.install(files[1])
    assert not is_on_trial(slots.folder / CURRENT)
    seen = tmp_path / "seen"
    check = (
        f"from edgeopt.trust.releases import *; import pathlib; pathlib.Path({str(seen)!r}).write_text(str(is_on_trial("
    )
    check += f"pathlib.Path({str(slots.folder / CURRENT)!r}))))"
    slots.install(files[2], [sys.executable, "-c", check])
    assert seen.read_text() == "True"
    assert not is_on_trial(slots.folder / CURRENT)


def test_a_trial_that_was_cut_short_is_judged_at_the_next_start(files: dict[int, Path], tmp_path: Path) -> None:
    def only_the_first(path: Path) -> None:
        if Bundle.open(path).manifest.release != 1:
            raise BundleError("it crashes")

    slots = Slots(tmp_path / "slots", NOTHING)
    slots.install(files[1])
    slots.install(files[2])
    (slots.folder / TRIAL_NAME).write_text("a\n")
    assert slots.recover() == "b", "it passes"
    assert number_of(slots.folder) == 2
    (slots.folder / TRIAL_NAME).write_text("a\n")
    assert Slots(slots.folder, only_the_first).recover() == "a"
    assert number_of(slots.folder) == 1
    assert not (slots.folder / TRIAL_NAME).exists()


def test_a_damaged_mark_of_a_trial_does_not_stop_the_device(files: dict[int, Path], tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", NOTHING)
    slots.install(files[1])
    (slots.folder / TRIAL_NAME).write_bytes(b"\xff\0\x80")
    assert slots.recover() == "a"
    assert not (slots.folder / TRIAL_NAME).exists()


KILLED = """
import os, sys
from pathlib import Path
from edgeopt.bundle import Bundle
from edgeopt.fleet import Slots

slots, file, step = Path(sys.argv[1]), Path(sys.argv[2]), 0
tests = Slots(slots, lambda path: Bundle.open(path) and None)

def count(name):
    def counted(*arguments, real=getattr(os, name), **options):
        global step
        step += 1
        if step == limit:
            os._exit(9)  # as SIGKILL: nothing is tidied up
        return real(*arguments, **options)
    setattr(os, name, counted)

for name in ("fsync", "rename", "replace", "mkdir", "symlink", "unlink", "rmdir"):
    count(name)
killed = whole = 0
for limit in range(1, 400):
    step = 0
    before = Bundle.open(slots / "current").manifest.release
    child = os.fork()
    if child == 0:
        tests.install(file)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    release = Bundle.open((slots / "current").resolve()).manifest.release  # whole, whatever it is
    assert release in (before, 2), release
    killed += ended == 9
    if ended == 0:
        break
    limit = 0
    tests.recover()
    whole += Bundle.open(slots / "current").manifest.release in (before, 2)
    os.replace(os.path.realpath(slots / "current"), os.path.realpath(slots / "current"))
print(killed, whole, Bundle.open(slots / "current").manifest.release)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: killed installations were not tried")
def test_killed_at_every_step_one_whole_slot_runs(files: dict[int, Path], tmp_path: Path) -> None:
    Slots(tmp_path / "slots", NOTHING).install(files[1])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "slots"), str(files[2])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    killed, whole, newest = map(int, done.stdout.split())
    assert killed == whole > 20
    assert newest == 2


def test_the_self_test_runs_what_would_run_here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    bundle = tiny.write_golden(tmp_path / "tiny.edgeopt")
    self_test(bundle.path)
    assert not (tmp_path / "state").exists()
    (bundle.path / bundle.variant("ort-fp32").file).write_bytes(b"broken")
    with pytest.raises(BundleError, match=r"did not pass its self-test: .*bytes where the manifest says"):
        self_test(bundle.path)


@pytest.mark.parametrize(
    ("script", "arguments", "ran"),
    [
        ("mender-module.sh", ["ArtifactInstall", "{}"], "install {}/files/parts.edgeopt.tar.xz --slot S --then true"),
        ("mender-module.sh", ["ArtifactRollback", "{}"], "install --slot S --rollback"),
        ("mender-module.sh", ["ArtifactCommit", "{}"], ""),
        ("rauc-hook.sh", ["slot-install"], "install {}/files/parts.edgeopt.tar.xz --slot S --then true"),
        ("swupdate-install.sh", ["postinst", "{}/files/parts.edgeopt.tar.xz"],
         "install {}/files/parts.edgeopt.tar.xz --slot S --then true"),
        ("swupdate-install.sh", ["preinst"], ""),
    ],
)  # fmt: skip
def test_examples_for_update_systems_call_install(tmp_path: Path, script: str, arguments: list[str], ran: str) -> None:
    file = tmp_path / "files" / "parts.edgeopt.tar.xz"
    file.parent.mkdir()
    file.touch()
    (tmp_path / "edgeopt").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/ran"\n')
    (tmp_path / "edgeopt").chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "EDGEOPT_SLOT": "S",
        "EDGEOPT_THEN": "true",
        "RAUC_IMAGE_NAME": str(file),
        "RAUC_SLOT_DEVICE": "S",
    }
    path = ROOT / "deploy" / "fleet" / script
    command = ["sh", str(path), *(each.format(tmp_path) for each in arguments)]
    assert subprocess.run(command, env=environ, timeout=30).returncode == 0
    said = (tmp_path / "ran").read_text().strip() if (tmp_path / "ran").exists() else ""
    assert said == ran.format(tmp_path)
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if shellcheck is not None:
        subprocess.run([shellcheck, path], check=True, timeout=60)


# The repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served at."""
    pytest.importorskip("tuf", reason="the extra fleet is not installed: TUF was not tried")
    folder = tmp_path / "repository"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def published(tmp_path: Path, folder: Path, number: int) -> str:
    from edgeopt.fleet.repository import publish

    bundle = tiny.write(tmp_path / f"release{number}.edgeopt", release=number)
    return publish(bundle.path, folder, tmp_path / "keys")


def updated(tmp_path: Path, url: str) -> int | None:
    from edgeopt.fleet.updating import update

    slots = tmp_path / "device"
    root = tmp_path / "repository" / "root.json"
    return update(tiny.CLASSIFIER.name, url, root, slots, opened=Slots(slots, NOTHING))


def test_a_device_follows_its_repository(tmp_path: Path, repository: tuple[Path, str]) -> None:
    folder, url = repository
    assert published(tmp_path, folder, 1) == "tiny-classifier-1.edgeopt.tar.xz"
    assert updated(tmp_path, url) == 1
    assert updated(tmp_path, url) is None
    published(tmp_path, folder, 5)
    assert updated(tmp_path, url) == 5
    assert number_of(tmp_path / "device") == 5
    with pytest.raises(BundleError, match="release 5 is published"):
        published(tmp_path, folder, 5)
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in (tmp_path / "keys").iterdir())


def test_a_repository_that_goes_back_is_refused(tmp_path: Path, repository: tuple[Path, str]) -> None:
    """The rollback attack: somebody serves an older, rightly signed state."""
    folder, url = repository
    published(tmp_path, folder, 1)
    old = {each.name: each.read_bytes() for each in (folder / "metadata").iterdir()}
    published(tmp_path, folder, 2)
    assert updated(tmp_path, url) == 2
    for name, content in old.items():
        (folder / "metadata" / name).write_bytes(content)
    with pytest.raises(BundleError, match="is refused"):
        updated(tmp_path, url)
    assert number_of(tmp_path / "device") == 2


def test_a_repository_that_stands_still_is_refused(tmp_path: Path, repository: tuple[Path, str], monkeypatch) -> None:
    """The freeze attack: somebody keeps serving a state whose signature has run out, to hide a release."""
    import edgeopt.fleet.repository as module

    folder, url = repository
    monkeypatch.setitem(module.VALID_DAYS, "timestamp", -1)
    published(tmp_path, folder, 1)
    with pytest.raises(BundleError, match=r"expired.*--refresh"):
        updated(tmp_path, url)
    monkeypatch.setitem(module.VALID_DAYS, "timestamp", 1)
    assert module.publish(None, folder, tmp_path / "keys") == ""
    assert updated(tmp_path, url) == 1


def test_what_nobody_signed_is_refused(tmp_path: Path, repository: tuple[Path, str]) -> None:
    folder, url = repository
    published(tmp_path, folder, 1)
    (target,) = (folder / "targets").iterdir()
    content = target.read_bytes()
    target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises((BundleError, StorageError)):
        updated(tmp_path, url)
    target.write_bytes(content)
    timestamp = folder / "metadata" / "timestamp.json"
    timestamp.write_bytes(re.sub(rb'("spec_version": ?".*?"version": ?)\d+', rb"\g<1>9", timestamp.read_bytes()))
    with pytest.raises(BundleError, match="is refused"):
        updated(tmp_path, url)
    assert not (tmp_path / "device" / CURRENT).exists()


def test_a_missing_key_and_a_wrong_address_say_what_to_do(tmp_path: Path, repository: tuple[Path, str]) -> None:
    folder, url = repository
    published(tmp_path, folder, 1)
    (tmp_path / "keys" / "targets.pem").unlink()
    with pytest.raises(StorageError, match=r"key of role 'targets'.*--keys"):
        published(tmp_path, folder, 2)
    with pytest.raises(StorageError, match="must begin with https"):
        updated(tmp_path, "file:///etc")
    with pytest.raises(StorageError, match="cannot be read"):
        updated(tmp_path, url + "/elsewhere")
