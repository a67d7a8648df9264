"""Enroll: add a class to a bundle of nearest prototypes on the device, signed off by pictures of its own.

The engines stay as they are: the class is rows in the decoding of the bundle's specification. Neither torch nor onnx is
needed, nor the pictures that the other classes were fitted on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeopt.bundle import Bundle, Manifest
from edgeopt.bundle.records import Enrolled, now
from edgeopt.config import EvaluateConfig
from edgeopt.dataset.files import image_files, inspect
from edgeopt.errors import AccuracyError, BundleError, DataError
from edgeopt.hardware import machine
from edgeopt.postprocess import output_name
from edgeopt.postprocess.neighbors import Prototypes, unit, with_prototypes
from edgeopt.postprocess.results import Floats
from edgeopt.preprocess import read_image
from edgeopt.progress import Update
from edgeopt.runtime.predictor import Predictor, load, open_variant
from edgeopt.runtime.session import availability
from edgeopt.spec import ModelSpec, NeighborsDecoding, replace

RECALL = 0.8
"""Share of the validation pictures that must be recognized, by default."""
_VALIDATION_SHARE = 4
"""One in so many pictures signs the class off, where no others are given."""
_LEAST_PICTURES = 2
_SHOWN = 3


@dataclass(frozen=True)
class Pictures:
    """Pictures of a new class: `files` become prototypes, `validation` signs them off."""

    files: tuple[Path, ...]
    validation: tuple[Path, ...]


def enroll(
    path: str | Path,
    label: str,
    pictures: Pictures,
    *,
    variant: str | None = None,
    recall: float = RECALL,
    progress: Update | None = None,
) -> Enrolled:
    """Add a class to a bundle.

    The variant that runs here makes the prototypes; all that run here must recognize the validation pictures, and the
    prototypes of the classes that are there must keep theirs (each judged by all others), within the bundle's
    ``max_drop``. Otherwise nothing is written.

    Args:
        path: the bundle's folder.
        label: name of the new class.
        pictures: what it looks like.
        variant: makes the prototypes. Default: as `load` chooses.
        recall: least share of the validation pictures that each variant must recognize.
        progress: told how far it is.

    Returns:
        The record that the bundle keeps.

    Raises:
        BundleError: its classes are not prototypes.
        DataError: a class of that name is there, or pictures that cannot be used.
        AccuracyError: the class is not recognized, or takes others' pictures.
        TargetError: no variant runs here.
        StorageError: the bundle cannot be written.
    """
    bundle = Bundle.open(path)
    spec = bundle.manifest.spec
    _check(bundle, label)
    _check_files((*pictures.files, *pictures.validation))
    tell = progress or (lambda *_: None)
    with ExitStack() as stack:
        chosen = stack.enter_context(load(path, variant=variant))
        names = [chosen.variant.name, *_others(bundle, chosen.variant.name)]
        total = len(pictures.files) + len(names) * len(pictures.validation)
        done = 0
        rows = []
        for file in pictures.files:
            rows.append(_embedding(chosen, file))
            done += 1
            tell(done, total)
        new = _with_class(spec, label, np.concatenate(rows))
        kept = _kept_share(spec), _kept_share(new, len(spec.labels))
        recognized: dict[str, int] = {}
        answers: dict[str, list[str]] = {}
        for name in names:
            is_chosen = name == chosen.variant.name
            predictor = chosen if is_chosen else stack.enter_context(open_variant(bundle, bundle.variant(name)))
            found = np.concatenate([_embedding(predictor, file) for file in pictures.validation])
            best = Prototypes(new).logits(found).argmax(axis=1)
            answers[name] = [new.labels[index] for index in best.tolist()]
            recognized[name] = answers[name].count(label)
            done += len(pictures.validation)
            tell(done, total)
    record = Enrolled(
        label=label,
        prototypes=len(pictures.files),
        validation=len(pictures.validation),
        recognized=recognized,
        kept_before=kept[0],
        kept_after=kept[1],
        variant=chosen.variant.name,
        machine=machine().cpu.model,
        recorded=now(),
    )
    _sign_off(record, bundle.manifest, answers, recall)
    bundle.enroll(record, lambda current: _with_class(current, label, np.concatenate(rows)))
    return record


def pictures_of(folder: Path, validation: Path | None = None) -> Pictures:
    """Find the pictures of a new class.

    Args:
        folder: holds them.
        validation: holds those that sign the class off. Default: every fourth of `folder`, evenly over its names.

    Raises:
        DataError: too few, or the same picture in both.
    """
    files = image_files(folder)
    needed = 1 if validation is not None else _LEAST_PICTURES
    if len(files) < needed:
        raise DataError(
            f"{folder} has {len(files)} pictures, and a class needs {_LEAST_PICTURES} at least: one that it is made "
            "from, and one that signs it off. Add some, or give the latter with --validation"
        )
    if validation is None:
        held = max(1, len(files) // _VALIDATION_SHARE)
        places = {int(place) for place in np.linspace(0, len(files) - 1, held).round()}
        chosen = [file for place, file in enumerate(files) if place in places]
        return Pictures(tuple(file for file in files if file not in chosen), tuple(chosen))
    others = image_files(validation)
    if not others:
        raise DataError(f"{validation} has no picture to sign the class off with. Add some, or leave --validation out")
    return Pictures(tuple(files), tuple(others))


def _check(bundle: Bundle, label: str) -> None:
    spec = bundle.manifest.spec
    if not isinstance(spec.decoding, NeighborsDecoding):
        raise BundleError(
            f"the classes of {bundle.path} are part of its graph, and only a build can add one. Build it with [fit] "
            'classifier = "knn" to enroll classes on a device'
        )
    if bundle.is_signed:
        raise BundleError(
            f"{bundle.path} is signed, and a new class would break the signature. Remove the signature, enroll, and "
            "sign the bundle again"
        )
    if not label.strip():
        raise DataError("the new class has no name. Give one with --label")
    if label in spec.labels:
        count = spec.decoding.counts[spec.labels.index(label)]
        raise DataError(
            f"{bundle.path} has the class '{label}' already, with {count} prototypes. Give the new one another name "
            "with --label, or build the bundle again with more pictures of it"
        )


def _check_files(files: Sequence[Path]) -> None:
    """Refuse pictures that cannot be read, and the same one twice: it would sign itself off."""
    seen: dict[str, Path] = {}
    problems = []
    for file in files:
        facts = inspect(file)
        if facts.problem is not None:
            problems.append(facts.problem)
        elif facts.digest in seen:
            problems.append(f"{file} is the same picture as {seen[facts.digest]}")
        seen.setdefault(facts.digest, file)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}. Nothing was enrolled: remove what cannot be used, and try again")


def _others(bundle: Bundle, chosen: str) -> list[str]:
    """Return the other variants that may be chosen here."""
    return [
        each.name
        for each in bundle.manifest.variants
        if each.name != chosen and each.accepted and availability(each.target).ok
    ]


def _embedding(predictor: Predictor, file: Path) -> Floats:
    """Return a picture's embedding: (1, F) of length 1."""
    spec = predictor.spec
    assert isinstance(spec.decoding, NeighborsDecoding)
    inferred = predictor.infer(predictor.prepare(read_image(file)), copy=True)
    rows = inferred.outputs[output_name(spec.decoding.output, spec.outputs)]
    return unit(rows.reshape(1, -1).astype(np.float32))


def _with_class(spec: ModelSpec, label: str, rows: Floats) -> ModelSpec:
    """Return a specification with one more class."""
    assert isinstance(spec.decoding, NeighborsDecoding)
    return replace(spec, decoding=with_prototypes(spec.decoding, [rows]), labels=(*spec.labels, label))


def _kept_share(spec: ModelSpec, classes: int | None = None) -> float:
    """Return the share of the first `classes`' prototypes whose class is the best by all others; 1 without any."""
    prototypes = Prototypes(spec)
    decoding = spec.decoding
    assert isinstance(decoding, NeighborsDecoding)
    counts = np.array(decoding.counts)[prototypes.classes]
    judged = (counts > 1) & (prototypes.classes < (len(spec.labels) if classes is None else classes))
    if not judged.any():
        return 1.0
    best = prototypes.logits_of(prototypes.cosines_among()).argmax(axis=1)
    return float((best == prototypes.classes)[judged].mean())


def _sign_off(record: Enrolled, manifest: Manifest, answers: Mapping[str, list[str]], recall: float) -> None:
    """Refuse a class that is not recognized, or that takes what is others'.

    Raises:
        AccuracyError: with what the pictures were taken for.
    """
    for name, count in record.recognized.items():
        if count < recall * record.validation:
            wrong = Counter(answer for answer in answers[name] if answer != record.label).most_common(_SHOWN)
            taken = ", ".join(f"{number} for '{label}'" for label, number in wrong)
            raise AccuracyError(
                f"'{name}' recognizes {count} of {record.validation} validation pictures of '{record.label}', and "
                f"{recall:.0%} must be; it takes {taken}. Nothing was enrolled: give more and more varied pictures, or "
                "lower --recall"
            )
    limits = EvaluateConfig() if manifest.recipe is None else manifest.recipe.evaluate
    lost = record.kept_before - record.kept_after
    if lost > limits.max_drop + 1e-9:
        raise AccuracyError(
            f"'{record.label}' looks like other classes: {100 * record.kept_before:.1f} % of their prototypes have "
            f"their class without it, {100 * record.kept_after:.1f} % with it, and [evaluate] max_drop allows "
            f"{100 * limits.max_drop:.1f} points. Nothing was enrolled: look for pictures of them among the new ones"
        )
