"""Streams: order, overlap, dropping, errors in any stage, broken sources, and real video files."""

from __future__ import annotations

import http.server
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import DataError, StorageError, TargetError
from edgeopt.runtime.stream import Backoff, Frame, Stream, VideoSource, VideoWriter, open_source
from edgeopt.runtime.stream.channel import Channel, Ended
from edgeopt.runtime.stream.scheduling import give_way

QUICK = Backoff(first_s=0.01, longest_s=0.02, attempts=3)


class Frames:
    """A source that gives images whose every pixel is the frame's number."""

    name = "frames"
    rate = None
    reconnects = 0

    def __init__(self, count: int, *, live: bool = False, pause_s: float = 0.0, error: Exception | None = None) -> None:
        self.count = count
        self.live = live
        self.closed = False
        self.given = 0
        self._pause_s = pause_s
        self._error = error

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        for number in range(self.count):
            if stop.wait(self._pause_s):
                return
            self.given += 1
            yield Frame(number, str(number), np.full((2 + number % 3, 4, 3), number % 256, np.uint8))
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed = True


class Doubler:
    """A predictor whose result is twice the pixel; any stage can be slow, or fail at one frame."""

    def __init__(self, *, slow: str = "", pause_s: float = 0.0, fail: str = "", at: int = 3) -> None:
        self._slow, self._pause_s, self._fail, self._at = slow, pause_s, fail, at
        self.buffers = 0
        self.threads: dict[str, set[str]] = {}

    def buffer(self, count: int = 1) -> np.ndarray:
        self.buffers += 1
        return np.zeros(1, np.int64)

    def prepare(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        assert out is not None
        out[0] = image[0, 0, 0]
        self._pass("prepare", int(out[0]))
        return out

    def infer(self, prepared: np.ndarray, *, copy: bool = False) -> int:
        assert copy
        value = int(prepared[0]) * 2
        self._pass("infer", value // 2)
        assert value == prepared[0] * 2, "the buffer was filled again while the engine read it"
        return value

    def decode(self, inferred: int) -> int:
        self._pass("decode", inferred // 2)
        return inferred

    def _pass(self, stage: str, number: int) -> None:
        self.threads.setdefault(stage, set()).add(str(threading.get_ident()))
        if stage == self._slow:
            time.sleep(self._pause_s)
        if stage == self._fail and number == self._at:
            raise TargetError(f"{stage} failed")


def results(source: Frames, predictor: Doubler, **options: object) -> list[int]:
    with Stream(source, predictor, **options) as stream:
        return [answer.result for answer in stream]


@pytest.mark.parametrize("slow", ["", "prepare", "infer", "decode"])
@pytest.mark.parametrize("depth", [1, 3])
def test_every_frame_comes_once_and_in_order_whichever_stage_is_slow(slow: str, depth: int) -> None:
    predictor = Doubler(slow=slow, pause_s=0.002)
    assert results(Frames(40), predictor, depth=depth) == [2 * number for number in range(40)]
    assert len(set.union(*predictor.threads.values())) == 3, "each stage has a thread of its own"


def test_no_buffer_is_made_while_it_runs() -> None:
    predictor = Doubler()
    stream = Stream(Frames(50), predictor, depth=2)
    made = predictor.buffers
    assert len(list(stream)) == 50
    assert predictor.buffers == made


def test_a_live_source_drops_the_oldest_frames_and_stays_fresh() -> None:
    source = Frames(60, live=True, pause_s=0.001)
    with Stream(source, Doubler(slow="infer", pause_s=0.01)) as stream:
        numbers = [answer.frame.number for answer in stream]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 59
    assert stream.progress.dropped == 60 - len(numbers) > 0


def test_dropping_and_blocking_can_be_chosen() -> None:
    assert len(results(Frames(30, live=True), Doubler(slow="infer", pause_s=0.002), when_full="block")) == 30
    assert len(results(Frames(200), Doubler(slow="infer", pause_s=0.005), when_full="drop_oldest")) < 200


def test_a_blocked_source_does_not_run_ahead() -> None:
    source = Frames(100)
    stream = Stream(source, Doubler(), depth=1)
    answers = iter(stream)
    next(answers)
    time.sleep(0.05)
    assert source.given <= 10
    stream.close()


@pytest.mark.parametrize("stage", ["prepare", "infer", "decode"])
def test_an_error_in_a_stage_comes_after_the_results_before_it(stage: str) -> None:
    source, seen = Frames(1000), []
    stream = Stream(source, Doubler(fail=stage, at=7))
    with pytest.raises(TargetError, match=f"{stage} failed"):
        seen.extend(answer.frame.number for answer in stream)
    assert seen == list(range(7))
    assert source.closed
    assert source.given < 40


def test_an_error_of_the_source_comes_after_the_results_before_it() -> None:
    seen = []
    with pytest.raises(DataError, match="was lost"):
        seen.extend(answer.result for answer in Stream(Frames(5, error=DataError("it was lost")), Doubler()))
    assert len(seen) == 5


def test_leaving_the_loop_stops_every_thread_and_closes_the_source() -> None:
    source = Frames(10**6)
    stream = Stream(source, Doubler())
    for answer in stream:
        if answer.frame.number == 5:
            break
    stream.close()
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeopt-")]


def test_an_interrupt_while_waiting_stops_cleanly() -> None:
    source = Frames(10**6, pause_s=0.001)

    def interrupted() -> None:
        with Stream(source, Doubler()) as stream:
            for answer in stream:
                if answer.frame.number == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert source.closed


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="scheduling policies are Linux's")
def test_only_the_engine_may_interrupt_others() -> None:
    policies: dict[str, int] = {}

    class Watching(Doubler):
        def _pass(self, stage: str, number: int) -> None:
            policies[stage] = os.sched_getscheduler(0)

    before = os.sched_getscheduler(0)
    assert len(results(Frames(3), Watching())) == 3
    assert policies == {"prepare": os.SCHED_BATCH, "infer": before, "decode": os.SCHED_BATCH}
    with give_way():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before


def test_a_sandbox_that_forbids_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    assert results(Frames(3), Doubler()) == [0, 2, 4]


def test_a_stream_can_be_closed_unused() -> None:
    source = Frames(1)
    with Stream(source, Doubler()):
        pass
    assert source.closed


def test_progress_tells_times_without_waiting() -> None:
    with Stream(Frames(30), Doubler(slow="infer", pause_s=0.005)) as stream:
        ages = [answer.age_ms for answer in stream]
    progress = stream.progress
    assert progress.frames == 30
    assert progress.fps > 0
    assert progress.stage_ms["inference"] >= 5
    assert progress.stage_ms["preprocess"] < progress.stage_ms["inference"]
    assert min(ages) >= 5


def test_progress_before_the_first_frame_is_zero() -> None:
    progress = Stream(Frames(1), Doubler()).progress
    assert (progress.frames, progress.fps, progress.stage_ms["read"]) == (0, 0.0, 0.0)


# channels


@given(st.lists(st.integers()), st.integers(1, 4))
def test_a_channel_keeps_order_and_loses_nothing(items: list[int], size: int) -> None:
    channel: Channel[int] = Channel(size)
    received: list[int] = []

    def receive() -> None:
        try:
            while True:
                received.append(channel.get())
        except Ended:
            return

    thread = threading.Thread(target=receive)
    thread.start()
    for item in items:
        channel.put(item)
    channel.finish()
    thread.join()
    assert received == items


@given(st.lists(st.integers(), max_size=9), st.integers(1, 4))
def test_a_dropping_channel_keeps_the_newest(items: list[int], size: int) -> None:
    channel: Channel[int] = Channel(size, drop_oldest=True)
    for item in items:
        channel.put(item)
    channel.finish()
    kept = items[-size:]
    assert [channel.get() for _ in kept] == kept
    assert channel.dropped == len(items) - len(kept)
    with pytest.raises(Ended):
        channel.get()


def test_an_aborted_channel_lets_a_waiting_putter_go() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    threading.Timer(0.02, channel.abort).start()
    with pytest.raises(Ended):
        channel.put(2)
    with pytest.raises(Ended):
        channel.get()


# sources


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey frames of 64x48 pixels, each 20 brighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "grey.avi"
    with VideoWriter(path, 25.0) as writer:
        for number in range(12):
            writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    return path


def test_a_video_file_is_read_frame_by_frame(video: Path) -> None:
    source = open_source(str(video))
    assert (source.live, source.rate, source.count) == (False, 25.0, 12)
    frames = list(source.frames(threading.Event()))
    source.close()
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.image.mean() for frame in frames], np.arange(12) * 20, atol=3)
    assert frames[0].image.shape == (48, 64, 3)


def test_a_video_runs_through_a_stream(video: Path) -> None:
    with Stream(open_source(str(video)), Doubler()) as stream:
        assert len([answer.result for answer in stream]) == 12


def test_a_folder_is_a_stream_of_images_of_any_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, side in enumerate((5, 9)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((side, 7, 3), number, np.uint8))
    (tmp_path / "2.png").write_bytes(b"broken")
    frames = list(open_source(str(tmp_path)).frames(threading.Event()))
    assert [(frame.name, frame.image.shape) for frame in frames] == [("0.png", (5, 7, 3)), ("1.png", (9, 7, 3))]
    assert "left out" in caplog.text
    assert len(list(open_source(str(tmp_path / "1.png")).frames(threading.Event()))) == 1


def test_a_folder_of_broken_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the 1 images"):
        list(open_source(str(tmp_path)).frames(threading.Event()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.mp4", "neither a file or folder, nor a camera's number, nor a URL"),
        ("99", "camera 99 cannot be opened. Cameras are numbered from 0"),
        ("rtsp://user:secret@127.0.0.1:9/live", r"^rtsp://127.0.0.1:9/live cannot be opened"),
    ],
)
def test_what_does_not_open_is_one_clear_error(text: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=message) as raised:
        open_source(text)
    assert "secret" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_a_file_that_is_no_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="It is no video"):
        open_source(str(tmp_path / "text.mp4"))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        open_source(str(tmp_path))


class Capture:
    """Acts like cv2.VideoCapture: gives so many frames, then none."""

    def __init__(self, frames: int, announced: float = 0.0) -> None:
        self._left = frames
        self._announced = announced
        self.released = False

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: self._announced}[key]

    def read(self) -> tuple[bool, np.ndarray | None]:
        self._left -= 1
        return (True, np.zeros((4, 4, 3), np.uint8)) if self._left >= 0 else (False, None)

    def release(self) -> None:
        self.released = True


def test_a_live_stream_that_breaks_is_opened_again() -> None:
    captures = [Capture(2), Capture(3)]
    left = iter(captures)

    def connect() -> Capture:
        capture = next(left, None)
        if capture is None:
            raise DataError("refused")
        return capture

    source, seen = VideoSource("door", connect, live=True, backoff=QUICK), []
    with pytest.raises(DataError, match="door was lost after 5 frames and did not come back in 3 attempts: refused"):
        seen.extend(frame.number for frame in source.frames(threading.Event()))
    assert seen == [0, 1, 2, 3, 4]
    assert source.reconnects == 1
    assert all(capture.released for capture in captures)


def test_waiting_for_a_lost_stream_can_be_stopped() -> None:
    left = iter([Capture(1)])
    slow = Backoff(first_s=60.0, longest_s=60.0)
    with Stream(VideoSource("door", lambda: next(left), live=True, backoff=slow), Doubler()) as stream:
        answers = iter(stream)
        next(answers)
        threading.Timer(0.05, stream.close).start()
        assert list(answers) == []


def test_waits_double_up_to_the_longest() -> None:
    assert list(Backoff(first_s=1, longest_s=5, attempts=5).waits()) == [1, 2, 4, 5, 5]


def test_a_video_that_ends_early_is_said(caplog: pytest.LogCaptureFixture) -> None:
    source = VideoSource("short", lambda: Capture(3, announced=10), live=False)
    with caplog.at_level(logging.WARNING):
        assert len(list(source.frames(threading.Event()))) == 3
    assert "short ended after 3 of 10 frames" in caplog.text


def test_a_video_without_a_frame_is_an_error() -> None:
    with pytest.raises(DataError, match="no frame of it can be decoded"):
        list(VideoSource("empty", lambda: Capture(0), live=False).frames(threading.Event()))


class Camera(http.server.BaseHTTPRequestHandler):
    """Motion JPEG over HTTP that hangs up after ten frames; an address that is not /live is refused."""

    def do_GET(self) -> None:
        if self.path != "/live":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 100, np.uint8))[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
        for _ in range(10):
            self.wfile.write(head + jpeg + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def camera() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_real_network_stream_is_reconnected(camera: str) -> None:
    source = open_source(f"{camera}/live", backoff=QUICK)
    assert source.live
    with Stream(source, Doubler(), when_full="block") as stream:
        for answer in stream:
            if answer.frame.number == 25:
                break
    assert stream.progress.reconnects >= 2


def test_an_address_without_a_stream_is_an_error(camera: str) -> None:
    with pytest.raises(DataError, match=r"cannot be opened. Check address"):
        open_source(f"{camera}/other")


# writing


def test_frames_of_another_size_are_fitted_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 10.0) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.write(np.zeros((100, 30, 3), np.uint8))
    source = open_source(str(path))
    assert [frame.image.shape for frame in source.frames(threading.Event())] == [(48, 64, 3)] * 2
    source.close()


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"must end in .mp4"):
        VideoWriter(tmp_path / "out.gif", 10.0)
    with pytest.raises(StorageError, match="cannot write"):
        VideoWriter(tmp_path / "no folder" / "out.mp4", 10.0).write(np.zeros((4, 4, 3), np.uint8))
