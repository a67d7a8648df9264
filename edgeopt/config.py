"""The recipe edgeopt.toml as frozen structs: one table a verb, validated once, unknown keys with "did you mean"."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from edgeopt.doors import DATA_FORMATS, DECODINGS, LOSSES, METRICS, REPAIRS, TARGETS
from edgeopt.errors import ConfigError, SettingError, did_you_mean, storage_errors
from edgeopt.files import is_file, is_folder
from edgeopt.presets import expand
from edgeopt.references import check, is_code, named
from edgeopt.renamed import use_present_names
from edgeopt.spec import (
    PROCESSORS,
    AuxiliaryInput,
    Decoding,
    Fraction,
    GivenDecoding,
    NeighborsDecoding,
    PositiveInt,
    Preprocessing,
    Processor,
    Size,
    Struct,
    Task,
    Tiles,
    code_in,
    decoding_named,
    replace,
)
from edgeopt.typed import convert

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=86_400.0)]
DataFormat: TypeAlias = Annotated[str, named(DATA_FORMATS)]
CalibrationMethod: TypeAlias = Literal["minmax", "mean_minmax", "percentile", "entropy", "mse", "auto"]
Repair: TypeAlias = Annotated[str, named(REPAIRS)]
Sampling: TypeAlias = Literal["shuffle", "balanced", "square_root", "repeat_factor"]
SchemeName: TypeAlias = Literal["tensorrt", "openvino", "onnxruntime", "arm"]
TargetName: TypeAlias = Annotated[str, named(TARGETS)]
_PERCENTAGE = r"^ *[0-9]*\.?[0-9]+ *% *$"
_SHARE_OR_MS = r"^ *[0-9]*\.?[0-9]+ *(x|ms) *$"
_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*(?!\n)$"  # a bare $ lets a line break through
_PATTERNS: Mapping[str, str] = {
    _PERCENTAGE: 'a number of points, or a percentage of the FP32 metric as in "0.5%"',
    _SHARE_OR_MS: 'a share of the unpruned latency as in "0.6x", or milliseconds as in "12 ms"',
    _PLAIN_NAME: "letters, digits, dots, dashes and underscores, with a letter or digit first",
}
"""Words for error messages, by pattern."""


FEATURES = "edgeopt:features"
"""``[model] source`` of a classifier on a frozen network's features."""


class ModelConfig(Struct):
    """``[model]``: the source of the network, and what only its author knows about it."""

    source: str
    """``edgeopt:NAME``, ``package.module:callable``, ``torchvision:NAME``, ``timm:NAME``, a ``.onnx`` or a ``.pt2``;
    ``edgeopt:features`` for a classifier that ``[fit]`` fits on the features of a frozen `backbone`; with the extra
    ``tensorflow`` also a ``.tflite``, ``.keras`` or ``.h5`` and the folder of a SavedModel.

    A recipe is code: what it names as ``package.module:callable`` is run, so build only recipes that you trust. It is
    looked for in the recipe's folder, the current one and the installed packages; these come first. The callable
    returns a torch module, alone or with what is known of it: a `spec.ModelSpec`, or a mapping of keys of this table.
    """
    backbone: str | None = None
    """Network whose features ``edgeopt:features`` classifies, as `source` names networks: the other keys of this table
    are then about it, except `labels`."""
    weights: str | None = None
    """A ``.pth`` or ``.safetensors`` file, or ``package:NAME/PATH`` for a file of an installed package. None: train the
    network."""
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keyword arguments of the network's constructor."""
    task: Task | None = None
    """Kind of result. Default: known from the network, or from the shape of its output."""
    input_size: Size | None = None
    """Input (height, width); needed unless the source fixes it."""
    labels: tuple[str, ...] | str | None = None
    """Class names, a text file with one per line, or ``edgeopt:coco``, ``edgeopt:imagenet``, ``edgeopt:digits``.
    Default: the class names of the data."""
    preprocessing: Preprocessing | None = None
    decoding: GivenDecoding | Annotated[str, named(DECODINGS)] | None = None
    """Decoding of the outputs: ``classification``; a detector's head by the name of its preset (``yolov8``,
    ``rtdetr``…), as a table with a preset and what differs from it (``preset = "yolov8", score_threshold = 0.5``), or
    described whole; or ``package.module:callable``. Default: chosen by the output's shape."""
    tail: Literal["keep", "cut", "topk", "nms"] = "keep"
    """End of an ``.onnx`` detector: ``cut`` removes TopK or NonMaxSuppression, or else means over bins of distances, so
    that the rest can be INT8 on every engine; decoding does the same afterwards, and is checked against the whole
    network. ``topk`` puts choice and decoding of the best rows on a detector that gives all its candidates, so that few
    bytes leave the device; ``nms`` also NonMaxSuppression."""
    inputs: tuple[AuxiliaryInput, ...] = ()
    """Inputs beside the image, and their values, where their names do not say them."""

    def __post_init__(self) -> None:
        if isinstance(self.decoding, str):
            check(self.decoding, DECODINGS, "decoding")
        if self.source == FEATURES and self.backbone is None:
            raise SettingError(
                f'"{FEATURES}" classifies the features of another network: name it with [model] backbone, as in '
                'backbone = "edgeopt:mobilenet_v2"'
            )
        if self.source != FEATURES and self.backbone is not None:
            raise SettingError(f'[model] backbone goes with source = "{FEATURES}", not with "{self.source}"')
        if self.source == FEATURES and (self.decoding is not None or self.task is not None or self.tail == "cut"):
            raise SettingError(f'[model] decoding, task and tail follow from source = "{FEATURES}". Remove them')

    @property
    def frozen(self) -> ModelConfig:
        """The backbone of `FEATURES` as a model of its own, whose classes do not matter."""
        assert self.backbone is not None
        return replace(self, source=self.backbone, backbone=None, labels=None, decoding=NeighborsDecoding())

    @property
    def decoder(self) -> Decoding | None:
        """`decoding` as a table."""
        return decoding_named(self.decoding) if isinstance(self.decoding, str) else self.decoding


class DataSource(Struct):
    """One set of images with its labels."""

    format: DataFormat
    """A built-in format, or ``package.module:callable``: a `dataset.listing.Reader`."""
    path: str | None = None
    """Folder of images; for ``csv`` the file, for ``idx`` the image file, for ``images`` and ``yolo`` also a text file
    with a path a line. Built-in sets take none. ``~`` is the user's folder."""
    annotations: str | None = None
    """Label file of COCO, CVAT, Create ML, WIDER FACE or IDX; for VOC, YOLO, KITTI and labelme the folder of label
    files. Default, but for COCO, WIDER FACE and IDX: found beside or among the images."""
    split: str | None = None
    """Part of a built-in set: train, validation, test or calibration."""
    image_column: str = "file"
    """Column of a ``csv`` with the images' paths. Default: ``file``, else one of a usual name."""
    label_column: str | None = None
    """Label column of a ``csv``. Default: ``class_index``, ``label`` or another usual name, whichever exists first."""
    labels: tuple[str, ...] | None = None
    """Class names in index order, for formats that have none of their own."""
    other_classes: Literal["refuse", "leave_out"] = "refuse"
    """Objects and images of classes that the network does not have: an error, or left out, as for a network for persons
    on data with labels of everything."""
    limit: PositiveInt | None = None
    """Use only this many images, drawn with `seed`, evenly over the classes."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of file names to leave out."""
    seed: int = 0
    """Seed of the draw of `limit`."""
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings for a format of your own, which finds them in the source that it is given."""

    def __post_init__(self) -> None:
        check(self.format, DATA_FORMATS, "data format")
        if self.arguments and not is_code(self.format):
            raise SettingError(f"data of format '{self.format}' takes no arguments. Remove them")


class DataConfig(Struct):
    """``[data]``: up to four sets. A missing set is held out from ``train``. No two sets may share an image."""

    train: DataSource | None = None
    validation: DataSource | None = None
    test: DataSource | None = None
    calibration: DataSource | None = None
    holdout: Fraction = 0.1
    """Share of ``train`` that is held out for each of validation and test if they are missing."""
    seed: int = 0
    """Seed of what is held out and of the draw of calibration images."""
    calibration_classes: Literal["proportional", "even"] = "proportional"
    """Classes of calibration images that are held out from ``train``: in their shares, or as many of each, so that
    ranges hold for the rare ones too. A given set is always drawn evenly."""
    record_splits: Literal["names", "hashes", "none"] = "names"
    """Record of each set's images in the bundle: their names below the data's folder and the sha256 of their pixels,
    the hashes alone, or nothing. With hashes, a set that was held out is found again even if images were added."""


class Augmentation(Struct):
    """Random changes of training images. Each number is the half-width of a uniform factor about 1."""

    brightness: Fraction = 0.0
    """Half-width of the factor on all pixels."""
    contrast: Fraction = 0.0
    """Half-width of the factor on the distance from the mean grey."""
    color_balance: Fraction = 0.0
    """Half-width of the factor on each colour channel."""
    scale: Fraction = 0.0
    """Half-width of the factor on the image's size."""
    translate: Fraction = 0.0
    """Largest shift, as a share of the image's size."""
    rotate_deg: Annotated[float, Meta(ge=0.0, le=180.0)] = 0.0
    """Largest rotation, for classification only: boxes are not rotated."""
    shear_deg: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0
    """Largest slant to either side, for classification only."""
    elastic: Fraction = 0.0
    """Largest shift of a smooth local distortion, as a share of the image's size, for classification only."""
    horizontal_flip: Fraction = 0.0
    """Probability of a horizontal flip."""
    mosaic: Fraction = 0.0
    """Probability of a picture made of four, for detection only (Bochkovskiy et al. 2020)."""
    custom: tuple[str, ...] = ()
    """Your own augmentations, ``package.module:callable``, applied after these in order. Each takes a
    `train.augment.Scene` (without boxes for classification) and a numpy Generator, and returns the changed scene."""

    def __post_init__(self) -> None:
        for reference in self.custom:
            check(reference, {}, "augmentation")


class Adversarial(Struct):
    """``[train.adversarial]``: a classifier learns from pictures that were changed to mislead it, anew at every step.

    A step takes as many times longer as there are `steps`, and accuracy on clean pictures falls. The epoch that is kept
    is the best on validation pictures under the same attack.
    """

    method: Literal["pgd", "trades"] = "pgd"
    """``pgd``: the loss of the changed pictures (Madry et al. 2018). ``trades``: the loss of the clean ones, and how
    far answers to changed ones are from those (Zhang et al. 2019), which `beta` weighs."""
    radius: Annotated[float, Meta(gt=0.0, le=255.0)] = 8.0
    """Largest change of a pixel, of 255."""
    steps: PositiveInt = 7
    """Gradients that a change is made by."""
    beta: Annotated[float, Meta(gt=0.0)] = 6.0
    """Weight of the second part of ``trades``: more of it holds better and answers worse on clean pictures."""


class TrainConfig(Struct):
    """``[train]``. Without this table the weights are used without training."""

    epochs: PositiveInt = 10
    """Passes over the training images."""
    batch_size: PositiveInt = 32
    """Images of one step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    learning_rate: Annotated[float, Meta(gt=0.0)] = 0.01
    """Learning rate at `batch_size`; it is not rescaled."""
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Meta(ge=0.0)] = 5e-4
    """Weight decay of all but biases and normalization layers."""
    warmup_epochs: Annotated[float, Meta(ge=0.0)] = 1.0
    """Epochs in which the learning rate rises to its value, before it falls along a cosine."""
    loss: Annotated[str, named(LOSSES)] | None = None
    """Loss. Default: ``cross_entropy`` for classes, for boxes the network's own: ``yolox`` or ``faster_rcnn``. For rare
    classes: ``focal``, ``class_balanced`` (effective numbers of images) or ``logit_adjusted``. Your own is a
    `train.objective.ClassLoss` or a `train.objective.BoxLoss`."""
    label_smoothing: Fraction = 0.0
    """Share of the target that cross-entropy spreads over all classes."""
    sampling: Sampling = "shuffle"
    """Images of an epoch, which stays as long: each once; ``balanced``: all classes as often as each other;
    ``square_root``: by the root of that; ``repeat_factor``: those rarer than their even share repeated by the root of
    how much, as for LVIS. An image with several objects counts as its rarest."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: cross-entropy weighted by inverse class frequency."""
    freeze_batchnorm: bool = False
    """Keep the running statistics and use them in training, for weights whose BatchNorm is folded."""
    freeze: tuple[str, ...] = ()
    """Prefixes of parameter names that are not trained."""
    ema: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Decay of the averaged weights, which are validated and kept; 0 disables averaging."""
    no_augmentation_epochs: Annotated[int, Meta(ge=0)] = 0
    """Number of last epochs without augmentation (YOLOX closes mosaic at the end)."""
    augmentation: Augmentation = Augmentation()
    validate_every: PositiveInt = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: PositiveInt | None = None
    """Stop early after so many validations in a row without a better one. Default: train all epochs."""
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """``cuda``, ``cuda:1``, ``mps`` or ``cpu``; ``auto``: a CUDA GPU if there is one, else Apple's, else the
    processor."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type that convolutions and products compute in, while weights and losses stay float32 (mixed precision).
    ``auto``: on a CUDA GPU bfloat16 if it has it, else float16 with a scaled loss; elsewhere float32."""
    workers: Annotated[int, Meta(ge=0)] | None = None
    """Threads that prepare the next batches. 0: each when it is needed. Default: 4 on a GPU, or fewer if the processor
    has fewer cores; 0 on a processor, whose cores the network needs. Results do not depend on it."""
    processes: PositiveInt = 1
    """Processes that share every batch, on the GPUs ``cuda:0``, ``cuda:1`` and so on, or on the processor. The result
    is that of one process but for roundings, and for dropout, which each draws by itself. INT8 graphs (`quantize`)
    train in one."""
    adversarial: Adversarial | None = None
    """Train a classifier against attacks; see the table."""
    tensorboard: str | None = None
    """Folder for TensorBoard's event files with loss, learning rate and metric, from the recipe's folder: in ``train``,
    and in ``compress`` of a pruned network. Needs the extra ``tensorboard``. Default: none are written."""
    mlflow: str | None = None
    """Where MLflow keeps the same, as runs of an experiment with the recipe's name: a file from the recipe's folder
    (``mlflow.db``), or the URI of a server. Needs the extra ``mlflow``. Default: nowhere."""
    seed: int = 0
    """Seed of shuffling, augmentation and dropout."""

    @property
    def deciding(self) -> TrainConfig:
        """The settings without those that say where it runs, which decide nothing but roundings of the result."""
        return replace(self, device="auto", workers=None, tensorboard=None, mlflow=None, processes=1)

    def __post_init__(self) -> None:
        if self.processes > self.batch_size:
            raise SettingError(
                f"[train] processes = {self.processes} share each batch, and batch_size = {self.batch_size} leaves "
                "some without an image. Set fewer processes or a larger batch"
            )
        if self.processes > 1 and self.adversarial is not None:
            raise SettingError("[train.adversarial] trains in one process. Remove processes")
        if self.loss is None:
            return
        check(self.loss, LOSSES, "loss")
        if self.loss != "cross_entropy" and (self.label_smoothing or self.class_weights != "none"):
            raise SettingError(f"label_smoothing and class_weights belong to cross_entropy, not to loss '{self.loss}'")


class RegionsConfig(Struct):
    """``[fit.regions]``: a detector of it, R-CNN: the classifier is fitted on regions of pictures with boxes.

    Each region of a picture goes through the backbone by itself, scaled to `[model] input_size`. That is slow, and kept
    to compare with: Faster R-CNN shares the features of all regions.
    """

    count: PositiveInt = 150
    """Regions of a picture, at most; OpenCV's MSER proposes them, and touching parts are told apart."""
    picture_size: Size = (320, 320)
    """Height and width of the network's input, to which a picture is letterboxed."""
    context: Fraction = 0.3
    """Share of a region's sides that is seen around it besides."""


class FitConfig(Struct):
    """``[fit]``: the classifier of ``edgeopt:features``, which scikit-learn fits on features of a frozen network.

    That takes seconds, and tens of pictures a class. Settings that are not here are chosen by cross-validation. The
    classifier becomes part of the graph, in operators that every target has, and is quantized with the rest; of ``knn``
    the graph gives the embedding, and the prototypes are data in the bundle, so that `edgeopt enroll` can add classes.
    """

    classifier: Literal["svm", "rbf_svm", "knn", "mlp"] = "svm"
    """A linear SVM, one with Gaussian kernels, the nearest prototypes, or a network of one hidden layer."""
    features: str = "auto"
    """Tensor of the backbone's graph that is classified. ``auto``: what its last linear layer reads, or its output if
    it ends in none; maps are averaged over their places."""
    grid: PositiveInt = 1
    """Cells of each side of such a map, over each of which it is averaged by itself. With more than 1 it is also known
    where something is, which shapes that are unlike photographs' need; early maps tell them best."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """``balanced``: rare classes weigh as much as frequent ones. Prototypes do anyway."""
    folds: Annotated[int, Meta(ge=2)] = 5
    """Parts of the pictures in cross-validation; fewer if a class has fewer pictures. Prototypes leave out one at a
    time."""
    hidden: PositiveInt = 64
    """Neurons of the hidden layer of ``mlp``."""
    prototypes: PositiveInt = 100
    """Most prototypes of a class of ``knn``; of more pictures they are the means of k-means."""
    support_vectors: PositiveInt | None = None
    """Most support vectors of ``rbf_svm``, each of which is as long as the features. Default: together they may have as
    many numbers as the backbone has weights."""
    seed: int = 0
    """Seed of the folds, of the hidden layer's first weights, of k-means and of the regions that are learnt from."""
    regions: RegionsConfig | None = None
    """Regions of pictures with boxes, instead of whole pictures with a class: see the table."""

    def __post_init__(self) -> None:
        if self.regions is not None and self.classifier == "knn":
            raise SettingError(
                "[fit.regions] needs a classifier that knows the background, which has no prototypes. Take [fit] "
                'classifier = "svm"'
            )


class CompressConfig(Struct):
    """``[compress]``: remove whole channels until the network is as fast or as small as asked, and train what is left.

    It comes after ``[train]`` and before quantization. The unpruned network is the teacher. One of `latency` and
    `parameters` must be given. Needs a torch network, and images to train on.
    """

    latency: Annotated[str, Meta(pattern=_SHARE_OR_MS)] | None = None
    """Largest latency of the engine, measured on this machine beside the unpruned one's: ``"0.6x"`` of that, or
    ``"12 ms"``. In INT8 where ``[quantize]`` is enabled, else in FP32."""
    parameters: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    """Largest share of the parameters that may be left."""
    target: TargetName | None = None
    """Target whose engine is measured. Default: the first of ``[compile] targets``."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of names of torch layers that keep their channels."""
    images: PositiveInt = 64
    """Training images from which it is learnt how much each channel matters."""
    teacher: Fraction = 0.5
    """Weight of the unpruned network's outputs in the loss; the labels have the rest."""
    train: TrainConfig | None = None
    """``[compress.train]``: training of the pruned network. Default: as ``[train]`` says."""

    def __post_init__(self) -> None:
        if (self.latency is None) == (self.parameters is None):
            raise SettingError('[compress] takes one goal: latency, as in latency = "0.6x", or parameters')
        quantity, largest = self.goal
        if largest <= 0.0 or (quantity != "ms" and largest >= 1.0):
            raise SettingError(f"[compress] cannot aim at {largest:g} {quantity}: it makes a network smaller")

    @property
    def goal(self) -> tuple[Literal["share of the latency", "ms", "share of the parameters"], float]:
        """Quantity that is limited, and its largest value."""
        if self.latency is None:
            assert self.parameters is not None
            return "share of the parameters", self.parameters
        number = float(self.latency.rstrip(" xms"))  # the pattern lets nothing else follow the number
        return ("ms" if self.latency.rstrip().endswith("ms") else "share of the latency"), number


class ExportConfig(Struct):
    """``[export]``: how the model becomes ONNX."""

    opset: Annotated[int, Meta(ge=13, le=23)] = 18
    """Version of ONNX's operators."""
    tolerance: Annotated[float, Meta(gt=0.0)] = 1e-4
    """Largest allowed difference of torch and ONNX outputs, relative to the largest output if that exceeds 1."""
    fold_normalization: bool = True
    """Make scale, mean and std part of the graph, so that sessions take uint8."""


class CalibrateConfig(Struct):
    """``[calibrate]``: how activations are observed and ranges chosen."""

    method: CalibrationMethod = "mean_minmax"
    """Method of choosing ranges. The repair ``ranges`` then gives single tensors another one where that measurably
    helps, and ``[quantize.ranges]`` settles the method of single layers."""
    images: PositiveInt = 200
    """Number of calibration images. If there are fewer, the build says so. Thousands can be observed by many workers:
    ``edgeopt build --on``."""
    percentile: Annotated[float, Meta(gt=50.0, le=100.0)] = 99.99
    """Share of values inside the range, in percent, of the method ``percentile``."""
    minimum_images: PositiveInt = 16
    """Fewest readable images; fewer is an error."""
    seed: int = 0
    """Seed of the order of the images."""


FAST_REPAIRS = ("range_method", "equalization", "smoothing", "bias_correction", "weight_clipping", "gptq")
"""The repairs that run the network on each image a few times, and search for nothing."""


class QuantizeConfig(Struct):
    """``[quantize]``. With `enabled = false`, only float variants are built."""

    enabled: bool = True
    """Build INT8 variants."""
    file: str | None = None
    """An ``.onnx`` file that another tool quantized, with Q/DQ in the graph: it becomes the INT8 variant of each target
    as it is, without calibration or repairs. ``[model] source`` is its float model; where there is none it is the same
    file, and the FP32 variant is that file without its quantizers. OpenVINO gets its int8 activations as uint8 of the
    same values: it rounds int8 ones to whole numbers where a Concat joins them. Where this processor's kernels add
    products in 16 bits and its weights are too large for that, smaller ones are tried on calibration (or else test)
    images, and kept if the outputs are then nearer to what the file says."""
    scheme: SchemeName | None = None
    """Quantization scheme. Default: the one that each target's kernels want."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of names of nodes that stay float."""
    ranges: dict[str, CalibrationMethod] = msgspec.field(default_factory=dict)
    """Method of the input ranges of some layers, by glob pattern of node names: ``"stem*" = "mse"``. Tensors that share
    a scale with such an input follow. If several patterns match, the last one counts. The repair ``ranges`` leaves
    these ranges alone. Default: ``[calibrate] method``."""
    repairs: tuple[Repair, ...] = (
        "range_method",
        "equalization",
        "smoothing",
        "ranges",
        "exemption",
        "bias_correction",
        "weight_clipping",
        "gptq",
    )
    """Accuracy repairs to try. Each is kept only if it measurably helps on held-out calibration images.
    ``range_method`` tries the other methods of ``[calibrate] method`` on all ranges.
    ``equalization`` inserts a Mul per channel for ONNX Runtime only where it is timed to be as fast with it.
    ``smoothing`` is for LayerNorms, and not tried without (SmoothQuant). The repair ``ranges`` chooses ranges anew,
    by their effect on the outputs, and so may replace those of ``[calibrate] method``. ``exemption`` keeps small
    layers float whose input does most of the harm, at most 5 % of the multiplications. Those two take most of the
    time, for they search; the others run the network on each image a few times. ``fine_tuning``, which is not among
    the defaults, trains integers, scales and biases until each layer computes what it does in float, without labels: it
    takes minutes to hours, and needs torch. Your own is a `passes.repair.trials.Repair`."""
    minutes: Annotated[float, Meta(gt=0.0)] | None = None
    """Most minutes that the repairs of one graph may take; for ``edgeopt quantize`` its calibration too. A repair that
    would take longer than what is left is not tried, and the report says what it would have needed. Results then depend
    on how fast the machine is. Default: as long as they need."""

    def __post_init__(self) -> None:
        for repair in self.repairs:
            check(repair, REPAIRS, "repair")
        if self.file is not None and (self.exclude or self.ranges or self.scheme):
            raise SettingError(
                f"'{self.file}' is quantized already and is taken as it is. Remove exclude, ranges and scheme"
            )


class PrecisionConfig(Struct):
    """``[precision]``: the precision of layers that are not quantized.

    Each reduced precision is a variant of its own beside FP32, and the float part of the target's INT8 variant.
    """

    gpu: Literal["fp16", "fp32"] = "fp16"
    """Precision in the graph of ``trt`` and ``rtx``. Nodes whose tensors exceed 512 on calibration images, with
    constants beyond 65504 or sums of more than 4096 products stay FP32. TensorRT 8 (JetPack 5 and 6.0) takes no FP16
    scales; with it, ``fp32`` keeps INT8 variants loadable."""
    cpu: Literal["bf16", "fp32"] = "fp32"
    """Precision of ``ov``, as a setting of the engine. bf16 needs a processor that has it (avx512_bf16, amx_bf16 or
    Arm's)."""


class BudgetConfig(Struct):
    """``[budget]``: limits on the cost of INT8. Layers that cost more accuracy than they save time then stay float.

    The search measures on the validation images, on the engines of each target. Without this table all layers that can
    be are quantized.
    """

    max_drop: Fraction | Annotated[str, Meta(pattern=_PERCENTAGE)] | None = None
    """Largest drop of the main metric: ``"0.5%"`` of the FP32 model's, or a number in points of a metric from 0 to 1.
    Where the validation images have no labels, the metric is the agreement with the FP32 model.
    Default: 0.5 %. With only `latency_ms` set there is no limit on accuracy: the most accurate plan within that latency
    wins."""
    latency_ms: Annotated[float, Meta(gt=0.0)] | None = None
    """Largest latency end to end, on this machine."""


class BatchRange(Struct):
    """Batch sizes of one engine, which is tuned for `opt`."""

    min: PositiveInt = 1
    """Smallest batch."""
    opt: PositiveInt = 1
    """Batch that the engine is tuned for."""
    max: PositiveInt = 1
    """Largest batch."""

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise SettingError(
                f"batch sizes must satisfy min <= opt <= max, but are {self.min}, {self.opt}, {self.max}"
            )

    @property
    def fixed(self) -> bool:
        """True for a single size, as a DLA core demands."""
        return self.min == self.max


CandidateName: TypeAlias = Literal[
    "depthwise", "sums", "head", "islands", "residual", "gates", "hardswish", "scales", "resizes", "float32"
]
"""Doubts about INT8 that only a device can settle; see `passes.qdq.candidates`."""


class TensorRTBuild(Struct):
    """``[compile.tensorrt.build]``: everything that changes the resulting engine. It is part of the engine cache's key.

    There is no precision here: precision is in the ONNX graph.
    """

    batch: BatchRange = BatchRange()
    """Batch sizes, if the graph's batch dimension is dynamic."""
    workspace_bytes: PositiveInt | None = None
    """Scratch memory that tactics may use. None: derived from the device's free memory."""
    optimization_level: Annotated[int, Meta(ge=0, le=5)] | None = None
    """Effort of the build, from 0 (builds fastest) to 5 (searches longest). None: the library's default (3). TensorRT
    8.6 and newer."""
    tf32: bool = True
    """Let FP32 convolutions use TF32 tensor cores (Ampere and newer): 10-bit mantissa, much faster."""
    fp16_rest: bool = True
    """TensorRT 8 only, whose INT8 graphs have FP32 scales: let the layers of an INT8 graph that are not quantized run
    in FP16. Without it they run in FP32, and INT8 is often slower than FP16."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """GPUs that the engine also runs on, which costs speed. Not on a Jetson."""
    version_compatible: bool = False
    """Let newer releases of TensorRT load the engine, which costs speed."""
    dla_core: Annotated[int, Meta(ge=0)] | None = None
    """Run on this DLA core; what it cannot do runs on the GPU."""
    compute_capabilities: tuple[str, ...] = ()
    """TensorRT-RTX only: GPUs to build for, such as ``SM86``. Default: all that it supports."""


class TensorRTRun(Struct):
    """``[compile.tensorrt.run]``: how an engine is run. Nothing here changes the engine."""

    cuda: Literal["pycuda", "libcuda", "auto"] = "auto"
    """Way to the GPU: the package pycuda, or the driver's library, for which nothing has to be installed.
    ``auto`` takes pycuda where it is."""
    wait: Literal["auto", "spin", "block"] = "auto"
    """Way of threads to wait for the GPU, in the whole process: ``spin`` takes a core and answers at once, ``block``
    sleeps and is woken up some ten microseconds late, ``auto`` leaves it to the driver, which may block on a Jetson."""
    device: int = 0
    """Index of the GPU."""
    cuda_graph: bool = True
    """Launch the whole network as one piece of work, which saves the processor the enqueueing of each layer."""
    preprocess: Literal["cpu", "gpu"] = "cpu"
    """Where `Predictor.predict` prepares its picture. ``gpu``: by a kernel in front of the network, for models that
    take one letterboxed picture and have their normalization in the graph. Pixels differ by one level at most."""
    memory: Literal["auto", "copied", "mapped", "managed"] = "auto"
    """Memory of inputs and outputs; see `runtime.trt.buffers.Memory`. ``auto`` measures shortly which of ``copied`` and
    ``mapped`` is faster if GPU and processor share memory; elsewhere it means ``copied``. ``managed`` (CUDA's unified
    memory) has run on no board yet."""


class TensorRTOptions(Struct):
    """``[compile.tensorrt]``: how TensorRT builds and runs."""

    build: TensorRTBuild = TensorRTBuild()
    run: TensorRTRun = TensorRTRun()


class CompileConfig(Struct):
    """``[compile]``: targets and their options."""

    targets: Annotated[tuple[TargetName, ...], Meta(min_length=1)] = ("ov", "ort")
    """Engines to build for: OpenVINO, ONNX Runtime, TensorRT (built on the device; 8.5 and 8.6,
    of JetPack 5.1 and 6.0, need graphs of their own: ``trt8``) and TensorRT-RTX."""
    processors: Annotated[tuple[Processor, ...], Meta(min_length=1)] = PROCESSORS
    """Processors that INT8 must be right on, for targets that run on one: ``vnni`` (x86 with VNNI), ``avx2`` (x86
    without) and ``arm``. Without VNNI products saturate in 16 bits; weights that cannot saturate cost next to nothing,
    so that one graph serves all by default. Leave ``avx2`` out for weights that use all of their 8 bits."""
    candidates: bool | tuple[CandidateName, ...] = False
    """Add up to three INT8 variants to each target's, which differ where no document says what is faster, or those of
    a list that the network raises. They leave float: ``depthwise`` convolutions, ``sums`` of branches, products of one
    row (``head``), layers between float ones (``islands``); quantize more: both branches of a sum (``residual``), a
    product with a squeeze-and-excite gate (``gates``), what goes into ``hardswish`` or into ``resizes`` that
    interpolate; do without a Mul per channel before depthwise convolutions (``scales``); or have scales and all that
    is not INT8 in ``float32``. `edgeopt tune` measures them on a device and keeps the fastest accepted one for machines
    of its kind."""
    tensorrt: TensorRTOptions = TensorRTOptions()
    """Options of ``trt``, ``trt8`` and ``rtx``: ``build.batch.max = 8``, ``build.dla_core = 0``, ``run.device = 1``…"""
    options: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Options of targets of your own, by their reference; `Target.options` describes them."""

    def __post_init__(self) -> None:
        for target in self.targets:
            check(target, TARGETS, "target")
        for target in self.options:
            if target not in self.targets:
                raise SettingError(
                    f"options of a target that is not built: '{target}'.{did_you_mean(target, self.targets)}"
                )


class EvaluateConfig(Struct):
    """``[evaluate]``: accuracy on the test set, every variant beside its FP32 baseline."""

    max_drop: Fraction = 0.02
    """Largest accepted drop of the main metric below the baseline's. `load()` chooses no variant beyond it by
    itself."""
    max_disagreement: Fraction = 0.05
    """Where the test images have no labels, no accuracy can be measured. Then this is the largest accepted share of a
    variant's answers that differ from the float model's: the best class of an image, or of detectors the boxes that
    only one of both finds, out of all of both."""
    limit: PositiveInt | None = None
    """Evaluate on only this many test images."""
    score_threshold: Fraction = 0.001
    """Lowest score of detections that enter average precision (COCO's convention keeps nearly all)."""
    iou_threshold: Fraction = 0.65
    """Threshold of non-maximum suppression while average precision is measured."""
    precision: Fraction = 0.95
    """Precision at which a classifier's coverage is told: the share of images that it answers with the confidence from
    which on so many answers are right."""
    tiles: Tiles | None = None
    """Detectors: look at overlapping tiles of each picture instead of only the whole of it."""
    metrics: tuple[Annotated[str, named(METRICS)], ...] = ()
    """More metrics beside the main one: ours, or an `evaluate.extra.Metric` of your own. None may fall by more than
    `max_drop` either."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            check(metric, METRICS, "metric")


class BalanceConfig(Struct):
    """``[balance]``: moves the logits of a classifier for sets in which some classes are rare, without training.

    The offsets are data in the bundle's decoding ([model.decoding] offsets), the same for all variants.
    """

    prior: Annotated[float, Meta(ge=0.0)] = 0.0
    """Strength of post-hoc logit adjustment: so many times the logarithm of each class's share of the training images
    is taken from its logit. 1: as if all classes were equally frequent. Not for losses that do so in training."""
    thresholds: bool = False
    """Count each class by its own threshold: that of the best `goal` on the validation images."""
    goal: Literal["macro_f1", "recalls"] = "macro_f1"
    """Aim of the thresholds: the mean F1 of all classes, or ``recalls``, the geometric mean of their recalls,
    which a class that is never found ruins. The latter lifts the worst class, at the cost of the others' precision."""

    def __post_init__(self) -> None:
        if not self.thresholds and self.goal != "macro_f1":
            raise SettingError(f"[balance] goal = '{self.goal}' is of thresholds. Add thresholds = true, or remove it")
        if not self.prior and not self.thresholds:
            raise SettingError("[balance] moves nothing: give prior = 1.0 or thresholds = true, or remove it")


class AlignConfig(Struct):
    """``[align]``: moves the scores of INT8 variants to where FP32's lie, so that a threshold means the same for both.

    Rankings stay, and with them average precision and top-1. The images need no labels: those of validation, which
    quantization has not seen, and where they are too few those of calibration.
    """

    enabled: bool = True
    """Move scores. What images do not show beyond chance stays as it is."""
    images: PositiveInt = 300
    """Images that FP32's and INT8's scores are compared on."""


class BenchmarkConfig(Struct):
    """``[benchmark]``: how latency is measured."""

    warmup_s: Seconds = 0.5
    """Seconds before the measurement."""
    duration_s: Seconds = 3.0
    """Seconds of measurement of each variant."""
    minimum_queries: PositiveInt = 64
    """MLPerf's early-stopping minimum for a 90th percentile."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads of the engine; 0 leaves the choice to it."""


class Config(Struct):
    """A whole recipe."""

    name: Annotated[str, Meta(pattern=_PLAIN_NAME)]
    """Name of the recipe and of its bundle: letters, digits, ``.``, ``_`` and ``-``."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig | None = None
    fit: FitConfig | None = None
    compress: CompressConfig | None = None
    export: ExportConfig = ExportConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    precision: PrecisionConfig = PrecisionConfig()
    budget: BudgetConfig | None = None
    compile: CompileConfig = CompileConfig()
    balance: BalanceConfig | None = None
    align: AlignConfig = AlignConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    def __post_init__(self) -> None:
        if (self.fit is not None) != (self.model.source == FEATURES):
            raise SettingError(
                f'[fit] and [model] source = "{FEATURES}" go together. Add '
                + ("the latter, with the network as [model] backbone" if self.fit is not None else "a [fit] table")
            )
        for name in ("train", "compress"):
            if self.fit is not None and getattr(self, name) is not None:
                raise SettingError(f"[fit] leaves the network as it is, and [{name}] changes it. Remove one of them")
        if self.fit is not None and self.fit.regions is not None and not self.export.fold_normalization:
            raise SettingError("[fit.regions] reads regions from pixels. Remove [export] fold_normalization = false")
        if self.fit is not None and self.quantize.file is not None:
            raise SettingError("[fit] makes a network that nobody has quantized yet. Remove [quantize] file")
        if self.balance is not None and self.quantize.file is not None:
            raise SettingError(
                "[balance] goes with graphs that edgeopt quantizes, and [quantize] file is another tool's"
            )
        learns = None if self.compress is None else self.compress.train or self.train
        if learns is not None and learns.processes > 1:
            raise SettingError(
                "[compress] trains with a teacher, in one process. Remove [train] processes, or give [compress.train]"
            )
        if self.compress is not None and self.compress.train is None and self.train is None:
            raise SettingError(
                "[compress] ruins a network that is not trained afterwards: say how in [compress.train], or in [train]"
            )


RECIPE_FILE = "edgeopt.toml"


def named_code(config: Config) -> tuple[str, ...]:
    """Return the user's code that a recipe names."""
    sources = (config.data.train, config.data.validation, config.data.test, config.data.calibration)
    formats = [source.format for source in sources if source is not None]
    made = (*config.quantize.repairs, *config.compile.targets, *config.evaluate.metrics)
    networks = (config.model.source, config.model.backbone or "")
    named = (*networks, *formats, *training_code(config), *code_in(config.model.decoder), *made)
    return tuple(name for name in named if is_code(name))


def training_code(config: Config) -> tuple[str, ...]:
    """Return the user's code that a recipe names for its training."""
    tables = (config.train, None if config.compress is None else config.compress.train)
    named = [(*train.augmentation.custom, train.loss) for train in tables if train is not None]
    return tuple(dict.fromkeys(name for names in named for name in names if name is not None))


def find_recipe(reference: str, overrides: Sequence[str] = ()) -> tuple[Config, Path]:
    """Find the recipe that a user means, and the folder that its relative paths start from.

    Args:
        reference: a ``.toml`` file, a folder with an ``edgeopt.toml``, or the name of a shipped recipe (whose relative
            paths start from the current folder).
        overrides: ``KEY=VALUE`` with a dotted key and a TOML value; a value that is not TOML counts as text.

    Raises:
        ConfigError: nothing of that name, not TOML, an unknown key or a value out of range.
    """
    path = Path(reference)
    if is_folder(path):
        path /= RECIPE_FILE
    if path.suffix == ".toml" or is_file(path):
        return parse_config(_read(path), origin=str(path), overrides=overrides), path.resolve().parent
    known = shipped_recipes()
    if reference not in known:
        raise ConfigError(
            f"there is no recipe '{reference}'."
            + did_you_mean(reference, known, "Give a .toml file, or write a starter one with: edgeopt init")
        )
    text = (resources.files("edgeopt") / "recipes" / f"{reference}.toml").read_text(encoding="utf-8")
    return parse_config(text, origin=f"recipe {reference}", overrides=overrides), Path.cwd()


def shipped_recipes() -> list[str]:
    """List the recipes in the package."""
    folder = resources.files("edgeopt") / "recipes"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def parse_config(text: str, origin: str = RECIPE_FILE, overrides: Sequence[str] = ()) -> Config:
    """Parse a recipe. `origin` names it in errors, `overrides` are as in `find_recipe`."""
    return parse_toml(text, Config, origin, overrides)


def parse_toml(text: str, kind: type[_T], origin: str, overrides: Sequence[str] = ()) -> _T:
    """Parse a specification from TOML, with errors in the user's terms.

    Raises:
        ConfigError: not TOML, an unknown key (with the closest known one) or a value out of range.
    """
    try:
        document = tomllib.loads(text)
        for override in overrides:
            _override(document, override)
        use_present_names(document, origin)
        if isinstance(model := document.get("model"), dict) and "decoding" in model:
            model["decoding"] = expand(model["decoding"])
    except SettingError as error:
        raise ConfigError(f"{origin}, [model.decoding]: {error}") from error
    except ValueError as error:  # TOMLDecodeError, or a whole number of thousands of digits
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin} holds tables or lists in each other beyond any depth that is meant") from error
    _refuse_infinite(document, origin)
    return checked_table(document, kind, origin)


def _refuse_infinite(value: Any, origin: str, where: str = "") -> None:
    """Refuse ``inf`` and ``nan``, which TOML has and no key means.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(
            f"{origin}: `{where}` is {value}, which is not a finite number. Leave it out, or give another"
        )
    if isinstance(value, dict):
        for key, each in value.items():
            _refuse_infinite(each, origin, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            _refuse_infinite(each, origin, f"{where}[{number}]")


def checked_table(table: Mapping[str, Any], kind: type[_T], origin: str) -> _T:
    """Convert a table that was read to a specification, of edgeopt or of the user.

    Raises:
        ConfigError: an unknown key (with the closest known one) or a value out of range.
    """
    try:
        return convert(table, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(str(error), kind)}") from error


def read_toml(path: Path, kind: type[_T]) -> _T:
    """Read a file and parse it as `parse_toml` does.

    Raises:
        ConfigError: it cannot be read, or as `parse_toml`.
    """
    return parse_toml(_read(path, advice="Check the path"), kind, origin=str(path))


def _read(path: Path, advice: str = "Write a starter recipe with: edgeopt init") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}. {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"cannot read {path}: {reason}. {advice}") from error


def _override(document: dict[str, Any], override: str) -> None:
    """Set one dotted key of `document`."""
    key, equals, text = _split_override(override)
    parts = _key_parts(key)
    if not equals or not parts:
        raise ConfigError(f"'{override}' is not KEY=VALUE, as in calibrate.images=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            raise ConfigError(f"'{override}': '{part}' is a value, not a table")
    document[parts[-1]] = value


def _split_override(override: str) -> tuple[str, str, str]:
    """Key, equals sign and value; a quoted part of the key may hold an equals sign."""
    quoted = re.match(r"""\s*(?:"[^"]*"|'[^']*'|[^"'=])*""", override)
    end = 0 if quoted is None else quoted.end()
    return override[:end], override[end : end + 1], override[end + 1 :]


def _key_parts(key: str) -> list[str]:
    """The parts of a dotted TOML key, quoted as in ``quantize.ranges."layer.0"`` or not; empty where it is none."""
    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return []
    parts = []
    while isinstance(found, dict) and found:
        ((part, found),) = found.items()
        parts.append(part)
    return parts


def write_starter(path: Path, task: Task, *, replace: bool) -> None:
    """Write a recipe to start from.

    Raises:
        ConfigError: the file is there and `replace` is false.
        StorageError: it cannot be written.
    """
    text = (resources.files("edgeopt") / "templates" / f"{task}.toml").read_text(encoding="utf-8")
    write_recipe(path, text, replace=replace)


def write_recipe(path: Path, text: str, *, replace: bool) -> None:
    """Write a recipe's text.

    Raises:
        ConfigError: the file is there and `replace` is false.
        StorageError: it cannot be written.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} is there already: choose another name with --out, or replace it with --force")
    with storage_errors(path):
        path.write_text(text, encoding="utf-8")


def data_source(reference: str) -> DataSource:
    """Return the data that a user means on a command line.

    Args:
        reference: a folder with a subfolder a class, a ``.csv``, a COCO ``.json`` (images beside it or in ``images/``),
            a ``.toml`` that holds the keys of a data table, or ``digits`` or ``digit_scenes`` (their test set).

    Raises:
        ConfigError: none of these.
    """
    if reference in ("digits", "digit_scenes"):
        return DataSource(format="digits" if reference == "digits" else "digit_scenes", split="test")
    path = Path(reference).resolve()
    if path.is_dir():
        return DataSource(format="image_folder", path=str(path))
    if path.suffix == ".csv":
        return DataSource(format="csv", path=str(path))
    if path.suffix == ".json":
        images = path.parent / "images"
        return DataSource(format="coco", path=str(images if images.is_dir() else path.parent), annotations=str(path))
    if path.suffix == ".toml":
        return read_toml(path, DataSource)
    raise ConfigError(
        f"'{reference}' is not a data set: give a folder of class folders, a .csv, a COCO .json, a .toml with the keys "
        "of a data table, digits or digit_scenes"
    )


def data_table(source: DataSource, name: str = "") -> str:
    """Write a source as a table of a recipe, ``[data.NAME]``, or without a name as a file for ``--data``."""
    written = msgspec.to_builtins(source)
    default = msgspec.to_builtins(DataSource(format=source.format))
    lines = [
        f"{key} = {toml_value(value)}" for key, value in written.items() if key == "format" or value != default[key]
    ]
    return "\n".join([f"[data.{name}]", *lines] if name else lines)


def toml_value(value: Any) -> str:
    """Write a plain value as TOML; text is escaped as in JSON, whose strings TOML reads."""
    if isinstance(value, dict):
        inside = ", ".join(f"{_toml_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    return msgspec.json.encode(value).decode()


def _toml_key(key: Any) -> str:
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else msgspec.json.encode(str(key)).decode()


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of edgeopt.toml, for editors."""
    return msgspec.json.schema(Config)


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list, as in [1, 2]",
    "object": "a table",
}
"""Names of TOML's types by msgspec's."""


def _explain(message: str, kind: type) -> str:
    """Rewrite msgspec's message in TOML's terms, and suggest the key or the value that was meant."""
    if unknown := re.search(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?", message):
        key, where = unknown.group(1), unknown.group(2) or ""
        table = f" in [{where}]" if where else ""
        known = {field.encode_name for struct in _tables(kind, where) for field in msgspec.structs.fields(struct)}
        return f"unknown key '{key}'{table}.{did_you_mean(key, sorted(known))}"
    if invalid := re.search(r"Invalid enum value '([^']*)' - at `\$\.([^`]*)`", message):
        value, where = invalid.groups()
        return f"'{value}' is no value of `{where}`.{did_you_mean(value, _known_values(kind, where))}"
    if wrong := re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)` - at `\$\.([^`]*)`", message):
        expected, got, where = wrong.groups()
        return f"`{where}` takes {_in_words(expected)}, not {_in_words(got)}"
    for pattern, wanted in _PATTERNS.items():
        message = message.replace(f"`str` matching regex {pattern!r}", wanted)
    return message.replace(" - at `$.", " - at `")


def _in_words(types: str) -> str:
    """Name msgspec's types as a user of TOML does: ``int | null`` is a whole number."""
    return " or ".join(_TYPES.get(name, name) for name in types.split(" | ") if name != "null")


def _tables(root: type, where: str) -> list[Any]:
    """Return the structs that may stand at the dotted path `where` of a `root`."""
    found: list[Any] = [root]
    for part in [part.split("[")[0] for part in where.replace("[...]", "").split(".") if part]:
        found = [struct for kind in found for field in _fields(kind, part) for struct in _structs_in(field.type)]
    return found


def _known_values(root: type, where: str) -> list[str]:
    """Return the texts that the key at a dotted path takes."""
    table, _, key = where.rpartition(".")
    fields = [field for kind in _tables(root, table) for field in _fields(kind, key.split("[")[0])]
    return [text for field in fields for text in _literals_in(field.type)]


def _fields(kind: Any, name: str) -> list[Any]:
    return [field for field in msgspec.structs.fields(kind) if field.encode_name == name]


def _literals_in(kind: Any) -> list[str]:
    """Return the texts of the literals inside an annotation."""
    if get_origin(kind) is Literal:
        return [value for value in get_args(kind) if isinstance(value, str)]
    return [text for argument in get_args(kind) for text in _literals_in(argument)]


def _structs_in(kind: Any) -> list[Any]:
    """Return the struct types inside a (possibly optional, union or container) annotation."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for argument in get_args(kind) for struct in _structs_in(argument)]
