"""Evaluate a data set piece by piece: what each piece says is kept as it comes, and the figures computed from all.

Of classifiers a piece keeps counts, of detectors scores and matches. A run that was killed goes on with the next piece,
and several machines of one kind may evaluate different pieces.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import msgspec
import numpy as np

import edgeopt
from edgeopt.bundle import Bundle, pack, unpack
from edgeopt.bundle.records import Accuracy
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import BundleError, DataError, MissingExtraError, TargetError, storage_errors, when_stopped
from edgeopt.evaluate.counts import ClassificationCounts, counted
from edgeopt.evaluate.match_lists import DetectionMatches, matched
from edgeopt.evaluate.recorders import ClassificationRecorder, DetectionRecorder, Rows, recorder
from edgeopt.evaluate.run import Evaluated, batch_size, check_data, chosen_images, identity, refuse_calibrated
from edgeopt.files import write_atomically
from edgeopt.hardware import ThisMachine
from edgeopt.progress import Progress, Silent
from edgeopt.runtime import Predictor, open_variant
from edgeopt.runtime.choice import identity_of_target

_LOG = logging.getLogger(__name__)
Evaluate: TypeAlias = Callable[[Iterable[tuple[int, Dataset]]], Iterator[tuple[int, bytes]]]
"""Function that evaluates numbered pieces and gives the content of the file of each, as each is done."""


@dataclass(frozen=True)
class Shards:
    """Pieces of a data set, and the folder that keeps what each says."""

    folder: Path
    count: int
    only: int | None = None
    """Number of the piece to evaluate, from 0; None: all that are missing, and the figures."""

    def __post_init__(self) -> None:
        if self.count < 1 or (self.only is not None and not 0 <= self.only < self.count):
            raise DataError(f"there are {self.count} shards, and {self.only} was asked for. Number them from 0")

    def portion(self, images: Sequence[int], number: int) -> Sequence[int]:
        """Return the images of a piece; pieces differ by one at most."""
        return images[len(images) * number // self.count : len(images) * (number + 1) // self.count]


class ShardEvaluator:
    """A bundle's variants, opened once, that evaluate piece after piece; a context manager.

    Args:
        bundle: the bundle.
        config: filtering of detections.
        variant: only this one and the baseline. Default: all that run here.
        threads: threads of the engines; 0 keeps the bundle's setting.
    """

    def __init__(self, bundle: Bundle, config: EvaluateConfig, variant: str | None = None, threads: int = 0) -> None:
        self._bundle, self._config, self._variant, self._threads = bundle, config, variant, threads
        self._opened: dict[str, Predictor] = {}
        self._stack = ExitStack()

    def __enter__(self) -> ShardEvaluator:
        """Open the variants.

        Raises:
            TargetError: the variant that was asked for does not run here, or none does.
            MissingExtraError: its library is not installed.
        """
        with ExitStack() as stack:
            for name in variants_of(self._bundle, self._variant):
                self._open(name, stack)
            if not self._opened:
                path = self._bundle.path
                raise TargetError(f"no variant of {path} runs here. See: edgeopt inspect {path}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _open(self, name: str, stack: ExitStack) -> None:
        try:
            opened = open_variant(self._bundle, self._bundle.variant(name), threads=self._threads)
            self._opened[name] = stack.enter_context(opened)
        except (TargetError, MissingExtraError) as error:
            if name == self._variant:
                raise
            _LOG.warning("variant '%s' is not evaluated: %s", name, error)

    def evaluate(self, dataset: Dataset) -> bytes:
        """Evaluate the images of a piece; the content of its file.

        Raises:
            DataError: as `evaluate`, or the ranges were calibrated on one of the images.
        """
        refuse_calibrated(self._bundle, dataset)
        found: Rows = {"machine": np.frombuffer(_machine(self._bundle).encode(), np.uint8)}
        baseline: ClassificationRecorder | DetectionRecorder | None = None
        for name, model in self._opened.items():
            check_data(dataset, model.spec)
            part = recorder(model.spec, self._config, None)
            assert isinstance(part, (ClassificationRecorder, DetectionRecorder))
            rows = _rows(part, baseline, model, dataset)
            if name == self._bundle.manifest.baseline:
                baseline = part
            found |= {f"{name}/{key}": array for key, array in rows.items()}
        return pack(found)


def variants_of(bundle: Bundle, variant: str | None) -> list[str]:
    """Return the names of the baseline and of what is compared with it.

    Raises:
        BundleError: there is no such variant.
    """
    wanted = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    return list(dict.fromkeys((bundle.manifest.baseline, *(each.name for each in wanted))))


@when_stopped("finished shards are kept; run it again to go on")
def evaluate_in_shards(
    bundle: Bundle,
    dataset: Dataset,
    config: EvaluateConfig | None,
    shards: Shards,
    *,
    variant: str | None = None,
    threads: int = 0,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> dict[str, Accuracy]:
    """Evaluate the variants of a bundle piece by piece, its baseline first.

    Args:
        bundle: an opened bundle.
        dataset: labelled images, with the model's class names.
        config: number of images, and filtering of detections. Default: as the bundle's recipe says.
        shards: pieces.
        variant: only this one and the baseline. Default: all that run.
        threads: threads of the engines; 0 keeps the bundle's setting.
        evaluate: evaluates pieces elsewhere. Default: here, one after the other.
        progress: told how far it is.

    Returns:
        By name of the variant, as of `evaluate_bundle`, without what each image was answered; nothing where one piece
        only was asked for.

    Raises:
        BundleError: there is no such variant.
        DataError: as `evaluate_bundle`; what cannot be kept piece by piece; or a file of the folder is damaged, or of
            another kind of machine than the others.
        TargetError: as `evaluate_bundle`.
        StorageError: the folder cannot be written.
    """
    recipe = bundle.manifest.recipe
    config = config or (EvaluateConfig() if recipe is None else recipe.evaluate)
    refuse_shards(dataset, config)
    check_data(dataset, bundle.manifest.spec)
    images, display = chosen_images(len(dataset), config.limit), progress or Silent()
    key = _key(bundle, config, variants_of(bundle, variant))
    asked = range(shards.count) if shards.only is None else (shards.only,)
    portions = {number: portion for number in asked if (portion := shards.portion(images, number))}

    files = {
        number: (shards.folder / f"{_digest(key, *_contents(dataset, portion))}-{number:05}.npz", portion)
        for number, portion in portions.items()
    }
    missing = [number for number, (path, _) in files.items() if not path.exists()]
    display.begin("shards")
    with ExitStack() as stack:
        if evaluate is None and missing:
            here = stack.enter_context(ShardEvaluator(bundle, config, variant, threads))
            evaluate = lambda parts: ((number, here.evaluate(part)) for number, part in parts)  # noqa: E731
        parts = ((number, dataset.subset(portions[number])) for number in missing)
        for done, (number, content) in enumerate(evaluate(parts) if evaluate is not None and missing else (), 1):
            path, _ = files[number]
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
            display.update((len(portions) - len(missing) + done) / len(portions))
    display.end(f"{len(missing)} of {len(portions)} were missing", reused=not missing)
    if shards.only is not None:
        return {}
    return _merged(bundle, dataset, config, images, files, variants_of(bundle, variant))


def refuse_shards(dataset: Dataset, config: EvaluateConfig) -> None:
    """Refuse what cannot be kept piece by piece.

    Raises:
        DataError: images without labels, metrics of the user's, or tiles.
    """
    wrong = {
        "images without labels": dataset.task is None,
        "metrics of your own": bool(config.metrics),
        "tiles": config.tiles is not None,
    }
    if reasons := [name for name, is_so in wrong.items() if is_so]:
        raise DataError(f"{' and '.join(reasons)} cannot be evaluated in shards. Evaluate without --shards")


def _merged(
    bundle: Bundle,
    dataset: Dataset,
    config: EvaluateConfig,
    images: Sequence[int],
    files: Mapping[int, tuple[Path, Sequence[int]]],
    names: Sequence[str],
) -> dict[str, Accuracy]:
    """Compute the figures of all pieces, one file in memory at a time."""
    results: dict[str, Accuracy] = {}
    data, machines = identity(dataset, images), dict[str, Path]()
    for name in names:
        spec = bundle.manifest.spec_of(bundle.variant(name))
        baseline = results.get(bundle.manifest.baseline)
        kind = ClassificationCounts if spec.task == "classification" else DetectionMatches
        whole = kind(spec, config, baseline)
        there = 0
        for path, portion in files.values():
            with storage_errors(path), _intact(f"the shard {path} is damaged. Remove it"):
                kept = unpack(path.read_bytes(), origin=str(path))
                machines.setdefault(bytes(kept["machine"]).decode(), path)
                rows = {key.rpartition("/")[2]: array for key, array in kept.items() if key.startswith(f"{name}/")}
                if not rows:
                    continue
                if rows["images"].tolist() != [len(portion)]:
                    raise DataError(
                        f"the shard {path} has not the answers to {len(portion)} images. Remove it, and try again"
                    )
                whole.restore(rows)
                there += 1
        if len(machines) > 1:
            (one, _), (other, path) = list(machines.items())[:2]
            raise DataError(
                f"the shard {path} was evaluated on {other}, and others on {one}: their kernels differ. Evaluate all "
                "on machines of one kind, with a folder of their own"
            )
        if there == len(files):
            with _intact(f"the shards in {path.parent} do not fit together. Remove the folder"):
                results[name] = whole.result(len(images), len(dataset.skipped), data)
        elif there:
            raise DataError(
                f"variant '{name}' is in {there} of {len(files)} shards only. Remove {path.parent}, and try again"
            )
    return results


def _key(bundle: Bundle, config: EvaluateConfig, names: Sequence[str]) -> str:
    """Return a hash of all that the answers depend on beside the images and the machine, which the file tells."""
    manifest = bundle.manifest
    parts = [edgeopt.__version__, msgspec.json.encode(config).decode()]
    for name in names:
        variant = manifest.variant(name)
        parts += [name, manifest.files[variant.file].sha256, msgspec.json.encode(manifest.spec_of(variant)).decode()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _contents(dataset: Dataset, portion: Sequence[int]) -> list[str]:
    """Return what tells the images of a piece from others: names, truths and pixels."""
    return [identity(dataset, portion), *(dataset.content_hash(index) for index in portion)]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _machine(bundle: Bundle) -> str:
    """Describe this machine, with the libraries of the bundle's engines."""
    here = ThisMachine()
    targets = dict.fromkeys(variant.target for variant in bundle.manifest.variants)
    found = [identity_of_target(target, here) for target in targets]
    return "; ".join(dict.fromkeys(f"{each.title} ({each.fingerprint})" for each in found))


@contextmanager
def _intact(problem: str) -> Iterator[None]:
    """Refuse arrays that no evaluation wrote: a shard may come from another machine or a damaged disk."""
    try:
        with np.errstate(invalid="raise"):  # figures of counts that cannot be
            yield
    except (BundleError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise DataError(f"{problem}, and try again") from error


def _rows(
    part: ClassificationRecorder | DetectionRecorder,
    baseline: ClassificationRecorder | DetectionRecorder | None,
    model: Evaluated,
    dataset: Dataset,
) -> Rows:
    """Evaluate a piece, and return what is kept of it."""
    if isinstance(part, DetectionRecorder):
        assert not isinstance(baseline, ClassificationRecorder)
        _record(part, model, dataset)
        return matched(part, model.spec, baseline)
    assert not isinstance(baseline, DetectionRecorder)
    reference = None if baseline is None else baseline.rows()
    part.follow(reference)
    _record(part, model, dataset)
    return counted(part, model.spec, reference)


def _record(part: ClassificationRecorder | DetectionRecorder, model: Evaluated, dataset: Dataset) -> None:
    """Record the answers to a piece's images, a batch of them in memory at a time."""
    size = batch_size(model.spec)
    for start in range(0, len(dataset), size):
        portion = range(start, min(start + size, len(dataset)))
        inferred = model.infer(model.prepare_batch([dataset.image(index) for index in portion]))
        part.add(inferred.outputs, inferred.geometries, [dataset[index].target for index in portion])
