"""The view of a set of images: its content, and what was left out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.cli.output import printable
from edgeopt.dataset.facts import SetFacts, Spread

_MOST_CLASSES = 30
_MOST_LINES = 20


def set_view(role: str, facts: SetFacts) -> RenderableType:
    """Return the view of one set: counts, sizes, classes, and everything left out with its reason."""
    return Group(*_lines(role, facts))


def _lines(role: str, facts: SetFacts) -> Iterator[RenderableType]:
    yield Text.assemble("\n", (role, "bold"), f"  {facts.images} images of {printable(facts.origin)}")
    yield Text(f"  width {_spread(facts.width)}, height {_spread(facts.height)} pixels (smallest, median, largest)")
    if facts.boxes_per_image is not None:
        crowds = f" ({facts.crowds} crowds or difficult)" if facts.crowds else ""
        each = f"{_spread(facts.boxes_per_image)} an image, {facts.backgrounds} images without"
        yield Text(f"  {facts.boxes} boxes{crowds}, {each}")
    if facts.box_side is not None:
        yield Text(f"  boxes' sides {_spread(facts.box_side)} pixels (square root of the area)")
    if facts.task is not None:
        yield _classes(facts)
    yield from _left_out("images", facts.images_left_out)
    yield from _left_out("entries of labels", facts.entries_left_out)


def _classes(facts: SetFacts) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("  class", overflow="fold")
    table.add_column("images", justify="right")
    if facts.task == "detection":
        table.add_column("boxes", justify="right")
    for each in facts.classes[:_MOST_CLASSES]:
        cells = [str(each.images), *([] if each.boxes is None else [str(each.boxes)])]
        table.add_row(Text(f"  {printable(each.label)}"), *cells, style="" if each.images else "yellow")
    if len(facts.classes) > _MOST_CLASSES:
        table.add_row(Text(f"  and {len(facts.classes) - _MOST_CLASSES} more (all of them: --json)"))
    return table


def _left_out(what: str, lines: Sequence[str]) -> Iterator[RenderableType]:
    if not lines:
        return
    yield Text(f"  {len(lines)} {what} left out:", style="yellow")
    for line in lines[:_MOST_LINES]:
        yield Text(f"    {printable(line)}")
    if len(lines) > _MOST_LINES:
        yield Text(f"    and {len(lines) - _MOST_LINES} more (all of them: --json)")


def _spread(spread: Spread) -> str:
    return ", ".join(f"{value:g}" for value in (spread.smallest, spread.median, spread.largest))
