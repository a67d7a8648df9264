"""Check before a build what can be known then, from the recipe, this machine and the label files.

No image is opened, nothing is trained and nothing is written. Everything that is found is told at once.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeopt.boxes import Boxes
from edgeopt.config import Config, FitConfig, TrainConfig
from edgeopt.dataset.listing import Listing
from edgeopt.dataset.loading import listed, too_few
from edgeopt.dataset.splits import given_sources, held_out_counts, refuse_shared_files, refuse_too_few
from edgeopt.doors import LOSSES, METRICS, REPAIRS
from edgeopt.errors import (
    ConfigError,
    DataError,
    EdgeoptError,
    MissingExtraError,
    ModelError,
    StorageError,
    TargetError,
)
from edgeopt.files import named_path, require_writable
from edgeopt.pipeline.balancing import require_classes
from edgeopt.pipeline.compression import require_measurable, require_prunable
from edgeopt.pipeline.job import missing_split
from edgeopt.pipeline.shortfalls import shortfalls
from edgeopt.pipeline.sources import class_names, source_to_export, source_to_train
from edgeopt.pipeline.variants import engine_settings
from edgeopt.postprocess import require_decoding
from edgeopt.references import is_code, resolve
from edgeopt.targets import find_target

if TYPE_CHECKING:
    from edgeopt.source import Source

Goal = Literal["weights", "graph", "bundle"]
"""Product of a build: the weights that training ends with, the float graph, or everything."""

_SPARE_BYTES = 64 << 20
"""Beside copies of the network: calibration statistics, golden images, the report."""
_TRAINING_COPIES = 5
"""Copies of the network on disk in training: a checkpoint with an optimizer's two moments and averaged weights, and the
result."""


@dataclass(frozen=True)
class Preflight:
    """A recipe that nothing was found against.

    Attributes:
        listings: what the recipe's sets list.
        notes: what is smaller than was asked for, one sentence each, as far as label files tell.
        checked: one line on what was looked at.
    """

    listings: dict[str, Listing]
    notes: tuple[str, ...]
    checked: str


@dataclass
class _Findings:
    problems: list[EdgeoptError] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an expected error, so that the next check can be made; what two targets say alike, once."""
        try:
            yield
        except EdgeoptError as error:
            if str(error) not in map(str, self.problems):
                self.problems.append(error)

    def refuse(self, name: str) -> None:
        """Raise what was found: one problem as it is; several as a list, of their type where they share one."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1))
            kinds = {type(problem) for problem in self.problems}
            kind = kinds.pop() if len(kinds) == 1 else ConfigError
            raise kind(f"{len(self.problems)} things stand against building '{name}':\n{lines}")


def preflight(config: Config, root: Path, folders: tuple[Path, ...], goal: Goal = "bundle") -> Preflight:
    """Look for everything that would stop a build later.

    Args:
        config: the recipe.
        root: the folder that its relative paths start from.
        folders: what is made goes into these; they need not exist.
        goal: product of the build.

    Raises:
        EdgeoptError: the only problem that was found, or several of one type.
        ConfigError: several, all of which it names.
    """
    findings = _Findings()
    with findings.collected():
        _find_packages(config, goal)
    for name, table, kind in _named(config, goal):
        with findings.collected():
            resolve(name, table, kind)
    if goal == "bundle":
        if config.quantize.file is not None:
            with findings.collected():
                _check_quantized(config, root)
        for name in config.compile.targets:
            with findings.collected():
                _check_target(config, name)
        with findings.collected():
            _check_candidates(config)
    if config.compress is not None and config.compress.latency is not None and goal != "weights":
        with findings.collected():
            require_measurable(config.compress.target or config.compile.targets[0])
    labels: tuple[str, ...] | None = None
    with findings.collected():
        labels = class_names(config, root)
    listings = _listings(config, root, labels, findings)
    with findings.collected():
        refuse_shared_files(listings)
    counts = _counts(config, listings, goal, findings)
    found = labels or next((listing.labels for listing in listings.values() if listing.labels), ())
    if config.fit is not None and "train" in listings:
        with findings.collected():
            _check_classes(config.fit, listings["train"], found)
    source = _source(config, root, found, findings)
    if source is not None:
        with findings.collected():
            require_decoding(source.spec)
        if config.balance is not None and (config.fit is None or config.fit.classifier == "knn"):
            with findings.collected():
                require_classes(source.spec)
    for folder in folders:
        with findings.collected():
            _check_folder(folder, 0 if source is None else _needed_bytes(config, _size_bytes(source, config, root)))
    findings.refuse(config.name)
    images = sum(len(listing.drafts) for listing in listings.values())
    engines = f", engines for {', '.join(config.compile.targets)}" if goal == "bundle" else ""
    tested = listings.get("test", listings.get("train"))
    labelled = tested is None or tested.task is not None
    return Preflight(
        listings, shortfalls(config, counts, labelled=labelled), f"{images} images listed, the network opened{engines}"
    )


def needed_splits(config: Config, goal: Goal = "bundle") -> list[str]:
    """Return the sets of images that the recipe cannot do without."""
    fits = config.train is not None or config.fit is not None
    learning = ["train"] if fits or (config.compress is not None and goal != "weights") else []
    if goal != "bundle":
        return learning
    quantizing = config.quantize.enabled and config.quantize.file is None
    budget = config.budget is not None
    moved = (
        []
        if config.balance is None
        else [*(["train"] if config.balance.prior else []), *(["validation"] if config.balance.thresholds else [])]
    )
    halving = any(find_target(name).reduced(config.precision) == "fp16" for name in config.compile.targets)
    return [
        *dict.fromkeys([*learning, *moved]),
        "test",
        *(["calibration"] if quantizing or halving else []),
        *(["validation"] if quantizing and budget else []),
    ]


def _find_packages(config: Config, goal: Goal) -> None:
    """Packages that are imported late; those of the network, the data and the engines are found by opening them."""
    wanted = [*(["sklearn"] if config.fit is not None else [])]
    wanted += [*(["safetensors"] if config.train is not None else []), *(["jinja2"] if goal == "bundle" else [])]
    if config.compress is not None and goal != "weights":
        wanted += ["safetensors", "torch_pruning"]
    absent = [name for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingExtraError(
            f"this needs the Python package '{absent[0]}', which is not installed. Install it with: "
            "pip install 'edgeopt[build]'"
        )


def _named(config: Config, goal: Goal) -> Iterator[tuple[str, Mapping[str, str], str]]:
    """List what the stages will look for by name, beside what is opened here anyway: name, built-ins, and kind."""
    for train in (config.train, None if config.compress is None else config.compress.train):
        if train is not None:
            yield from ((name, {}, "augmentation") for name in train.augmentation.custom)
            if train.loss is not None:
                yield train.loss, LOSSES, "loss"
    if goal == "bundle":
        if config.quantize.enabled:
            yield from ((name, REPAIRS, "repair") for name in config.quantize.repairs if is_code(name))
        yield from ((name, METRICS, "metric") for name in config.evaluate.metrics)


def _check_quantized(config: Config, root: Path) -> None:
    """Refuse a file for the INT8 variants that is none, or a recipe that would have it changed."""
    from edgeopt.passes.qdq.release import is_quantized
    from edgeopt.source.onnx_file import read_onnx
    from edgeopt.source.tensorflow_models import as_onnx

    assert config.quantize.file is not None
    path = named_path(root, config.quantize.file)
    if not is_quantized(read_onnx(as_onnx(path))):
        raise ModelError(f"[quantize] file = '{config.quantize.file}' has no Q/DQ in its graph: it is a float model")
    if config.budget is not None:
        raise ConfigError(
            f"[budget] changes which layers are quantized, and '{config.quantize.file}' is taken as it is"
        )
    if config.train is not None:
        raise ConfigError(f"[train] makes another network than the one that '{config.quantize.file}' was made from")


def _check_target(config: Config, name: str) -> None:
    target = find_target(name)
    available = target.can_compile()
    if not available.ok:
        raise TargetError(f"target '{name}' is not available here: {available.reason}")
    for precision in ("fp32", target.reduced(config.precision)):
        if precision is not None:
            target.check(engine_settings(config, name, precision))


def _check_candidates(config: Config) -> None:
    """Refuse candidates by name that no target of the recipe has a question for, or that cannot be had."""
    from edgeopt.passes.quantize.scheme import VARIATIONS

    asked, targets = config.compile.candidates, config.compile.targets
    known = {question for name in targets for question in find_target(name).questions}
    for question in () if isinstance(asked, bool) else asked:
        if question not in known:
            raise ConfigError(
                f"[compile] candidates has '{question}', which {', '.join(targets)} cannot be asked. Name others "
                f"({', '.join(sorted(known)) or 'there are none'}), or write true"
            )
        if question in VARIATIONS and config.budget is not None:
            raise ConfigError(
                f"[compile] candidates has '{question}', for which the network is quantized anew, and the search of "
                "[budget] would begin again. Leave one of the two out"
            )


def _listings(config: Config, root: Path, labels: tuple[str, ...] | None, findings: _Findings) -> dict[str, Listing]:
    """List the samples of each set, all with the labels of the first if the recipe gives none."""
    listings: dict[str, Listing] = {}
    for name, source in given_sources(config.data, config.calibrate.images).items():
        with findings.collected():
            try:
                listings[name] = listed(source, root, labels)
            except EdgeoptError as error:
                raise type(error)(f"[data.{name}]: {error}") from error
            labels = labels or listings[name].labels or None
    return listings


def _counts(config: Config, listings: Mapping[str, Listing], goal: Goal, findings: _Findings) -> dict[str, int]:
    """Count how many images each set will have at most. Sets that cannot be read do not count as missing."""
    counts = {name: len(listing.drafts) for name, listing in listings.items()}
    given = set(given_sources(config.data, config.calibrate.images))
    calibrate = config.calibrate
    if "calibration" in counts:
        needed = min(calibrate.minimum_images, calibrate.images)
        with findings.collected():
            if counts["calibration"] < needed:
                origin = listings["calibration"].origin
                raise DataError(too_few(origin, counts["calibration"], counts["calibration"], needed))
    if "train" in counts:
        held_out = held_out_counts(
            config.data,
            given,
            counts["train"],
            calibration_images=calibrate.images,
            minimum_images=calibrate.minimum_images,
        )
        with findings.collected():
            refuse_too_few(held_out, counts["train"], listings["train"].origin)
        counts |= held_out
    for name in needed_splits(config, goal):
        with findings.collected():
            if name not in counts and name not in given and "train" not in given:
                raise missing_split(config, name)
    return counts


def _source(config: Config, root: Path, labels: tuple[str, ...], findings: _Findings) -> Source | None:
    """Return the network. Warnings of opening it are left to the stage that opens it."""
    opened: Callable[[Config, Path, tuple[str, ...]], Source]
    opened = source_to_train if config.trains else source_to_export
    logger = logging.getLogger("edgeopt.source")
    before = logger.level
    logger.setLevel(logging.ERROR)
    source: Source | None = None
    try:
        with findings.collected():
            source = opened(config, root, labels)
            if config.train is not None and config.trains:
                _check_training(source, config.train)
            if config.compress is not None and config.compress.train is not None:
                _check_training(source, config.compress.train)
            if config.compress is not None:
                require_prunable(source, config.compress)
            if config.train is not None and config.train.quantize:
                _check_quantized_training(source, config.train)
            _check_teachers(source, config)
    finally:
        logger.setLevel(before)
    _forget_missing_labels(findings)
    return source


def _check_classes(config: FitConfig, train: Listing, labels: tuple[str, ...]) -> None:
    """Refuse classes with too few pictures to be learnt, as far as label files tell."""
    from edgeopt.fit import require_learnable
    from edgeopt.fit.regions import BACKGROUND

    if config.regions is not None:
        if train.task != "detection":
            raise DataError(f"{train.origin} has labels for {train.task}, and [fit.regions] learns from boxes")
        shown = Counter(
            int(index) for draft in train.drafts if isinstance(draft.target, Boxes) for index in draft.target.classes
        )
        # The background is never short of regions.
        counts_of = [*(shown[index] for index in range(len(labels))), 2]
        require_learnable(counts_of, [*labels, BACKGROUND], config, train.origin)
        return
    if train.task != "classification":
        raise DataError(
            f"{train.origin} has labels for {train.task}, and [fit] fits classifiers. Give classes, or add "
            "[fit.regions] for a detector"
        )
    counts = Counter(draft.target for draft in train.drafts)
    require_learnable([counts[index] for index in range(len(labels))], labels, config, train.origin)


def _check_teachers(source: Source, config: Config) -> None:
    """Refuse to compare a detector of two stages with a teacher, which proposes other regions."""
    from edgeopt.train.objective import is_two_stage

    asked = {"[compress]": config.compress, "[train] quantize": config.train is not None and config.train.quantize}
    taught = " and ".join(name for name, value in asked.items() if value)
    if taught and source.module is not None and is_two_stage(source.spec):
        raise ConfigError(
            f"'{source.spec.name}' proposes regions of its own, which cannot be compared with a teacher's: {taught} "
            "cannot be had. Remove what has a teacher"
        )


def _check_training(source: Source, config: TrainConfig) -> None:
    """Look for the device, and freeze what training will freeze, in a module that nobody trains."""
    from edgeopt.train.device import place_of
    from edgeopt.train.logs import require_writers
    from edgeopt.train.optimizer import freeze

    assert source.module is not None
    place_of(config)
    require_writers(config)
    freeze(source.module, config.freeze)


def _check_quantized_training(source: Source, config: TrainConfig) -> None:
    """Look for what the training of INT8 graphs needs, which comes after everything else."""
    from edgeopt.train.logs import require_writers
    from edgeopt.train.objective import require_loss

    require_loss(source.spec, config.loss)
    require_writers(config)


def _forget_missing_labels(findings: _Findings) -> None:
    """Drop that nobody names the classes where something else was found before: most likely it is why."""
    from edgeopt.source.specification import UnnamedClassesError

    if len(findings.problems) > 1 and isinstance(findings.problems[-1], UnnamedClassesError):
        findings.problems.pop()


def _size_bytes(source: Source, config: Config, root: Path) -> int:
    """Return the size of the network's weights."""
    if source.module is not None:
        tensors = (*source.module.parameters(), *source.module.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    from edgeopt.source import source_files

    model = config.model if config.fit is None else config.model.frozen
    return sum(path.stat().st_size for path in source_files(model, root))


def _needed_bytes(config: Config, size: int) -> int:
    """About what a build of a network of so many bytes writes into one folder, if all of it is made.

    The exported and the optimized graph, and of each target the FP32 engine, a reduced and a quantized one, each with
    its graph, in the work folder and again in the bundle.
    """
    training = _TRAINING_COPIES if config.trains else 0
    return _SPARE_BYTES + size * (2 + training + 4 * len(config.compile.targets))


def _check_folder(folder: Path, needed: int) -> None:
    """Refuse a folder that cannot be written, or whose disk is too small."""
    there = require_writable(folder)
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"{there} has {free / 1e6:.0f} MB free, and this build writes about {needed / 1e6:.0f} MB. Free some "
            "space, or choose another folder"
        )
