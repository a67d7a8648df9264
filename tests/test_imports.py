"""What may import what, proven by a process in which the rest cannot be imported."""

from __future__ import annotations

import configparser
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeopt

ROOT = Path(edgeopt.__file__).parents[1]
ON_DEMAND = ("edgeopt.report", "edgeopt.cli")
"""They run on a device too, and import everything else only when it is asked for."""

SCRIPT = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnx_ir", "onnxscript"}:
            raise ImportError(f"{name} is blocked: this is a device")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def device_side() -> list[str]:
    """The rooms of the device side, as .importlinter lists them."""
    layers = configparser.ConfigParser()
    layers.read(ROOT / ".importlinter", encoding="utf-8")
    return layers["importlinter:contract:device"]["source_modules"].split()


def modules() -> list[str]:
    """Every module of the device side."""
    found = []
    for name in (*device_side(), *ON_DEMAND):
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is gone: take it out of .importlinter"
        found.append(spec.name)
        locations = spec.submodule_search_locations or []
        found += [inner.name for inner in pkgutil.walk_packages(locations, prefix=f"{spec.name}.")]
    return found


def test_every_module_of_the_device_side_imports_on_a_device() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *modules()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_one_module_asks_msgspec_to_read_types() -> None:
    """Whose lock is what keeps threads apart, see `edgeopt.typed`."""
    package = Path(edgeopt.__file__).parent
    readers = re.compile(r"msgspec\.(convert|\w+\.(decode|Decoder))\(|from msgspec\.\w+ import")
    found = [path.relative_to(package).as_posix() for path in package.rglob("*.py") if readers.search(path.read_text())]
    assert found == ["typed.py"]


def test_the_layers_hold() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed: layers not tested")
    # In a process of its own: it sets up logging for itself, which switches off the loggers of what is tested after.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


AS_THEY_LIE = {"edgeopt/farm/visiting.py"}
"""It hashes what signs all the rest."""


def test_only_the_bundle_reads_its_files() -> None:
    """What a bundle gives is checked and unsealed; a file that is opened by its path is neither."""
    opened = re.compile(r"\b(?:bundle|opened)\.path(?: /|\.joinpath)")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgeopt").rglob("*.py")
        if path.parent.name != "bundle" and opened.search(path.read_text(encoding="utf-8"))
    }
    assert found == AS_THEY_LIE, "read it by Bundle.content"
