"""How a diagnosis looks in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edgeopt.diagnose import Diagnosis, Effect, LayerDiagnosis

_SHOWN_LAYERS = 12


def diagnosis_view(diagnosis: Diagnosis) -> RenderableType:
    """Halves, the worst layers, what was tried, and the suggestion."""
    shown = diagnosis.layers[:_SHOWN_LAYERS]
    hidden = len(diagnosis.layers) - len(shown)
    findings = [f"{layer.name}: {layer.finding}" for layer in shown if layer.finding]
    lines = [*findings, *diagnosis.notes, diagnosis.suggestion]
    layers = _layers(shown)
    layers.caption = f"{diagnosis.images} images" + (f"; {hidden} better layers are in --json" if hidden else "")
    return Group(_halves(diagnosis), layers, _tried(diagnosis), *(escape(line) for line in lines))


def _halves(diagnosis: Diagnosis) -> Table:
    table = _table("quantized", "SQNR dB", "KL")
    for name, effect in (
        ("all", diagnosis.whole),
        ("weights only", diagnosis.weights_only),
        ("activations only", diagnosis.activations_only),
    ):
        table.add_row(name, *_effect(effect))
    return table


def _layers(layers: tuple[LayerDiagnosis, ...]) -> Table:
    table = _table("layer", "operator", "only dB", "all but dB", "own dB", "own KL", "weight ×", "input ×", "outliers")
    for layer in layers:
        table.add_row(
            escape(layer.name),
            layer.operator,
            f"{layer.only.sqnr_db:.1f}",
            "–" if layer.without is None else f"{layer.without.sqnr_db:.1f}",
            "–" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
            "–" if layer.kl is None else f"{layer.kl:.4f}",
            "–" if layer.weight_range_ratio is None else f"{layer.weight_range_ratio:.1f}",
            max((f"{each.channel_range_ratio:.1f}" for each in layer.inputs), key=float, default="–"),
            max((f"{each.outlier_share:.2f}" for each in layer.inputs), key=float, default="–"),
        )
    return table


def _tried(diagnosis: Diagnosis) -> Table:
    table = _table("tried on", "repair", "SQNR dB", "KL", "gain dB")
    for tried in diagnosis.tried:
        table.add_row(escape(tried.layer), tried.repair, *_effect(tried.effect), f"{tried.gain_db:+.1f}")
    return table


def _effect(effect: Effect) -> tuple[str, str]:
    return f"{effect.sqnr_db:.1f}", "–" if effect.kl is None else f"{effect.kl:.4f}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table
