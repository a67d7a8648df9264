"""Streams: order, overlap, dropping, errors in any stage, broken sources, and real video files."""

from __future__ import annotations

import contextlib
import http.server
import importlib
import itertools
import logging
import os
import sys
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
from edgeopt.runtime.stream import Backoff, Frame, Source, Stream, VideoSource, VideoWriter, open_all, open_source
from edgeopt.runtime.stream.address import shown
from edgeopt.runtime.stream.channel import Channel, Ended
from edgeopt.runtime.stream.gstreamer import completed, is_live, opencv_has_gstreamer
from edgeopt.runtime.stream.quiet import quiet_opencv
from edgeopt.runtime.stream.scheduling import give_way
from edgeopt.runtime.stream.sources import check_source

QUICK = Backoff(first_s=0.01, longest_s=0.02, attempts=3)


class Frames:
    """A source that gives images whose every pixel is the frame's number."""

    name = "frames"
    rate = None
    reconnects = 0
    damaged = 0

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
    source, frames = open_source(str(tmp_path)), []
    with pytest.raises(DataError, match="1 of 3 images could not be read"):
        frames.extend(source.frames(threading.Event()))
    assert source.damaged == 1
    assert [(frame.file, frame.image.shape) for frame in frames] == [("0.png", (5, 7, 3)), ("1.png", (9, 7, 3))]
    assert frames[0].name == str(tmp_path / "0.png")
    assert "left out" in caplog.text
    assert len(list(open_source(str(tmp_path / "1.png")).frames(threading.Event()))) == 1


def test_images_that_follow_each_other_are_one_source(video: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for file in files:
        cv2.imwrite(str(file), np.zeros((5, 7, 3), np.uint8))
    sources = [connect() for connect in open_all([*map(str, files[:2]), str(video), str(tmp_path), str(files[2])])]
    assert [source.count for source in sources] == [2, 12, 3, 1]
    assert sources[0].name == f"{files[0]} and 1 more"
    assert [frame.name for frame in sources[0].frames(threading.Event())] == [str(file) for file in files[:2]]
    for source in sources:
        source.close()


def test_a_folder_of_broken_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the 1 images"):
        list(open_source(str(tmp_path)).frames(threading.Event()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.mp4", "nowhere.mp4 does not exist"),
        ("no/such/film.mp4", "nor does the folder no/such"),
        ("*.jpgg", r"no file named '\*\.jpgg': the shell names the files where the pattern stands without quotes"),
        ("rtps://user:secret@h/live", r"^rtps://h/live is not an address that can be opened. Did you mean 'rtsps'"),
        (" rtsp://user:secret@h/live", "^rtsp://h/live is not an address that can be opened"),
        ("csi://front", "names no camera; CSI cameras are csi://0"),
        ("99", "camera 99 cannot be opened. Cameras are numbered from 0"),
        ("rtsp://user:secret@127.0.0.1:9/live", r"^rtsp://127.0.0.1:9/live cannot be opened"),
    ],
)
def test_what_does_not_open_is_one_clear_error(text: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=message) as raised:
        open_source(text)
    assert "secret" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_the_log_level_comes_back_whoever_is_done_first() -> None:
    log = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    first, second = quiet_opencv(), quiet_opencv()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert log.getLogLevel() == 0
    second.__exit__(None, None, None)
    assert log.getLogLevel() == before != 0


def test_a_file_that_is_no_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="It is not a video"):
        open_source(str(tmp_path / "text.mp4"))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        open_source(str(tmp_path))


class Capture:
    """Acts like cv2.VideoCapture: gives so many frames, then none; `pace` of the time that its rate says passes."""

    def __init__(self, frames: int, announced: float = 0.0, pace: float = 1.0) -> None:
        self._frames = self._left = frames
        self._pace = pace
        self._announced = announced
        self.released = False

    def get(self, key: int) -> float:
        position_ms = 1e3 * (self._frames - self._left) / 30.0
        return {
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_FRAME_COUNT: self._announced,
            cv2.CAP_PROP_POS_MSEC: position_ms * self._pace,
        }[key]

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


def drained(source: Source) -> tuple[int, str]:
    """How many frames came, and the error that they ended with."""
    count = 0
    try:
        for _ in source.frames(threading.Event()):
            count += 1
    except DataError as error:
        return count, str(error)
    finally:
        source.close()
    return count, ""


def test_a_camera_that_opens_but_gives_no_frame_is_not_tried_for_ever() -> None:
    opened = []

    def connect() -> Capture:
        opened.append(Capture(0))
        return opened[-1]

    count, error = drained(VideoSource("door", connect, live=True, backoff=QUICK))
    assert (count, len(opened)) == (0, 1 + QUICK.attempts)
    assert "did not come back in 3 attempts: it opens, but gives no frame" in error


def test_a_video_that_ends_early_is_an_error_after_its_frames() -> None:
    count, error = drained(VideoSource("short", lambda: Capture(3, announced=10), live=False))
    assert count == 3
    assert "short: 7 of 10 frames could not be read: it is damaged or cut off" in error


def test_a_few_frames_too_few_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert drained(VideoSource("short", lambda: Capture(95, announced=100, pace=0.5), live=False)) == (95, "")
    assert "5 of 100 frames could not be read" in caplog.text


def test_a_video_of_varying_rate_is_whole_when_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """The container says 100 frames, which is its length by its mean rate; 50 came, the last at the end."""
    assert drained(VideoSource("phone", lambda: Capture(50, announced=100, pace=2.0), live=False)) == (50, "")
    assert not caplog.text


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 300 frames that differ everywhere, as Motion JPEG."""
    path = tmp_path_factory.mktemp("video") / "noise.avi"
    random = np.random.default_rng(0)
    with VideoWriter(path, 25.0) as writer:
        for _ in range(300):
            writer.write(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return path.read_bytes()


def damaged(content: bytes, places: int) -> bytes:
    """With so many runs of 64 other bytes, not in its head."""
    random = np.random.default_rng(1)
    changed = bytearray(content)
    for start in random.integers(8192, len(content) - 20_000, places):
        changed[start : start + 64] = random.integers(0, 256, 64, dtype=np.uint8).tobytes()
    return bytes(changed)


def test_damaged_frames_are_left_out_and_counted(
    noise: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.avi").write_bytes(damaged(noise, 24))
    source = open_source(str(tmp_path / "a.avi"))
    count, error = drained(source)
    assert error == ""
    assert 0 < source.damaged <= 300 - count < 30
    assert f"{300 - count} of 300 frames could not be read" in caplog.text


def test_a_video_of_which_much_is_lost_is_an_error_after_its_frames(noise: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(noise[: len(noise) // 2])
    count, error = drained(open_source(str(tmp_path / "a.avi")))
    assert 100 < count < 160
    assert f"{300 - count} of 300 frames could not be read" in error


def test_a_video_without_a_frame_is_an_error() -> None:
    with pytest.raises(DataError, match="no frame of it can be decoded"):
        list(VideoSource("empty", lambda: Capture(0), live=False).frames(threading.Event()))


class Camera(http.server.BaseHTTPRequestHandler):
    """Motion JPEG over HTTP that hangs up after ten frames, and a file; another address is refused."""

    film = b""

    def do_GET(self) -> None:
        if self.path.startswith("/film.avi"):
            self.send_response(200)
            self.send_header("Content-Type", "video/x-msvideo")
            self.send_header("Content-Length", str(len(self.film)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(self.film)
            return
        if self.path.startswith("/photo.jpg"):
            picture = cv2.imencode(".jpg", np.full((48, 64, 3), 100, np.uint8))[1].tobytes()
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)
            return
        if self.path not in ("/live", "/live.jpg"):
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


@pytest.mark.parametrize("path", ["film.avi", "film.avi?token=secret"])
def test_a_file_behind_http_is_a_file_and_ends(camera: str, video: Path, path: str) -> None:
    Camera.film = video.read_bytes()
    source = open_source(f"{camera}/{path}", backoff=QUICK)
    assert not source.live
    assert source.count == 12
    frames = list(source.frames(threading.Event()))
    source.close()
    assert len(frames) == 12
    assert source.reconnects == 0
    assert "secret" not in frames[0].name


@pytest.mark.parametrize("path", ["photo.jpg", "photo.jpg?token=secret"])
def test_a_picture_behind_http_is_a_picture_and_ends(camera: str, path: str) -> None:
    source = open_source(f"{camera}/{path}", backoff=QUICK)
    frames = list(source.frames(threading.Event()))
    source.close()
    assert len(frames) == 1
    assert source.reconnects == 0


def test_a_camera_with_the_name_of_a_picture_stays_a_camera(camera: str) -> None:
    source = open_source(f"{camera}/live.jpg", backoff=QUICK)
    frames = list(itertools.islice(source.frames(threading.Event()), 15))
    source.close()
    assert len(frames) == 15


def test_an_address_without_a_stream_is_an_error(camera: str) -> None:
    with pytest.raises(DataError, match=r"cannot be opened. Check address"):
        open_source(f"{camera}/other")


# what may be shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://user:secret@host:554/live", "rtsp://host:554/live"),
        ("rtsp://host/live?user=user&password=secret", "rtsp://host/live?…"),
        ("rtsp://host/live#secret", "rtsp://host/live#…"),
        ("rtsp://user:se/cret@host/live", "rtsp://host/live"),
        ("rtsp://user:se@cret@host/live", "rtsp://host/live"),
        ("rtsp://user:se?cret@host/live", "rtsp://…"),
        ("http://host/live?mail=user@secret", "http://…"),
        ("rtsp://host/user=user&password=secret&channel=1.sdp", "rtsp://host/…"),
        ("rtps://user:secret@host", "rtps://host"),
        ("rtsp:/user:secret@host/live", "rtsp:/host/live"),
        ("rtsp//user:secret@host/live", "rtsp//host/live"),
        (
            "rtspsrc location=rtsp://user:secret@host user-pw=secret ! decodebin ! appsink",
            "rtspsrc ! decodebin ! appsink",
        ),
        ("rtspsrc location=rtsp://user:secret@host", "rtspsrc"),
        (" rtsp://user:secret@host/live ", "rtsp://host/live"),
        ("<rtsp://user:secret@host/live>", "…"),
        ("http://[fe80::1]:80/film.mp4", "http://[fe80::1]:80/film.mp4"),
        ("photos/cat@2x.jpg", "photos/cat@2x.jpg"),
    ],
)
def test_an_address_is_shown_without_secrets(text: str, expected: str) -> None:
    assert shown(text) == expected


PARTS = st.lists(st.sampled_from(["SECRET", *"!/?#@:;&= .%~\n"]), max_size=8).map("".join)


@given(PARTS, st.sampled_from(["rtsp://", "rtps://", "rtsp:/", "rtsp//", " rtsp://", "rtsp:", "http://"]))
def test_no_password_before_a_host_is_shown(password: str, scheme: str) -> None:
    assert "SECRET" not in shown(f"{scheme}user:{password}@host/live")


@given(PARTS)
def test_no_query_is_shown(query: str) -> None:
    assert "SECRET" not in shown(f"rtsp://host/live?{query}")


# pipelines


def test_a_pipeline_is_completed_to_give_bgr_pictures() -> None:
    assert completed("videotestsrc ! appsink name=mine") == "videotestsrc ! appsink name=mine"
    assert completed("videotestsrc").endswith(
        "! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert "drop=true" not in completed("filesrc location=a.avi ! decodebin"), "every frame of a file counts"
    csi = completed("csi://1")
    assert csi.startswith("nvarguscamerasrc sensor-id=1 ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert")
    assert completed("nvarguscamerasrc ! nvvidconv").count("nvvidconv") == 1


def test_a_jetson_decodes_a_network_camera_by_its_own_decoder() -> None:
    """What the decoder gives lies in the GPU's memory, and the newest picture is the one to look at."""
    assert completed("nvdec+rtsp://me:SECRET@10.0.0.1/live?a=1!2") == (
        'rtspsrc location="rtsp://me:SECRET@10.0.0.1/live?a=1!2" protocols=tcp latency=100 ! parsebin ! nvv4l2decoder '
        "! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR "
        "! appsink drop=true max-buffers=1 sync=false"
    )
    check_source("nvdec+rtsp://10.0.0.1/filesrc")
    assert is_live("nvdec+rtsp://10.0.0.1/filesrc")


@pytest.mark.parametrize("address", ['nvdec+rtsp://h/a" ! filesink location="/b', "nvdec+rtsp://me:SECRET@h/a b"])
def test_an_address_cannot_add_to_the_pipeline(address: str) -> None:
    with pytest.raises(DataError, match="holds a space, a quote or a backslash") as caught:
        open_source(address)
    assert "SECRET" not in str(caught.value)


def test_a_password_is_hidden_where_a_decoder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(DataError) as caught:
        open_source("nvdec+rtsp://me:SECRET@127.0.0.1:9/live")
    assert "SECRET" not in str(caught.value)
    assert "nvdec+rtsp://127.0.0.1:9/live" in str(caught.value)


def test_without_gstreamer_a_pipeline_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    if opencv_has_gstreamer():
        pytest.skip("this OpenCV has GStreamer: being without it not tested")
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(
        DataError, match=r"^nvarguscamerasrc ! appsink is a GStreamer pipeline, .*apt-get install python3-gi"
    ):
        open_source("nvarguscamerasrc sensor-id=0 ! appsink")


runs_pipelines = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")  # of PyGObject 3.42


@pytest.fixture
def gstreamer() -> None:
    """Either of the two ways to run a pipeline."""
    if opencv_has_gstreamer():
        return
    gi = pytest.importorskip("gi", reason="neither OpenCV's GStreamer nor PyGObject is here: pipelines not run")
    try:
        gi.require_version("Gst", "1.0")
        plugins = importlib.import_module("gi.repository.Gst")
    except (ImportError, ValueError):
        pytest.skip("PyGObject has no GStreamer here: pipelines not run")
    plugins.init(None)
    if not plugins.ElementFactory.find("videotestsrc"):
        pytest.skip("GStreamer's base plugins are not installed: pipelines not run")


@runs_pipelines
@pytest.mark.parametrize("colour", ["BGR", "RGB", "BGRx", "GRAY8"])
def test_a_pipeline_gives_pictures(gstreamer: None, colour: str) -> None:
    """50 pixels a row: rows of three bytes a pixel are padded to a multiple of four."""
    red = "pattern=solid-color foreground-color=0xffff0000"
    source = open_source(f"videotestsrc num-buffers=5 {red} ! video/x-raw,format={colour},width=50,height=30 ! appsink")
    assert not source.live
    frames = list(source.frames(threading.Event()))
    source.close()
    assert [frame.image.shape for frame in frames] == [(30, 50, 3)] * 5
    assert frames[0].name == "videotestsrc ! video/x-raw ! appsink#0"
    if colour != "GRAY8":
        assert (frames[-1].image == (0, 0, 255)).all()


@runs_pipelines
def test_a_live_pipeline_is_live(gstreamer: None) -> None:
    source = open_source("videotestsrc is-live=true")
    assert source.live
    assert next(iter(source.frames(threading.Event()))).image.shape[2] == 3
    source.close()


@runs_pipelines
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuchelement ! appsink", "nosuchelement ! appsink does not start.*nosuchelement"),
        ("filesrc location=none.avi ! appsink", "does not start"),
        ("videotestsrc num-buffers=1 ! video/x-raw,format=I420 ! appsink", "pictures of format I420"),
    ],
)
def test_a_pipeline_that_does_not_run_says_why(gstreamer: None, text: str, message: str) -> None:
    if opencv_has_gstreamer():
        pytest.skip("OpenCV runs pipelines here, and tells no reasons")
    with pytest.raises(DataError, match=message):
        list(open_source(text).frames(threading.Event()))


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
