"""What the README says is so: every command documented, generated parts fresh, modules listed."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from edgeopt.cli import main
from edgeopt.config import Config, parse_config, read_toml
from edgeopt.pipeline.standalone import InputSpec
from edgeopt.spec import Letterbox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_parts_are_fresh() -> None:
    from benchmarks.readme import FILES, regenerate

    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert regenerate(text) == text, f"{path.name} is stale: run `make readme`"


def test_every_generated_table_is_shown() -> None:
    from benchmarks.readme import FILES, TABLES

    shown = {name for path in FILES for name in re.findall(r"<!-- generated: (\w+) -->", path.read_text("utf-8"))}
    assert sorted(shown ^ {*TABLES}) == []


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= 12_000


def test_every_benchmark_is_listed_with_its_results() -> None:
    folder = ROOT / "benchmarks"
    text = (folder / "README.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert sorted(name for name in scripts - {"readme"} if f"benchmarks.{name}`" not in text) == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "edgeopt/README.md", "benchmarks/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_documented(command: str) -> None:
    assert f"`edgeopt {command}`" in README


def test_the_recipe_in_the_readme_is_valid() -> None:
    recipe = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert recipe is not None
    config = parse_config(recipe.group(1), origin="README.md")
    assert isinstance(config, Config)


def test_the_input_specification_in_the_readme_is_valid(tmp_path: Path) -> None:
    specification = re.search(r"```toml\n(\[preprocessing\].*?)```", README, re.DOTALL)
    assert specification is not None
    (tmp_path / "spec.toml").write_text(specification.group(1), encoding="utf-8")
    steps = read_toml(tmp_path / "spec.toml", InputSpec).preprocessing.steps
    assert steps == (Letterbox(size=(320, 320)),)


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_room_has_a_line() -> None:
    package = ROOT / "edgeopt"
    rooms = [
        path.parent
        for folder in (package, package / "passes", package / "runtime")
        for path in folder.glob("*/__init__.py")
    ]
    names = {path.relative_to(package).as_posix() for path in rooms} - {"passes"}
    names |= {path.stem for path in package.glob("[a-z]*.py")}
    text = (package / "README.md").read_text(encoding="utf-8")
    assert sorted(name for name in names if f"`{name}`" not in text) == []


_FRAGMENT = re.compile(r"(Whether|Of|Why|What|How|Nor|That|Those|Which)\b")


def test_docstrings_are_sentences_of_their_own() -> None:
    """A fragment leaves its subject elsewhere: "True if …", "The model's …" and "Return …" say it."""
    found = [
        f"{source.relative_to(ROOT)}:{node.lineno}: {node.value.value.strip().splitlines()[0]}"
        for source in sorted((ROOT / "edgeopt").rglob("*.py"))
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if _FRAGMENT.match(node.value.value.strip())
    ]
    assert found == []
