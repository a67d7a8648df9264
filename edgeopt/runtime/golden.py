"""Golden arrays: what a network answers, how a picture is prepared and how outputs are decoded, recorded and compared.

The picture is drawn, not taken: a bundle shows nobody's photographs. Another release of OpenCV may resize or convert
colours otherwise, and a network then sees other pictures than those that it was measured with.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from edgeopt.bundle import Precision
from edgeopt.errors import BundleError
from edgeopt.postprocess import Detections, decode
from edgeopt.preprocess import Geometry, Image, preprocess, read_image
from edgeopt.runtime.session import Array, Runs
from edgeopt.spec import CodeDecoding, DetectionDecoding, ModelSpec, image_size, replace

_HEIGHT, _WIDTH = 151, 211
"""Primes: no network's size is a multiple of them."""
_PICTURE, _PREPARED = "picture", "prepared"
_ALL_ROWS = 1000
"""Most rows of an image that are compared, the best: as many as any detector that chooses its own gives."""
_LEAST_WEIGHT = 0.25
"""Sum of squared scores below which pictures show nothing, one object that is as likely as not: no mean over noise."""
_DECODED_TOLERANCE = 1e-3
"""Scores and boxes of the same outputs differ by the last bits of an exponential."""


def record_outputs(session: Runs, inputs: dict[str, Array]) -> dict[str, Array]:
    """Run golden inputs sample by sample, as `verify` will, and collect the outputs.

    An output without a dimension for the image gets one. Where the network gives another number of rows for each
    sample, each sample's is an array of its own, called as ``boxes[0]``.

    Args:
        session: a session of any target, whose results stay as they are.
        inputs: by name, first dimension = sample.

    Raises:
        BundleError: arrays of different or zero length.
    """
    counts = {len(array) for array in inputs.values()}
    if len(counts) != 1 or counts == {0}:
        raise BundleError(
            f"golden inputs must have the same number of samples, at least one; they have {sorted(counts)}"
        )
    fixed = next((spec.shape[0] for spec in session.inputs if isinstance(spec.shape[0], int)), 1)
    rows = [session.run({name: _sample(array, row, fixed) for name, array in inputs.items()}) for row in range(*counts)]
    batches = {spec.shape[:1] for spec in session.inputs}
    outputs: dict[str, Array] = {}
    for spec in session.outputs:
        batched = spec.shape[:1] in batches
        found = [row[spec.name][:1] if batched else row[spec.name][None] for row in rows]
        if len({array.shape for array in found}) == 1:
            outputs[spec.name] = np.concatenate(found)
        else:  # the network chooses how many rows it gives
            outputs |= {f"{spec.name}[{index}]": array for index, array in enumerate(found)}
    return outputs


def _sample(array: Array, row: int, batch: int) -> Array:
    """Sample number `row`, as often as the engine's batch wants."""
    return np.repeat(array[row : row + 1], batch, axis=0)


def draw() -> Image:
    """(151, 211, 3) uint8 BGR with gradients, edges and noise, between 8 and 247 so that one level more is possible."""
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float64)
    noise = np.random.default_rng(0).normal(0.0, 12.0, (_HEIGHT, _WIDTH, 3))
    picture = np.stack([columns / _WIDTH, rows / _HEIGHT, 1.0 - columns / _WIDTH], axis=-1) * 200.0 + 28.0 + noise
    picture[40:90, 60:130] = (30.0, 90.0, 220.0)
    picture[(rows - 105) ** 2 + (columns - 150) ** 2 < 900] = (210.0, 180.0, 40.0)
    return np.clip(np.rint(picture), 8, 247).astype(np.uint8)


def record_picture(spec: ModelSpec) -> dict[str, Array]:
    """Return the picture as a PNG file, and the network's input that it becomes here."""
    written, png = cv2.imencode(".png", draw())
    assert written
    return {_PICTURE: png.reshape(-1), _PREPARED: preprocess(draw(), spec.preprocessing)[0]}


def preparation_difference(recorded: Mapping[str, Array], spec: ModelSpec, origin: str) -> tuple[float, float]:
    """Prepare a recorded picture here.

    Args:
        recorded: result of `record_picture`.
        spec: the variant's.
        origin: names the arrays in errors.

    Returns:
        The largest difference and the allowed one, which a difference of one grey level makes.

    Raises:
        BundleError: arrays are missing.
        DataError: the picture cannot be read here.
    """
    if missing := {_PICTURE, _PREPARED} - recorded.keys():
        raise BundleError(f"{origin} has no array '{min(missing)}'. Copy or build the bundle again")
    picture = read_image(recorded[_PICTURE].tobytes())
    prepared, _ = preprocess(picture, spec.preprocessing)
    lighter, _ = preprocess(picture + np.uint8(1), spec.preprocessing)
    allowed = difference(prepared.astype(np.float64), lighter.astype(np.float64))
    return difference(recorded[_PREPARED], prepared), 1.01 * allowed


def record_answers(outputs: Mapping[str, Array], spec: ModelSpec) -> dict[str, Array] | None:
    """Decode recorded outputs, as of pictures of the network's own size.

    Args:
        outputs: golden outputs by name, first dimension = sample, or ``NAME[SAMPLE]`` for those of varying rows.
        spec: the variant's.

    Returns:
        ``SAMPLE.classes``, ``SAMPLE.scores`` and, of a detector, ``SAMPLE.boxes``; None for a decoding that is the
        user's code, whose results have no form that is known here.
    """
    if isinstance(spec.decoding, CodeDecoding):
        return None
    height, width = image_size(spec.input, spec.preprocessing.layout)
    whole = Geometry(1.0, 1.0, 0.0, 0.0, width, height)
    answers: dict[str, Array] = {}
    for number, sample in enumerate(_samples(outputs, spec)):
        (result,) = decode(sample, spec, (whole,))
        answers[f"{number}.classes"], answers[f"{number}.scores"] = result.classes, result.scores
        if isinstance(result, Detections):
            answers[f"{number}.boxes"] = result.boxes
    return answers


def _samples(outputs: Mapping[str, Array], spec: ModelSpec) -> list[dict[str, Array]]:
    """Outputs of each golden input, in the shapes in which the network gave them."""
    ranks = {each.name: len(each.shape) for each in spec.outputs}
    whole = {name: array for name, array in outputs.items() if not name.endswith("]")}
    parts = {name.rpartition("[")[0] for name in outputs if name.endswith("]")}
    rows = [sum(name.startswith(f"{part}[") for name in outputs) for part in parts]
    count = max([*(len(array) for array in whole.values()), *rows])

    def as_given(name: str, array: Array) -> Array:
        """Take off the dimension that `record_outputs` gave to what has none for the image."""
        return array[0] if array.ndim > ranks.get(name, array.ndim) else array

    return [
        {
            **{name: as_given(name, array[number : number + 1]) for name, array in whole.items()},
            **{part: as_given(part, outputs[f"{part}[{number}]"]) for part in parts},
        }
        for number in range(count)
    ]


def decoding_difference(
    outputs: Mapping[str, Array], recorded: Mapping[str, Array], spec: ModelSpec
) -> tuple[float, float]:
    """Decode recorded outputs here.

    Args:
        outputs: golden outputs.
        recorded: result of `record_answers`.
        spec: the variant's.

    Returns:
        The largest difference, infinite where the classes are others, and the allowed one.
    """
    found = record_answers(outputs, spec)
    if found is None or found.keys() != recorded.keys():
        return float("inf"), _DECODED_TOLERANCE
    if any(not np.array_equal(found[name], recorded[name]) for name in found if name.endswith(".classes")):
        return float("inf"), _DECODED_TOLERANCE
    return max((difference(recorded[name], found[name]) for name in found), default=0.0), _DECODED_TOLERANCE


def answers_difference(
    recorded: Mapping[str, Array], outputs: Mapping[str, Array], spec: ModelSpec, precision: Precision
) -> float:
    """Return how far the outputs for golden inputs are from the recorded ones; see `difference`.

    Rows that the network chooses are compared by what they say, as the judge of a quantization does, and not by their
    place: the last bits of two scores decide which of them comes first, and which row is the last that is there.

    So are all rows of an INT8 detector, of which the share of their scores that is lost is told: where a rounding that
    falls to the other side moves boxes of cells without an object by a third of the image, no answer changed.

    Args:
        recorded: result of `record_outputs`.
        outputs: likewise, of this machine.
        spec: the variant's.
        precision: likewise.
    """
    decoding, rounded = spec.decoding, precision == "int8"
    if not isinstance(decoding, DetectionDecoding) or not (decoding.ranked or rounded):
        if recorded.keys() != outputs.keys():
            return float("inf")
        return max(difference(recorded[name], outputs[name]) for name in recorded)
    all_rows = replace(
        spec, alignment=None, decoding=replace(decoding, nms=False, score_threshold=0.0, max_detections=_ALL_ROWS)
    )
    first, second = (_detections(arrays, all_rows) for arrays in (recorded, outputs))
    if len(first) != len(second):
        return float("inf")
    pairs = [(a, b) for own, other in zip(first, second, strict=True) for a, b in ((own, other), (other, own))]
    apart = [(_unmatched(own, other), own.scores.astype(np.float64)) for own, other in pairs]
    if rounded:
        gaps, scores = (np.concatenate(each) for each in zip(*apart, strict=True))
        lost = float(gaps @ scores) / max(float(scores @ scores), _LEAST_WEIGHT)
        return lost if np.isfinite(lost) else float("inf")
    return max((float(gaps.max(initial=0.0)) for gaps, _ in apart), default=0.0)


def _detections(outputs: Mapping[str, Array], spec: ModelSpec) -> list[Detections]:
    """Every row of each golden input."""
    height, width = image_size(spec.input, spec.preprocessing.layout)
    whole = (Geometry(1.0, 1.0, 0.0, 0.0, width, height),)
    found = [decode(sample, spec, whole)[0] for sample in _samples(outputs, spec)]
    return [each for each in found if isinstance(each, Detections)]


def _unmatched(own: Detections, other: Detections) -> Array:
    """Return each detection's distance from the nearest of its class that the other has, (N,).

    One that the other lacks is so far as its score is above the lowest of the other: there it fell behind the last row.
    """
    if not len(other):
        return np.where(own.scores > 0, np.inf, 0.0)
    scale = max(1.0, float(np.abs(own.boxes).max(initial=0.0)))
    apart = np.abs(own.boxes[:, None] - other.boxes[None]).max(axis=2) / scale
    apart = np.maximum(apart, np.abs(own.scores[:, None] - other.scores[None]))
    apart[own.classes[:, None] != other.classes[None]] = np.inf
    missing = np.maximum(own.scores - other.scores.min(), 0.0)
    distances: Array = np.minimum(apart.min(axis=1), missing)
    return distances


def difference(recorded: Array, value: Array) -> float:
    """Largest absolute difference, relative to the largest recorded magnitude where that exceeds 1; NaN is inf."""
    if recorded.shape != value.shape:
        return float("inf")
    gap = np.abs(value.astype(np.float64) - recorded.astype(np.float64)).max(initial=0.0)
    scale = max(1.0, float(np.abs(recorded.astype(np.float64)).max(initial=0.0)))
    return float(gap / scale) if np.isfinite(gap) else float("inf")
