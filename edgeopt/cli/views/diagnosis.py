"""Show a diagnosis in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.diagnose import Diagnosis, Effect, LayerDiagnosis

_SHOWN_LAYERS = 12


def diagnosis_view(diagnosis: Diagnosis) -> RenderableType:
    """Halves, the worst layers, what was tried, and the suggestion."""
    shown = diagnosis.layers[:_SHOWN_LAYERS]
    hidden = len(diagnosis.layers) - len(shown)
    findings = [f"{layer.name}: {layer.finding}" for layer in diagnosis.striking]
    layers = _layers(shown)
    layers.caption = (
        f"{diagnosis.images} images{f'; {hidden} better layers are in --json' if hidden else ''}. alone, without: SQNR "
        "in dB of the outputs with this layer alone quantized, and with all but it; own, KL: of its own output; "
        "weights, inputs: largest over median channel; outliers: share of the input's range for .1 % of its values."
    )
    parts: list[RenderableType] = [*(Text(f"output {line}") for line in diagnosis.outputs), _halves(diagnosis), layers]
    if diagnosis.tried:
        parts.append(_tried(diagnosis))
    return Group(*parts, *(Text(f"{line}\n") for line in (*findings, *diagnosis.notes)), _suggestion(diagnosis))


def _suggestion(diagnosis: Diagnosis) -> Text:
    return Text.assemble(("Suggestion: ", "bold"), diagnosis.suggestion)


def _halves(diagnosis: Diagnosis) -> Table:
    table = _table("quantized", "SQNR dB", "KL")
    for name, effect in (
        ("all", diagnosis.whole),
        ("weights only", diagnosis.weights_only),
        ("activations only", diagnosis.activations_only),
    ):
        table.add_row(name, *_effect(effect))
    if diagnosis.saturation is not None:
        table.add_row("all, on x86 without VNNI", *_effect(diagnosis.saturation.effect))
    return table


def _layers(layers: tuple[LayerDiagnosis, ...]) -> Table:
    table = _table("layer", "alone", "without", "own", "KL", "weights", "inputs", "outliers")
    for layer in layers:
        table.add_row(
            Text(layer.name),
            f"{layer.only.sqnr_db:.1f}",
            _number(None if layer.without is None else layer.without.sqnr_db, ".1f"),
            _number(layer.sqnr_db, ".1f"),
            _number(layer.kl, ".2g"),
            _number(layer.weight_range_ratio, ".1f"),
            _number(max((each.channel_range_ratio for each in layer.inputs), default=None), ".1f"),
            _number(max((each.outlier_share for each in layer.inputs), default=None), ".0%"),
        )
    return table


def _tried(diagnosis: Diagnosis) -> Table:
    table = _table("tried on", "repair", "SQNR dB", "KL", "gain dB")
    before = None
    for tried in diagnosis.tried:
        name = "" if tried.layer == before else tried.layer or "all layers, anew"
        before = tried.layer
        style = "bold" if tried in diagnosis.chosen else ""
        table.add_row(Text(name), tried.repair, *_effect(tried.effect), f"{tried.gain_db:+.1f}", style=style)
    return table


def _effect(effect: Effect) -> tuple[str, str]:
    return f"{effect.sqnr_db:.1f}", _number(effect.kl, ".2g")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _table(first: str, *others: str) -> Table:
    """Names fold, for they tell layers apart; figures keep to one line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="left" if column == "repair" else "right", overflow="fold")
    return table
