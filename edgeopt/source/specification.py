"""Derive the ModelSpec of a foreign model from the recipe, and check it against the model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError
from edgeopt.files import named_path
from edgeopt.identify import Facts, Tensor
from edgeopt.identify.identifying import identify
from edgeopt.models.class_names import COCO, DIGITS, IMAGENET
from edgeopt.postprocess import fit
from edgeopt.postprocess.parts import named_output
from edgeopt.spec import (
    AuxiliaryInput,
    CenterCrop,
    ClassDecoding,
    ClassificationDecoding,
    CodeDecoding,
    Decoding,
    DetectionDecoding,
    Letterbox,
    ModelSpec,
    NeighborsDecoding,
    Pad,
    Preprocessing,
    Resize,
    ResizeLongerSide,
    ResizeShorterSide,
    Size,
    Step,
    Task,
    TensorSpec,
    image_size,
    replace,
)

PUBLISHED_LABELS = {"edgeopt:coco": COCO, "edgeopt:imagenet": IMAGENET, "edgeopt:digits": DIGITS}
"""Names that `labels` may hold instead of a file."""

PREPROCESSING_FORM = (
    'Give [model.preprocessing], as in: steps = [{ type = "resize", size = [height, width] }], channels = "RGB", '
    "normalization = { mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }"
)
"""Example in the message for a recipe that does not define preprocessing; the figures are ImageNet's."""
DECODING_FORM = (
    'Name the head by a preset, as in [model] decoding = "yolov8" (edgeopt explain-key model.decoding lists them), or '
    'describe it: [model.decoding] form = "cxcywh", boxes = { output = "NAME", stop = 4 }, scores = { output = "NAME", '
    'start = 4 }, and anchors = "last" in both where the columns come first'
)
"""Example in the message for outputs that no head is known for."""
_MAX_LABEL_BYTES = 10 << 20


class UnnamedClassesError(ModelError):
    """Neither the recipe nor the data name the network's classes."""


def label_file(model: ModelConfig, root: Path) -> Path | None:
    """Return the file that ``[model] labels`` names, if it names one."""
    labels = model.labels
    return named_path(root, labels) if isinstance(labels, str) and labels not in PUBLISHED_LABELS else None


def read_labels(model: ModelConfig, root: Path) -> tuple[str, ...]:
    """Read the class names that the recipe gives; empty if it gives none.

    Raises:
        ModelError: a label file that is missing, unreadable, too large or empty, or a name that occurs twice.
    """
    labels = model.labels or ()
    if isinstance(labels, str):
        file = label_file(model, root)
        labels = PUBLISHED_LABELS[labels] if file is None else _read_names(file)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ModelError(f"[model] labels: '{twice}' occurs more than once. Give each class its own name")
    return labels


def specify(
    model: ModelConfig,
    name: str,
    labels: tuple[str, ...],
    network_input: TensorSpec,
    outputs: Sequence[TensorSpec],
    *,
    auxiliary: tuple[AuxiliaryInput, ...] = (),
    preprocessing: Preprocessing | None = None,
    decoding: Decoding | None = None,
) -> ModelSpec:
    """Build the ModelSpec of a model that has none.

    Args:
        model: the recipe's ``[model]``, which decides where it says something.
        name: name of the model.
        labels: class names, from the recipe or the data.
        network_input: of the model, (N, C, H, W) or (N, H, W, C).
        outputs: of the model, in its order.
        auxiliary: its inputs beside the images.
        preprocessing: what to do where the recipe says nothing; None: the recipe must say it.
        decoding: likewise; None: inferred from the outputs' shapes.

    Raises:
        ModelError: something is missing or contradicts the model's shapes.
    """
    preprocessing = model.preprocessing or preprocessing
    if preprocessing is None:
        raise ModelError(
            f"{model.source} does not say how images become its input {network_input.shape}. {PREPROCESSING_FORM}"
        )
    if not labels and not isinstance(model.decoder, NeighborsDecoding):  # an embedding has none yet
        raise UnnamedClassesError(
            f"{model.source} does not name its classes. Give [model] labels: a list, a file with one name a line, or "
            f"one of {', '.join(PUBLISHED_LABELS)}."
        )
    task = _task(model, outputs)
    spec = ModelSpec(
        name=name,
        task=task,
        input=network_input,
        auxiliary=auxiliary,
        outputs=tuple(outputs),
        preprocessing=preprocessing,
        decoding=model.decoder or decoding or _identified(model, task, outputs, network_input, labels),
        labels=labels,
    )
    return checked(spec)


def override(spec: ModelSpec, model: ModelConfig, labels: tuple[str, ...] = ()) -> ModelSpec:
    """Return `spec` with the recipe's preprocessing, decoding and class names (`labels`), where it has them.

    Raises:
        ModelError: the recipe contradicts the network.
    """
    if model.task not in (None, spec.task):
        raise ModelError(f"{model.source} is for {spec.task}, not {model.task}. Leave [model] task out")
    spec = replace(
        spec,
        preprocessing=model.preprocessing or spec.preprocessing,
        decoding=model.decoder or spec.decoding,
        labels=labels or spec.labels,
    )
    return checked(spec)


def checked(spec: ModelSpec) -> ModelSpec:
    """Check that preprocessing makes what the network takes, and that decoding reads what the network gives.

    Returns:
        `spec`, with the names of the outputs that its decoding reads.

    Raises:
        ModelError: it does not; the message says which of the two to change.
    """
    _check_pixels(spec)
    decoding = spec.decoding
    if isinstance(decoding, CodeDecoding):  # its author knows what it reads
        return spec
    if spec.task != _task_of(decoding):
        raise ModelError(f"{spec.name} is for {spec.task}, but its decoding is for {_task_of(decoding)}")
    if isinstance(decoding, DetectionDecoding):
        size = image_size(spec.input, spec.preprocessing.layout)
        try:
            return replace(spec, decoding=fit(decoding, spec.outputs, len(spec.labels), size))
        except ModelError as error:
            head = f"'{decoding.preset}'" if decoding.preset else "described"
            raise ModelError(
                f"{spec.name} gives {listed(spec.outputs)}, and its decoding is {head} for {len(spec.labels)} labels: "
                f"{error}. Correct [model] labels or decoding"
            ) from error
    output = named_output(decoding.output, spec.outputs)
    if isinstance(decoding, NeighborsDecoding):  # its numbers are no classes
        return spec
    expected = (output.shape[0], len(spec.labels))
    if output.shape != expected:
        raise ModelError(
            f"{spec.name} gives {output.shape}, but {len(spec.labels)} labels and a classifier's decoding need "
            f"{expected}. Correct [model] labels or decoding"
        )
    return spec


def listed(outputs: Sequence[TensorSpec]) -> str:
    """Name outputs with their shapes."""
    return ", ".join(f"'{tensor.name}' {tensor.shape}" for tensor in outputs)


def _check_pixels(spec: ModelSpec) -> None:
    preprocessing = spec.preprocessing
    size = image_size(spec.input, preprocessing.layout)
    made = _final_size(preprocessing.steps)
    if made != size:
        raise ModelError(
            f"{spec.name} takes {size[0]} x {size[1]} pixels, but the preprocessing makes "
            f"{'images of different sizes' if made is None else f'{made[0]} x {made[1]}'}. "
            "End its steps with a resize, center_crop or letterbox to the network's size, or change [model] input_size"
        )
    channels = spec.input.shape[1 if preprocessing.layout == "NCHW" else 3]
    if channels != (1 if preprocessing.channels == "GRAY" else 3):
        raise ModelError(f"{spec.name} takes {channels} channels, but the preprocessing makes {preprocessing.channels}")
    takes_bytes = spec.input.dtype == "uint8"
    if takes_bytes and preprocessing.normalization is not None:
        raise ModelError(f"{spec.name} takes uint8 pixels: remove normalization from [model.preprocessing]")
    if not takes_bytes and preprocessing.normalization is None:
        raise ModelError(
            f"{spec.name} takes {spec.input.dtype}: give [model.preprocessing] normalization, "
            "with scale = 1.0 for pixels of 0 to 255"
        )


def _final_size(steps: tuple[Step, ...]) -> Size | None:
    """Return (height, width) after the last step that changes it; None where it depends on the image."""
    if not steps:
        return None
    *before, last = steps
    if isinstance(last, Resize | CenterCrop | Letterbox):
        return last.size
    if isinstance(last, ResizeShorterSide | ResizeLongerSide):
        return None
    size = _final_size(tuple(before))
    if not isinstance(last, Pad):
        return size
    if last.multiple is None or size is None:
        return last.size
    return -(-size[0] // last.multiple) * last.multiple, -(-size[1] // last.multiple) * last.multiple


def _task(model: ModelConfig, outputs: Sequence[TensorSpec]) -> Task:
    """Tell the task by the decoding, or by the rank of the only output, which the recipe must not contradict."""
    decoder = model.decoder
    if isinstance(decoder, DetectionDecoding):
        return model.task or "detection"  # a contradiction is refused with the decoding's name
    if model.task is not None and isinstance(decoder, CodeDecoding):
        return model.task
    if isinstance(decoder, NeighborsDecoding):
        return "classification"
    if isinstance(decoder, ClassificationDecoding):
        outputs = [named_output(decoder.output, outputs)]
    task: Task | None = {2: "classification", 3: "detection"}.get(len(outputs[0].shape))  # type: ignore[assignment]
    if len(outputs) > 1 or task is None or model.task not in (None, task):
        raise ModelError(
            f"{model.source} gives {listed(outputs)}, which does not fit {model.task or 'any task'}: one output is "
            f"taken for classification (N, classes), or for detection (N, anchors, 5 + classes) or (N, 4 + classes, "
            f"anchors). {DECODING_FORM}. Of several outputs a classifier's is named by [model.decoding] "
            'type = "classification", output = "NAME". With a [model] decoding of your own, say the task'
        )
    return task


def _identified(
    model: ModelConfig, task: Task, outputs: Sequence[TensorSpec], network_input: TensorSpec, labels: tuple[str, ...]
) -> Decoding:
    """Return the decoding that the outputs' shapes show by themselves."""
    if task == "classification":
        return ClassificationDecoding()
    facts = Facts(inputs=(_one(network_input),), outputs=tuple(_one(each) for each in outputs))
    found = [each for each in identify(facts).candidates if each.name != "classification"]
    fitting = [each for each in found if each.classes in (None, len(labels))]
    if len(fitting) == 1 and isinstance(decoder := fitting[0].decoder, DetectionDecoding):
        return decoder
    read = " or ".join(f'"{each.name}" ({each.family})' for each in fitting)
    classes = ", ".join(f"'{each.name}' of {each.classes} classes" for each in found)
    why = (
        f"can be read as {read}, and shapes alone do not decide"
        if fitting
        else f"fits {classes}, and there are {len(labels)} labels. Correct [model] labels"
        if found
        else "fits no head that shapes alone show"
    )
    raise ModelError(f"{model.source} gives {listed(outputs)}, which {why}. {DECODING_FORM}")


def _one(tensor: TensorSpec) -> Tensor:
    """Return what is seen of a tensor for one image."""
    return Tensor(tensor.name, (1, *tensor.shape[1:]), tensor.dtype)


def _task_of(decoding: Decoding) -> Task:
    return "classification" if isinstance(decoding, ClassDecoding) else "detection"


def _read_names(path: Path) -> tuple[str, ...]:
    known = f"or one of {', '.join(PUBLISHED_LABELS)}"
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise ModelError(f"[model] labels: {path} is too large for a list of names")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"[model] labels: cannot read {path}: {error}. Give a list, a file with one name a line, {known}"
        ) from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise ModelError(f"[model] labels: {path} names no class. Write one name a line")
    return labels
