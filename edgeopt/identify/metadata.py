"""Read what exporters write into a model file: labels, size, stride, task, head and normalization."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgeopt.identify.identification import Finding
from edgeopt.spec import Size

_MOST_TEXT = 1 << 20
"""Longest text that is parsed; ImageNet's names are 30 kB."""
_MODEL_INFO = "model_info "
"""Prefix that OpenVINO's Model API puts before its keys where it writes them into an ONNX file."""
_LABEL_KEYS = ("names", "labels", "classes", "class_names", "character")
_NOTES = "rfdetr_notes"
_TASKS = {
    "detect": "detection",
    "detection": "detection",
    "object_detection": "detection",
    "ssd": "detection",
    "classify": "classification",
    "classification": "classification",
    "label": "classification",
}
"""Names of the tasks that edgeopt knows, by Ultralytics' ``task`` and the Model API's ``task_type`` and
``model_type``."""


@dataclass(frozen=True)
class Said:
    """A file's own words about itself; a field is None where it says nothing.

    Attributes:
        labels: class names in index order.
        size: (height, width) of its images.
        stride: the largest, in pixels.
        task: in the exporter's words.
        head: class of the detection head, as in ``RTDETRDecoder``.
        end2end: outputs are final; no suppression is needed.
        exporter: who wrote it: ``Ultralytics``, ``Model API``, ``RF-DETR``.
        model_info: the Model API's keys.
        complaints: entries that cannot be read.
    """

    labels: Finding[tuple[str, ...]] | None
    size: Finding[Size] | None
    stride: int | None
    task: str | None
    head: str | None
    end2end: bool | None
    exporter: str | None
    model_info: Mapping[str, str]
    complaints: tuple[str, ...]

    @property
    def known_task(self) -> str | None:
        """`task` in edgeopt's words; None if it is none of edgeopt's."""
        return _TASKS.get((self.task or "").lower())


def read_metadata(metadata: Mapping[str, str]) -> Said:
    """Read a file's ``metadata_props``.

    Keys are Ultralytics' (``names``, ``imgsz``, ``stride``, ``task``, ``end2end``, ``head``, ``args``), those of
    OpenVINO's Model API (``model_info labels``…), RF-DETR's ``rfdetr_notes``, and lists of names under the usual keys.
    """
    complaints: list[str] = []
    info = {key.removeprefix(_MODEL_INFO): value for key, value in metadata.items() if key.startswith(_MODEL_INFO)}
    arguments = _parsed(metadata.get("args", ""))
    arguments = arguments if isinstance(arguments, Mapping) else {}
    end2end = _flag(metadata.get("end2end"))
    if end2end is None and _flag(str(arguments.get("nms", ""))):
        end2end = True
    return Said(
        labels=_labels(metadata, info, complaints),
        size=_size(metadata, info, complaints),
        stride=_stride(metadata.get("stride")),
        task=metadata.get("task") or info.get("task_type") or info.get("model_type"),
        head=metadata.get("head"),
        end2end=end2end,
        exporter=_exporter(metadata, info),
        model_info=info,
        complaints=tuple(complaints),
    )


def _exporter(metadata: Mapping[str, str], info: Mapping[str, str]) -> str | None:
    if metadata.get("author") == "Ultralytics" or {"names", "stride"} <= metadata.keys():
        return "Ultralytics"
    if any(key.startswith("rfdetr") for key in metadata):
        return "RF-DETR"
    return "Model API" if info else None


def _labels(
    metadata: Mapping[str, str], info: Mapping[str, str], complaints: list[str]
) -> Finding[tuple[str, ...]] | None:
    notes = _parsed(metadata.get(_NOTES, ""))
    if isinstance(notes, Mapping):
        for key in _LABEL_KEYS:
            if (names := _names(notes.get(key))) is not None:
                return Finding(names, f"the file's metadata '{_NOTES}' list {len(names)}")
    for key in _LABEL_KEYS:
        text = metadata.get(key)
        if text is None or not text.strip():
            continue
        names = _names(_parsed(text)) or _listed(text)
        if names is not None and len(set(names)) == len(names):
            return Finding(names, f"the file's metadata '{key}' list {len(names)}")
        complaints.append(f"its metadata '{key}' hold no list of different class names: {_short(text)}")
    if (text := info.get("labels", "")).strip():
        names = tuple(word.replace("_", " ") if word.count("_") == 0 else word for word in text.split())
        if len(set(names)) == len(names):
            return Finding(names, f"the file's metadata 'model_info labels' list {len(names)}")
        complaints.append("its metadata 'model_info labels' name a class twice")
    return None


def _names(value: Any) -> tuple[str, ...] | None:
    """Return names in the order of their indices; None if `value` is no such thing."""
    if isinstance(value, Mapping):
        try:
            numbered = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return None
        if sorted(numbered) != list(range(len(numbered))):
            return None
        value = [numbered[index] for index in range(len(numbered))]
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, (str, int)) for name in value):
        return tuple(str(name).strip() for name in value)
    return None


def _listed(text: str) -> tuple[str, ...] | None:
    """Return names that are written a line each, or between commas."""
    separator = "\n" if "\n" in text.strip() else ","
    names = tuple(part.strip() for part in text.split(separator) if part.strip())
    return names if len(names) > 1 and not text.strip().startswith(("{", "[", "(")) else None


def _size(metadata: Mapping[str, str], info: Mapping[str, str], complaints: list[str]) -> Finding[Size] | None:
    text = metadata.get("imgsz")
    if text is not None:
        numbers = _numbers(_parsed(text))
        if numbers is not None and len(numbers) in (1, 2) and all(0 < each <= 1 << 14 for each in numbers):
            height, width = (numbers * 2)[:2] if len(numbers) == 1 else numbers
            return Finding((height, width), f"the file's metadata say imgsz {height} × {width}")
        complaints.append(f"its metadata 'imgsz' are no size: {_short(text)}")
    if {"orig_height", "orig_width"} <= info.keys():
        numbers = _numbers([_parsed(info["orig_height"]), _parsed(info["orig_width"])])
        if numbers is not None and min(numbers) > 0:
            return Finding((numbers[0], numbers[1]), "the file's metadata say model_info orig_height and orig_width")
    return None


def _numbers(value: Any) -> tuple[int, ...] | None:
    value = [value] if isinstance(value, int) else value
    if isinstance(value, (list, tuple)) and all(isinstance(each, int) for each in value):
        return tuple(value)
    return None


def _stride(text: str | None) -> int | None:
    numbers = re.findall(r"\d+", text or "")
    return max(int(number) for number in numbers) if numbers and all(len(number) < 5 for number in numbers) else None


def _flag(text: str | None) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get((text or "").strip().lower())


def floats(text: str) -> tuple[float, ...]:
    """Read numbers between spaces or commas, as the Model API writes them; empty if there are others."""
    try:
        return tuple(float(part) for part in re.split(r"[\s,\[\]]+", text) if part)
    except ValueError:
        return ()


def _parsed(text: str) -> Any:
    """Return what a Python or JSON literal stands for; None if it is none. Nothing is run."""
    if not text.strip() or len(text) > _MOST_TEXT:
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return ast.literal_eval(text)
    return None


def _short(text: str | Iterable[str]) -> str:
    text = str(text).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:60]}…"
