"""Work folders stay small, lose nothing that is in use, and nothing that is not theirs."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeopt.cli import main
from edgeopt.errors import SettingError, StorageError
from edgeopt.pipeline.cleaning import bound, remove, size_of, survey, unused
from edgeopt.pipeline.workspace import Artifact, Made, Workspace

DAY_S = 86_400


def produce(folder: Path, name: str, size: int, days_ago: float = 0) -> Artifact:
    def make(target: Path, scratch: Path) -> Made:
        (target / "out").write_bytes(bytes(size))
        return Made("made")

    made = Workspace(folder).produce("export", {"name": name}, make)
    at = time.time() - days_ago * DAY_S
    for path in (*made.folder.iterdir(), made.folder):
        os.utime(path, (at, at))
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    old, middle, new = (produce(tmp_path, name, 1000, days) for name, days in (("a", 40), ("b", 20), ("c", 0)))
    found = survey(tmp_path)
    assert [each.path for each in found] == [old.folder, middle.folder, new.folder]
    assert [each.path for each in unused(found, days=30)] == [old.folder]
    assert [each.path for each in unused(found, limit_bytes=found[-1].size_bytes)] == [old.folder, middle.folder]
    assert unused(found) == []
    assert unused(found, days=0) == found


def test_using_a_result_keeps_it(tmp_path: Path) -> None:
    old = produce(tmp_path, "a", 10, days_ago=40)
    Workspace(tmp_path).produce("export", {"name": "a"}, pytest.fail)
    assert survey(tmp_path)[0].days < 1
    assert survey(tmp_path)[0].path == old.folder


def test_nothing_of_others_is_looked_at(tmp_path: Path) -> None:
    produce(tmp_path, "a", 10, days_ago=40)
    for name in ("photos", "export-notes", ".hidden", "export-0123456789abcdef0"):
        (tmp_path / name).mkdir()
    (tmp_path / "export-0123456789abcdef").write_text("a file")
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (tmp_path / "train-0123456789abcdef").symlink_to(outside)
    remove(tmp_path, unused(survey(tmp_path), days=0))
    assert names(tmp_path) == {
        "photos", "export-notes", ".hidden", "export-0123456789abcdef0", "export-0123456789abcdef",
        "train-0123456789abcdef",
    }  # fmt: skip
    assert outside.is_dir()


def test_unfinished_stages_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "train-0123456789abcdef.scratch").mkdir()
    assert [each.finished for each in survey(tmp_path)] == [False]


def test_a_folder_that_a_build_uses_is_left_alone(tmp_path: Path) -> None:
    produce(tmp_path, "a", 10, days_ago=40)
    with Workspace(tmp_path).held(), pytest.raises(StorageError, match="another build is using"):
        remove(tmp_path, survey(tmp_path))
    assert len(survey(tmp_path)) == 1


def test_a_build_bounds_its_folder_but_never_what_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, used = produce(tmp_path, "a", 3000, 5), produce(tmp_path, "b", 5000, 9)
    monkeypatch.setenv("EDGEOPT_WORK_LIMIT", "4kB")
    with caplog.at_level(logging.WARNING):
        bound(tmp_path, {used.folder})
    assert names(tmp_path) == {used.folder.name}
    assert "removed 1 stage results" in caplog.text
    assert not old.folder.exists()
    monkeypatch.setenv("EDGEOPT_WORK_LIMIT", "a lot")
    with pytest.raises(SettingError, match="'a lot' is not a size"):
        bound(tmp_path, ())


@pytest.mark.parametrize(("text", "size"), [("20GB", 20e9), ("1.5 tb", 1.5e12), ("7", 7), ("3 MB", 3e6), ("2kb", 2000)])
def test_sizes(text: str, size: float) -> None:
    assert size_of(text) == size


def test_the_command_lists_first_and_removes_when_told(tmp_path: Path) -> None:
    old, new = produce(tmp_path, "a", 10, days_ago=40), produce(tmp_path, "b", 10)
    result = CliRunner().invoke(main, ["clean", "--work", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert old.folder.name in result.output
    assert "40 days ago" in result.output.replace("\n", " ")
    assert "Remove them with --remove" in result.output.replace("\n", " ")
    assert names(tmp_path) == {old.folder.name, new.folder.name}
    result = CliRunner().invoke(main, ["clean", "--work", str(tmp_path), "--remove"])
    assert result.output.splitlines()[-1].startswith("removed: 1 result")
    assert names(tmp_path) == {new.folder.name}
    assert CliRunner().invoke(main, ["clean", "--work", str(tmp_path / "none")]).exit_code == 0


def test_a_file_is_refused_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    result = CliRunner().invoke(main, ["clean", "--work", str(tmp_path / "results")])
    assert result.exit_code == 17
    assert "is a file, and stage results lie in a folder" in result.output.replace("\n", " ")
