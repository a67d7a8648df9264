"""Plots of a diagnosis: the costliest layers, and the tensors of the worst."""

from __future__ import annotations

import math

from edgeopt.diagnose import Diagnosis, Effect, InputFigures
from edgeopt.report.svg import LEFT, RIGHT, WIDTH, Bar, bars, drawing, legend, short, text

_SHOWN_LAYERS = 12
_SHOWN_TENSORS = 4
_ROOM = WIDTH - LEFT - RIGHT
_NAME = 26
_HISTOGRAM, _HISTOGRAM_STEP = 60, 88
_CHANNELS, _CHANNELS_STEP = 56, 70
_DECADES = 3.0
"""Most decades of magnitude in the picture of channels."""


def halves(diagnosis: Diagnosis) -> str:
    """Plot the cost of quantized weights and of quantized activations by themselves."""
    effects = {
        "all quantized": diagnosis.whole,
        "weights only": diagnosis.weights_only,
        "activations only": diagnosis.activations_only,
    }
    rows = [Bar(name, _noise(effect), _figures(effect), "c3") for name, effect in effects.items()]
    return bars(rows, "Noise in the outputs by what is quantized")


def layers(diagnosis: Diagnosis) -> str:
    """Plot the cost of each of the worst layers, quantized alone."""
    rows = [Bar(each.name, _noise(each.only), _figures(each.only)) for each in diagnosis.layers[:_SHOWN_LAYERS]]
    return bars(rows, "Noise in the outputs with one layer quantized")


def outliers(diagnosis: Diagnosis) -> str:
    """Histograms of quantized activations, counts on a logarithmic axis, over the range that their quantizer has."""
    shown = _tensors(diagnosis)
    parts = [part for row, (name, seen) in enumerate(shown) for part in _histogram(name, seen, row * _HISTOGRAM_STEP)]
    height = len(shown) * _HISTOGRAM_STEP
    parts += legend({"values, logarithmic": "fill c3", "the quantizer's range": "band"}, height)
    return drawing(height + 18, parts, "Values of quantized activations, and what their quantizers cover")


def channels(diagnosis: Diagnosis) -> str:
    """Magnitudes of a tensor's channels, the largest first, on a logarithmic axis: one scale has to serve them all."""
    shown = _tensors(diagnosis)
    parts = [part for row, (name, seen) in enumerate(shown) for part in _channels(name, seen, row * _CHANNELS_STEP)]
    return drawing(len(shown) * _CHANNELS_STEP + 2, parts, "Magnitudes of the channels of quantized activations")


def _tensors(diagnosis: Diagnosis) -> list[tuple[str, InputFigures]]:
    """Quantized activations by the layer that reads them: first where something stands out, no tensor twice."""
    worst = sorted(diagnosis.layers[:_SHOWN_LAYERS], key=lambda layer: not layer.finding)
    found: dict[str, tuple[str, InputFigures]] = {}
    for layer in worst:
        for number, seen in enumerate(layer.inputs, start=1):
            name = f"{layer.name} #{number}" if len(layer.inputs) > 1 else layer.name
            if seen.histogram:
                found.setdefault(seen.tensor, (name, seen))
    return list(found.values())[:_SHOWN_TENSORS]


def _histogram(name: str, seen: InputFigures, top: float) -> list[str]:
    base = top + _HISTOGRAM
    low, high = min(seen.minimum, seen.low), max(seen.maximum, seen.high)
    scale = _ROOM / max(high - low, 1e-30)
    rarest = min((share for share in seen.histogram if share > 0.0), default=0.1)
    decades = 0.5 - math.log10(rarest)
    clipped = f", {seen.clipped_share:.1%} clipped" if seen.clipped_share >= 0.0005 else ""
    start, width = LEFT + scale * (seen.minimum - low), scale * (seen.maximum - seen.minimum) / len(seen.histogram)
    covered = (
        f'<rect class="band" x="{LEFT + scale * (seen.low - low):.1f}" y="{top + 18:.0f}" '
        f'width="{scale * (seen.high - seen.low):.1f}" height="{_HISTOGRAM - 18}"/>'
    )
    drawn = [
        f'<rect class="fill c3" x="{start + index * width:.1f}" y="{base - bar:.1f}" width="{max(0.8, width):.1f}" '
        f'height="{bar:.1f}"/>'
        for index, share in enumerate(seen.histogram)
        if share > 0.0
        for bar in [(_HISTOGRAM - 20) * (math.log10(share) + decades) / decades]
    ]
    return [
        text(LEFT, top + 12, short(name, _NAME), "start", "strong"),
        text(WIDTH - RIGHT, top + 12, f"outliers take {seen.outlier_share:.0%}{clipped}", "end"),
        covered,
        *drawn,
        f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>',
        text(LEFT, base + 14, f"{low:.3g}", "start"),
        text(WIDTH - RIGHT, base + 14, f"{high:.3g}", "end"),
    ]


def _channels(name: str, seen: InputFigures, top: float) -> list[str]:
    base = top + _CHANNELS
    largest = max(seen.channels, default=0.0) or 1.0
    width = _ROOM / max(1, len(seen.channels))
    drawn = [
        f'<rect class="fill c2" x="{LEFT + index * width:.1f}" y="{base - bar:.1f}" '
        f'width="{max(0.8, width - 1.0):.1f}" height="{bar:.1f}"/>'
        for index, magnitude in enumerate(seen.channels)
        if magnitude > 0.0
        for bar in [(_CHANNELS - 20) * max(0.03, 1.0 + math.log10(magnitude / largest) / _DECADES)]
    ]
    return [
        text(LEFT, top + 12, short(name, _NAME), "start", "strong"),
        text(WIDTH - RIGHT, top + 12, f"largest {largest:.3g}, {seen.channel_range_ratio:.1f} × the median", "end"),
        *drawn,
        f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>',
    ]


def _noise(effect: Effect) -> float:
    """Noise over signal, in amplitude: unlike decibels, longer is worse."""
    return float(10.0 ** (-effect.sqnr_db / 20.0))


def _figures(effect: Effect) -> str:
    divergence = "" if effect.kl is None else f", KL {effect.kl:.2g}"
    return f"{100.0 * _noise(effect):.2g} % ({effect.sqnr_db:.1f} dB{divergence})"
