"""Stage results: made once, found again, never half there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgeopt.bundle.records import RepairTrial, StageRecords
from edgeopt.errors import StorageError
from edgeopt.pipeline.workspace import RECORD, Made, Workspace, content_key


def write(text: str):
    def make(folder: Path, scratch: Path) -> str:
        (folder / "out.txt").write_text(text)
        return Made(f"wrote {text}")

    return make


def refuse(folder: Path, scratch: Path) -> None:
    pytest.fail("made again")


def test_a_result_is_made_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = workspace.produce("export", {"opset": 18}, write("a"))
    again = workspace.produce("export", {"opset": 18}, refuse)
    assert (first.reused, again.reused) == (False, True)
    assert again.file("out.txt").read_text() == "a"
    assert again.summary == first.summary == "wrote a"


def test_another_setting_is_another_result(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert (
        workspace.produce("export", {"opset": 17}, write("a")).key
        != workspace.produce("export", {"opset": 18}, write("b")).key
    )


def test_a_truncated_result_is_made_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.produce("export", {}, write("whole")).file("out.txt").write_text("half")
    assert workspace.produce("export", {}, write("whole")).file("out.txt").read_text() == "whole"


def finds(**records: object):
    return lambda folder, scratch: Made("made", StageRecords(**records))


def test_what_a_stage_found_travels_on_with_what_is_made_from_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    trial = RepairTrial("equalization", 2.0, 1.0)
    quantized = workspace.produce("quantize", {}, finds(repairs=(trial,)))
    halved = workspace.produce("float16", {"after": quantized.key}, finds(kept_float32={"a": "overflows"}), quantized)
    compiled = workspace.produce("compile", {"after": halved.key}, write("engine"), halved)
    assert compiled.records == StageRecords(repairs=(trial,), kept_float32={"a": "overflows"})
    assert quantized.records == StageRecords(repairs=(trial,))
    found = Workspace(tmp_path).produce("compile", {"after": halved.key}, refuse, halved)
    assert (found.reused, found.records) == (True, compiled.records)


def test_the_later_stage_has_the_last_word(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = workspace.produce("float16", {}, finds(kept_float32={"a": "overflows"}))
    assert workspace.produce("again", {}, finds(kept_float32={}), first).records.kept_float32 == {}


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"key": 1}'])
def test_a_damaged_record_is_made_again(tmp_path: Path, content: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.produce("export", {}, write("a")).file(RECORD).write_text(content)
    assert not workspace.produce("export", {}, write("a")).reused


def test_a_failed_stage_leaves_only_its_scratch(tmp_path: Path) -> None:
    def fail(folder: Path, scratch: Path) -> None:
        (scratch / "checkpoint").write_text("kept")
        (folder / "half.bin").write_text("x")
        raise RuntimeError

    workspace = Workspace(tmp_path)
    with pytest.raises(RuntimeError):
        workspace.produce("train", {}, fail)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["checkpoint"]
    again = workspace.produce("train", {}, lambda folder, scratch: Made((scratch / "checkpoint").read_text()))
    assert again.summary == "kept"
    assert not list(tmp_path.glob("*.scratch"))


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def full(folder: Path, scratch: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.onnx"))

    with pytest.raises(StorageError, match="the disk is full"):
        Workspace(tmp_path).produce("export", {}, full)


def test_a_killed_stage_is_not_taken_for_a_result(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, pathlib
        from edgeopt.pipeline.workspace import Workspace
        def make(folder, scratch):
            (folder / "out.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        Workspace(pathlib.Path({str(tmp_path)!r})).produce("export", {{}}, make)
        """
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    with Workspace(tmp_path).held() as workspace:
        assert not list(tmp_path.glob(".*.tmp"))
        artifact = workspace.produce("export", {}, write("whole"))
    assert not artifact.reused
    assert artifact.file("out.txt").read_text() == "whole"


def test_two_builds_do_not_share_a_work_folder(tmp_path: Path) -> None:
    with Workspace(tmp_path).held(), pytest.raises(StorageError, match="another build"), Workspace(tmp_path).held():
        pass


def test_a_shared_folder_has_each_result_made_once(tmp_path: Path) -> None:
    """Of several processes one makes it, and the others wait; one that was killed over it leaves it to the next."""
    script = textwrap.dedent(
        f"""
        import os, pathlib, signal, time
        from edgeopt.pipeline.workspace import Made, Workspace
        tries = pathlib.Path({str(tmp_path / "tries")!r})
        def make(folder, scratch):
            with tries.open("a") as file:
                file.write("x")
            (folder / "out.txt").write_text("half")
            time.sleep(0.3)
            if tries.read_text() == "x":
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / "out.txt").write_text("whole")
            return Made("made")
        with Workspace(pathlib.Path({str(tmp_path / "work")!r}), shared=True).held() as workspace:
            print(workspace.produce("export", {{}}, make).file("out.txt").read_text())
        """
    )
    started = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [(each.communicate(timeout=60)[0].strip(), each.returncode) for each in started]
    assert sorted(said) == [("", -signal.SIGKILL), *[("whole", 0)] * 3]
    assert (tmp_path / "tries").read_text() == "xx"
    with Workspace(tmp_path / "work").held():
        assert not list((tmp_path / "work").glob(".*-*"))


def test_a_shared_folder_is_closed_to_who_does_not_share_it(tmp_path: Path) -> None:
    with (
        Workspace(tmp_path, shared=True).held(),
        Workspace(tmp_path, shared=True).held(),
        pytest.raises(StorageError, match="another build"),
        Workspace(tmp_path).held(),
    ):
        pass


def test_keys_do_not_depend_on_order() -> None:
    assert content_key("s", {"a": 1, "b": (1, 2)}) == content_key("s", {"b": [1, 2], "a": 1})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: a read-only folder was not tested")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission denied"):
        Workspace(tmp_path / "work").produce("export", {}, write("a"))


def test_a_file_that_a_stage_does_not_find_elsewhere_is_no_fault_of_the_work_folder(tmp_path: Path) -> None:
    """A network's own code read a file that was not there: "cannot write /data/anchors.npy", and the cause was lost."""
    workspace = Workspace(tmp_path / "work")
    missing = tmp_path / "data" / "anchors.npy"
    with pytest.raises(FileNotFoundError):
        workspace.produce("export", {}, lambda *_: missing.read_bytes())
    with pytest.raises(StorageError, match="cannot write"):
        workspace.produce("export", {}, lambda folder, _: (folder / "no" / "such").write_bytes(b""))
