"""Lines about what a model is."""

from __future__ import annotations

from collections.abc import Iterator

from edgeopt.identify import Candidate, Identification
from edgeopt.spec import (
    CenterCrop,
    Letterbox,
    Normalization,
    Pad,
    Preprocessing,
    Resize,
    ResizeLongerSide,
    ResizeShorterSide,
)

_SHOWN = 8
_WIDTH = 9


def identification_lines(name: str, found: Identification, *, decided: bool = False) -> Iterator[str]:
    """Yield a line for each finding with its reason, then the questions that are left unless they are `decided`."""
    yield _line("model", f"{name}{', quantized already (quantizers in the graph)' if found.quantized else ''}")
    for kind, roles in (("input", found.inputs), ("output", found.outputs)):
        for role in roles:
            yield _line(kind, f"{role.tensor}: {role.role} ({role.why})")
    if found.input_size is not None:
        height, width = found.input_size.value
        yield _line("size", f"{height} × {width} ({found.input_size.why})")
    if found.task is not None:
        yield _line("task", found.task.value)
    several = len(found.candidates) > 1
    for number, candidate in enumerate(found.candidates, start=1):
        yield from _candidate_lines(candidate, f" {number}" if several else "")
    if found.labels is not None:
        names = ", ".join(found.labels.value[:_SHOWN]) + (" …" if len(found.labels.value) > _SHOWN else "")
        yield _line("labels", f"{len(found.labels.value)}: {names} ({found.labels.why})")
    for note in found.notes:
        yield _line("note", note)
    for question in () if decided else found.questions:
        yield _line("missing", f"{question.key}: {question.what}. Give {question.example}")


def _candidate_lines(found: Candidate, number: str) -> Iterator[str]:
    yield _line(f"family{number}", found.family)
    keys = ", ".join(f"{key} = {value}" for key, value in found.decoding.items() if key not in ("preset", "type"))
    yield _line(f"head{number}", f'"{found.name}"{f" with {keys}" if keys else ""}: {found.why}')
    if found.preprocessing is not None:
        prepared = preprocessing_sentence(found.preprocessing.value)
        yield _line(f"images{number}", f"{prepared} ({found.preprocessing.why})")


def preprocessing_sentence(preprocessing: Preprocessing) -> str:
    """Say in a line how images become the input."""
    steps = []
    for step in preprocessing.steps:
        match step:
            case Letterbox(size=(height, width), fill=fill, anchor=anchor):
                place = "centred" if anchor == "center" else "top left"
                steps.append(f"letterbox {height} × {width} ({place}, grey {fill})")
            case Resize(size=(height, width)):
                steps.append(f"stretch to {height} × {width}")
            case ResizeShorterSide(pixels=pixels):
                steps.append(f"shorter side to {pixels}")
            case ResizeLongerSide(pixels=pixels):
                steps.append(f"longer side to {pixels}")
            case Pad(size=size, multiple=multiple):
                to = f"multiples of {multiple}" if size is None else f"{size[0]} × {size[1]}"
                steps.append(f"pad to {to}")
            case CenterCrop(size=(height, width)):
                steps.append(f"centre crop {height} × {width}")
            case _:
                steps.append(type(step).__name__.lower())
    values = _values(preprocessing.normalization)
    return f"{', '.join(steps) or 'as they are'}, {preprocessing.channels}, {values}, {preprocessing.layout}"


def _values(normalization: Normalization | None) -> str:
    if normalization is None:
        return "uint8 pixels"
    scaled = "pixels of 0 to 255" if normalization.scale == 1.0 else f"pixel × {normalization.scale:.4g}"
    if set(normalization.mean) == {0.0} and set(normalization.std) == {1.0}:
        return scaled
    mean, std = (", ".join(f"{each:.4g}" for each in part) for part in (normalization.mean, normalization.std))
    return f"({scaled} - [{mean}]) / [{std}]"


def _line(head: str, text: str) -> str:
    return f"{head:<{_WIDTH}}{text}"
