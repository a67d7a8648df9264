"""ModelSpec: a model's inputs and outputs, its preprocessing and its decoding.

Preprocessing and decoding are data, not code: they travel in the bundle and one interpreter (`preprocess`,
`postprocess`) reads them everywhere, so that a device prepares an image exactly as training did.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt.errors import ModelError, SettingError
from edgeopt.heads import BoxForm as BoxForm
from edgeopt.heads import DetectionDecoding as DetectionDecoding
from edgeopt.heads import Grid as Grid
from edgeopt.heads import Part as Part
from edgeopt.presets import expand
from edgeopt.references import is_code
from edgeopt.structs import Struct as Struct
from edgeopt.structs import replace as replace
from edgeopt.typed import convert

Task: TypeAlias = Literal["classification", "detection"]
PositiveInt: TypeAlias = Annotated[int, Meta(gt=0, le=(1 << 31) - 1)]
Pixels: TypeAlias = Annotated[int, Meta(gt=0, le=16384)]
"""Length of a side. A bundle or recipe of somebody else cannot ask for all memory by it."""
Fraction: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Size: TypeAlias = tuple[Pixels, Pixels]
"""(height, width) in pixels."""
Activation: TypeAlias = Literal["softmax", "sigmoid", "none"]
Interpolation: TypeAlias = Literal["auto", "nearest", "linear", "cubic", "area", "lanczos"]
"""``auto``: area when shrinking, linear when enlarging. As OpenCV computes them, and torch without antialiasing; with
antialiasing ``linear``, ``cubic`` and ``lanczos`` as Pillow and torch do."""
Grey: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
# Not tuple[Grey, Grey, Grey]: in a union with a bounded number it crashes msgspec 0.22 at the next garbage collection.
Fill: TypeAlias = Grey | Annotated[tuple[Grey, ...], Meta(min_length=3, max_length=3)]
"""A grey level, or red, green and blue."""

ANTIALIASED: tuple[Interpolation, ...] = ("linear", "cubic", "lanczos")
"""Interpolations that can be antialiased."""
Rounding: TypeAlias = Literal["down", "nearest"]

Processor: TypeAlias = Literal["vnni", "avx2", "arm"]
"""Processors by how their integer kernels add products: x86 with VNNI and Arm as written; x86 without VNNI (AVX2, but
SSE4.2 and the first AVX-512 too) in pairs in 16 bits, where products of large weights saturate."""
PROCESSORS: tuple[Processor, ...] = ("vnni", "avx2", "arm")


class TensorSpec(Struct):
    """Name, shape and element type of a network's input or output.

    A dimension is a number, or a name where it is dynamic: the batch, and the rows of an output if the network chooses
    how many there are.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


class AuxiliaryInput(Struct):
    """An input beside the image, which the same code fills wherever the model runs."""

    name: str
    """Name of the input."""
    holds: Literal["constant", "network_size", "original_size", "scale", "regions"]
    """Values: `value`; the height and width of the network's input, or of the original image, in pixels; the factors by
    which preprocessing has scaled the image; or regions that may show an object, (rows, 4) as left, top, right and
    bottom in pixels of the network's input, with zeros where fewer are found."""
    order: Literal["hw", "wh"] = "hw"
    """Order of sizes and factors: height first or width first."""
    value: tuple[float, ...] = ()
    """Values of a constant, row by row: one image's."""
    shape: tuple[int | str, ...] = ("N", 2)
    """Shape, found in the graph."""
    dtype: str = "float32"
    """Element type, found in the graph."""


class Resize(Struct, tag="resize"):
    """Scale to (height, width) without keeping the aspect ratio."""

    size: Size
    """(height, width) in pixels."""
    interpolation: Interpolation = "auto"
    """Interpolation; ``auto`` is ``area`` for shrinking and ``linear`` for enlarging."""
    antialias: bool = False
    """Widen the filter when shrinking, as Pillow always does, torch with ``antialias=True``, and torchvision, timm
    and transformers. For ``linear``, ``cubic`` and ``lanczos``."""

    def __post_init__(self) -> None:
        _check_filter(self.interpolation, antialias=self.antialias)


class ResizeShorterSide(Struct, tag="resize_shorter_side"):
    """Scale so that the shorter side has `pixels` pixels, keeping the aspect ratio."""

    pixels: Pixels
    """Pixels of the shorter side."""
    interpolation: Interpolation = "auto"
    """Interpolation; ``auto`` is ``area`` for shrinking and ``linear`` for enlarging."""
    antialias: bool = False
    """Widen the filter when shrinking, as Pillow always does, torch with ``antialias=True``, and torchvision, timm
    and transformers. For ``linear``, ``cubic`` and ``lanczos``."""

    def __post_init__(self) -> None:
        _check_filter(self.interpolation, antialias=self.antialias)


class ResizeLongerSide(Struct, tag="resize_longer_side"):
    """Scale so that the longer side has `pixels` pixels, keeping the aspect ratio."""

    pixels: Pixels
    """Pixels of the longer side. YOLO-NAS takes 636, and pads to 640."""
    interpolation: Interpolation = "linear"
    """Interpolation; ``auto`` is ``area`` for shrinking and ``linear`` for enlarging."""
    antialias: bool = False
    """Widen the filter when shrinking, as Pillow always does, torch with ``antialias=True``, and torchvision, timm
    and transformers. For ``linear``, ``cubic`` and ``lanczos``."""
    rounding: Rounding = "nearest"
    """Way to whole pixels of the shorter side."""

    def __post_init__(self) -> None:
        _check_filter(self.interpolation, antialias=self.antialias)


class Pad(Struct, tag="pad"):
    """Fill up to `size`, or to the next multiples of `multiple` pixels."""

    size: Size | None = None
    """(height, width) in pixels, of which the image must not have more."""
    multiple: Pixels | None = None
    """Number that height and width become multiples of."""
    fill: Fill = 114
    """Grey level of the rest, or its red, green and blue."""
    anchor: Literal["center", "top_left"] = "center"
    """Place of the image."""

    def __post_init__(self) -> None:
        if (self.size is None) == (self.multiple is None):
            raise SettingError("pad takes either size = [HEIGHT, WIDTH] or multiple = PIXELS")


class CenterCrop(Struct, tag="center_crop"):
    """Cut (height, width) out of the middle; a smaller image is padded with zeros."""

    size: Size
    """(height, width) in pixels."""


class Letterbox(Struct, tag="letterbox"):
    """Scale to fit into (height, width) keeping the aspect ratio; fill the rest."""

    size: Size
    """(height, width) in pixels."""
    fill: Fill = 114
    """Grey level of the rest, or its red, green and blue."""
    anchor: Literal["center", "top_left"] = "center"
    """Place of the image."""
    interpolation: Interpolation = "linear"
    """Interpolation; ``auto`` is ``area`` for shrinking and ``linear`` for enlarging."""
    antialias: bool = False
    """Widen the filter when shrinking, as Pillow always does, torch with ``antialias=True``, and torchvision, timm
    and transformers. For ``linear``, ``cubic`` and ``lanczos``."""
    rounding: Rounding = "down"
    """Way to whole pixels: YOLOX cuts off, Ultralytics rounds."""

    def __post_init__(self) -> None:
        _check_filter(self.interpolation, antialias=self.antialias)


class Tiles(Struct):
    """Overlapping parts of large pictures, for objects that are small in them: a detector sees each, and all."""

    size: PositiveInt | None = None
    """Side of a tile in pixels of the picture. None: the network's input, so that nothing is scaled."""
    overlap: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.2
    """Share of a tile that the next one sees too. Objects that fit into it are whole in one of them."""
    whole: bool = True
    """Look at the picture as a whole too, for objects that are larger than a tile."""


class Adjust(Struct, tag="adjust"):
    """Brightness, contrast and colour balance, in that order, on uint8 pixels.

    Brightness multiplies; contrast scales about the image's mean grey; ``gray_world`` makes the channel means equal
    (Buchsbaum 1980), and `gains` then multiply the (red, green, blue) channels.
    """

    brightness: Annotated[float, Meta(gt=0.0)] = 1.0
    """Factor on all pixels."""
    contrast: Annotated[float, Meta(gt=0.0)] = 1.0
    """Factor on the distance from the mean grey."""
    color_balance: Literal["none", "gray_world"] = "none"
    """Correction of the colour cast."""
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on red, green and blue."""


def _check_filter(interpolation: Interpolation, *, antialias: bool) -> None:
    """Refuse combinations that no library computes."""
    if antialias and interpolation not in ANTIALIASED:
        raise SettingError(f"antialias goes with interpolation {' or '.join(ANTIALIASED)}, not with '{interpolation}'")
    if interpolation == "lanczos" and not antialias:
        raise SettingError("interpolation 'lanczos' is Pillow's, which antialiases: add antialias = true")


Step: TypeAlias = Resize | ResizeShorterSide | ResizeLongerSide | CenterCrop | Letterbox | Pad | Adjust


class Normalization(Struct):
    """``(pixel * scale - mean) / std`` per channel, in the order of `Preprocessing.channels`."""

    scale: float = 1.0 / 255.0
    """Factor on pixels of 0 to 255."""
    mean: tuple[float, ...] = (0.0,)
    """Mean to subtract, one for all channels or one each."""
    std: tuple[float, ...] = (1.0,)
    """Standard deviation to divide by, one for all channels or one each."""


class Preprocessing(Struct):
    """Steps from a (H, W, 3) uint8 BGR image to the network's input tensor."""

    steps: Annotated[tuple[Step, ...], Meta(max_length=16)] = ()
    """Geometry and colour, in order; each a table with its `type`."""
    channels: Literal["RGB", "BGR", "GRAY"] = "RGB"
    """Order of the channels in the input."""
    normalization: Normalization | None = None
    """None: the network takes uint8 pixels, because the normalisation is part of the graph (or there is none)."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of the axes of the input."""


class ClassificationDecoding(Struct, tag="classification"):
    """Scores from an output of shape (N, classes)."""

    activation: Activation = "softmax"
    """Function from the network's output to scores."""
    applied: Activation = "none"
    """Activation that the network has applied itself, if `activation` is none. Its output is then compared as
    probabilities. For an ``.onnx`` file and an export it is found in the graph."""
    top_k: PositiveInt = 5
    """Number of classes in a result."""
    output: str | Annotated[int, Meta(ge=0)] = 0
    """Name of the output, or its number in the graph's order."""
    offsets: tuple[float, ...] = ()
    """Number added to each class's logit, in the order of the labels; none: all 0. ``[balance]`` finds them, so that
    rare classes are chosen as often as they should be."""


class NeighborsDecoding(Struct, tag="neighbors"):
    """Classes by the prototypes that an image's embedding is nearest to, written by ``[fit]`` and `edgeopt enroll`.

    The network gives the embedding, of length 1. A class's logit is the mean cosine of its `neighbors` nearest
    prototypes over `temperature` (the local mean of Mitani and Hamamoto 2006, so that a class of three prototypes
    stands a chance beside one of a hundred); scores are their softmax. Prototypes are data: classes are added without a
    compiler, and an engine that was built stays as it is.
    """

    neighbors: PositiveInt = 1
    """Prototypes of each class that count, or all where it has fewer."""
    temperature: Annotated[float, Meta(gt=0.0)] = 0.1
    """Difference of cosines that makes a class e times as likely."""
    prototypes: bytes = b""
    """(P, F) int8, row by row, class by class: embeddings whose length does not count."""
    counts: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """Prototypes of each class, in the order of the labels."""
    top_k: PositiveInt = 5
    """Number of classes in a result."""
    output: str | Annotated[int, Meta(ge=0)] = 0
    """Name of the output, or its number in the graph's order."""

    def __post_init__(self) -> None:
        if len(self.prototypes) % max(1, sum(self.counts)):
            raise SettingError(
                f"{len(self.prototypes)} bytes of prototypes are not rows of one length for {sum(self.counts)} of them"
            )

    @property
    def activation(self) -> Activation:
        """Function from logits to scores."""
        return "softmax"

    @property
    def applied(self) -> Activation:
        """Activation in the graph: none."""
        return "none"


class CodeDecoding(Struct, tag="code"):
    """Results by the user's own code, which has to be installed, and allowed, wherever the model runs.

    The callable takes the outputs by name (first dimension: image), the `ModelSpec` and one `preprocess.Geometry` an
    image, and gives a list of one result an image: `postprocess.Classification`, or `postprocess.Detections` with boxes
    in pixels of the original image. It finds the rest of this table in ``spec.decoding``: evaluation lowers the score
    threshold to see nearly all detections.
    """

    call: str
    """``package.module:callable``."""
    score_threshold: Fraction = 0.3
    """Lowest score of a detection."""
    iou_threshold: Fraction = 0.45
    """Intersection over union above which non-maximum suppression drops the lower score."""
    max_detections: PositiveInt = 300
    """Most detections of an image."""
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    """Further arguments of the callable."""

    def __post_init__(self) -> None:
        if not is_code(self.call):
            raise SettingError(f"'{self.call}' does not have the form package.module:callable")


ClassDecoding: TypeAlias = ClassificationDecoding | NeighborsDecoding
"""Decodings that give each class a score."""
GivenDecoding: TypeAlias = ClassificationDecoding | DetectionDecoding | CodeDecoding
"""Decodings that someone may write; prototypes are fitted."""
Decoding: TypeAlias = NeighborsDecoding | GivenDecoding


def preset(name: str, **changes: Any) -> DetectionDecoding:
    """Return the decoding of a usual head; `changes` are keys of it that differ, as plain values.

    Raises:
        SettingError: there is no such preset.
        msgspec.ValidationError: a key that does not exist, or of another type.
    """
    return convert(expand({"preset": name, **changes}), DetectionDecoding)


def decoding_named(name: str) -> GivenDecoding:
    """Return the decoding that ``[model] decoding`` names by a text: ``classification``, a preset or the user's code.

    Raises:
        SettingError: there is none.
    """
    if is_code(name):
        return CodeDecoding(call=name)
    return ClassificationDecoding() if name == "classification" else preset(name)


def code_in(decoding: Decoding | None) -> tuple[str, ...]:
    """Return the user's code that a decoding names, if any."""
    return (decoding.call,) if isinstance(decoding, CodeDecoding) else ()


class ScoreCurve(Struct):
    """A rising function from a variant's scores to the baseline's: linear between knots, in log odds.

    Beyond the knots at the ends the log odds keep the end's distance.
    """

    own: tuple[float, ...]
    """The variant's scores at the knots, rising, between 0 and 1."""
    baseline: tuple[float, ...]
    """The baseline's at the same knots, rising."""

    def __post_init__(self) -> None:
        for name in ("own", "baseline"):
            knots = getattr(self, name)
            rises = all(low < high for low, high in itertools.pairwise(knots))
            if not knots or not rises or not 0.0 < knots[0] <= knots[-1] < 1.0:
                raise SettingError(f"a score curve has the knots {knots}: give rising scores between 0 and 1")
        if len(self.own) != len(self.baseline):
            raise SettingError(
                f"a score curve has {len(self.own)} knots on one side, {len(self.baseline)} on the other"
            )


class ScoreCurves(Struct, tag="curves"):
    """Alignment of scores that stand for themselves: a detector's, or a classifier's whose classes are independent."""

    curve: ScoreCurve
    """For every class that has none of its own."""
    classes: dict[str, ScoreCurve] = msgspec.field(default_factory=dict)
    """By label."""


class Temperature(Struct, tag="temperature"):
    """Alignment of probabilities that sum to one: logits are divided by it (Guo et al. 2017)."""

    value: Annotated[float, Meta(gt=0.0)]
    """Below 1 where the variant is less sure of itself than the baseline."""


Alignment: TypeAlias = ScoreCurves | Temperature
"""Way from a variant's scores to the baseline's, so that a threshold means the same for both."""


class ModelSpec(Struct):
    """Everything except the weights that is needed to run a model on an image."""

    name: str
    task: Task
    input: TensorSpec
    """The image."""
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    decoding: Decoding
    labels: tuple[str, ...]
    auxiliary: tuple[AuxiliaryInput, ...] = ()
    """Further inputs, none for most networks."""
    alignment: Alignment | None = None
    """Way from this variant's scores to the baseline's; None where they are taken as they are."""


def has_batch(spec: ModelSpec, tensor: TensorSpec) -> bool:
    """Return True if an output's first dimension is the image."""
    return tensor.shape[:1] == spec.input.shape[:1]


def image_size(tensor: TensorSpec, layout: str) -> Size:
    """Return the (height, width) of an image input.

    Raises:
        ModelError: they are no numbers.
    """
    height, width = tensor.shape[2:4] if layout == "NCHW" else tensor.shape[1:3]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelError(
            f"input '{tensor.name}' has shape {tensor.shape}: height and width must be numbers. Fix them with [model] "
            "input_size = [height, width]"
        )
    return height, width
