"""Show in a terminal where FP32 and INT8 look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from edgeopt.cli.views.tables import new_table
from edgeopt.report.explained import METHODS, judged, pointing, verdict, worth
from edgeopt.report.figures import share

if TYPE_CHECKING:
    from edgeopt.bundle.records import Attribution

_SHOWN = 5


def explanation_view(variant: str, found: Attribution) -> RenderableType:
    """Return the verdict, how true the maps are, and the names of the most shifted pictures."""
    parts: list[RenderableType] = [Text(f"{METHODS[found.method]}, {variant}. {verdict(found)}")]
    if rows := judged(found):
        table = new_table("map", "insertion", "deletion")
        for row in rows:
            table.add_row(*row)
        parts += [table, Text(f"Share of the answer that is left on {variant}: insertion high, deletion low is good")]
    if conclusion := worth(found):
        parts.append(Text(conclusion))
    if sentence := pointing(found):
        parts.append(Text(sentence))
    shifted = new_table("most shifted", "rank correlation", "in common")
    for each in found.pictures[:_SHOWN]:
        shifted.add_row(Text(each.name), f"{each.rank:.2f}", share(each.overlap, 0))
    return Group(*parts, shifted)
