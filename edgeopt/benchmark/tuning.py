"""Tune how an engine runs by measuring on this machine, and keep the choice in the bundle for this machine alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import cast

from edgeopt.benchmark.run import benchmark_scenario
from edgeopt.bundle import Bundle, EngineSettings, Mode, Variant
from edgeopt.bundle.records import LatencyResult, ScenarioName
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError, TargetError
from edgeopt.hardware import Cpu, machine, processor_fingerprint
from edgeopt.measure.subject import Array
from edgeopt.metrics import agreement, detection_agreement
from edgeopt.postprocess import Classification, Detections
from edgeopt.progress import Update
from edgeopt.runtime import Predictor, open_variant, settings_here
from edgeopt.runtime.session import find_target
from edgeopt.spec import Struct, replace

_SCENARIOS: dict[Mode, ScenarioName] = {"latency": "singlestream", "throughput": "offline"}
_WORTH = 0.02
"""Share by which a setting must be faster than the present one, with the whole interval, to replace it."""
_MOST_THREADS = 16
"""Most threads that are tried; image models at batch 1 gain nothing beyond."""
_BF16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
_AMX = "amx_int8"
_BF16_IMAGES = 32
"""Images needed to tell whether bfloat16 changes answers."""
_BF16_AGREEMENT = 0.99

_log = logging.getLogger(__name__)


class Tuning(Struct):
    """Settings that were tried for one variant, and the chosen ones."""

    variant: str
    mode: Mode
    processor: str
    """Fingerprint of the processor that the choice holds for (`hardware.processor_fingerprint`)."""
    chosen: EngineSettings
    tried: dict[str, LatencyResult]
    """Results by `describe`; the present settings first."""
    left_out: dict[str, str]
    """Settings that were not tried, with reasons."""

    @property
    def speedup(self) -> float:
        """Speedup of the chosen settings over those before."""
        ratio = self.tried[describe(self.chosen)].ratio
        return 1.0 if ratio is None else ratio.speedup


def tune(
    bundle: Bundle,
    images: Sequence[Array],
    config: BenchmarkConfig,
    *,
    variant: str,
    mode: Mode = "latency",
    progress: Update | None = None,
) -> tuple[Bundle, Tuning]:
    """Measure one variant under several settings in alternation, and store the fastest in the bundle for this machine.

    Args:
        bundle: an opened bundle; its manifest is changed on disk, its files are not.
        images: decoded (H, W, 3) uint8 BGR images; with fewer than 32, bfloat16 is not tried.
        config: warm-up and duration of each setting.
        variant: of a target with settings to choose, such as ``ov`` or ``ort``.
        mode: time single images, or many at once.
        progress: told how far it is.

    Returns:
        The bundle as it is afterwards, and what was measured.

    Raises:
        TargetError: a variant whose engine has no such settings, or that does not run here.
        MeasurementError: the machine was disturbed; nothing is changed.
    """
    present = bundle.variant(variant)
    if not find_target(present.target).tunable:
        raise TargetError(f"variant '{variant}' has target '{present.target}', which has no settings to choose")
    here = processor_fingerprint()
    unmeasured: dict[str, str] = {}
    layers = _slow_layers(bundle, present, mode, unmeasured)
    choices = {describe(settings): settings for settings in candidates(present, machine().cpu, mode, layers)}
    with ExitStack() as stack:
        predictors = {
            name: stack.enter_context(open_variant(bundle, present, settings=settings))
            for name, settings in choices.items()
        }
        left_out = unmeasured | leave_out_bf16(predictors, images)
        tried = benchmark_scenario(predictors, images, _SCENARIOS[mode], config, quick=True, progress=progress)
    chosen = choices[fastest(tried)]
    tuning = Tuning(variant=variant, mode=mode, processor=here, chosen=chosen, tried=tried, left_out=left_out)
    tuned = {**present.tuned, here: {**present.tuned.get(here, {}), mode: chosen}}
    _log.info("variant '%s': %s is %.2f times as fast", variant, describe(chosen), tuning.speedup)
    return bundle.record(variant, tuned=tuned), tuning


def _slow_layers(bundle: Bundle, variant: Variant, mode: Mode, left_out: dict[str, str]) -> tuple[str, ...]:
    """Return the layers of an INT8 variant that an older kernel computes faster on a processor with AMX.

    Where they cannot be given one, the reason goes to `left_out`.
    """
    target = find_target(variant.target)
    if target.slow_layers is None or variant.precision != "int8" or _AMX not in machine().cpu.features:
        return ()
    plain = settings_here(replace(variant, tuned={}), mode)
    content = bundle.engine(variant.name)
    try:
        return target.slow_layers(bundle.file(variant.name) if content is None else content, plain)
    except TargetError as error:
        left_out["layers by VNNI"] = str(error)
        return ()


def candidates(variant: Variant, cpu: Cpu, mode: Mode, slow_layers: tuple[str, ...] = ()) -> list[EngineSettings]:
    """List the settings to try, each once: the present ones first, then those without tuning.

    Threads: one, half of the cores (the physical ones, where two share a core), all. For throughput so many streams
    where the target has them, and its latency hint. The FP32 baseline is never tried in bf16: it stays what it is
    called. Where `slow_layers` are faster by another kernel, each setting is tried with that, too.
    """
    counts = sorted({min(count, _MOST_THREADS) for count in (1, max(1, cpu.cores // 2), cpu.cores)})
    plain = settings_here(replace(variant, tuned={}), mode)
    found = [settings_here(variant, mode), plain]
    tunable = find_target(variant.target).tunable
    if mode == "throughput" and "streams" in tunable:
        found += [replace(plain, streams=count) for count in counts] + [replace(plain, hint="latency")]
    elif "threads" in tunable:
        found += [replace(plain, threads=count) for count in counts]
    if "precision" in tunable and variant.precision != "fp32" and not _BF16.isdisjoint(cpu.features):
        found += [replace(settings, precision="bf16") for settings in found]
    if "kernels" in tunable and slow_layers:
        found += [replace(settings, vnni_layers=slow_layers) for settings in found]
    named: dict[str, EngineSettings] = {}
    for settings in found:  # what runs now keeps its name, also where as many other layers were found this time
        named.setdefault(describe(settings), settings)
    return list(named.values())


def leave_out_bf16(predictors: dict[str, Predictor], images: Sequence[Array]) -> dict[str, str]:
    """Remove the settings in bfloat16, with the reason, unless they answer as the same variant does in float32."""
    names = [name for name, predictor in predictors.items() if predictor.variant.engine.precision == "bf16"]
    baseline = next((each for each in predictors.values() if each.variant.engine.precision == "fp32"), None)
    if not names or baseline is None:
        return {}
    if len(images) < _BF16_IMAGES:
        reason = f"{len(images)} images do not tell whether bf16 changes answers, {_BF16_IMAGES} are needed"
    else:
        agreed = answers_agree(baseline, predictors[names[0]], images)
        if agreed >= _BF16_AGREEMENT:
            return {}
        reason = f"bf16 agrees with float32 on {agreed:.1%}, and {_BF16_AGREEMENT:.0%} are asked for"
    for name in names:
        del predictors[name]
    return dict.fromkeys(names, reason)


def answers_agree(baseline: Predictor, other: Predictor, images: Sequence[Array]) -> float:
    """Return the share of images with the same best class; for detectors, Dice's coefficient of their detections."""
    first, second = ([each.predict(image) for image in images] for each in (baseline, other))
    if baseline.spec.task == "detection":
        return detection_agreement(
            cast("list[Detections]", first), cast("list[Detections]", second), len(baseline.spec.labels)
        )
    classes = [[int(cast("Classification", result).classes[0]) for result in results] for results in (first, second)]
    return agreement(*classes)


def fastest(tried: Mapping[str, LatencyResult]) -> str:
    """Choose the setting to keep: the first one, unless another is faster beyond doubt.

    Raises:
        MeasurementError: the machine was disturbed, or the run was interrupted.
    """
    reasons = {reason for result in tried.values() for reason in result.invalid}
    if any(result.partial for result in tried.values()):
        reasons.add("it was interrupted")
    if reasons:
        raise MeasurementError(f"nothing was tuned, the measurement is not valid: {'; '.join(sorted(reasons))}")
    return faster_beyond_doubt(tried)


def faster_beyond_doubt(tried: Mapping[str, LatencyResult]) -> str:
    """Choose the first one, unless another's whole interval is faster by more than 2 %; of several the fastest."""
    present, *others = tried
    better = {
        name: ratio.estimate
        for name in others
        if (ratio := tried[name].ratio) is not None and ratio.high < 1.0 - _WORTH
    }
    return min(better, key=lambda name: better[name], default=present)


def describe(settings: EngineSettings) -> str:
    """Describe settings in a few words, unique among those that are tried."""
    threads = f"{settings.threads} threads" if settings.threads else "default threads"
    streams = f", {settings.streams} streams" if settings.streams else ""
    kernels = f", {len(settings.vnni_layers)} layers by VNNI" if settings.vnni_layers else ""
    return f"{threads}, {settings.hint}{streams}, {settings.precision}{kernels}"
