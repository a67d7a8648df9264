"""A key of a recipe, or a table with its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from edgeopt.keys import Key, example


def key_view(keys: Sequence[Key]) -> RenderableType:
    """Return the view of what `keys.explain` found: the first key, and the others indented below it."""
    first, *others = keys
    return Group(*_lines(first), *(Padding(Group(*_lines(key)), (1, 0, 0, 2)) for key in others))


def _lines(key: Key) -> Iterator[RenderableType]:
    name = f"[{key.path}]" if key.is_table else key.path
    yield Text.assemble((name, "bold"), "  ", (f"{key.kind}; {_default(key)}", "dim"))
    yield Padding(Text(key.description.replace("``", "")), (0, 0, 0, 2))
    if shown := None if key.is_table else example(key.path):
        yield Padding(Text(shown, style="cyan"), (0, 0, 0, 2))


def _default(key: Key) -> str:
    return key.default if key.default in ("needed", "not set") else f"default {key.default}"
