"""Handle each answer of `edgeopt run`: a line, a picture, and a live status."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rich.live import Live

from edgeopt.bundle import Bundle
from edgeopt.cli.console import console as standard
from edgeopt.cli.output import echo, printable
from edgeopt.cli.results import Wanted, Writer, csv_rows, json_lines, print_json_line, print_line
from edgeopt.draw import draw, write_image
from edgeopt.errors import ConfigError, DataError
from edgeopt.evaluate import threshold_advice
from edgeopt.postprocess import Detections
from edgeopt.preprocess import Image
from edgeopt.runtime import Predictor, Result, Tiled
from edgeopt.runtime.choice import measured_here
from edgeopt.runtime.stream import (
    MOST,
    Answer,
    Frame,
    ImageSource,
    Source,
    Stream,
    StreamProgress,
    VideoWriter,
    WhenFull,
    open_all,
)
from edgeopt.runtime.tracking import LOW, Tracker
from edgeopt.spec import ClassDecoding

logger = logging.getLogger(__name__)

_DEFAULT_RATE = 25.0
"""Frames a second of a drawn video whose source does not tell its own."""


class Sink:
    """Destination of the answers of all sources. A context manager.

    Args:
        wanted: which of the results are asked for; the others are neither written nor drawn.
        draw: a folder, or the name of a video.
        as_json: print JSON instead of lines for people.
        table: a CSV file to write.
        lines: a file of JSON lines to write.
    """

    def __init__(
        self,
        wanted: Wanted,
        *,
        draw: Path | None = None,
        as_json: bool = False,
        table: Path | None = None,
        lines: Path | None = None,
    ) -> None:
        self.wanted = wanted
        self._out = draw
        self._writers: list[Writer] = [print_json_line if as_json else print_line]
        self._files = [*([csv_rows(table)] if table else []), *([json_lines(lines)] if lines else [])]
        self._written: set[Path] = set()
        self._videos: dict[str, VideoWriter] = {}
        self._resources = ExitStack()

    def put(self, source: Source, answer: Answer) -> None:
        """Write an answer, and draw it if that was asked for.

        Raises:
            ConfigError: two images would be drawn into one file.
            StorageError: the disk refused.
        """
        frame = answer.frame
        result = self.wanted.among(answer.result)
        for write in self._writers:
            write(frame.name, frame.number, result)
        if self._out is not None:
            self._draw(self._out, source, frame, result)

    def _draw(self, out: Path, source: Source, frame: Frame, result: Result) -> None:
        picture = draw(frame.image, result)
        if frame.file is not None:
            self._write(out / frame.file, picture)
        elif out.suffix:
            self._video(out, source).write(picture)
        else:
            stem = re.sub(r"[^\w.-]+", "_", Path(source.name).stem)  # of an address or a pipeline
            self._write(out / f"{stem}-{frame.number:06d}.jpg", picture)

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
        self._writers += [self._resources.enter_context(file) for file in self._files]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


def follow_all(
    sources: Sequence[str], predictor: Predictor | Tiled, when_full: WhenFull | None, sink: Sink, *, track: bool = False
) -> None:
    """Run each source to its end, or to Ctrl-C; one of several that cannot be read is left out, as in a folder.

    Args:
        sources: as the user names them.
        predictor: stays open.
        when_full: as of `Stream`.
        sink: takes the answers.
        track: follow the objects of each source.

    Raises:
        ConfigError: something other than a detector on videos is to be followed.
        DataError: the only source gave no frame, lost much or was lost for good; or so did a tenth of several.
    """
    if track and predictor.spec.task != "detection":
        raise ConfigError(f"'{predictor.spec.name}' is a classifier, and --track follows the boxes of a detector")
    opened = list(open_all(sources))
    if len(opened) == 1:
        _follow(opened[0], predictor, when_full, sink, track=track)
        return
    failed = sum(not _can_follow(each, predictor, when_full, sink, track=track) for each in opened)
    if failed > (1 - MOST) * len(opened):
        raise DataError(f"{failed} of {len(opened)} sources could not be read whole; each is named above")


def _can_follow(
    connect: Callable[[], Source], predictor: Predictor | Tiled, when_full: WhenFull | None, sink: Sink, *, track: bool
) -> bool:
    try:
        _follow(connect, predictor, when_full, sink, track=track)
    except DataError as error:
        logger.warning("%s", error)
        return False
    return True


def _follow(
    connect: Callable[[], Source], predictor: Predictor | Tiled, when_full: WhenFull | None, sink: Sink, *, track: bool
) -> None:
    """Show rate and stage times while it runs."""
    source = connect()
    score = None if predictor.spec.task == "classification" else sink.wanted.score
    tracker = _tracker(source, predictor, score) if track else None
    score = score if tracker is None else LOW
    with Stream(source, predictor, when_full=when_full, score=score) as stream, _status(stream):
        for answer in stream:
            sink.put(source, answer if tracker is None else _followed(answer, tracker))


def _tracker(source: Source, predictor: Predictor | Tiled, score: float | None) -> Tracker:
    """Return a tracker of one source's objects.

    Raises:
        ConfigError: it is a picture or a folder of them.
    """
    if isinstance(source, ImageSource):
        source.close()
        raise ConfigError(f"{source.name} is not a video: --track follows objects from frame to frame. Leave it out")
    decoding = predictor.spec.decoding
    assert not isinstance(decoding, ClassDecoding)
    return Tracker(max(LOW, decoding.score_threshold if score is None else score))


def _followed(answer: Answer, tracker: Tracker) -> Answer:
    assert isinstance(answer.result, Detections)
    return replace(answer, result=tracker.update(answer.result))


def say_what_runs(predictor: Predictor, bundle: Bundle, score: float | None) -> None:
    """Say on standard error which variant was chosen, why not the others, and what the score threshold gives."""
    variant = predictor.variant
    echo(printable(f"{variant.name} runs: {predictor.choice.reason}"), err=True)
    for name, reason in predictor.rejected.items():
        echo(printable(f"  not {name}: {reason}"), err=True)
    if predictor.choice.hint:
        echo(printable(predictor.choice.hint), err=True)
    here = measured_here(bundle.manifest).get(variant.name)
    accuracy = (here and here.accuracy) or bundle.manifest.variant(variant.name).accuracy
    if score is None and accuracy is not None and accuracy.curve is not None:
        echo("score thresholds on the test set; choose another with --score:", err=True)
        for line in threshold_advice(accuracy.curve, accuracy.score_threshold):
            echo(f"  {line}", err=True)


@contextmanager
def _status(stream: Stream) -> Iterator[None]:
    """A line on standard error that follows the stream where a person watches, and stays when it ends."""
    console = standard(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(console=console, get_renderable=lambda: _line(stream.progress), refresh_per_second=4):
        yield


def _line(progress: StreamProgress) -> str:
    stages = ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in progress.stage_ms.items())
    lost = f", {progress.dropped} dropped" if progress.dropped else ""
    lost += f", {progress.damaged} damaged" if progress.damaged else ""
    again = f", {progress.reconnects} reconnects" if progress.reconnects else ""
    return f"{progress.frames} frames, {progress.fps:.1f} a second{lost}{again}: {stages}"
