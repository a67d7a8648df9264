"""Evaluate a data set piece by piece: each piece's answers are kept as they come, and all figures computed in the end.

A shard holds each image's answers, not its figures, so that what is computed from all of them equals in every bit what
one run computes. A run that was killed goes on with the next piece; machines of one kind may share the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeopt.bundle import Bundle, Variant, pack, unpack
from edgeopt.bundle.records import Accuracy
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import BundleError, DataError, storage_errors
from edgeopt.evaluate.recorders import ClassificationRecorder, DetectionRecorder, Rows, recorder
from edgeopt.evaluate.run import Evaluated, batch_size, check_data, chosen_images, identity
from edgeopt.files import write_atomically
from edgeopt.hardware import ThisMachine
from edgeopt.progress import Update
from edgeopt.runtime.choice import identity_of_target


@dataclass(frozen=True)
class Shards:
    """Pieces of a data set, and the folder that keeps their answers."""

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


class ShardedEvaluation:
    """Evaluates the variants of a bundle on the same shards, its baseline first.

    Args:
        bundle: the bundle.
        dataset: labelled images.
        config: number of images, and filtering of detections.
        shards: pieces.
    """

    def __init__(self, bundle: Bundle, dataset: Dataset, config: EvaluateConfig, shards: Shards) -> None:
        refuse_shards(dataset, config)
        self._bundle, self._dataset, self._config, self._shards = bundle, dataset, config, shards
        self._images = chosen_images(len(dataset), config.limit)
        self._data = identity(dataset, self._images)
        self._baseline: dict[int, Rows] = {}
        self._machine = ThisMachine()

    def evaluate(
        self, variant: Variant, model: Evaluated, baseline: Accuracy | None, progress: Update | None
    ) -> Accuracy | None:
        """Evaluate a variant on what is missing.

        Args:
            variant: the variant.
            model: it, opened.
            baseline: result of the baseline; None for it itself, or where one piece only is evaluated.
            progress: told how far it is.

        Returns:
            Its accuracy; None where one piece only was asked for.

        Raises:
            DataError: as `evaluate`, or a file of the folder is damaged.
            StorageError: the folder cannot be written.
        """
        check_data(self._dataset, model.spec)
        is_baseline = variant.name == self._bundle.manifest.baseline
        whole = recorder(model.spec, self._config, baseline)
        assert isinstance(whole, (ClassificationRecorder, DetectionRecorder))
        numbers = range(self._shards.count) if self._shards.only is None else (self._shards.only,)
        for done, number in enumerate(numbers, 1):
            images = self._shards.portion(self._images, number)
            if not images:  # more pieces than images
                continue
            file = self._shards.folder / f"{variant.name}-{self._key(variant, images)}-{number:05}.npz"
            rows = self._kept(file, len(images))
            if rows is None:
                rows = self._answers(model, images, None if is_baseline else self._baseline.get(number))
                with storage_errors(file):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(file, pack(rows))
            if is_baseline:
                self._baseline[number] = rows
            whole.restore(rows, [self._dataset[index].target for index in images])
            if progress is not None:
                progress(done / len(numbers))
        if self._shards.only is not None:
            return None
        return whole.result(len(self._images), len(self._dataset.skipped), self._data)

    def _answers(self, model: Evaluated, images: Sequence[int], baseline: Rows | None) -> Rows:
        part = recorder(model.spec, self._config, None)
        assert isinstance(part, (ClassificationRecorder, DetectionRecorder))
        part.follow(baseline)
        size = batch_size(model.spec)
        for start in range(0, len(images), size):
            portion = images[start : start + size]
            inferred = model.infer(model.prepare_batch([self._dataset.image(index) for index in portion]))
            targets = [self._dataset[index].target for index in portion]
            part.add(inferred.outputs, inferred.geometries, targets)
        return part.rows()

    def _key(self, variant: Variant, images: Sequence[int]) -> str:
        """Return a hash of all that the answers to some images depend on."""
        manifest = self._bundle.manifest
        baseline = manifest.variant(manifest.baseline)
        parts = (
            manifest.files[variant.file].sha256,
            manifest.files[baseline.file].sha256,
            msgspec.json.encode(manifest.spec_of(variant)).decode(),
            msgspec.json.encode(self._config).decode(),
            identity_of_target(variant.target, self._machine).fingerprint,
            identity(self._dataset, images),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def _kept(self, file: Path, images: int) -> Rows | None:
        if not file.exists():
            return None
        try:
            rows = unpack(file.read_bytes(), origin=str(file))
        except BundleError as error:
            raise DataError(f"the shard {file} is damaged. Remove it, and evaluate again") from error
        if rows["images"].tolist() != [images]:
            raise DataError(f"the shard {file} has not the answers to {images} images. Remove it, and evaluate again")
        return rows
