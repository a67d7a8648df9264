"""``[train]`` and ``[compress]``: weights that are learnt, and channels that are removed."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgeopt.config.engines import TargetName
from edgeopt.config.wording import SHARE_OR_MS
from edgeopt.doors import LOSSES
from edgeopt.errors import SettingError
from edgeopt.references import check, named
from edgeopt.spec import Fraction, PositiveInt, Struct, replace

Sampling: TypeAlias = Literal["shuffle", "balanced", "square_root", "repeat_factor"]


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


class QuantizedTraining(Struct):
    """``[train.quantize]``: training of the INT8 graph, after its repairs."""

    epochs: PositiveInt = 4
    """Passes over the training images."""
    learning_rate: Annotated[float, Meta(gt=0.0)] = 2.0
    """Learning rate of AdamW in units that fit all layers: 1 moves a weight by up to .04 of an integer a step."""
    teacher: Fraction = 0.9
    """Weight of the float network's outputs in the loss; the labels have the rest."""


class TrainConfig(Struct):
    """``[train]``. Without this table the weights are used without training."""

    epochs: Annotated[int, Meta(ge=0)] = 10
    """Passes over the training images. 0: the weights are good already, and only `quantize` trains."""
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
    """``balanced``: cross-entropy weighted by inverse class frequency. Classes far apart then want a lower
    `learning_rate`, as with ``class_balanced``: one image of a rare class moves the network as far as many others."""
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
    """Train a classifier against attacks; see the keys below."""
    tensorboard: str | None = None
    """Folder for TensorBoard's event files with loss, learning rate and metric, from the recipe's folder: in ``train``,
    and in ``compress`` of a pruned network. Needs the extra ``tensorboard``. Default: none are written."""
    mlflow: str | None = None
    """Where MLflow keeps the same, as runs of an experiment with the recipe's name: a file from the recipe's folder
    (``mlflow.db``), or the URI of a server. Needs the extra ``mlflow``. Default: nowhere."""
    seed: int = 0
    """Seed of shuffling, augmentation and dropout."""
    quantize: bool | QuantizedTraining = False
    """Train each INT8 graph after its repairs, or the settings of that: integers, scales and biases learn from the
    labels and the float network, with this table's batch size, augmentation and `ema`, on the processor. Kept only if
    it helps on images that were not trained on."""

    @property
    def deciding(self) -> TrainConfig:
        """The settings without those that say where it runs, which decide nothing but roundings of the result."""
        return replace(self, device="auto", workers=None, tensorboard=None, mlflow=None, processes=1)

    def __post_init__(self) -> None:
        if not self.epochs and not self.quantize:
            raise SettingError("[train] epochs = 0 trains nothing: give more, remove [train], or add quantize = true")
        if self.quantize and self.adversarial is not None:
            raise SettingError(
                "[train] quantize trains INT8 graphs on pictures as they are, which undoes what [train.adversarial] "
                "teaches. Remove one of them"
            )
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


class CompressConfig(Struct):
    """``[compress]``: remove whole channels until the network is as fast or as small as asked, and train what is left.

    It comes after ``[train]`` and before quantization. The unpruned network is the teacher. One of `latency` and
    `parameters` must be given. Needs a torch network, and images to train on.
    """

    latency: Annotated[str, Meta(pattern=SHARE_OR_MS)] | None = None
    """Largest latency of the engine, measured on this machine beside the unpruned one's: ``"0.6x"`` of that, or
    ``"12 ms"``. In INT8 where ``[quantize]`` is enabled, else in FP32. The network is searched for before it is trained
    and before INT8's repairs, some of which take time; in the end the finished engine is measured beside the unpruned
    network's, which is quantized and repaired as well, and the bundle says if it reaches the goal. Where it does not,
    ask for less."""
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
