"""Predictor: an image in, a result out, and the three stages between them one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TypeAlias

import numpy as np

from edgeopt.bundle import Bundle, EngineSettings, Mode, Variant
from edgeopt.bundle.records import StageRecords
from edgeopt.errors import BundleError, DataError
from edgeopt.hardware import ThisMachine, processor_fingerprint
from edgeopt.postprocess import Classification, Detections, decode, require_decoding, require_numbers
from edgeopt.preprocess import Color, Geometry, Image, Scratch, Source, feed, preprocess, to_bgr
from edgeopt.references import allow_code as allow
from edgeopt.runtime.choice import Candidates, Choice
from edgeopt.runtime.first_load import measure_at_first_load
from edgeopt.runtime.golden import record_outputs
from edgeopt.runtime.saturation import may_saturate
from edgeopt.runtime.session import (
    Array,
    OwnsInputs,
    PreparesPictures,
    Session,
    availability,
    find_target,
    open_session,
)
from edgeopt.spec import ModelSpec, replace
from edgeopt.trust.releases import is_on_trial, remember_release

Result: TypeAlias = Classification | Detections

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Network input of one or several images."""

    tensor: Array
    """(N, ...) as the network takes it."""
    geometries: tuple[Geometry, ...]
    """(N) the way back from network pixels to each image's."""


@dataclass(frozen=True, slots=True, eq=False)
class Inferred:
    """The network's answer, not yet decoded."""

    outputs: Mapping[str, Array]
    """Outputs by name, first dimension N."""
    geometries: tuple[Geometry, ...]


class Predictor:
    """One variant of a bundle, ready to predict.

    Threads may share it: its memory is reused from image to image, so that one predicts while the others wait. To
    predict in parallel load one for each thread, or call the stages from a thread each, as `runtime.stream` does:
    `prepare` with memory of its own (`out`), `infer` with `copy`; `decode` keeps no state.

    An image is the path or the bytes of a file, a PIL image, or a numpy array of (H, W, 3) uint8 pixels (also grey, or
    with alpha) in OpenCV's order, blue first; say ``color="RGB"`` of an array in the other order: nothing can tell them
    apart.

    Attributes:
        spec: the model's specification.
        labels: the names of its classes, by number.
        variant: as it runs: with the engine's settings on this machine, and without what was measured.
        choice: why this variant, and why not each other one.
    """

    def __init__(self, session: Session, spec: ModelSpec, variant: Variant, choice: Choice | None = None) -> None:
        self.spec = spec
        self.labels = spec.labels
        self.variant = variant
        self.choice = choice or Choice(variant.name, "it was asked for", {})
        self._closed = False
        self._session = session
        shape, dtype = _network_input(session, spec)
        self._fixed_batch = shape[0] if isinstance(shape[0], int) else None
        self._item_shape = tuple(int(size) for size in shape[1:])
        self._dtype = dtype
        self._single = self.buffer()
        self._direct = self._single
        """Memory that `predict` prepares its image in: the engine's own where it has some."""
        if isinstance(session, OwnsInputs):
            self._direct = session.input_array(spec.input.name, len(self._single))
        self._scratch = Scratch()
        self._preparing = RLock()
        """Held by whoever uses the scratch memory, and by `predict` until its tensor was read."""
        self._running = RLock()
        """Held by whoever runs the engine, and until its output was read; taken after `_preparing`."""
        self._resources = ExitStack()
        self._resources.enter_context(session)

    @property
    def rejected(self) -> dict[str, str]:
        """Reason for each other variant that was not chosen, by its name."""
        return self.choice.rejected

    def predict(self, image: Source, *, color: Color = "BGR", score: float | None = None) -> Result:
        """Classify or detect in one image.

        Args:
            image: see the class.
            color: the order of an array's channels.
            score: of a detector: objects below it are left out. Default: the threshold that the bundle says.

        Raises:
            DataError: not an image, or one that cannot be read; or a `score` outside 0 to 1.
            TargetError: the predictor is closed, its engine failed, or it answered NaN.
        """
        pixels = to_bgr(image, color)
        with self._preparing, self._running:
            return self.decode(self._answer(pixels), score=score)

    def _answer(self, pixels: Image) -> Inferred:
        """Prepare one image and run the network on it, both on the GPU if it was asked for."""
        if isinstance(self._session, PreparesPictures) and self._session.prepares_pictures:
            outputs, geometry = self._session.run_picture(pixels)
            return Inferred(outputs, (geometry,))
        return self._infer(self._prepare(pixels, self._direct), copy=False)

    def predict_batch(
        self, images: Sequence[Source], *, color: Color = "BGR", score: float | None = None
    ) -> list[Result]:
        """Classify or detect in several images; a network with a fixed batch size takes them in portions.

        Args:
            images: any number of them, each of any size; also one (N, H, W, 3) array.
            color: as in `predict`.
            score: as in `predict`.

        Returns:
            One result an image, in order.

        Raises:
            DataError: one of them is not an image, or cannot be read; or it is one image instead of several.
            TargetError: as `predict`.
        """
        _check_several(images)
        results: list[Result] = []
        for portion in _portions(images, self._fixed_batch or max(1, len(images))):
            with self._preparing, self._running:
                results += self.decode_batch(self.infer(self.prepare_batch(portion, color=color)), score=score)
        return results

    def buffer(self, count: int = 1) -> Array:
        """New memory for `prepare`'s or `prepare_batch`'s `out`: input of `count` images (of the fixed batch size)."""
        return np.zeros((self._fixed_batch or count, *self._item_shape), dtype=self._dtype)

    def prepare(self, image: Source, out: Array | None = None, *, color: Color = "BGR") -> Prepared:
        """Preprocess one image.

        Args:
            image: the image to preprocess.
            out: memory from `buffer` to write to; without, the predictor's own, which the next call overwrites.
            color: the order of an array's channels.

        Raises:
            DataError: not an image, or one that cannot be read.
        """
        pixels = to_bgr(image, color)
        with self._preparing:
            return self._prepare(pixels, self._single if out is None else out)

    def _prepare(self, pixels: Image, tensor: Array) -> Prepared:
        """Do what `prepare` does; the caller holds `_preparing`."""
        _, geometry = preprocess(pixels, self.spec.preprocessing, tensor[0], self._scratch)
        return Prepared(tensor, (geometry,))

    def prepare_batch(self, images: Sequence[Source], out: Array | None = None, *, color: Color = "BGR") -> Prepared:
        """Preprocess several images into one tensor; one of fixed batch size is filled up with what it held.

        Raises:
            DataError: more images than the network takes at once, or none.
        """
        tensor = self.buffer(len(images)) if out is None else out
        if not 0 < len(images) <= len(tensor):
            raise DataError(f"the network takes 1 to {len(tensor)} images at once, and was given {len(images)}")
        geometries = []
        for image, item in zip(images, tensor, strict=False):
            pixels = to_bgr(image, color)
            with self._preparing:
                geometries.append(preprocess(pixels, self.spec.preprocessing, item, self._scratch)[1])
        return Prepared(tensor, tuple(geometries))

    def infer(self, prepared: Prepared, *, copy: bool = False) -> Inferred:
        """Run the network.

        Args:
            prepared: its input.
            copy: give arrays that stay as they are; without, the next call may overwrite them.
        """
        with self._running:
            return self._infer(prepared, copy=copy)

    def _infer(self, prepared: Prepared, *, copy: bool) -> Inferred:
        """Do what `infer` does; the caller holds `_running`."""
        count = len(prepared.geometries)
        outputs = self._session.run(feed(self.spec, prepared.tensor, prepared.geometries))
        if count != len(prepared.tensor):
            outputs = {name: array[:count].copy() for name, array in outputs.items()}
        elif copy:
            outputs = {name: array.copy() for name, array in outputs.items()}
        return Inferred(outputs, prepared.geometries)

    def replay(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run recorded inputs of the network sample by sample, as `golden.record_outputs` did.

        Other callers wait for a sample at most.
        """
        return record_outputs(_Shared(self._session, self._running), dict(inputs))

    def decode(self, inferred: Inferred, *, score: float | None = None) -> Result:
        """Turn the network's answer to one image into a result, which is the caller's own; `score` as in `predict`."""
        return self.decode_batch(inferred, score=score)[0]

    def decode_batch(self, inferred: Inferred, *, score: float | None = None) -> list[Result]:
        """Turn the network's answer into one result an image; `score` as in `predict`.

        Raises:
            DataError: a `score` outside 0 to 1.
            TargetError: the network answered NaN.
        """
        spec = self.spec if score is None else with_threshold(self.spec, score)
        require_numbers(inferred.outputs, spec)
        return [*decode(inferred.outputs, spec, inferred.geometries)]

    def close(self) -> None:
        """Free the engine and its buffers, once no thread uses them."""
        with self._preparing, self._running:
            self._closed = True
            self._direct = self._single  # the engine's own memory ends with it
            self._resources.close()

    def __repr__(self) -> str:
        size = "×".join(map(str, self._item_shape))
        state = ", closed" if self._closed else ""
        return (
            f"<Predictor '{self.spec.name}' by {self.variant.name}: {self.spec.task}, {len(self.labels)} classes, "
            f"input {size} {self._dtype}{state}>"
        )

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shared:
    """A session that others run meanwhile, and whose outputs stay."""

    def __init__(self, session: Session, running: RLock) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self._session, self._running = session, running

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._running:
            return {name: array.copy() for name, array in self._session.run(inputs).items()}


def load(
    path: str | Path, *, variant: str | None = None, threads: int = 0, allow_code: Sequence[str] = ()
) -> Predictor:
    """Open a bundle and load the best of its variants that this machine can run.

    Best is: of those whose accuracy was accepted, the fastest by what was measured on this kind of machine, and by
    nothing that another one measured; `runtime.choice` has the order of what was not measured. On a GPU that is settled
    at first load, by running each for two seconds (`runtime.first_load`). `Predictor.choice` says why it was this one
    and none of the others.

    Args:
        path: the bundle's folder.
        variant: load this one, whatever was measured.
        threads: threads of the engine; 0 keeps the bundle's setting, else the engine's default.
        allow_code: packages that the bundle may name for its decoding or its target, and that are installed here. No
            other code of a bundle's is imported, for a bundle can come from anyone; `references.allow_code` and the
            environment variable ``EDGEOPT_ALLOW_CODE`` do the same.

    Raises:
        BundleError: not a whole bundle, not signed by a key that this device trusts (where it trusts any) or older than
            one that ran here, it has no such variant, or it needs code that is not installed or not allowed.
        MissingExtraError: the library of the variant that was asked for is not installed.
        TargetError: no variant runs here, or not the one that was asked for.
    """
    allow(*allow_code)
    bundle = Bundle.open(path)
    predictor = _load(bundle, variant, threads)
    if bundle.signer is not None and not is_on_trial(bundle.path):
        remember_release(bundle.manifest.name, bundle.manifest.release)
    return predictor


def _load(bundle: Bundle, variant: str | None, threads: int) -> Predictor:
    if variant is not None:
        return open_variant(bundle, bundle.variant(variant), threads=threads)
    candidates = Candidates(bundle.manifest, availability)

    def ready(candidate: Variant, stack: ExitStack) -> Callable[[], object]:
        return _ready(bundle, stack.enter_context(open_variant(bundle, candidate, threads=threads)))

    measure_at_first_load(candidates, ready)
    for candidate in candidates:
        try:
            predictor = open_variant(bundle, candidate, threads=threads)
        except candidates.does_not_load as error:
            candidates.reject(candidate, error)
            continue
        predictor.choice = candidates.chosen(candidate)
        _LOG.info("%s%s", predictor.choice, predictor.choice.hint and f". {predictor.choice.hint}")
        return predictor
    raise candidates.none_left()


def _ready(bundle: Bundle, predictor: Predictor) -> Callable[[], object]:
    """Run the network once, on a golden input, or on black if there is none."""
    prepared = predictor.prepare_batch([np.zeros((64, 64, 3), np.uint8)] * len(predictor.buffer()))
    golden = bundle.golden(predictor.variant.name)
    if golden is not None:
        prepared.tensor[...] = np.resize(golden[0][predictor.spec.input.name], prepared.tensor.shape)
    return lambda: predictor.infer(prepared)


def open_variant(
    bundle: Bundle,
    variant: Variant,
    *,
    threads: int = 0,
    mode: Mode = "latency",
    settings: EngineSettings | None = None,
) -> Predictor:
    """Load one variant of an opened bundle; the others count as not asked for.

    Args:
        bundle: the bundle of the variant.
        variant: the variant to open.
        threads: threads of the engine; 0 leaves them to the settings.
        mode: what it is for, where nothing else says how it runs.
        settings: the engine's settings. Default: what was tuned on this machine for `mode`, else what the bundle says.

    Raises:
        BundleError: the engine's input is not what the specification says, or results are made by code that is not
            installed or not allowed here.
        MissingExtraError: the engine's library is not installed.
        TargetError: the engine does not load here.
    """
    require_decoding(bundle.manifest.spec_of(variant), BundleError)
    if variant.precision == "int8" and (reason := may_saturate(variant, ThisMachine().processor.cpu)):
        _LOG.warning("variant '%s': %s", variant.name, reason)
    settings = settings or settings_here(variant, mode)
    if threads:
        settings = replace(settings, threads=threads)
    content = bundle.engine(variant.name)
    session = open_session(
        bundle.file(variant.name), variant.target, settings=settings, reuse_outputs=True, content=content
    )
    if settings.tensorrt.run.preprocess == "gpu" and isinstance(session, PreparesPictures):
        with ExitStack() as refused:
            refused.enter_context(session)
            session.prepare_pictures(bundle.manifest.spec_of(variant).preprocessing)
            refused.pop_all()
    others = {
        other.name: f"'{variant.name}' was asked for" for other in bundle.manifest.variants if other is not variant
    }
    # What was measured stays in the bundle: of a thousand classes it would hold 10 MiB in every process that predicts.
    light = replace(
        variant, engine=settings, accuracy=None, measured={}, diagnosis=None, attribution=None, stages=StageRecords()
    )
    return Predictor(session, bundle.manifest.spec_of(variant), light, Choice(variant.name, "it was asked for", others))


def settings_here(variant: Variant, mode: Mode = "latency") -> EngineSettings:
    """Return a variant's settings on this machine: as tuned here, else as its bundle says, with a hint where heeded."""
    if variant.tuned and (tuned := variant.tuned.get(processor_fingerprint(), {}).get(mode)) is not None:
        return tuned
    hinted = mode == "throughput" and "hint" in find_target(variant.target).tunable
    return replace(variant.engine, hint=mode) if hinted else variant.engine


def _network_input(session: Session, spec: ModelSpec) -> tuple[tuple[int | str, ...], str]:
    """Shape and dtype of the images' input."""
    found = {tensor.name: tensor for tensor in session.inputs}
    wanted = [spec.input.name, *(each.name for each in spec.auxiliary)]
    if sorted(found) != sorted(wanted):
        raise BundleError(
            f"the engine's inputs are {', '.join(found)}, and the specification of '{spec.name}' says "
            f"{', '.join(wanted)}. Build the bundle again"
        )
    tensor = found[spec.input.name]
    if any(isinstance(size, str) for size in tensor.shape[1:]):
        raise BundleError(
            f"the engine's input '{tensor.name}' has no fixed image size: {tensor.shape}. Export it with one"
        )
    return tensor.shape, tensor.dtype


def with_threshold(spec: ModelSpec, score: float) -> ModelSpec:
    """Return the same detector with another score threshold."""
    if spec.task == "classification":
        raise DataError(f"'{spec.name}' is a classifier, which ranks all classes: score is for detectors")
    if not 0 <= score <= 1:
        raise DataError(f"score is {score}; it must be from 0 to 1")
    return replace(spec, decoding=replace(spec.decoding, score_threshold=score))


def _check_several(images: object) -> None:
    """Refuse one image where several are due: of an array each row would count as an image, of a text each letter."""
    one = images.ndim < 4 if isinstance(images, np.ndarray) else not isinstance(images, Sequence)
    if one or isinstance(images, (str, bytes, bytearray)):
        raise DataError("predict_batch() takes a list of images, and was given one image. Use predict()")


def _portions(images: Sequence[Source], size: int) -> Iterator[Sequence[Source]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
