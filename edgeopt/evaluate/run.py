"""Loop over a data set: read, preprocess, run and record, with one batch of images in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle import Bundle
from edgeopt.bundle.records import Accuracy
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Boxes, Dataset
from edgeopt.errors import DataError
from edgeopt.evaluate.corruptions import Corruption
from edgeopt.evaluate.extra import ExtraMetrics
from edgeopt.evaluate.recorders import recorder
from edgeopt.evaluate.unlabelled import agreement_recorder
from edgeopt.postprocess.merging import decode_pictures
from edgeopt.preprocess import Image, batch, feed
from edgeopt.progress import Update
from edgeopt.runtime import Inferred, Prepared
from edgeopt.runtime.session import Tensors
from edgeopt.runtime.tiled import Tiled
from edgeopt.spec import ModelSpec


class Evaluated(Protocol):
    """A model that can be evaluated: a `runtime.Predictor`, or a `Runner`."""

    @property
    def spec(self) -> ModelSpec:
        """Specification of the model."""

    def prepare_batch(self, images: Sequence[Image], /) -> Prepared:
        """Preprocess as many images as the network takes at once, at most."""

    def infer(self, prepared: Prepared, /) -> Inferred:
        """Run the network."""


class Runner:
    """A model that is just a function from tensors to tensors, such as `Session.run`, with its specification."""

    def __init__(self, run: Callable[[Tensors], Mapping[str, NDArray[Any]]], spec: ModelSpec) -> None:
        self.spec = spec
        self._run = run

    def prepare_batch(self, images: Sequence[Image]) -> Prepared:
        """Preprocess, and fill up the batch with zeros where the network's batch is fixed."""
        tensor, geometries = batch(images, self.spec.preprocessing)
        missing = batch_size(self.spec) - len(images)
        if missing > 0:
            tensor = np.concatenate([tensor, np.zeros((missing, *tensor.shape[1:]), tensor.dtype)])
        return Prepared(tensor, tuple(geometries))

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the function."""
        outputs = self._run(feed(self.spec, prepared.tensor, prepared.geometries))
        count = len(prepared.geometries)
        if count != len(prepared.tensor):
            outputs = {name: array[:count] for name, array in outputs.items()}
        return Inferred(outputs, prepared.geometries)


def evaluate(
    model: Evaluated,
    dataset: Dataset,
    config: EvaluateConfig | None = None,
    *,
    baseline: Accuracy | None = None,
    corruption: Corruption | None = None,
    progress: Update | None = None,
) -> Accuracy:
    """Measure a model's accuracy, or on images without labels how far it agrees with the float model.

    Args:
        model: an open predictor, or a `Runner`.
        dataset: images; if they are labelled, with the model's class names.
        config: number of images, and filtering of detections.
        baseline: of the FP32 model, on the same images with the same `config`; adds the comparison. Without labels,
            None means that `model` is the FP32 model.
        corruption: done to each image before it is preprocessed.
        progress: told how far it is.

    Raises:
        DataError: the data have not the model's labels, an image has gone since they were loaded, or the baseline
            was measured on other images.
        ModelError: the outputs do not fit the specification, or a metric of the recipe's gives no number.
        ConfigError: a metric that cannot be imported, or is for another task.
    """
    config = config or EvaluateConfig()
    check_data(dataset, model.spec)
    chosen = chosen_images(len(dataset), config.limit)
    data = identity(dataset, chosen, corruption)
    corrupt = _unchanged if corruption is None else corruption
    _check_baseline(baseline, data)
    model = model if config.tiles is None else Tiled(model, config.tiles)
    make = agreement_recorder if dataset.task is None else recorder
    record, extra = make(model.spec, config, baseline), ExtraMetrics(config.metrics)
    size = batch_size(model.spec) if config.tiles is None else 1
    for start in range(0, len(chosen), size):
        portion = chosen[start : start + size]
        inferred = model.infer(model.prepare_batch([corrupt(dataset.image(index), index) for index in portion]))
        targets = [dataset[index].target for index in portion]
        record.add(inferred.outputs, inferred.geometries, targets)
        if extra:
            extra.add(decode_pictures(inferred.outputs, model.spec, inferred.geometries), targets)
        if progress is not None:
            progress((start + len(portion)) / len(chosen))
    found = record.result(len(chosen), len(dataset.skipped), data)
    return extra.joined(found, baseline) if extra else found


def _unchanged(image: Image, _: int) -> Image:
    return image


def check_data(dataset: Dataset, spec: ModelSpec) -> None:
    """Refuse data that do not fit this model."""
    if not len(dataset):
        raise DataError(f"there are no images in {dataset.origin} to evaluate '{spec.name}' on. Give at least one")
    if dataset.task is None:
        return
    if dataset.task != spec.task:
        raise DataError(
            f"{dataset.origin} has labels for {dataset.task}, but '{spec.name}' is a model for {spec.task}. Give other "
            "data"
        )
    if dataset.labels != spec.labels:
        raise DataError(
            f"the classes of {dataset.origin} are not those of '{spec.name}': "
            f"{_difference(dataset.labels, spec.labels)}. Load the data with the model's labels"
        )


def refuse_calibrated(bundle: Bundle, dataset: Dataset) -> None:
    """Refuse images that the ranges were fitted to, because accuracy on them says too little about others.

    Raises:
        DataError: there is one.
    """
    calibration = bundle.manifest.calibration
    if calibration is None or not calibration.hashes:
        return
    used = dict(zip(calibration.hashes, calibration.names, strict=False))
    shared = [
        f"{sample.name} is the calibration image {used[dataset.content_hash(index)]}"
        for index, sample in enumerate(dataset)
        if dataset.content_hash(index) in used
    ]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(dataset)} images of {dataset.origin} were calibrated on ({'; '.join(shared[:3])}): "
            "accuracy on them would flatter the quantized variants. Leave them out with `exclude`, or give other images"
        )


def _difference(data: tuple[str, ...], model: tuple[str, ...]) -> str:
    """Describe where two lists of labels differ."""
    if len(data) != len(model):
        return f"{len(data)} in the data, {len(model)} in the model"
    index = next(index for index, pair in enumerate(zip(data, model, strict=True)) if pair[0] != pair[1])
    return f"class {index} is '{data[index]}' in the data and '{model[index]}' in the model"


def _check_baseline(baseline: Accuracy | None, data: str) -> None:
    """Refuse to compare figures of different images."""
    if baseline is not None and baseline.data != data:
        raise DataError(
            f"the baseline was evaluated on other images or labels (its {baseline.images} have identity "
            f"{baseline.data[:12]}, these {data[:12]}). Evaluate the baseline again on this data with the same limit"
        )


def chosen_images(count: int, limit: int | None) -> list[int]:
    """Choose image numbers, spread evenly where there is a limit, because data are often sorted by class."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def identity(dataset: Dataset, chosen: Sequence[int], corruption: Corruption | None = None) -> str:
    """Return the sha256 over class names, and name and truth of each image in order; without labels, over names.

    Corrupted images are others than those that they were made from.
    """
    state = hashlib.sha256("\0".join(dataset.labels if dataset.task is not None else ()).encode())
    for index in chosen:
        sample = dataset[index]
        state.update(b"\0" + sample.name.encode())
        if isinstance(sample.target, Boxes):
            for array in (sample.target.boxes, sample.target.classes, sample.target.crowd):
                state.update(array.tobytes())
        else:
            state.update(repr(sample.target).encode())
    if corruption is not None:
        state.update(b"\0\0" + corruption.name.encode())
    return state.hexdigest()


def batch_size(spec: ModelSpec) -> int:
    """Return how many images the network takes at once; 1 where it leaves the choice, as in `Predictor.predict`."""
    size = spec.input.shape[0]
    return size if isinstance(size, int) else 1
