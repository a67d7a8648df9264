"""Show a build in a terminal: one line a stage, with a bar while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.segment import Segment
from rich.table import Table

from edgeopt.cli.output import printable_block


class SafeConsole(Console):
    """A console whose texts cannot command the terminal, whatever names are in them; its own styles can."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as `Console.render` does."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_block(segment.text), segment.style)


def console(*, stderr: bool = False) -> SafeConsole:
    """Standard output, or standard error."""
    return SafeConsole(highlight=False, stderr=stderr)


class Pace:
    """Estimates how long something takes from the steps so far, because rich waits for half a minute of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = self._first = self._done = math.nan
        self._started_s = 0.0

    def left(self, done: float, total: float) -> str:
        """``m:ss`` or ``h:mm:ss`` until `total`; ``-:--`` at the first step of a run, which shows no pace yet."""
        now = self._clock()
        if total != self._total or not done >= self._done:  # another thing is counted, such as validation images
            self._total, self._first, self._started_s = total, done, now
        self._done = done
        seen = done - self._first
        if seen <= 0:
            return "-:--"
        left_s = round((now - self._started_s) / seen * max(0.0, total - done))
        hours, minutes = divmod(left_s // 60, 60)
        return f"{hours}:{minutes:02}:{left_s % 60:02}" if hours else f"{minutes}:{left_s % 60:02}"


class StageDisplay:
    """The pipeline's progress on standard error, so that standard output stays a machine's."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or SafeConsole(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("  [bold]{task.fields[stage]:<10}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("[cyan]{task.fields[left]}"),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started_s = 0.0
        self._pace = Pace()

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
        self._pace = Pace()
        self._task = self._bar.add_task("", stage=stage, total=None, left="")

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            left = self._pace.left(done, total)
            self._bar.update(self._task, completed=done, total=total, description=escape(text), left=left)

    def end(self, summary: str, *, reused: bool) -> None:
        """Replace the bar by a line that stays."""
        self._clear()
        took_s = time.monotonic() - self._started_s
        mark, when = ("[dim]=", "[dim]unchanged[/dim]") if reused else ("[green]+", f"{took_s:.1f} s")
        line = Table.grid(padding=(0, 1))  # a long summary wraps below itself, not below the stage's name
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, min_width=10)
        line.add_row(f"{mark}[/]", f"[bold]{self._stage}[/bold]", f"{escape(summary)} [dim]({when})[/dim]")
        self.console.print(line)

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
