"""What `edgeopt run` does with each answer: a line, a picture, and a live status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import msgspec
from rich.live import Live

from edgeopt.cli.console import console as standard
from edgeopt.cli.output import echo, printable
from edgeopt.cli.views.tables import result_line
from edgeopt.draw import draw, write_image
from edgeopt.errors import ConfigError
from edgeopt.preprocess import Image
from edgeopt.runtime import Predictor
from edgeopt.runtime.stream import Answer, FolderSource, Progress, Source, Stream, VideoWriter, WhenFull

_DEFAULT_RATE = 25.0
"""Frames a second of a drawn video whose source does not tell its own."""


class Sink:
    """Where the answers of all sources go. A context manager."""

    def __init__(self, out: Path | None, *, as_json: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._written: set[Path] = set()
        self._videos: dict[str, VideoWriter] = {}
        self._resources = ExitStack()

    def put(self, source: Source, answer: Answer) -> None:
        """Print an answer and draw it where that was asked for.

        Raises:
            ConfigError: two images would be drawn into one file.
            StorageError: the disk refused.
        """
        frame = answer.frame
        name = str(Path(source.name) / frame.name) if isinstance(source, FolderSource) else frame.name
        if self._as_json:
            line = {
                "image": name.encode(errors="backslashreplace").decode(),
                "frame": frame.number,
                **answer.result.to_dict(),
            }
            echo(msgspec.json.encode(line).decode())
        else:
            echo(printable(f"{name}: {result_line(answer.result)}"))
        if self._out is not None:
            self._draw(self._out, source, answer)

    def _draw(self, out: Path, source: Source, answer: Answer) -> None:
        picture = draw(answer.frame.image, answer.result)
        if isinstance(source, FolderSource):
            self._write(out / answer.frame.name, picture)
        elif out.suffix:
            self._video(out, source).write(picture)
        else:
            self._write(out / f"{Path(source.name).stem}-{answer.frame.number:06d}.jpg", picture)

    def _write(self, path: Path, picture: Image) -> None:
        if path in self._written:
            raise ConfigError(f"two images would both be drawn into {path}: run them apart, into folders of their own")
        self._written.add(path)
        write_image(path, picture)

    def _video(self, out: Path, source: Source) -> VideoWriter:
        if source.name not in self._videos:
            if self._videos:
                raise ConfigError(f"two videos would both be drawn into {out}: give --draw a folder, or run them apart")
            writer = VideoWriter(out, source.rate or _DEFAULT_RATE)
            self._videos[source.name] = self._resources.enter_context(writer)
        return self._videos[source.name]

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


def follow(source: Source, predictor: Predictor, when_full: WhenFull | None, sink: Sink) -> None:
    """Run a source to its end, or to Ctrl-C, showing rate and stage times meanwhile.

    Raises:
        DataError: the source gave no frame, or was lost for good.
    """
    with Stream(source, predictor, when_full=when_full) as stream, _status(stream):
        for answer in stream:
            sink.put(source, answer)


@contextmanager
def _status(stream: Stream) -> Iterator[None]:
    """A line on standard error that follows the stream where a person watches, and stays when it ends."""
    console = standard(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(console=console, get_renderable=lambda: _line(stream.progress), refresh_per_second=4):
        yield


def _line(progress: Progress) -> str:
    stages = ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in progress.stage_ms.items())
    lost = f", {progress.dropped} dropped" if progress.dropped else ""
    again = f", {progress.reconnects} reconnects" if progress.reconnects else ""
    return f"{progress.frames} frames, {progress.fps:.1f} a second{lost}{again}: {stages}"
