"""Capabilities of an installed TensorRT, asked of its classes.

Asking a class needs neither a GPU nor a builder, and answers for releases that no table knows. Only where a name exists
without effect (TensorRT-RTX accepts settings that it ignores) does the flavour decide. Recorded for 16 releases in
tests/data/tensorrt_api.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from edgeopt.spec import Struct

Flavour: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]


class Capabilities(Struct):
    """Capabilities of one installed TensorRT. Each is a question about a name, not about a version."""

    flavour: Flavour
    version: str
    explicit_batch_flag: bool
    """Networks must ask for an explicit batch dimension: 8.x. (10.x ignores the flag, 11 has none.)"""
    strongly_typed_flag: bool
    """Networks can be asked to keep the types of the ONNX graph: 10.0 and newer."""
    weakly_typed: bool
    """True if FP16 and INT8 builder flags have effect: TensorRT up to 10.x. (RTX 1.4 has the names only.)"""
    calibrator: bool
    """Implicit INT8 by an entropy calibrator: 8.x and 10.x."""
    max_opset: int | None
    """Newest opset whose operators the parser reads as they are meant: 17 in 8.5 and 8.6, by onnx-tensorrt's
    docs/operators.md of these releases. None in newer ones, whose parser knows every form that edgeopt writes."""
    named_tensors: bool
    """``set_tensor_address`` and ``execute_async_v3``: 8.5 and newer, the oldest that edgeopt runs on."""
    optimization_level: bool
    hardware_compatibility: tuple[str, ...]
    """Names of the levels other than NONE, lower case; none on RTX, whose plans are portable in their own way."""
    version_compatible: bool
    timing_cache: bool
    progress_monitor: bool
    """Progress and cancellation of a build: 10.0 and newer."""
    compute_capabilities: tuple[str, ...]
    """Targets that a build can be told to serve without being there (``SM86``): RTX only."""
    engine_validity: bool
    """A plan's header can be asked whether it will load here: RTX only."""
    runtime_cache: bool
    """Kernels that are compiled at first use can be kept: RTX only."""
    dla: bool
    """The library knows DLA cores at all; whether there are any, only a builder can say."""
    dla_parser_flag: bool
    """The parser can rewrite a typed graph for DLA: 10.16 and newer by name; DLA itself is back in 11.4.1."""

    @property
    def shares_profiles(self) -> bool:
        """True if several contexts may use the one optimization profile at a time: 10.0 and newer.

        In 8.6 that was a preview feature of the build (PROFILE_SHARING_0806), in 8.5 there was none.
        """
        return self.strongly_typed

    @property
    def strongly_typed(self) -> bool:
        """True if the ONNX graph's types can be binding."""
        return self.strongly_typed_flag or not self.weakly_typed


def capabilities(module: Any) -> Capabilities:
    """Ask `module`, a TensorRT Python package, what it offers."""
    rtx = "rtx" in module.__name__
    strongly_typed_flag = _has(module, "NetworkDefinitionCreationFlag.STRONGLY_TYPED")
    weakly_typed = not rtx and _has(module, "BuilderFlag.FP16") and _has(module, "BuilderFlag.INT8")
    return Capabilities(
        flavour="tensorrt_rtx" if rtx else "tensorrt",
        version=str(module.__version__),
        explicit_batch_flag=_has(module, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        strongly_typed_flag=strongly_typed_flag,
        weakly_typed=weakly_typed,
        calibrator=_has(module, "IInt8EntropyCalibrator2") and _has(module, "IBuilderConfig.int8_calibrator"),
        max_opset=None if rtx or strongly_typed_flag or not weakly_typed else 17,
        named_tensors=_has(module, "IExecutionContext.execute_async_v3") and _has(module, "ICudaEngine.num_io_tensors"),
        optimization_level=_has(module, "IBuilderConfig.builder_optimization_level"),
        hardware_compatibility=() if rtx else _levels(module),
        version_compatible=not rtx and _has(module, "BuilderFlag.VERSION_COMPATIBLE"),
        timing_cache=not rtx and _has(module, "IBuilderConfig.create_timing_cache"),
        progress_monitor=_has(module, "IProgressMonitor") and _has(module, "IBuilderConfig.progress_monitor"),
        compute_capabilities=_members(module, "ComputeCapability", leave_out={"NONE", "CURRENT"}),
        engine_validity=_has(module, "Runtime.get_engine_validity"),
        runtime_cache=_has(module, "IRuntimeConfig.create_runtime_cache")
        and _has(module, "ICudaEngine.create_runtime_config"),
        dla=not rtx and _has(module, "Builder.num_DLA_cores"),
        dla_parser_flag=not rtx and _has(module, "OnnxParserFlag.ADJUST_FOR_DLA"),
    )


def _has(module: Any, dotted: str) -> bool:
    owner = module
    for part in dotted.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def _members(module: Any, enum: str, leave_out: set[str]) -> tuple[str, ...]:
    """Member names of a pybind enumeration; none where the release lacks it."""
    names = getattr(getattr(module, enum, None), "__members__", {})
    return tuple(name for name in names if name not in leave_out)


def _levels(module: Any) -> tuple[str, ...]:
    if not _has(module, "IBuilderConfig.hardware_compatibility_level"):
        return ()
    return tuple(name.lower() for name in _members(module, "HardwareCompatibilityLevel", leave_out={"NONE"}))
