"""Measure the candidates of an INT8 variant on this machine, and keep the fastest accepted one for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from edgeopt.benchmark.bundles import benchmark_bundle, found_here
from edgeopt.benchmark.run import benchmark_scenario
from edgeopt.benchmark.tuning import fastest
from edgeopt.bundle import Bundle, Manifest, Variant
from edgeopt.bundle.figures import acceptance
from edgeopt.bundle.records import CandidateChoice, LatencyResult, now
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MissingExtraError, TargetError
from edgeopt.hardware import ThisMachine
from edgeopt.measure.subject import Array
from edgeopt.progress import Update
from edgeopt.runtime import Predictor, open_variant
from edgeopt.runtime.choice import identity_of_target
from edgeopt.runtime.session import availability
from edgeopt.spec import Struct

_log = logging.getLogger(__name__)


class CandidateTuning(Struct):
    """Candidates of one variant that were measured here, and the one that runs from now on."""

    variant: str
    """The default, which a candidate has to beat beyond doubt."""
    machine: str
    """Kind of machine that the choice holds for, in words."""
    choice: CandidateChoice
    tried: dict[str, LatencyResult]
    """By variant; the default first."""
    left_out: dict[str, str]
    """Reasons why candidates were not measured."""

    @property
    def speedup(self) -> float:
        """Speedup of the chosen one over the first one that loaded, which is the default where that does."""
        ratio = self.tried[self.choice.chosen].ratio
        return 1.0 if ratio is None else ratio.speedup

    @property
    def summary(self) -> str:
        """The choice and its reason, in one line."""
        chosen, first = self.choice.chosen, next(iter(self.tried))
        if chosen != first:
            return f"{chosen} runs here from now on, {self.speedup:.2f} times as fast as {first}"
        if chosen == self.variant:
            return f"{chosen} stays: no candidate is faster beyond doubt"
        return f"{chosen} runs here from now on: {self.variant} does not load, and no other is faster beyond doubt"


def candidates_of(manifest: Manifest, name: str) -> list[Variant]:
    """Return the candidates beside a variant; of a candidate, those beside its default."""
    of = manifest.variant(name).candidate
    default = name if of is None else of.of
    return [each for each in manifest.variants if each.candidate is not None and each.candidate.of == default]


def with_candidates(manifest: Manifest, loaded: str) -> str:
    """Return the variant whose candidates to measure where `loaded` runs: of its target first, else of another here.

    What runs so far need not be INT8: on a GPU FP16 goes first until INT8 was measured to be faster.
    """
    defaults = {each.candidate.of for each in manifest.variants if each.candidate is not None}
    target = manifest.variant(loaded).target
    found = [each for each in manifest.variants if each.name in defaults and availability(each.target).ok]
    return next((each.name for each in sorted(found, key=lambda each: each.target != target)), loaded)


def tune_candidates(
    bundle: Bundle,
    images: Sequence[Array],
    config: BenchmarkConfig,
    *,
    variant: str,
    progress: Update | None = None,
) -> tuple[Bundle, CandidateTuning]:
    """Measure a variant's candidates beside it in alternation, and record which one this kind of machine is to run.

    The default stays unless a candidate is faster by more than 2 % with the whole 95 % interval of the ratio; where it
    does not load, the first candidate that does takes its place. What is chosen is then measured beside the baseline,
    so that `load()` can rank it among the other variants.

    Args:
        bundle: an opened bundle; its manifest is changed on disk, its files are not.
        images: decoded (H, W, 3) uint8 BGR images.
        config: warm-up and duration of each.
        variant: the default variant, or one of its candidates.
        progress: told how far it is.

    Returns:
        The bundle as it is afterwards, and what was measured.

    Raises:
        TargetError: there are no candidates, or neither one of them nor the default runs here.
        MeasurementError: the machine was disturbed; nothing is changed.
    """
    manifest, found = bundle.manifest, candidates_of(bundle.manifest, variant)
    if not found:
        raise TargetError(f"variant '{variant}' has no candidates. Build them with [compile] candidates = true")
    assert found[0].candidate is not None
    default = manifest.variant(found[0].candidate.of)
    machine = ThisMachine()
    identity = identity_of_target(default.target, machine)
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        predictors = _opened(bundle, (default, *found), identity.fingerprint, stack, left_out)
        if not predictors:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise TargetError(f"neither variant '{default.name}' nor a candidate of it runs here: {reasons}")
        tried = benchmark_scenario(predictors, images, "singlestream", config, quick=True, progress=progress)
    chosen = fastest(tried)
    choice = CandidateChoice(
        chosen=chosen, recorded=now(), ratios={name: each.ratio for name, each in tried.items() if each.ratio}
    )
    bundle = bundle.record(default.name, choices={**default.choices, identity.fingerprint: choice})
    tuning = CandidateTuning(
        variant=default.name, machine=identity.title, choice=choice, tried=tried, left_out=left_out
    )
    _log.info("%s", tuning.summary)
    return _with_latency(bundle, chosen, images, config), tuning


def _opened(
    bundle: Bundle, variants: Sequence[Variant], fingerprint: str, stack: ExitStack, left_out: dict[str, str]
) -> dict[str, Predictor]:
    """Open the default, and the candidates that may run here; say why not the others."""
    opened = {}
    for each in variants:
        judged = acceptance(each, each.measured.get(fingerprint))
        if each.candidate is not None and not judged.accepted:
            left_out[each.name] = f"it is not accepted: {judged.verdict}"
            continue
        try:
            opened[each.name] = stack.enter_context(open_variant(bundle, each))
        except (TargetError, MissingExtraError) as error:
            left_out[each.name] = f"it does not load here: {error}"
    return opened


def _with_latency(bundle: Bundle, chosen: str, images: Sequence[Array], config: BenchmarkConfig) -> Bundle:
    """Record the chosen one's latency beside the baseline's."""
    results = benchmark_bundle(bundle, images, config, variant=chosen)
    return bundle.record_measured(found_here(results, bundle.manifest))
