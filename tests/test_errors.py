"""Messages have one form wherever they are raised."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeopt
from edgeopt import errors
from edgeopt.errors import EdgeoptError, did_you_mean, ending

SOURCES = sorted(Path(edgeopt.__file__).parent.rglob("*.py"))
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EdgeoptError)}


def messages(source: Path) -> Iterator[tuple[int, str]]:
    """Line and text of the messages that a module writes out; what stands in braces is left open."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINDS and node.args:
            text = node.args[0]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            if all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
                yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_message_ends_with_a_full_stop(source: Path) -> None:
    """Callers add sentences, and would have to take it off again."""
    found = [f"{source}:{line}: {text}" for line, text in messages(source) if text.rstrip() != text or text[-1:] == "."]
    assert found == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_message_denies_what_a_thing_is_in_two_words(source: Path) -> None:
    """ "is no budget" is hard to read for most: "is not a budget"."""
    odd = re.compile(r"(?<!here )(is|are) (none\\b|no (?!longer|more|other))")
    assert [f"{source}:{line}: {text}" for line, text in messages(source) if odd.search(text)] == []


def test_the_scan_finds_messages() -> None:
    assert sum(len(list(messages(source))) for source in SOURCES) > 200


@pytest.mark.parametrize(
    ("wrong", "advice", "said"),
    [
        ("epoch", "", " Did you mean 'epochs'?"),
        ("epoch", "Look", " Did you mean 'epochs'? Look"),
        ("zzz", "", " Known: epochs, seed"),
        ("zzz", "Look", " Known: epochs, seed. Look"),
    ],
)
def test_what_was_meant_is_suggested(wrong: str, advice: str, said: str) -> None:
    assert did_you_mean(wrong, ["seed", "epochs"], advice) == said


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (3, "ended with exit code 3"),
        (-signal.SIGKILL, "was killed (SIGKILL, as by the system for want of memory)"),
        (-signal.SIGSEGV, "was killed (SIGSEGV)"),
        (-200, "was killed (signal 200)"),
        (139, "was killed (SIGSEGV)"),
        (255, "ended with exit code 255"),
    ],
)
def test_how_a_process_ended_is_told_by_the_signals_name(status: int, told: str) -> None:
    """`-9` was all that was said."""
    assert ending(status) == told
