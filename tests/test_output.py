"""What names may do to a terminal: nothing."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from pathlib import Path

import cv2
import pytest
import tiny
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

import edgeopt
from edgeopt.cli import main
from edgeopt.cli.boundary import configure_logging
from edgeopt.cli.console import SafeConsole
from edgeopt.cli.output import echo, printable, printable_block
from edgeopt.spec import replace

HOSTILE = "\x1b]0;title\x07\x9b31m\u202e"
COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One whose labels and verdicts are written to command a terminal."""
    labels = tuple(f"{name}{HOSTILE}\nforged" for name in tiny.COLOURS)
    variants = tuple(
        replace(variant, verdict=HOSTILE, accepted=variant.name == "ort-fp32") for variant, _ in tiny.engines()
    )
    spec = replace(tiny.CLASSIFIER, labels=labels)
    return tiny.write(tmp_path / "x.edgeopt", spec, variants=variants, versions={"edgeopt": HOSTILE}).path


@given(st.text())
def test_printable_text_is_one_line_without_commands(text: str) -> None:
    shown = printable(text)
    assert not COMMANDS.search(shown)
    assert "\n" not in shown
    assert printable(shown) == shown
    shown.encode()


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("a plain line", "Zürich\t東京 🙂", "two\nlines"):
        assert printable_block(text) == text


def test_escapes_leave_json_valid(capsys: pytest.CaptureFixture[str]) -> None:
    echo(json.dumps({"label": HOSTILE}, ensure_ascii=False, indent=1))
    shown = capsys.readouterr().out
    assert not COMMANDS.search(shown)
    assert json.loads(shown)["label"] == HOSTILE


@pytest.mark.parametrize("command", ["run", "inspect", "report"])
def test_names_in_a_bundle_do_not_command_the_terminal(bundle: Path, tmp_path: Path, command: str) -> None:
    photo = tmp_path / f"a{HOSTILE}\nred 0.99.png"
    photo.write_bytes(cv2.imencode(".png", tiny.colour("red"))[1].tobytes())
    more = {"run": [photo, "--variant", "ort-fp32"], "report": ["--markdown"]}.get(command, [])
    result = run(command, bundle, *more)
    assert result.exit_code == 0, result.output
    if command != "report":  # which does not name the labels
        assert "\\u001b" in result.output
    assert not COMMANDS.search(result.output)
    assert not [line for line in result.output.splitlines() if line.startswith(("red 0.99", "forged"))]


def test_a_name_in_an_error_cannot_pass_for_a_message(tmp_path: Path) -> None:
    result = run("run", tmp_path / f"{HOSTILE}\nerror: all is well.edgeopt", "0")
    assert result.exit_code != 0
    assert not COMMANDS.search(result.output)
    assert not [line for line in result.output.splitlines() if line.startswith("error: all is well")]


def test_a_name_that_is_not_utf8_is_printed(bundle: Path, tmp_path: Path) -> None:
    photo = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(photo)).write_bytes(cv2.imencode(".png", tiny.colour("red"))[1].tobytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only: another name not tested")
    for more in ([], ["--json"]):
        result = run("run", bundle, os.fsdecode(photo), "--variant", "ort-fp32", *more)
        assert result.exit_code == 0, result.output
        assert re.search(r"caf\\+udce9\.png", result.output)


def test_warnings_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbose=False)
    logging.getLogger("edgeopt.test").warning("left out: %s", f"{HOSTILE}\nerror: forged")
    shown = capsys.readouterr().err
    assert not COMMANDS.search(shown)
    assert shown.splitlines()[1].startswith("  error")


def test_tables_stay_tables() -> None:
    console = SafeConsole(width=60, record=True, file=io.StringIO())
    table = Table("name", "value")
    table.add_row(Text(f"a{HOSTILE}"), "1")
    console.print(table)
    shown = console.export_text()
    assert not COMMANDS.search(shown)
    assert len({len(line) for line in shown.splitlines() if line.strip()}) == 1


def test_everything_is_printed_by_what_neutralizes_names() -> None:
    folder = Path(edgeopt.__file__).parent / "cli"
    prints = re.compile(r"click\.s?echo\(|[^\w.]print\(|[^\w]Console\(")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if prints.search(path.read_text())}
    assert found <= {"output.py", "boundary.py", "console.py"}
