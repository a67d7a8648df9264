"""References: names of ours, code of the user's, what may be imported, and which files results depend on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeopt.errors import ConfigError, ModelError
from edgeopt.references import (
    ALLOWED_VARIABLE,
    allow_code,
    check,
    code_files,
    code_of,
    importable,
    is_code,
    resolve,
)

TABLE = {"join": "posixpath:join", "split": "posixpath:split"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's folder with a package, a module beside it, and one that nothing needs."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "inner.py").write_text("import neighbour\n\ndef answer():\n    return neighbour.ANSWER\n")
    (tmp_path / "neighbour.py").write_text("ANSWER = 42\n")
    (tmp_path / "unused.py").write_text("")
    return tmp_path


def test_a_name_of_ours_is_imported_from_its_place() -> None:
    assert resolve("join", TABLE, "door")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("jion", "there is no door 'jion'. Did you mean 'join'"),
        ("pack.mod:", "package.module:callable"),
        ("pack mod:call", "package.module:callable"),
        ("pack.mod:call\n", "package.module:callable"),
    ],
)
def test_what_is_neither_ours_nor_a_reference_is_refused_with_what_could_be_meant(
    reference: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        check(reference, TABLE, "door")
    with pytest.raises(ModelError, match=expected):
        resolve(reference, TABLE, "door", error=ModelError)


def test_the_users_code_is_found_in_the_recipes_folder_for_as_long_as_it_is_worked_on(folder: Path) -> None:
    path, reference = list(sys.path), "mine.inner:answer"
    with importable(folder, reference, "join"):
        assert sys.path[: len(path)] == path  # nothing installed is replaced
        assert resolve(reference, TABLE, "door")() == 42
    assert sys.path == path
    assert not {"mine", "mine.inner", "neighbour"} & set(sys.modules)
    with pytest.raises(ConfigError, match=f"{ALLOWED_VARIABLE}=mine"):
        resolve(reference, TABLE, "door")


def test_two_recipes_may_have_modules_of_one_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "neighbour.py").write_text("def answer():\n    return 7\n")
    with importable(folder, "mine.inner:answer"):
        assert resolve("mine.inner:answer", {}, "door")() == 42
    with importable(other, "neighbour:answer"):
        assert resolve("neighbour:answer", {}, "door")() == 7


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("mine.iner:answer", "ModuleNotFoundError.*Module 'mine.iner' was looked for in .* and the installed packages"),
        ("mine.inner:anwser", r"inner\.py\) has nothing callable named 'anwser'. Did you mean 'answer'"),
        ("broken:call", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_says_what_was_looked_for_and_where(reference: str, expected: str, folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    with importable(folder, reference), pytest.raises(ConfigError, match=expected):
        resolve(reference, {}, "door")


def test_code_that_nobody_allowed_is_not_even_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evil.py").write_text("raise SystemExit('it ran')\n\ndef call(): ...\n")
    monkeypatch.syspath_prepend(folder)
    for reference in ("evil:call", "os:system"):  # the latter is imported already
        with pytest.raises(ConfigError, match="is code outside edgeopt, which runs only where that is allowed"):
            resolve(reference, {}, "door")


def test_packages_are_allowed_by_the_environment_or_by_a_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(ALLOWED_VARIABLE, "other, mine")
    assert resolve("mine.inner:answer", {}, "door")() == 42
    monkeypatch.delenv(ALLOWED_VARIABLE)
    (folder / "allowed_by_call.py").write_text("def call():\n    return 1\n")
    allow_code("allowed_by_call")
    assert resolve("allowed_by_call:call", {}, "door")() == 1
    for name in ("mine", "mine.inner", "neighbour", "allowed_by_call"):
        del sys.modules[name]


def test_results_depend_on_the_whole_package_and_on_what_it_imports_beside_it(folder: Path) -> None:
    with importable(folder):
        files = code_files("mine.inner:answer", "join")
        names = [path.relative_to(folder).as_posix() for path in files]
        assert names == ["mine/__init__.py", "mine/inner.py", "neighbour.py"]
        before = code_of("mine.inner:answer")
        (folder / "unused.py").write_text("changed = True\n")
        assert code_of("mine.inner:answer") == before
        (folder / "neighbour.py").write_text("ANSWER = 43\n")
        assert code_of("mine.inner:answer") != before
    assert code_of("join", "split") == ""


def test_an_installed_package_stands_for_itself_alone() -> None:
    files = code_files("msgspec.json:encode")
    assert files
    assert {path.parent.name for path in files} == {"msgspec"}


def test_what_looks_like_a_reference() -> None:
    assert is_code("a.b_c:D")
    assert not is_code("a.b")
    assert not is_code("a.2b:c")
    assert not is_code("torchvision:a.b")
