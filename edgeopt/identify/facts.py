"""Facts: everything that identification looks at, so that it is a function of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from edgeopt.spec import Size

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int | str, ...]
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Tensor:
    """An input or output as the file declares it, or as a run on one image showed it."""

    name: str
    shape: Shape
    dtype: str = "float32"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The dimensions that are numbers; a dynamic one counts as -1."""
        return tuple(side if isinstance(side, int) else -1 for side in self.shape)

    def __str__(self) -> str:
        return f"'{self.name}' {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Facts:
    """One model, seen from outside.

    Attributes:
        inputs: in the file's order.
        outputs: in the file's order, for one image where the model could be run.
        metadata: what its exporter wrote into the file.
        tail: operators between the last layer with weights and any output.
        opening: element-wise operators on the image before anything else, each with its constant's mean.
        values: the outputs for one synthetic picture, by name; empty where the model could not be run.
        applied: the activation that makes each output: ``softmax``, ``sigmoid`` or ``none``.
        quantized: there are quantizers in the graph, in pairs of Q/DQ or before integer operators.
        frozen: the file leaves the size of images open, and `inputs` has the one that was chosen.
        why_not_run: the reason for empty `values`.
        custom: operators that ONNX does not define.
        data_classes: number of classes of the images that it is for; None: unknown.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tail: frozenset[str] = frozenset()
    opening: tuple[tuple[str, float], ...] = ()
    values: Mapping[str, Array] = field(default_factory=dict)
    applied: Mapping[str, str] = field(default_factory=dict)
    quantized: bool = False
    frozen: bool = False
    why_not_run: str = ""
    custom: tuple[str, ...] = ()
    data_classes: int | None = None

    @property
    def image(self) -> Tensor | None:
        """The input that takes images: the first of rank 4 with one or three channels."""
        return next((tensor for tensor in self.inputs if layout_of(tensor) is not None), None)

    @property
    def size(self) -> Size | None:
        """(height, width) of the image input; None where it is dynamic or there is none."""
        image = self.image
        if image is None:
            return None
        first = 2 if layout_of(image) == "NCHW" else 1
        height, width = image.shape[first : first + 2]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    @property
    def channels(self) -> int:
        """Channels of the image input; 3 where there is no image input."""
        image = self.image
        if image is None:
            return 3
        return image.sizes[1 if layout_of(image) == "NCHW" else 3]

    def output(self, *names: str) -> Tensor | None:
        """Return the first output whose name is, or ends in, one of `names`, as in ``graph2_pred_boxes``."""
        for wanted in names:
            for tensor in self.outputs:
                if tensor.name.lower() == wanted or tensor.name.lower().endswith((f"_{wanted}", f"/{wanted}")):
                    return tensor
        return None


def layout_of(tensor: Tensor) -> str | None:
    """Return ``NCHW`` or ``NHWC`` of an image input; None if it takes no images."""
    if len(tensor.shape) != 4:
        return None
    if tensor.sizes[1] in _CHANNELS:
        return "NCHW"
    return "NHWC" if tensor.sizes[3] in _CHANNELS else None


def cells(size: Size, strides: tuple[int, ...]) -> int:
    """Return the number of cells of a detector's grids."""
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)
