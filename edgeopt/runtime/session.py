"""Session and Target: what every engine looks like to the rest of edgeopt, and what makes and opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.bundle import EngineSettings
from edgeopt.bundle.records import Arithmetic
from edgeopt.config import CandidateName, CompileConfig, PrecisionConfig, SchemeName, TensorRTOptions, checked_table
from edgeopt.doors import TARGETS
from edgeopt.errors import ConfigError, TargetError
from edgeopt.hardware import Cpu, Machine
from edgeopt.hardware.kernels import integer_kernels
from edgeopt.preprocess import Image
from edgeopt.references import resolve
from edgeopt.spec import Preprocessing, Processor, Struct, TensorSpec, replace

Array = NDArray[Any]
Tensors = Mapping[str, Array]
FormName: TypeAlias = Literal[
    "unsigned_activations",
    "convolve_tokens",
    "bias_shared_results",
    "split_layers",
    "fixed_regions",
    "for_tensorrt_8",
    "float_weights",
]
"""Pass of `passes.rewrite` that brings a graph into a form that a target wants (`pipeline.forms`)."""
Tunable: TypeAlias = Literal["threads", "streams", "hint", "precision", "kernels"]


class Runs(Protocol):
    """A network that can be run."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of `run`."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of `run`."""

    def run(self, inputs: Tensors) -> dict[str, np.ndarray[Any, Any]]:
        """Run the network once. Results are the caller's own unless the session documents otherwise."""


class Session(Runs, Protocol):
    """A loaded engine. A context manager with one method; its buffers live from enter to exit.

    Not safe for concurrent `run` calls unless `thread_safe` says so.
    """

    @property
    def thread_safe(self) -> bool:
        """True if several threads may call `run` at once."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class OwnsInputs(Protocol):
    """A session with memory of its own for inputs, from which the engine reads without a copy."""

    def input_array(self, name: str, batch: int) -> Array:
        """Return memory for `run`'s input `name`, until the session ends. It is filled again before each run."""


@runtime_checkable
class PreparesPictures(Protocol):
    """A session that can prepare pictures where it runs the network."""

    @property
    def prepares_pictures(self) -> bool:
        """True if `run_picture` may be called."""

    def prepare_pictures(self, spec: Preprocessing) -> None:
        """Get ready for pictures; raises TargetError where this preprocessing is none that it can do."""

    def run_picture(self, image: Image) -> tuple[dict[str, Array], Geometry]:
        """Run the network on a picture; also gives the way back from the network's pixels to the picture's."""


class Availability(NamedTuple):
    """True if something can be used on this machine, with the reason if not."""

    ok: bool
    reason: str = ""
    """Empty when it can."""


class Compiled(NamedTuple):
    """An engine's file, and what its builder told of it."""

    engine: bytes
    arithmetic: Arithmetic | None = None
    """Types that its convolutions and products run in; None where only a device can tell."""


def _nothing(_: Machine) -> str:
    return ""


def _no_properties(_: EngineSettings) -> Mapping[str, str | int]:
    return {}


def _anything(_: EngineSettings) -> None:
    """Refuse nothing."""


class OpenEngine(Protocol):
    """Function that loads an engine's file."""

    def __call__(
        self, path: Path, settings: EngineSettings, *, reuse_outputs: bool, content: bytes | None = None
    ) -> Session:
        """Load an engine file.

        Args:
            path: the file; its ending may say of which kind it is.
            settings: the engine's settings.
            reuse_outputs: give out the session's own output buffers.
            content: content of the file if it was read (and checked) before; the file is then not opened again.

        Raises:
            MissingExtraError: the engine's library is not installed.
            TargetError: the library refuses the file.
        """


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of engine: how its files are made and opened, and all that the rest of edgeopt has to know of it.

    A user's own is a value of this type too, which a recipe names as ``package.module:NAME``.
    """

    name: str
    """Variants are called after it, as ``ort-int8``."""
    compile: Callable[[bytes, EngineSettings], bytes]
    """An ONNX graph to the content of an engine's file. It raises TargetError, with the engine's reason, where it
    rejects the graph, and MissingExtraError where its library is not installed."""
    open_engine: OpenEngine
    can_run: Callable[[], Availability]
    """Tells if this machine can run its engines. It imports the library to find out."""
    can_compile: Callable[[], Availability]
    """Tells if this machine can make its engines, which may be so even if it cannot run them."""
    scheme: SchemeName = "onnxruntime"
    """The quantization scheme that its kernels want."""
    file_suffix: str = ".onnx"
    """Suffix of the engine's file, with the dot."""
    accelerated: bool = False
    """It goes before targets on the processor wherever it runs."""
    distributions: tuple[str, ...] = ()
    """Packages whose versions its results depend on."""
    float_layers: Literal["gpu", "cpu"] | None = None
    """The key of ``[precision]`` that says what layers compute in that are not quantized: ``gpu``, in the graph, or
    ``cpu``, as a setting of the engine. None: always FP32."""
    keeps_types: bool = True
    """Its engines compute in the types that the graph says. False: INT8 graphs stay FP32 between the quantizers, with
    their weights in float, and the builder is told what else they may compute in."""
    forms: tuple[FormName, ...] = ()
    """Passes that bring a graph into the form in which its engines compute what is written, in their order."""
    compile_and_tell: Callable[[bytes, EngineSettings], Compiled] | None = None
    """`compile`, with what the builder tells of the engine, if it does."""
    options: type[Struct] | None = None
    """Type of the options in ``[compile.options]``, which it finds in `EngineSettings.options`."""
    check: Callable[[EngineSettings], None] = _anything
    """Refuse settings that this machine cannot take, with a TargetError, before there is a graph."""
    questions: tuple[CandidateName, ...] = ()
    """Doubts about its INT8 kernels that candidates answer differently, the most promising first."""
    tunable: frozenset[Tunable] = frozenset()
    """The `EngineSettings` that it heeds and that `edgeopt tune` may choose."""
    slow_layers: Callable[[Path | bytes, EngineSettings], tuple[str, ...]] | None = None
    """Function that measures which layers of an INT8 graph are faster here by an older kernel than by the engine's own
    choice (`EngineSettings.vnni_layers`); None: all are as fast as can be."""
    lint_rules: tuple[str, ...] = ()
    """Beside the general ones: groups of `lint.graphs`, or references to rules."""
    list_layers: Callable[..., str] | None = None
    """(path, settings=EngineSettings) to the layers of an engine, as JSON of TensorRT's inspector, for lint."""
    arithmetic: Callable[[Path, EngineSettings], Mapping[str, str]] | None = None
    """Function that returns the arithmetic of each convolution and matrix product of a graph by the engine's own
    account, by name, for lint."""
    offers: Callable[[Machine], str] = _nothing
    """Facts about it on a machine, for `edgeopt doctor`."""
    integer_kernels: Callable[[Cpu], Processor | None] = integer_kernels
    """Kind of processor whose integer kernels it takes on a processor, if it runs on one."""
    implicit_int8: bool = False
    """True if its library can choose ranges by itself on the device (`runtime.trt.implicit`)."""
    extra: str = ""
    """edgeopt's extra that installs its library; empty if none does."""
    served_by: Mapping[str, str] = field(default_factory=dict)
    """Other servers that run its engines' files (``triton``, ``ovms``, ``deepstream``), with their name for it."""
    properties: Callable[[EngineSettings], Mapping[str, str | int]] = _no_properties
    """Settings as those servers call them."""
    about_files: str = ""
    """A sentence for users about its files."""

    def compiled(self, onnx: bytes, settings: EngineSettings) -> Compiled:
        """Return what `compile` makes, with what its builder tells of it."""
        if self.compile_and_tell is not None:
            return self.compile_and_tell(onnx, settings)
        return Compiled(self.compile(onnx, settings))

    def settings(self, config: CompileConfig, reference: str) -> EngineSettings:
        """Return how its engines run, as far as ``[compile]`` says so to the target that `reference` names.

        Raises:
            ConfigError: options that it does not have.
        """
        if self.options is TensorRTOptions:
            return EngineSettings(tensorrt=config.tensorrt)
        given = config.options.get(reference, {})
        if self.options is None:
            if given:
                raise ConfigError(f"target '{reference}' has no options. Remove [compile.options]")
            return EngineSettings()
        checked = checked_table(given, self.options, f"[compile.options] of '{reference}'")
        return EngineSettings(options=msgspec.to_builtins(checked))

    def default_settings(self, reference: str) -> EngineSettings:
        """Return `settings` where no recipe says anything."""
        return self.settings(CompileConfig(), reference)

    def reduced(self, precision: PrecisionConfig) -> Literal["fp16", "bf16"] | None:
        """Return the precision of the recipe's float layers below FP32; None if they stay FP32."""
        chosen = None if self.float_layers is None else getattr(precision, self.float_layers)
        return None if chosen == "fp32" else chosen


def find_target(reference: str) -> Target:
    """Return the target that is called so, or that ``package.module:NAME`` names.

    Raises:
        TargetError: there is none, or it is code that is not allowed here.
    """
    found: Target = resolve(reference, TARGETS, "target", expected=Target, error=TargetError)
    return found


def known_target(reference: str) -> Target | None:
    """`find_target`, or None where a bundle names one that this machine cannot import or may not."""
    try:
        return find_target(reference)
    except TargetError:
        return None


def open_session(
    path: Path,
    target: str,
    *,
    threads: int = 0,
    settings: EngineSettings | None = None,
    reuse_outputs: bool = False,
    content: bytes | None = None,
) -> Session:
    """Load an engine file; use the result as a context manager.

    Args:
        path: what the target's `compile` made.
        target: ``ort``, ``ov``, ``trt``, ``rtx`` or a reference to one of the user's.
        threads: threads of the engine; 0 leaves it to `settings`.
        settings: the engine's settings, as its bundle says. Default: the target's own.
        reuse_outputs: give out the session's own output buffers, which the next `run` overwrites, instead of copies.
        content: content of the file if it was read (and checked) before; the file is then not opened again.

    Raises:
        MissingExtraError: the engine's library is not installed.
        TargetError: no such target, or its library refuses the file.
    """
    found = find_target(target)
    settings = settings or found.default_settings(target)
    if threads:
        settings = replace(settings, threads=threads)
    return found.open_engine(path, settings=settings, reuse_outputs=reuse_outputs, content=content)


def availability(target: str) -> Availability:
    """Tell if this machine can run engines of `target`, and why not. It imports the engine's library to find out."""
    try:
        return find_target(target).can_run()
    except TargetError as error:
        return Availability(ok=False, reason=str(error))
