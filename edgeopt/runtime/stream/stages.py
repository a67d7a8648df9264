"""Stream: frames in, results out, with reading, preprocessing, inference and postprocessing overlapped."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from edgeopt.preprocess import Image
from edgeopt.runtime.predictor import Inferred, Prepared, Result
from edgeopt.runtime.session import Array
from edgeopt.runtime.stream.channel import Channel, Ended
from edgeopt.runtime.stream.frames import Frame, Source
from edgeopt.runtime.stream.scheduling import give_way

WhenFull: TypeAlias = Literal["block", "drop_oldest"]
StageName: TypeAlias = Literal["read", "preprocess", "inference", "postprocess"]
STAGES: tuple[StageName, ...] = ("read", "preprocess", "inference", "postprocess")

_WINDOW = 120  # frames over which times and rates are averaged: a few seconds, so that a display follows changes
_JOIN_S = 6.0  # a network read returns after its timeout of 5 s at the latest
A = TypeVar("A")
B = TypeVar("B")


class Stages(Protocol):
    """The part of `Predictor` that a stream uses; each method is called from one thread of its own."""

    def buffer(self, count: int = 1) -> Array:
        """Memory for `prepare`'s `out`."""

    def prepare(self, image: Image, out: Array | None = None) -> Prepared:
        """Image to network input."""

    def infer(self, prepared: Prepared, *, copy: bool = False) -> Inferred:
        """Network input to network output, which with `copy` stays as it is."""

    def decode(self, inferred: Inferred, *, score: float | None = None) -> Result:
        """Network output to result, of a detector with this score threshold instead of its own."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A frame with its result.

    Attributes:
        frame: the frame.
        result: the result.
        age_ms: from the frame's decoding to the result.
    """

    frame: Frame
    result: Result
    age_ms: float


@dataclass(frozen=True)
class StreamProgress:
    """Progress of a stream.

    Attributes:
        frames: results so far.
        dropped: frames thrown away because newer ones came.
        damaged: frames that could not be decoded, and were left out.
        reconnects: how often the source was lost and came back.
        fps: results a second, over the last frames.
        stage_ms: mean time of each stage over the last frames, waiting for other stages not counted.
    """

    frames: int
    dropped: int
    damaged: int
    reconnects: int
    fps: float
    stage_ms: dict[StageName, float]


@dataclass(frozen=True, eq=False)
class _Item(Generic[A]):
    """A frame on its way, with what the last stage made of it."""

    frame: Frame
    read_at: float
    value: A


class Stream:
    """Runs a predictor over a source. A context manager, iterated once; results come in the frames' order.

    An error in any stage ends the stream: results that were ready still come, then the error is raised.

    Args:
        source: closed together with the stream.
        predictor: stays open.
        when_full: what happens when inference is slower than the source: keep the source waiting, or throw away the
            oldest frame that waits. Default: drop for live sources, block for files.
        score: of a detector: objects below it are left out. Default: the bundle's threshold.
        depth: frames that may wait before each stage; more evens out stages of uneven speed, and makes results older.
    """

    def __init__(
        self,
        source: Source,
        predictor: Stages,
        *,
        when_full: WhenFull | None = None,
        score: float | None = None,
        depth: int = 2,
    ) -> None:
        self._source = source
        drop = source.live if when_full is None else when_full == "drop_oldest"
        frames: Channel[_Item[Image]] = Channel(depth, drop_oldest=drop)
        prepared: Channel[_Item[Prepared]] = Channel(depth)
        inferred: Channel[_Item[Inferred]] = Channel(depth)
        answers: Channel[_Item[Result]] = Channel(depth)
        self._frames, self._answers = frames, answers
        self._channels: tuple[Channel[Any], ...] = (frames, prepared, inferred, answers)
        self._stop = Event()
        self._error: BaseException | None = None
        self._durations: dict[StageName, deque[float]] = {name: deque(maxlen=_WINDOW) for name in STAGES}
        self._arrivals: deque[float] = deque(maxlen=_WINDOW)
        self._count = 0
        # Frames reach inference in order, so that a buffer is free again when all the others have been filled after it:
        # `depth` may wait, one is being put, one is being read by the engine.
        buffers = itertools.cycle([predictor.buffer() for _ in range(depth + 3)])
        decode = predictor.decode if score is None else partial(predictor.decode, score=score)
        self._threads = [
            self._thread("read", self._read, None, frames),
            self._stage("preprocess", lambda image: predictor.prepare(image, next(buffers)), frames, prepared),
            self._stage("inference", partial(predictor.infer, copy=True), prepared, inferred),
            self._stage("postprocess", decode, inferred, answers),
        ]

    def __iter__(self) -> Iterator[Answer]:
        """Start, and give the results one by one.

        Raises:
            DataError: the source gave no frame, or was lost.
            TargetError: the engine failed.
        """
        for thread in self._threads:
            thread.start()
        try:
            while True:
                item = self._answers.get()
                now = time.perf_counter()
                self._arrivals.append(now)
                self._count += 1
                yield Answer(item.frame, item.value, (now - item.read_at) * 1e3)
        except Ended:
            if self._error is not None:
                raise self._error from None
        finally:
            self.close()

    @property
    def progress(self) -> StreamProgress:
        """Progress so far; may be read at any time."""
        arrivals = list(self._arrivals)
        elapsed = arrivals[-1] - arrivals[0] if len(arrivals) > 1 else 0.0
        return StreamProgress(
            frames=self._count,
            dropped=self._frames.dropped,
            damaged=self._source.damaged,
            reconnects=self._source.reconnects,
            fps=(len(arrivals) - 1) / elapsed if elapsed > 0 else 0.0,
            stage_ms={name: _mean(list(times)) * 1e3 for name, times in self._durations.items()},
        )

    def close(self) -> None:
        """Stop all stages, wait for their threads and close the source; frames on their way are lost."""
        self._stop.set()
        for channel in self._channels:
            channel.abort()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_S)
        if not self._threads[0].is_alive():  # a capture must not be released under a read that hangs
            self._source.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stage(
        self, name: StageName, step: Callable[[A], B], source: Channel[_Item[A]], target: Channel[_Item[B]]
    ) -> Thread:
        """Return a thread that takes each frame one step further."""

        def work() -> None:
            while True:
                item = source.get()
                start = time.perf_counter()
                value = step(item.value)
                self._durations[name].append(time.perf_counter() - start)
                target.put(_Item(item.frame, item.read_at, value))

        return self._thread(name, work, source, target)

    def _read(self) -> None:
        """The first stage's work: decode frames, and note how long each took."""
        frames = self._source.frames(self._stop)
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            now = time.perf_counter()
            self._durations["read"].append(now - start)
            self._frames.put(_Item(frame, now, frame.image))

    def _thread(
        self, name: StageName, work: Callable[[], None], source: Channel[Any] | None, target: Channel[Any]
    ) -> Thread:
        """A thread for a stage; whatever ends it, the stages before it stop and those after it finish their work."""

        def run() -> None:
            try:
                with give_way() if name != "inference" else nullcontext():
                    work()
            except Ended:
                pass
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread by __iter__
                self._error = self._error or error
                self._stop.set()
            finally:
                if source is not None:
                    source.abort()
                target.finish()

        return Thread(target=run, name=f"edgeopt-{name}", daemon=True)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
