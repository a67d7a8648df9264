"""Stage results belong to the code that made them: of edgeopt, and of a user's package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt.config import ModelConfig, parse_config
from edgeopt.pipeline import build, provenance
from edgeopt.pipeline.provenance import code_hash
from edgeopt.source import source_files

RECORD_IMPORTS = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps([name for name in sys.modules if name.startswith("edgeopt")]))
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of edgeopt's source, to change."""
    ignored = shutil.ignore_patterns("__pycache__")
    copy = Path(shutil.copytree(provenance.PACKAGE, tmp_path / "edgeopt", ignore=ignored))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def edit(module: Path) -> None:
    """Change a module, as the next process sees it."""
    module.write_text(module.read_text() + "\nEDITED = True\n")
    provenance._modules.cache_clear()


def rebuilt(folder: Path) -> Watch:
    watch = Watch()
    build(parse_config(RECIPE), Path.cwd(), folder, folder / "work", watch)
    return watch


@pytest.fixture
def copy(built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built[0], tmp_path / "copy"))


def test_a_changed_module_makes_its_stages_again_and_what_follows(copy: Path, code: Path) -> None:
    edit(code / "calibrate" / "observe.py")
    watch = rebuilt(copy)
    assert {"calibrate", "quantize", "compile"} <= set(watch.made)
    assert {"train", "export", "optimize"} <= set(watch.reused)


def test_a_changed_evaluation_is_made_again_on_the_same_engines(copy: Path, code: Path) -> None:
    edit(code / "evaluate" / "run.py")
    watch = rebuilt(copy)
    assert {"evaluate", "bundle"} <= set(watch.made)
    assert {"export", "optimize", "compile"} <= set(watch.reused)


def test_a_changed_session_is_compiled_and_measured_again(copy: Path, code: Path) -> None:
    edit(code / "runtime" / "ort.py")
    watch = rebuilt(copy)
    assert {"compile", "evaluate", "benchmark"} <= set(watch.made)
    assert "train" in watch.reused


@pytest.mark.parametrize("module", ["runtime/tracking.py", "cli/workstation.py", "report/html.py", "gate/rounds.py"])
def test_code_that_no_stage_runs_makes_nothing_again(module: str, copy: Path, code: Path) -> None:
    edit(code / module)
    assert rebuilt(copy).made == ["check", "data"]


@pytest.mark.parametrize("module", ["edgeopt.evaluate", "edgeopt.calibrate", "edgeopt.passes.repair.trials"])
def test_everything_that_a_module_imports_counts(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", RECORD_IMPORTS, module], capture_output=True, text=True, check=True)
    modules = provenance._modules(provenance.PACKAGE)
    # Packages that are only passed through, on the way to a module inside, are not computed with.
    imported = {
        name for name in json.loads(done.stdout) if not (provenance.PACKAGE.parent / Path(*name.split("."))).is_dir()
    }
    assert imported <= provenance._reached(modules, [module])


def test_a_module_alone_counts_without_what_it_imports(code: Path) -> None:
    before = code_hash([], alone=["edgeopt.pipeline.graphs"])
    edit(code / "calibrate" / "ranges.py")
    assert code_hash([], alone=["edgeopt.pipeline.graphs"]) == before
    edit(code / "pipeline" / "graphs.py")
    assert code_hash([], alone=["edgeopt.pipeline.graphs"]) != before


def files_of(source: str, root: Path) -> list[str]:
    found = source_files(ModelConfig(source=source), root)
    return [path.relative_to(root).as_posix() for path in found]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_whole_of_a_users_package_decides_what_its_network_is(tmp_path: Path) -> None:
    root = write(tmp_path, {"shop/__init__.py": "", "shop/nets.py": "", "shop/parts/blocks.py": "", "other.py": ""})
    assert files_of("shop.nets:build", root) == ["shop/__init__.py", "shop/nets.py", "shop/parts/blocks.py"]


def test_modules_that_a_users_module_imports_from_beside_it_count_too(tmp_path: Path) -> None:
    mymodel = "import numpy as np, layers\nfrom shop.parts import x\nfrom edgeopt import models\n"
    files = {"mymodel.py": mymodel, "layers.py": "def f():\n    import deep  # late\n", "deep.py": "import mymodel\n"}
    root = write(tmp_path, {**files, "shop/parts.py": "", "unrelated.py": ""})
    assert files_of("mymodel:tiny", root) == ["deep.py", "layers.py", "mymodel.py", "shop/parts.py"]


def test_an_installed_package_counts_though_it_is_not_beside_the_recipe(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "site", {"theirs/__init__.py": "raise RuntimeError('imported')", "theirs/net.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = source_files(ModelConfig(source="theirs.net:build"), tmp_path / "recipes")
    assert [path.name for path in found] == ["__init__.py", "net.py"]
