"""Predicting on what never stands still: videos, cameras and network streams, each stage in a thread of its own.

with load("model.edgeopt") as predictor, Stream(open_source("rtsp://camera/live"), predictor) as stream:
for answer in stream:
print(answer.frame.number, answer.result.labels, f"{answer.age_ms:.0f} ms")
"""

from edgeopt.runtime.stream.frames import MOST, Frame, Source
from edgeopt.runtime.stream.sources import ImageSource, check_source, open_all, open_source
from edgeopt.runtime.stream.stages import STAGES, Answer, StageName, Stages, Stream, StreamProgress, WhenFull
from edgeopt.runtime.stream.video import Backoff, VideoSource
from edgeopt.runtime.stream.writer import VideoWriter

__all__ = [
    "MOST",
    "STAGES",
    "Answer",
    "Backoff",
    "Frame",
    "ImageSource",
    "Source",
    "StageName",
    "Stages",
    "Stream",
    "StreamProgress",
    "VideoSource",
    "VideoWriter",
    "WhenFull",
    "check_source",
    "open_all",
    "open_source",
]
