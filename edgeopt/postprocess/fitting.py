"""Fit the description of a head to the outputs that a model has: their names, their order, and their axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeopt.errors import ModelError
from edgeopt.postprocess.numbering import class_count, table_of
from edgeopt.postprocess.parts import Level, View, levels, output_name, shape_of
from edgeopt.spec import DetectionDecoding, Part, Size, TensorSpec, replace

_ROWS = ("boxes", "scores", "objectness", "classes")
"""Parts with as many rows as there are candidates."""
_BOX = 4


def fit(
    decoding: DetectionDecoding, outputs: Sequence[TensorSpec], classes: int | None = None, size: Size | None = None
) -> DetectionDecoding:
    """Return `decoding` with the names of the outputs that it reads.

    Its own names and numbers of outputs are taken where they fit. Where they do not, each part is looked for by its
    number of columns, levels by their number of rows; and with rows and columns the other way round. Outputs of two
    dimensions that hold boxes have none for the image.

    Args:
        decoding: such as a preset.
        outputs: of the model, in its order.
        classes: number of labels; None: unknown.
        size: (height, width) of the input; None: unknown.

    Raises:
        ModelError: it does not fit; the message says what of it.
    """
    reason = ""
    for candidate in _candidates(decoding, outputs, classes):
        found = mismatch(candidate, outputs, classes, size)
        if found is None:
            return _with_names(candidate, outputs)
        reason = reason or found
    raise ModelError(reason or "no output has the columns that the decoding reads")


def mismatch(
    decoding: DetectionDecoding, outputs: Sequence[TensorSpec], classes: int | None = None, size: Size | None = None
) -> str | None:
    """Say why a decoding cannot read these outputs; None if it can, as far as their shapes tell. See `fit`."""
    try:
        found = levels(decoding, outputs)
    except ModelError as error:
        return str(error)
    shapes = {tensor.name: tensor.shape for tensor in outputs}
    total: int | None = 0
    for level in found:
        reason, rows = _level_mismatch(decoding, level, shapes, classes)
        if reason is not None:
            return reason
        total = None if rows is None or total is None else total + rows
    if decoding.grid is None or size is None or total is None:
        return None
    wanted = decoding.grid.rows(*size)
    strides = ", ".join(f"{stride:g}" for stride in decoding.grid.strides)
    grid = f"an input of {size[0]} x {size[1]} with strides ({strides}) has {wanted}"
    return None if total == wanted else f"the outputs have {total} rows, and {grid}"


def label_count(decoding: DetectionDecoding, outputs: Sequence[TensorSpec]) -> int | None:
    """Return the number of classes that outputs have; None where only their values show it.

    Raises:
        ModelError: there is no such output.
    """
    if (table := table_of(decoding)) is not None:
        return max(table, default=-1) + 1
    if decoding.classes is not None:
        return None
    level = levels(decoding, outputs)[0]
    shapes = {tensor.name: tensor.shape for tensor in outputs}
    columns = _part(level, "scores", shapes, batched=decoding.batched)[1]
    return None if columns is None else class_count(decoding, columns)


def _level_mismatch(
    decoding: DetectionDecoding, level: Level, shapes: dict[str, tuple[int | str, ...]], classes: int | None
) -> tuple[str | None, int | None]:
    """Return the reason why a level does not fit, and its number of rows."""
    found = {name: _part(level, name, shapes, batched=decoding.batched) for name in _ROWS if name in level.places}
    rows, columns = found["boxes"]
    output = level.views[level.places["boxes"][0]].output
    shape = f"'{output}' {shapes[output]}"
    if len(shapes[output]) < (3 if decoding.batched else 2):
        return f"{shape} has {'no' if decoding.batched else 'too few'} dimensions for rows of boxes of an image", rows
    if columns is not None and (columns % _BOX or (columns == _BOX) == (decoding.form == "dfl") or columns < _BOX):
        needs = "four times the bins" if decoding.form == "dfl" else "4"
        return f"{shape} has {columns} columns for boxes, and '{decoding.form}' needs {needs}", rows
    for name, (others, _) in found.items():
        if rows is not None and others is not None and rows != others:
            return f"{shape} has {rows} rows of boxes, and there are {others} of {name}", rows
    for name in ("objectness", "classes", *(("scores",) if decoding.classes is not None else ())):
        if name in found and found[name][1] not in (None, 1):
            return f"{name} has {found[name][1]} columns, and there can be but one", rows
    scores = found["scores"][1]
    if decoding.classes is None and classes is not None and scores is not None:
        count = class_count(decoding, scores)
        if count != classes:
            output = level.views[level.places["scores"][0]].output
            return f"'{output}' {shapes[output]} has scores of {count} classes, and there are {classes} labels", rows
        if (table := table_of(decoding)) is not None and scores > len(table):
            return f"'{output}' {shapes[output]} has {scores} columns of scores, and numbering {len(table)}", rows
    return None, rows


def _part(
    level: Level, name: str, shapes: dict[str, tuple[int | str, ...]], *, batched: bool
) -> tuple[int | None, int | None]:
    """Return (rows, columns) of a part."""
    number, columns = level.places[name]
    view = level.views[number]
    rows, all_columns = shape_of(shapes[view.output], view, batched=batched)
    return rows, None if all_columns is None else len(range(*columns.indices(all_columns)))


def _candidates(
    decoding: DetectionDecoding, outputs: Sequence[TensorSpec], classes: int | None
) -> Iterator[DetectionDecoding]:
    """Yield readings of the outputs, the likeliest first."""
    for turned in (decoding, _turned(decoding)):
        for found in (turned, *_by_shape(turned, outputs, classes)):
            try:
                box = output_name(found.boxes.outputs[0], outputs)
            except ModelError:
                yield found
                continue
            rank = next(len(tensor.shape) for tensor in outputs if tensor.name == box)
            yield replace(found, batched=rank > 2)


def _turned(decoding: DetectionDecoding) -> DetectionDecoding:
    """Return the same with rows and columns the other way round."""
    return replace(
        decoding,
        **{
            name: replace(part, anchors="last" if part.anchors == "first" else "first")
            for name, part in decoding.parts.items()
            if name in _ROWS
        },
    )


def _by_shape(
    decoding: DetectionDecoding, outputs: Sequence[TensorSpec], classes: int | None
) -> Iterator[DetectionDecoding]:
    """Yield the decoding with outputs that have the right columns, if exactly one choice of them does."""
    groups: dict[tuple[str | int, ...], dict[str, Part]] = {}
    for name, part in decoding.parts.items():
        groups.setdefault(part.outputs, {})[name] = part
    if len(groups) == 1 and len(next(iter(groups))) == 1:
        for tensor in outputs:
            yield _moved(decoding, dict.fromkeys(decoding.parts, (tensor.name,)))
        return
    taken: dict[str, tuple[str, ...]] = {}
    # The number of rows is one number itself, as the classes of one row would be: it comes first.
    for places, parts in sorted(groups.items(), key=lambda group: "count" not in group[1]):
        left = [tensor for tensor in outputs if tensor.name not in sum(taken.values(), ())]
        for name, part in parts.items():
            left = _with_columns(name, part, left, decoding, classes)
        if len(left) != len(places):
            return
        taken |= dict.fromkeys(parts, tuple(tensor.name for tensor in left))
    yield _moved(decoding, taken)


def _with_columns(
    name: str, part: Part, outputs: Sequence[TensorSpec], decoding: DetectionDecoding, classes: int | None
) -> list[TensorSpec]:
    """Return the outputs that can hold a part, those with more rows first."""
    found: list[tuple[int, TensorSpec]] = []
    for tensor in outputs:
        if name == "count" and len(tensor.shape) > (2 if decoding.batched else 1):
            continue
        view = View(tensor.name, part.anchors == "last", max(decoding.grid.boxes_per_cell) if decoding.grid else 1)
        rows, columns = shape_of(tensor.shape, view, batched=decoding.batched)
        if columns is not None:
            columns = len(range(*slice(part.start, part.stop).indices(columns)))
        is_whole = "int" in tensor.dtype
        if _can_hold(name, columns, decoding, classes) and not (is_whole and name in ("boxes", "scores")):
            found.append((rows or 0, tensor))
    if name == "classes" and (whole := [each for each in found if "int" in each[1].dtype]):
        found = whole
    if name == "count":
        found = [each for each in found if each[0] in (0, 1)]
    return [tensor for _, tensor in sorted(found, key=lambda each: -each[0])]


def _can_hold(name: str, columns: int | None, decoding: DetectionDecoding, classes: int | None) -> bool:
    if columns is None:
        return False
    if name == "boxes":
        return columns % _BOX == 0 and (columns > _BOX) == (decoding.form == "dfl")
    if name == "scores" and decoding.classes is None:
        return classes is None or class_count(decoding, columns) == classes
    return columns == 1


def _moved(decoding: DetectionDecoding, taken: dict[str, tuple[str, ...]]) -> DetectionDecoding:
    changed = {
        name: replace(part, output=taken[name][0] if len(taken[name]) == 1 else taken[name])
        for name, part in decoding.parts.items()
    }
    return replace(decoding, **changed)


def _with_names(decoding: DetectionDecoding, outputs: Sequence[TensorSpec]) -> DetectionDecoding:
    names = {
        name: tuple(output_name(place, outputs) for place in part.outputs) for name, part in decoding.parts.items()
    }
    return _moved(decoding, names)
