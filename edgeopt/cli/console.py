"""How a build looks in a terminal: one line a stage, with a bar while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

from edgeopt.cli.output import printable_block


class SafeConsole(Console):
    """A console whose texts cannot command the terminal, whatever names are in them; its own styles can."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_block(segment.text), segment.style)


def console(*, stderr: bool = False) -> SafeConsole:
    """Standard output, or standard error."""
    return SafeConsole(highlight=False, stderr=stderr)


class StageDisplay:
    """The pipeline's progress on standard error, so that standard output stays a machine's."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or SafeConsole(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("  [bold]{task.fields[stage]:<10}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started_s = 0.0

    def __enter__(self) -> StageDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._bar.stop()

    def begin(self, stage: str) -> None:
        """Show a bar for `stage`."""
        self._clear()
        self._stage, self._started_s = stage, time.monotonic()
        self._task = self._bar.add_task("", stage=stage, total=None)

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=text)

    def end(self, summary: str, *, reused: bool) -> None:
        """Replace the bar by a line that stays."""
        self._clear()
        took_s = time.monotonic() - self._started_s
        mark, when = ("[dim]=", "[dim]unchanged[/dim]") if reused else ("[green]+", f"{took_s:.1f} s")
        line = Table.grid(padding=(0, 1))  # a long summary wraps below itself, not below the stage's name
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, min_width=10)
        line.add_row(f"{mark}[/]", f"[bold]{self._stage}[/bold]", f"{summary} [dim]({when})[/dim]")
        self.console.print(line)

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
