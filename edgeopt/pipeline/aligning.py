"""The stage that aligns INT8 variants' scores with the baseline's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgeopt.dataset import Dataset
from edgeopt.evaluate.align import Answers, answers, can_align, fit_alignment
from edgeopt.evaluate.run import chosen_images
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.variants import BuiltVariant, engine_code, odd_kernels
from edgeopt.pipeline.workspace import Made
from edgeopt.postprocess.alignment import to_own
from edgeopt.references import code_of
from edgeopt.spec import Alignment, ScoreCurves, Temperature, code_in
from edgeopt.targets import find_target
from edgeopt.typed import from_json

_FILE = "alignment.json"
_EXAMPLE = 0.5
"""Score of the baseline whose counterpart is told."""


def aligned(job: Job, engines: Sequence[BuiltVariant]) -> list[BuiltVariant]:
    """Return the engines, the baseline first, with the alignment of those that need one.

    As accuracy is, scores are those of the graph as written where this processor's kernels compute others.
    """
    baseline, *others = engines
    quantized = [engine for engine in others if engine.precision == "int8"]
    sets = list(_sets(job))
    if not job.config.align.enabled or not quantized or not sets or not can_align(baseline.spec):
        return list(engines)

    def make(folder: Path, _scratch: Path) -> Made:
        expected = _answers(baseline, sets)
        found = {engine.name: fit_alignment(engine.spec, expected, _answers(engine, sets)) for engine in quantized}
        (folder / _FILE).write_bytes(msgspec.json.encode(found))
        on = " and ".join(f"{len(images)} {role} images" for role, images in sets)
        return Made(f"on {on}: {'; '.join(f'{name} {_said(each)}' for name, each in found.items())}")

    determinants = {
        "engines": [engine.compiled.key for engine in (baseline, *quantized)],
        "absent": [engine.absent for engine in (baseline, *quantized)],
        "align": job.config.align,
        "named": code_of(*code_in(baseline.spec.decoding)),
        "data": [images.fingerprint() for _, images in sets],
    }
    libraries = dict.fromkeys(name for engine in engines for name in find_target(engine.target).distributions)
    code = ("edgeopt.evaluate", "edgeopt.runtime", "edgeopt.dataset")
    codes = dict.fromkeys(engine_code(engine.target) for engine in engines)
    artifact = job.stage("align", determinants, make, tuple(libraries), (*code, *codes))
    alignments = from_json(artifact.file(_FILE).read_bytes(), dict[str, Alignment | None])
    return [dataclasses.replace(engine, alignment=alignments.get(engine.name)) for engine in engines]


def _sets(job: Job) -> Iterator[tuple[str, Dataset]]:
    """Yield the sets to look at: validation, which nothing was fitted on, and then calibration."""
    wanted = job.config.align.images
    for role in ("validation", "calibration"):
        dataset: Dataset | None = getattr(job.splits, role)
        if dataset is not None and wanted > 0:
            yield role, dataset.subset(chosen_images(len(dataset), wanted))
            wanted -= len(dataset)


def _answers(engine: BuiltVariant, sets: Sequence[tuple[str, Dataset]]) -> Answers:
    with engine.open(as_written=odd_kernels(engine, sets[0][1]) > 0.0) as predictor:
        return Answers.joined([answers(predictor, images) for _, images in sets])


def _said(alignment: Alignment | None) -> str:
    """Say what is moved, for people."""
    if alignment is None:
        return "keeps its scores"
    if isinstance(alignment, Temperature):
        return f"has temperature {alignment.value:.3f}"
    return f"{float(to_own(_EXAMPLE, alignment.curve)):.3f} counts as {_EXAMPLE:g}{_classes(alignment)}"


def _classes(alignment: ScoreCurves) -> str:
    count = len(alignment.classes)
    return f", and {count} {'class goes its' if count == 1 else 'classes go their'} own way" if count else ""
