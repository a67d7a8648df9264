"""Choose an engine's threads and precision by measuring them on this machine, and keep the choice in the bundle."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from edgeopt.benchmark.results import LatencyResult
from edgeopt.benchmark.run import Progress, benchmark_variants
from edgeopt.bundle import Bundle, EngineSettings, Variant
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError, TargetError
from edgeopt.hardware import Cpu, machine
from edgeopt.measure.subject import Array
from edgeopt.runtime import open_variant
from edgeopt.spec import Struct, replace

TUNABLE = ("ov", "ort")
_WORTH = 0.02
"""A setting must be faster than the present one by this share, with the whole interval, to replace it."""
_MOST_THREADS = 16
"""Image models at batch 1 do not gain beyond."""

_BF16 = frozenset(("avx512_bf16", "amx_bf16"))

_log = logging.getLogger(__name__)


class Tuning(Struct):
    """What was tried for one variant, and what was chosen."""

    variant: str
    chosen: EngineSettings
    tried: dict[str, LatencyResult]
    """By `describe`; the present settings first."""

    @property
    def speedup(self) -> float:
        """Of the chosen settings over those before."""
        ratio = self.tried[describe(self.chosen)].ratio
        return 1.0 if ratio is None else ratio.speedup


def tune(
    bundle: Bundle,
    images: Sequence[Array],
    config: BenchmarkConfig,
    *,
    variant: str,
    bf16: bool = False,
    progress: Progress | None = None,
) -> tuple[Bundle, Tuning]:
    """Measure one variant under several settings in alternation, and store the fastest in the bundle.

    Args:
        bundle: an opened bundle; its manifest is changed on disk where another setting is faster.
        images: decoded (H, W, 3) uint8 BGR images.
        config: warm-up and duration of each setting.
        variant: of target ``ov`` or ``ort``.
        bf16: also try bfloat16 for the float rest of a quantized variant on OpenVINO. Where it is chosen, the variant's
            accuracy is forgotten, because it was measured in other numbers: evaluate the bundle again.
        progress: told how far it is.

    Returns:
        The bundle as it is afterwards, and what was measured.

    Raises:
        TargetError: a variant whose engine has no such settings, or that does not run here.
        MeasurementError: the machine was disturbed; nothing is changed.
    """
    present = bundle.variant(variant)
    if present.target not in TUNABLE:
        raise TargetError(f"variant '{variant}' has target '{present.target}'; only {', '.join(TUNABLE)} can be tuned")
    choices = {describe(settings): settings for settings in candidates(present, machine().cpu, bf16=bf16)}
    with ExitStack() as stack:
        predictors = {
            name: stack.enter_context(open_variant(bundle, replace(present, engine=settings)))
            for name, settings in choices.items()
        }
        tried = benchmark_variants(predictors, images, config, baseline=next(iter(choices)), progress=progress)
    chosen = choices[fastest(tried)]
    tuning = Tuning(variant=variant, chosen=chosen, tried=tried)
    if chosen != present.engine:
        bundle = bundle.record(variant, **_measured(tuning, present))
        _log.info("variant '%s': %s is %.2f times as fast", variant, describe(chosen), tuning.speedup)
    return bundle, tuning


def _measured(tuning: Tuning, before: Variant) -> dict[str, Any]:
    """What the bundle records of the chosen settings; ratios to the old settings are none to the FP32 baseline."""
    result = replace(tuning.tried[describe(tuning.chosen)], name=tuning.variant, ratio=None)
    record = {
        "engine": tuning.chosen,
        "latency": msgspec.to_builtins(result),
        "p50_ms": result.end_to_end.p50_ms,
    }
    return record if tuning.chosen.precision == before.engine.precision else {**record, "accuracy": None}


def candidates(variant: Variant, cpu: Cpu, *, bf16: bool = False) -> list[EngineSettings]:
    """Settings to try, the present ones first.

    Threads: one, half of the cores (the physical ones, where two share a core), all. The FP32 baseline is never tried
    in bf16: it stays what its name says.
    """
    counts = sorted({1, max(1, cpu.cores // 2), cpu.cores})
    found = [variant.engine, *(replace(variant.engine, threads=min(count, _MOST_THREADS)) for count in counts)]
    able = variant.target == "ov" and not _BF16.isdisjoint(cpu.features)
    if bf16 and able and variant.precision != "fp32":
        found += [replace(settings, precision="bf16") for settings in found]
    return list({describe(settings): settings for settings in found}.values())


def fastest(tried: Mapping[str, LatencyResult]) -> str:
    """The setting to keep: the first one, unless another is faster beyond doubt.

    Raises:
        MeasurementError: the machine was disturbed, or the run was interrupted.
    """
    reasons = {reason for result in tried.values() for reason in result.invalid}
    if any(result.partial for result in tried.values()):
        reasons.add("it was interrupted")
    if reasons:
        raise MeasurementError(f"nothing was tuned, the measurement is not valid: {'; '.join(sorted(reasons))}")
    present, *others = tried
    better = {
        name: ratio.estimate
        for name in others
        if (ratio := tried[name].ratio) is not None and ratio.high < 1.0 - _WORTH
    }
    return min(better, key=lambda name: better[name], default=present)


def describe(settings: EngineSettings) -> str:
    """Settings in a few words, unique among those that are tried."""
    threads = f"{settings.threads} threads" if settings.threads else "default threads"
    return f"{threads}, {settings.precision}"
