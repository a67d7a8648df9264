"""The table of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from edgeopt.sweep import TrialResult

_LEFT_OUT = "95 %"
"""Column that 80 characters have no room for; the page has it."""
_TEXTS = ("trial", "variant", "")


def sweep_table(results: Sequence[TrialResult]) -> RenderableType:
    """Return a row for each variant; texts are broken where the terminal is narrow."""
    from edgeopt.sweep.page import COLUMNS, table  # of the workstation, which a device has not

    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [index for index, name in enumerate(COLUMNS) if name != _LEFT_OUT]
    for index in shown:
        is_text = COLUMNS[index] in _TEXTS
        view.add_column(COLUMNS[index], justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in table(results):
        view.add_row(*(Text(row[index]) for index in shown))
    return view
