"""A bundle tells nobody where on whose machine it was built."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recipe import RECIPE

from edgeopt.bundle.images import images_of
from edgeopt.cli import main
from edgeopt.config import parse_config
from edgeopt.files import named_path
from edgeopt.package import FORMATS
from edgeopt.pipeline import build
from edgeopt.pipeline.published import published
from edgeopt.progress import Silent
from edgeopt.source.weights import find_weights

DATA = '[data.{role}]\nformat = "image_folder"\npath = "{path}"\n'


def pictures(folder: Path, count: int) -> Path:
    random = np.random.default_rng(count)
    for index in range(count):
        file = folder / f"class{index % 2}" / f"{index:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), random.integers(0, 128, (28, 28, 3), np.uint8) + np.uint8(127 * (index % 2)))
    return folder


def recipe(**paths: object) -> str:
    head, _, rest = RECIPE.partition("[data.train]")
    tables = "".join(DATA.format(role=role, path=path) for role, path in paths.items())
    return f"{head}{tables}[train]{rest.partition('[train]')[2]}"


def test_paths_of_a_recipe_begin_at_its_folder_or_at_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, project, elsewhere = tmp_path / "home" / "somebody", tmp_path / "build" / "project", tmp_path / "disk"
    monkeypatch.setenv("HOME", str(home))
    config = parse_config(
        recipe(train=project / "photos", test=home / "photos/test", calibration=elsewhere, validation="kept/as/it/is"),
        overrides=[f'model.weights="{home}/w.safetensors"'],
    )
    found = published(config, project)
    assert [found.data.train.path, found.data.test.path] == ["photos", "~/photos/test"]
    assert [found.data.calibration.path, found.data.validation.path] == [str(elsewhere), "kept/as/it/is"]
    assert found.model.weights == "~/w.safetensors"
    assert published(found, project) == found
    assert named_path(project, found.data.test.path) == home / "photos" / "test"
    assert named_path(project, "~nobody-of-this-name/x") == project / "~nobody-of-this-name/x"


def test_a_recipe_out_of_a_bundle_finds_what_lies_in_the_users_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only data were looked for there: weights ended with "there is no file .../~/w.safetensors"."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    assert find_weights("~/w.safetensors", tmp_path / "elsewhere") == file


def test_nothing_that_is_made_of_a_bundle_names_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names absolute paths, as `--data` of a shell does; the bundle's images are found all the same."""
    home = tmp_path / "telltale-user"
    project = home / "project"
    sets = {role: pictures(home / "photos" / role, count) for role, count in (("train", 60), ("test", 40))}
    sets["calibration"] = pictures(project / "calibration", 32)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(platform, "node", lambda: "telltale-host")
    monkeypatch.setenv("USER", "telltale-user")
    config = parse_config(recipe(**sets), overrides=["compile.targets=['ort', 'ov']"])
    made = build(config, project, project, tmp_path / "work", Silent()).bundle
    assert len(images_of(made, "test", tmp_path / "elsewhere")) == 40
    assert len(images_of(made, "calibration", tmp_path / "elsewhere")) == 32
    runner, out = CliRunner(), tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    bundle = str(made.path)
    shown = [
        runner.invoke(main, ["report", bundle, form, "--data", str(sets["test"])]).output
        for form in ("--json", "--markdown")
    ]
    for command in (
        ["sbom", bundle, "--out", str(out / "sbom.json")],
        *(["package", bundle, "--format", form, "--out", str(out / form)] for form in FORMATS if form != "deepstream"),
    ):
        done = runner.invoke(main, command)
        assert done.exit_code == 0, done.output
    written = [file for folder in (made.path, out) for file in folder.rglob("*") if file.is_file()]
    assert len(written) > 15
    for file in (*written, *project.glob("*.html")):
        content = file.read_bytes()
        for secret in ("telltale", str(tmp_path), getpass.getuser() + "/", "site-packages"):
            assert secret.encode() not in content, file
    assert all("telltale" not in text and json.dumps(str(tmp_path)) not in text for text in shown)
