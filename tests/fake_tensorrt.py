"""A hand-written TensorRT that has exactly the Python names of a recorded release.

Behaviour is written once, below; each release gets the part of it that its names allow (data/tensorrt_api). Reading,
setting or calling a name that the release lacks is an AttributeError, as with the real bindings. A name that the
release has but this fake gives no behaviour raises NotImplementedError, so that the code under test cannot lean on it.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

RECORDINGS = Path(__file__).with_name("data") / "tensorrt_api"
RELEASES = sorted(path.stem for path in RECORDINGS.glob("*.json"))
JETPACK_5 = "tensorrt-8.5.2"
LACKING_IN_8_5 = {
    "BuilderFlag": {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"},
    "IBuilderConfig": {"hardware_compatibility_level", "builder_optimization_level", "max_aux_streams"},
    "HardwareCompatibilityLevel": None,
}
"""None: the whole class."""


@dataclass
class World:
    """What the fake library meets, and what it was told."""

    cuda: FakeCuda = field(default_factory=FakeCuda)
    inputs: list[tuple[str, tuple[int, ...], str]] = field(default_factory=lambda: [("image", (-1, 3, 8, 8), "UINT8")])
    outputs: list[tuple[str, tuple[int, ...], str]] = field(default_factory=lambda: [("scores", (-1, 3), "FLOAT")])
    layers: list[tuple[str, str]] = field(default_factory=lambda: [("CONVOLUTION", "FLOAT")])
    """(LayerType, DataType of its output)."""
    reads: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Layers whose results a layer reads, by its number; without, the one before."""
    kept_float: set[int] = field(default_factory=set)
    """Numbers of the layers that were told to compute and to give float32."""
    dla_cores: int = 0
    parse_errors: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(code, node, operator, description)."""
    build_error: str = ""
    refuses_profile: bool = False
    refuses_timing_cache: bool = False
    refuses_address: bool = False
    starts: bool = True
    enqueue_fails: bool = False
    uncapturable: bool = False
    corrupt_plan: bool = False
    validity: tuple[str, int] = ("VALID", 0)
    refuses_kernels: bool = False
    compiled: int = 0
    """Kernels that a context had to compile, because no cache held them."""
    compute: Callable[[np.ndarray], np.ndarray] = field(
        default=lambda image: (image.mean(axis=(2, 3)) / 255 * 8).astype(np.float32)
    )
    loggers: list[Any] = field(default_factory=list)
    """Weak references to the loggers that TensorRT keeps a plain pointer to: the first one given to a builder or a
    runtime, and each one that plugins were registered with."""
    outside_context: list[str] = field(default_factory=list)
    """Builders and runtimes that were made while no context of the device was current: they are of GPU 0."""
    ran_on: list[int | None] = field(default_factory=list)
    """DLA core of each run; None for a plan that needs none."""
    corrupt_timing_cache: bool = False
    memory_for_contexts: int = 100
    aux_streams: int = 0
    """Streams beside the caller's that an engine computes on."""
    specialization: str = ""
    """Of the last context of an RTX engine: LAZY runs general kernels until special ones are compiled."""
    own_graphs: bool = False
    """RTX captures and launches graphs by itself."""
    launch: Callable[[int, int, int, tuple[int, ...]], bool] | None = None
    """(stream, input's address, output's, input's shape): what a real GPU does in enqueue, instead of `compute`."""
    during_build: Callable[[], None] = field(default=lambda: None)
    config: Any = None
    network_flags: int | None = None
    flags: set[str] = field(default_factory=set)
    parser_flags: set[str] = field(default_factory=set)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    calibration_profile: Any = None
    pools: dict[str, int] = field(default_factory=dict)
    builds: int = 0
    enqueued: int = 0
    now_s: float = 0.0
    """What a clock shows that only runs of the network move."""
    takes_s: dict[str, float] = field(default_factory=lambda: {"float": 1e-3, "int8": 1e-3})
    """Of a run, by whether the engine has integer layers."""


def fake_tensorrt(release: str, world: World) -> Any:
    """The module of a recorded release (or of 8.5.2, derived from 8.6.1)."""
    classes, functions = names_of(release)
    flavour, version = release.split("-", 1)
    module = SimpleNamespace(__name__=flavour, __version__=version)
    for name in functions:
        setattr(module, name, lambda *_: True)
    if hasattr(module, "init_libnvinfer_plugins"):
        module.init_libnvinfer_plugins = lambda logger, _: world.loggers.append(weakref.ref(logger)) or True
    for name, members in classes.items():
        if {"name", "value"} <= set(members):
            setattr(module, name, _enumeration(name, [one for one in members if one not in ("name", "value")]))
    for name, members in classes.items():
        if not hasattr(module, name):
            setattr(module, name, _restricted(name, set(members), world, module))
    return module


def names_of(release: str) -> tuple[dict[str, list[str]], list[str]]:
    recorded = json.loads((RECORDINGS / f"{'tensorrt-8.6.1' if release == JETPACK_5 else release}.json").read_text())
    classes = recorded["classes"]
    if release == JETPACK_5:
        for name, members in LACKING_IN_8_5.items():
            if members is None:
                del classes[name]
            else:
                classes[name] = [member for member in classes[name] if member not in members]
    return classes, recorded["functions"]


def _enumeration(name: str, members: list[str]) -> Any:
    """A pybind enumeration: members with name and number, and ``__members__``."""
    kind = type(name, (_Member,), {})
    values = {member: kind(name, member, index) for index, member in enumerate(members)}
    for member, value in values.items():
        setattr(kind, member, value)
    kind.__members__ = values
    return kind


class _Member:
    def __init__(self, kind: str, name: str, value: int) -> None:
        self._kind, self.name, self.value = kind, name, value

    def __int__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Member) and (self._kind, self.name) == (other._kind, other.name)

    def __hash__(self) -> int:
        return hash((self._kind, self.name))

    def __str__(self) -> str:
        return f"{self._kind}.{self.name}"


def _restricted(name: str, members: set[str], world: World, module: Any) -> type:
    """The behaviour of a class, as far as the release has its names."""
    behaviour = vars(BEHAVIOUR.get(name, _Nothing))
    given = {key: value for key, value in behaviour.items() if key.startswith("_") or key in members}
    missing = {key: _Unwritten(name, key) for key in members if key not in given}

    def set_known(self: Any, key: str, value: Any) -> None:
        if not key.startswith("_") and key not in members:
            raise AttributeError(f"{module.__name__} {module.__version__} has no {name}.{key}")
        object.__setattr__(self, key, value)

    special = {"__setattr__": set_known} if name not in SUBCLASSED else {}
    ignored = ("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__")
    given = {key: value for key, value in given.items() if key not in ignored}
    return type(name, (), {**missing, **given, **special, "_world": world, "_module": module})


class _Unwritten:
    """A name without behaviour: there for hasattr on the class, and an error when an instance is asked for it."""

    def __init__(self, owner: str, name: str) -> None:
        self.title = f"{owner}.{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        raise NotImplementedError(f"the fake TensorRT has no behaviour for {self.title}")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[f"_{self.name}"] = value


class _Nothing:
    pass


def _check_start(world: World, logger: Any, what: str = "") -> None:
    if not world.loggers:
        world.loggers.append(weakref.ref(logger))
    if not world.cuda.entered:
        world.outside_context.append(what)
    _call_logger(world, "Severity.VERBOSE", f"{what} begins")
    if not world.starts:
        logger.log("Severity.ERROR", "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def _call_logger(world: World, severity: str, text: str) -> None:
    """Log as plugins and TensorRT's global code do: through the pointers that were kept (NVIDIA/TensorRT #1475)."""
    for kept in world.loggers:
        logger = kept()
        assert logger is not None, "segmentation fault: TensorRT logs to a logger that was freed"
        logger.log(severity, text)


class _Logger:
    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        pass


class _Builder:
    def __init__(self, logger: Any) -> None:
        _check_start(self._world, logger, "builder")
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802 (their name)
        return self._world.dla_cores

    def create_network(self, flags: int = 0) -> Any:
        self._world.network_flags = flags
        return self._module.INetworkDefinition()

    def create_builder_config(self) -> Any:
        self._world.config = self._module.IBuilderConfig()
        return self._world.config

    def create_optimization_profile(self) -> Any:
        return self._module.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        world = self._world
        world.builds += 1
        world.during_build()
        if not self._run_calibrator(config) or not self._report_progress(config):
            return None
        if world.build_error:
            self._logger.log("Severity.ERROR", world.build_error)
            return None
        on_dla = "_DLA_core" in vars(config)
        return json.dumps({"profiles": world.profiles, "kind": network._kind, "dla": on_dla}).encode()

    def _report_progress(self, config: Any) -> bool:
        monitor = vars(config).get("_progress_monitor")
        if monitor is None:
            return True
        monitor.phase_start("Building", None, 3)
        going_on = all(monitor.step_complete("Building", step) for step in range(3))
        monitor.phase_finish("Building")
        return going_on

    def _run_calibrator(self, config: Any) -> bool:
        calibrator = vars(config).get("_int8_calibrator")
        if calibrator is None or calibrator.read_calibration_cache() is not None:
            return True
        names = [name for name, _, _ in self._world.inputs]
        seen = 0
        while (pointers := calibrator.get_batch(names)) is not None:
            seen += 1
            assert all(pointer in self._world.cuda.blocks for pointer in pointers)
        calibrator.write_calibration_cache(memoryview(f"ranges of {seen} batches".encode()))
        return True


class _Network:
    def __init__(self) -> None:
        self._parsed = False
        self._kind = "float"

    @property
    def num_outputs(self) -> int:
        return len(self._world.outputs) if self._parsed else 0

    @property
    def num_inputs(self) -> int:
        return len(self._world.inputs)

    @property
    def num_layers(self) -> int:
        return len(self._world.layers)

    def get_input(self, index: int) -> Any:
        name, shape, dtype = self._world.inputs[index]
        return SimpleNamespace(name=name, shape=shape, dtype=getattr(self._module.DataType, dtype, None))

    def get_layer(self, index: int) -> Any:
        return _Layer(self._world, self._module, index)


class _Layer:
    """One of `World.layers`; what it gives is called by its number."""

    num_outputs = 1

    def __init__(self, world: World, module: Any, index: int) -> None:
        kind, dtype = world.layers[index]
        self.type = getattr(module.LayerType, kind)
        self.precision = None
        self._world, self._module, self._index = world, module, index
        self._read = world.reads.get(index, (index - 1,))
        self._output = SimpleNamespace(dtype=getattr(module.DataType, dtype), name=str(index))

    @property
    def num_inputs(self) -> int:
        return len(self._read)

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=str(self._read[index]))

    def get_output(self, index: int) -> Any:
        assert index == 0
        return self._output

    def set_output_type(self, index: int, dtype: Any) -> None:
        assert index == 0
        if dtype == self.precision == self._module.DataType.FLOAT:
            self._world.kept_float.add(self._index)


class _Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger

    def set_flag(self, flag: Any) -> None:
        self._world.parser_flags.add(flag.name)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self._network._parsed = not self._world.parse_errors
        self._network._kind = "int8" if b"QuantizeLinear" in model else "float"
        return self._network._parsed

    @property
    def num_errors(self) -> int:
        return len(self._world.parse_errors)

    def get_error(self, index: int) -> Any:
        error = self._module.ParserError()
        error._fields = self._world.parse_errors[index]
        return error


class _ParserError:
    def code(self) -> str:
        return f"ErrorCode.{self._fields[0]}"

    def node(self) -> int:
        return 7

    def node_name(self) -> str:
        return self._fields[1]

    def node_operator(self) -> str:
        return self._fields[2]

    def desc(self) -> str:
        return self._fields[3]


class _Config:
    def __init__(self) -> None:
        self._cache = None

    def set_flag(self, flag: Any) -> None:
        self._world.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._world.flags.discard(flag.name)
        self._world.flags.add(f"not {flag.name}")

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._world.pools[pool.name] = size

    def create_timing_cache(self, blob: bytes) -> Any:
        if self._world.corrupt_timing_cache and blob:
            return None
        cache = self._module.ITimingCache()
        cache._blob = blob
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if self._world.refuses_timing_cache and cache._blob:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def add_optimization_profile(self, profile: Any) -> int:
        if self._world.refuses_profile:
            return -1
        self._world.profiles.append(profile._shapes)
        return len(self._world.profiles) - 1

    def set_calibration_profile(self, profile: Any) -> bool:
        self._world.calibration_profile = profile._shapes
        return True

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        return capability.name != "SM75"


class _Profile:
    def __init__(self) -> None:
        self._shapes = {}

    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self._shapes[name] = (smallest, best, largest)


class _TimingCache:
    def serialize(self) -> bytes:
        return self._blob + b"+measured"


class _Runtime:
    def __init__(self, logger: Any) -> None:
        _check_start(self._world, logger, "runtime")
        self._logger = logger

    def get_engine_validity(self, plan: bytes) -> tuple[Any, int]:
        name, bits = self._world.validity
        return getattr(self._module.EngineValidity, name), bits

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if self._world.corrupt_plan:
            self._logger.log("Severity.ERROR", "Magic tag does not match")
            return None
        engine = self._module.ICudaEngine()
        engine._logger = self._logger
        engine._profiles = json.loads(plan)["profiles"]
        engine._kind = json.loads(plan).get("kind", "float")
        # A plan for DLA names no core: it runs on the runtime's, which is core 0 until it is set (NvInferRuntime.h).
        engine._dla_core = vars(self).get("_DLA_core", 0) if json.loads(plan).get("dla") else None
        return engine


class _Engine:
    @property
    def num_aux_streams(self) -> int:
        return self._world.aux_streams

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def _tensors(self) -> list[tuple[str, tuple[int, ...], str]]:
        return [*self._world.inputs, *self._world.outputs]

    def _tensor(self, name: str) -> tuple[str, tuple[int, ...], str]:
        return next(tensor for tensor in self._tensors if tensor[0] == name)

    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index][0]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._module.TensorIOMode
        return mode.INPUT if name in [tensor[0] for tensor in self._world.inputs] else mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name)[1]

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._module.DataType, self._tensor(name)[2])

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self._profiles[profile][name]

    def create_runtime_config(self) -> Any:
        return self._module.IRuntimeConfig()

    def create_execution_context(self, runtime_config: Any = None) -> Any:
        cache = vars(runtime_config).get("_cache") if runtime_config is not None else None
        if cache is None or not cache._kernels:
            self._world.compiled += 1
        if cache is not None:
            cache._kernels = b"kernels"
        settings = {} if runtime_config is None else vars(runtime_config)
        self._world.specialization = getattr(
            settings.get("_dynamic_shapes_kernel_specialization_strategy"), "name", "LAZY"
        )
        self._world.own_graphs = getattr(settings.get("_cuda_graph_strategy"), "name", "DISABLED") != "DISABLED"
        context = self._module.IExecutionContext()
        context._engine, context._logger = self, self._logger
        context._shapes, context._addresses, context._cuda = {}, {}, self._world.cuda
        context._changes = 0
        self._contexts = [kept for kept in vars(self).get("_contexts", []) if kept() is not None]
        dynamic = any(-1 in shape for _, shape, _ in self._world.inputs)
        if self._contexts and dynamic and self._module.__version__.startswith("8."):
            self._logger.log("Severity.ERROR", "Optimization profile 0 is in use by another context")
            return None
        if self._world.memory_for_contexts <= len(self._contexts):
            return None
        self._contexts.append(weakref.ref(context))
        return context

    def create_engine_inspector(self) -> Any:
        return self._module.EngineInspector()


class _RuntimeConfig:
    def create_runtime_cache(self) -> Any:
        return self._module.IRuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True


class _RuntimeCache:
    _kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        if self._world.refuses_kernels:
            return False
        self._kernels = blob
        return True

    def serialize(self) -> bytes:
        return self._kernels


class _Inspector:
    def get_engine_information(self, kind: Any) -> str:
        return json.dumps({"Layers": [], "format": kind.name})


class _Context:
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._changes += 1
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._changes += 1
        self._addresses[name] = address
        return not self._world.refuses_address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._shapes.get(name, self._engine.get_tensor_shape(name))
        if -1 in shape and name in [tensor[0] for tensor in self._world.outputs]:
            return (self._batch(), *shape[1:])
        return shape

    def _batch(self) -> int:
        name, shape, _ = self._world.inputs[0]
        return self._shapes.get(name, shape)[0]

    def execute_async_v3(self, stream: int) -> bool:
        world = self._world
        if world.enqueue_fails or (world.uncapturable and self._cuda.captured is not None):
            self._logger.log("Severity.ERROR", "enqueueV3: no kernel image is available")
            return False
        world.enqueued += 1
        world.ran_on.append(self._engine._dla_core)
        name, shape, _ = world.inputs[0]
        shape, output = self._shapes.get(name, shape), world.outputs[0][0]
        source, target = self._addresses[name], self._addresses[output]
        if world.launch is not None:
            return world.launch(stream, source, target, shape)

        changes = self._changes

        def work() -> None:  # shapes and addresses as they were when it was enqueued, as a CUDA graph keeps them
            assert self._changes == changes, "undefined behavior: a graph of a context that was modified since"
            world.now_s += world.takes_s[self._engine._kind]
            image = self._cuda.at(source)[: int(np.prod(shape))].reshape(shape)
            result = world.compute(image)
            self._cuda.at(target)[: result.nbytes] = result.reshape(-1).view(np.uint8)

        self._cuda.submit(work, stream)
        return True


BEHAVIOUR: dict[str, type] = {
    "ILogger": _Logger,
    "Builder": _Builder,
    "INetworkDefinition": _Network,
    "OnnxParser": _Parser,
    "ParserError": _ParserError,
    "IBuilderConfig": _Config,
    "IOptimizationProfile": _Profile,
    "ITimingCache": _TimingCache,
    "Runtime": _Runtime,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "IRuntimeConfig": _RuntimeConfig,
    "IRuntimeCache": _RuntimeCache,
    "EngineInspector": _Inspector,
}
SUBCLASSED = ("ILogger", "IProgressMonitor", "IInt8EntropyCalibrator2")
"""Classes that applications derive from, and may give attributes of their own."""
