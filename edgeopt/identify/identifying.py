"""Identify a model: its inputs, its family and what its outputs mean, with the reason for each; never a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeopt.identify import preparations as by
from edgeopt.identify.apart import boxes_and_scores
from edgeopt.identify.detectors import several_outputs
from edgeopt.identify.facts import Facts, Tensor, cells, layout_of
from edgeopt.identify.identification import Candidate, Finding, Identification, Question, Role
from edgeopt.identify.levels import outputs_by_level
from edgeopt.identify.metadata import Said, read_metadata
from edgeopt.identify.preparations import NORMALIZATIONS, normalized_inside, possible_preparations, prepare
from edgeopt.identify.single import one_output
from edgeopt.models.class_names import COCO, IMAGENET
from edgeopt.spec import Preprocessing, Size, Task

_USUAL_STRIDES = (8, 16, 32)
_PUBLISHED = {len(COCO): ("edgeopt:coco", COCO), len(IMAGENET): ("edgeopt:imagenet", IMAGENET)}


def identify(facts: Facts, data_labels: tuple[str, ...] = ()) -> Identification:
    """Tell what a model is.

    Args:
        facts: what can be seen of it.
        data_labels: class names of the images that it is for, taken where their number fits and the file has none.

    Returns:
        What is known, all readings that fit where there are several, and what a recipe has to say because nothing in
        the file tells it.
    """
    said = read_metadata(facts.metadata)
    size = _size(facts, said)
    facts = replace(facts, data_classes=len(data_labels) or None)
    candidates = _of_classes(_candidates(facts, said), said)
    settled = candidates[0] if len(candidates) == 1 else None
    task = _task(candidates)
    notes = [*said.complaints, *_contradictions(facts, said, candidates)]
    if facts.custom:
        notes.append(
            f"it has operators that are not ONNX's own ({', '.join(facts.custom)}): it is identified by its names and "
            "shapes, and built only without them. Export it again without them"
        )
    labels = _labels(said, candidates, data_labels, notes)
    open_ = settled is not None and settled.preprocessing is None and size is not None
    return Identification(
        inputs=tuple(_input_role(tensor, facts) for tensor in facts.inputs),
        outputs=tuple(_output_role(tensor, candidates[0] if candidates else None) for tensor in facts.outputs),
        task=task,
        candidates=tuple(candidates),
        input_size=size,
        labels=labels,
        questions=tuple(_questions(facts, size, candidates, labels, data_labels)),
        notes=(*notes, *((settled.note,) if settled is not None and settled.note else ())),
        quantized=facts.quantized,
        names_itself=labels is not None and labels is said.labels,
        possible=possible_preparations(size.value, facts, said) if open_ and size is not None else {},
    )


def _size(facts: Facts, said: Said) -> Finding[Size] | None:
    image = facts.image
    if facts.size is None or image is None:
        return said.size
    if not facts.frozen:
        return Finding(facts.size, f"its input {image} is fixed")
    if said.size is not None and said.size.value == facts.size:
        return Finding(facts.size, f"it takes any size, and {said.size.why}")
    return Finding(facts.size, "it takes any size, and the recipe says this one")


def _candidates(facts: Facts, said: Said) -> list[Candidate]:
    outputs = [tensor for tensor in facts.outputs if tensor.shape]
    if said.task is not None and said.known_task is None:
        return []
    if len(outputs) == 1 and _is_scores(outputs[0]) and said.known_task != "detection":
        return [_classifier(outputs[0], facts, said)]
    if len(outputs) == 1:
        return one_output(facts, said)
    return several_outputs(facts, said) or outputs_by_level(facts, said) or boxes_and_scores(facts, said)


def _of_classes(candidates: list[Candidate], said: Said) -> list[Candidate]:
    """Return the readings with as many classes as the file names, where only some have."""
    if said.labels is None:
        return candidates
    return [each for each in candidates if each.classes == len(said.labels.value)] or candidates


def _is_scores(tensor: Tensor) -> bool:
    """Return True of (N, C) with a batch of one, alone or with spatial dimensions of one behind."""
    return (
        len(tensor.shape) >= 2
        and tensor.sizes[0] in (1, -1)
        and tensor.sizes[1] > 1
        and all(side == 1 for side in tensor.sizes[2:])
    )


def _classifier(output: Tensor, facts: Facts, said: Said) -> Candidate:
    classes = output.sizes[1]
    applied = facts.applied.get(output.name, "none")
    keys = {"activation": "none", "applied": applied} if applied != "none" else {}
    how = f" behind a {applied}" if applied != "none" else ", no activation behind them"
    why = f"its output {output} is {classes} numbers an image{how}: scores of classes"
    return Candidate(
        family="a classifier",
        decoding={"type": "classification", **keys},
        preprocessing=_of_classifier(facts, said),
        why=why,
        classes=classes,
        roles={output.name: "scores" if applied == "none" else "probabilities"},
    )


def _of_classifier(facts: Facts, said: Said) -> Finding[Preprocessing] | None:
    """Return a classifier's preprocessing where the file settles it: shapes do not."""
    size = facts.size or (said.size.value if said.size else None)
    if size is None:
        return None
    if said.exporter == "Ultralytics":
        return prepare(by.UNIT_CROP, size, facts, said, "Ultralytics' classifiers are prepared so")
    if said.model_info.keys() & {"mean_values", "scale_values"}:
        return prepare(by.STRETCHED, size, facts, said, "the usual way")
    if normalized_inside(facts) or (facts.image is not None and facts.image.dtype == "uint8"):
        return prepare(by.UNIT_CROP, size, facts, said, "red first and cropped, as most classifiers are prepared")
    return None


def _task(candidates: Sequence[Candidate]) -> Finding[Task] | None:
    if not candidates:
        return None
    is_classifier = candidates[0].name == "classification"
    return Finding("classification" if is_classifier else "detection", candidates[0].why)


def _contradictions(facts: Facts, said: Said, candidates: Sequence[Candidate]) -> list[str]:
    """Say where the file's metadata and its graph disagree; the graph, which is what runs, is believed."""
    found = []
    if said.size is not None and facts.size is not None and said.size.value != facts.size:
        found.append(
            f"its metadata say {said.size.value[0]} × {said.size.value[1]} pixels, its input {facts.size[0]} × "
            f"{facts.size[1]}: the input counts"
        )
    if said.task is not None and said.known_task is None:
        found.append(
            f"its metadata say that it is for '{said.task}'; edgeopt builds classifiers and detectors of upright boxes"
        )
    elif candidates and said.known_task not in (None, _task(candidates).value):  # type: ignore[union-attr]
        found.append(f"its metadata say that it is for '{said.task}', which its outputs are not")
    return found


def _labels(
    said: Said, candidates: Sequence[Candidate], data_labels: tuple[str, ...], notes: list[str]
) -> Finding[tuple[str, ...]] | None:
    counts = {each.classes for each in candidates if each.classes is not None}
    if said.labels is not None:
        if not counts or len(said.labels.value) in counts:
            return said.labels
        listed = " or ".join(map(str, sorted(counts)))
        notes.append(f"{said.labels.why}, but its outputs hold {listed} classes: the names are not used")
    of_families = {each.names for each in candidates}
    if len(of_families) == 1 and (only := next(iter(of_families))):
        return Finding(only, f"{candidates[0].family} has no other classes")
    if len(counts) == 1:
        (count,) = counts
        if len(data_labels) == count:
            return Finding(data_labels, f"the data name as many classes as its outputs hold, {count}")
        if count in _PUBLISHED:
            name, names = _PUBLISHED[count]
            return Finding(names, f"its outputs hold {count} classes, as {name} has")
    elif not counts and data_labels and candidates:
        return Finding(data_labels, "the data name them; its outputs hold class numbers")
    return None


def _questions(
    facts: Facts,
    size: Finding[Size] | None,
    candidates: Sequence[Candidate],
    labels: Finding[tuple[str, ...]] | None,
    data_labels: tuple[str, ...],
) -> list[Question]:
    asked = []
    if facts.image is None:
        listed = ", ".join(map(str, facts.inputs)) or "none"
        asked.append(
            Question("model.source", f"no input takes images (N, C, H, W) or (N, H, W, C): {listed}", "another export")
        )
    elif size is None:
        asked.append(
            Question(
                "model.input_size",
                f"its input {facts.image} takes images of any size",
                "--set 'model.input_size=[640, 640]'",
            )
        )
    unknown = [each for each in facts.inputs if each != facts.image and _input_role(each, facts).role == "unknown"]
    asked += [
        Question(
            "model.inputs",
            f"it also takes {tensor}, and neither its name nor its shape tells what that is",
            f"""--set 'model.inputs=[{{name = "{tensor.name}", holds = "constant", value = [1.0]}}]'""",
        )
        for tensor in unknown
    ]
    if len(candidates) > 1:
        listed = " or ".join(f'"{each.name}" ({each.family})' for each in candidates)
        asked.append(
            Question(
                "model.decoding",
                f"its outputs can be read as {listed}, and nothing in the file decides",
                f"--set model.decoding={candidates[0].name}, or labelled images with --data, which decide",
            )
        )
    if not candidates and size is not None:
        asked.append(_no_reading(facts, size.value))
    if candidates and size is not None and all(each.preprocessing is None for each in candidates):
        asked.append(
            Question(
                "model.preprocessing",
                "nothing in the file says how images become its input",
                f"--normalization {'|'.join(NORMALIZATIONS)}, or labelled images with --data, which decide",
            )
        )
    counts = {each.classes for each in candidates} - {None}
    if candidates and labels is None:
        number = " or ".join(map(str, sorted(counts, key=str)))
        what = "its class" if number == "1" else f"its {number} classes" if number else "its classes"
        others = f", and the data name {len(data_labels)}" if data_labels and counts else ""
        example = "--labels names.txt, or --labels a,b,c"
        asked.append(Question("model.labels", f"the file does not name {what}{others}", example))
    return asked


def _no_reading(facts: Facts, size: Size) -> Question:
    listed = ", ".join(map(str, facts.outputs))
    known = cells(size, _USUAL_STRIDES)
    return Question(
        "model.decoding",
        f"its outputs {listed} fit no layout that is known{f' ({facts.why_not_run})' if facts.why_not_run else ''}: "
        f"neither classes (N, C), nor boxes and scores for each cell (with strides of 8, 16 and 32 there are {known} "
        "in all), nor maps of each level, nor final rows of box, score and class",
        'a [model.decoding] table with boxes = { output = "NAME", stop = 4 }, scores = { output = "NAME", start = 4 }, '
        'form = "cxcywh" (edgeopt explain-key model.decoding), or --set model.decoding=package.module:callable',
    )


def _input_role(tensor: Tensor, facts: Facts) -> Role:
    if tensor == facts.image:
        layout = layout_of(tensor)
        axis = "second" if layout == "NCHW" else "last"
        return Role(str(tensor), f"images, {layout}", f"four dimensions, the {axis} of {facts.channels}")
    name = tensor.name.lower()
    if "scale" in name:
        return Role(str(tensor), "scale factors (height, width)", f"it is called '{tensor.name}'")
    if "size" in name or "shape" in name:
        return Role(str(tensor), "size of the original image", f"it is called '{tensor.name}'")
    return Role(str(tensor), "unknown", "neither its name nor its shape tells")


def _output_role(tensor: Tensor, found: Candidate | None) -> Role:
    role = None if found is None else found.roles.get(tensor.name)
    if found is None or role is None:
        return Role(str(tensor), "not used" if found is not None else "unknown", "no reading uses it")
    return Role(str(tensor), role, f"as {found.family}")
