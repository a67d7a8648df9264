"""Write to the terminal: text that cannot command it, and JSON for machines.

Labels, names of files and verdicts come from bundles and folders of other people. A terminal obeys escape sequences in
them, and a line break in a name forges a line of results.
"""

from __future__ import annotations

import re
from typing import Any

import click

_COMMANDING = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the tabulator, line separators, what turns the direction of reading (Unicode TR 36, 3.1), and
the halves of surrogate pairs that stand for bytes of a name that is not UTF-8, which cannot be printed."""


def printable(text: str) -> str:
    """One line: whatever a terminal would obey or break the line at becomes an escape, of the form that JSON has."""
    return _COMMANDING.sub(lambda found: "\\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def printable_block(text: str) -> str:
    """Make text printable, as `printable` does, and keep its line breaks."""
    return "\n".join(map(printable, text.split("\n"))) if _COMMANDING.search(text) else text


def echo(text: str, *, err: bool = False) -> None:
    """Print text whose line breaks are meant; what names hold goes through `printable` before.

    Args:
        text: one line or several.
        err: print to standard error.
    """
    click.echo(printable_block(text), err=err)


def print_json(value: Any) -> None:
    """Print anything that msgspec encodes, indented."""
    import msgspec

    echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
