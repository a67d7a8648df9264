"""What this machine is, and what the boards that edgeopt knows can do.

Everything is read from files of the kernel and from the CUDA driver's C interface, so that no CUDA package has to be
installed to ask. The tables at the end say what is known of a board that is not here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.spec import Struct

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "fp8", "fp4"]

# fmt: off
CPU_FEATURES = frozenset((
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2",
))
# fmt: on
"""Names of /proc/cpuinfo (x86 flags, Arm Features) that decide which kernels an engine picks."""

_INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
"""Instructions that multiply and add int8 in one step, fastest first."""

_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}
"""(implementer, part) of /proc/cpuinfo, which names no Arm core. Source: util-linux, sys-utils/lscpu-arm.c."""


class Cpu(Struct):
    """The processor that this process may use."""

    model: str
    architecture: str
    """As `platform.machine` says: ``x86_64``, ``aarch64``."""
    cores: int
    """Logical processors that this process may be scheduled on."""
    features: tuple[str, ...] = ()
    """Those of `CPU_FEATURES` that are present, sorted."""

    @property
    def int8_instruction(self) -> str | None:
        """The best int8 dot-product instruction set, or None: without one, INT8 rarely pays on a CPU."""
        return next((name for name in _INT8_FEATURES if name in self.features), None)


class Gpu(Struct):
    """A GPU as the CUDA driver describes it."""

    name: str
    compute_capability: str
    """``major.minor``."""
    memory_bytes: int
    integrated: bool
    """Shares its memory with the processor, as on every Jetson."""


class Jetson(Struct):
    """The NVIDIA module that this is."""

    model: str
    l4t: str | None
    """Linux for Tegra release, such as ``36.4.3``; None where /etc/nv_tegra_release is missing (in a container)."""
    jetpack: str | None


class Machine(Struct):
    """This computer, as far as it decides which engine runs and how fast."""

    system: str
    python: str
    cpu: Cpu
    memory_bytes: int | None
    gpus: tuple[Gpu, ...] = ()
    jetson: Jetson | None = None
    driver: str | None = None
    """Version of the NVIDIA kernel module."""
    cuda: str | None = None
    """Newest CUDA version that the driver serves."""
    gpu_problem: str | None = None
    """Why there are no `gpus`."""


class CudaDriverState(Struct):
    """What libcuda says of its devices."""

    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


def machine(root: Path = Path("/"), cuda: CudaDriverState | None = None) -> Machine:
    """Describe this machine.

    Args:
        root: folder that holds /proc, /sys and /etc (another one in tests and in a chroot).
        cuda: state of the CUDA driver; None asks libcuda.
    """
    state = cuda if cuda is not None else cuda_driver_state()
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=_cpu(_read(root / "proc/cpuinfo")),
        memory_bytes=_memory_bytes(_read(root / "proc/meminfo")),
        gpus=state.gpus,
        jetson=_jetson(root),
        driver=_driver_version(root),
        cuda=state.cuda,
        gpu_problem=state.problem,
    )


def cuda_driver_state(library: Any = None) -> CudaDriverState:
    """Ask the CUDA driver for its version and its devices, without making a context on any.

    Args:
        library: libcuda as ctypes loads it (a fake in tests); None loads it.
    """
    try:
        lib = library if library is not None else ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError as error:
        return CudaDriverState(problem=f"no NVIDIA driver: {error}")
    if code := lib.cuInit(0):
        return CudaDriverState(problem=f"cuInit failed with CUDA error {code}: is the NVIDIA driver loaded?")
    version, count = ctypes.c_int(), ctypes.c_int()
    lib.cuDriverGetVersion(ctypes.byref(version))
    lib.cuDeviceGetCount(ctypes.byref(count))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    gpus = tuple(_gpu(lib, index) for index in range(count.value))
    return CudaDriverState(cuda=cuda, gpus=gpus, problem=None if gpus else "the NVIDIA driver sees no GPU")


def _gpu(lib: Any, index: int) -> Gpu:
    """Device `index`. Attribute numbers are those of CUdevice_attribute in cuda.h."""
    integrated, major, minor = 18, 75, 76
    device, value = ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    lib.cuDeviceGet(ctypes.byref(device), index)
    lib.cuDeviceGetName(name, len(name), device)
    lib.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(number: int) -> int:
        lib.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{attribute(major)}.{attribute(minor)}",
        memory_bytes=memory.value,
        integrated=bool(attribute(integrated)),
    )


def _read(path: Path) -> str:
    """Text of a kernel file, or nothing where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu(cpuinfo: str) -> Cpu:
    def first(key: str) -> str:
        match = re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        return match.group(1).strip() if match else ""

    arm = _ARM_CORES.get((first("CPU implementer"), first("CPU part")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cpu(
        model=first("model name") or arm or platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=cores,
        features=tuple(sorted(CPU_FEATURES & set((first("flags") or first("Features")).split()))),
    )


def _memory_bytes(meminfo: str) -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _driver_version(root: Path) -> str | None:
    loaded = _read(root / "sys/module/nvidia/version").strip()
    if loaded:
        return loaded
    match = re.search(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)", _read(root / "proc/driver/nvidia/version"))
    return match.group(1) if match else None


def _jetson(root: Path) -> Jetson | None:
    """The module's name from the device tree, L4T from the file that NVIDIA's boards carry."""
    model = _read(root / "proc/device-tree/model").strip("\0\n ")
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    tegra = "tegra" in _read(root / "proc/device-tree/compatible")
    if not (tegra or release):
        return None
    l4t = f"{release.group(1)}.{release.group(2)}" if release else None
    found = jetpack_of(l4t) if l4t else None
    return Jetson(model=model or "unknown", l4t=l4t, jetpack=found.version if found else None)


class JetPack(Struct):
    """One generation of NVIDIA's SDK for Jetson: what it pins is what a bundle meets there."""

    version: str
    l4t: tuple[str, ...]
    """Prefixes of the L4T releases that it covers."""
    cuda: str
    tensorrt: str
    ubuntu: str
    python: str
    dla: Literal["none", "implicit", "strongly_typed"]
    """How INT8 reaches a DLA core: the entropy calibrator (TensorRT up to 10.7), typed Q/DQ (11.4.1 on), or no way."""
    supported: bool
    """Whether edgeopt runs there: TensorRT 8.5 or newer, and a Python of 3.10 or newer (own or installed beside)."""
    note: str = ""


class Device(Struct):
    """A board, from NVIDIA's public tables."""

    name: str
    title: str
    gpu: str
    compute_capability: str
    memory_gb: int
    bandwidth_gb_s: float | None
    performance: str
    """The vendor's peak figure; INT8 with sparsity unless it says otherwise."""
    precisions: tuple[Precision, ...]
    dla_cores: int
    jetpacks: tuple[str, ...]


_OLD = "TensorRT 8.0-8.4 lacks the named-tensor interface and Python is too old: not supported"
_PYTHON = (
    "the system's Python 3.8 is too old: deploy/jetpack5.Dockerfile builds TensorRT's bindings for 3.10 "
    "(not tried on a board)"
)

JETPACKS = (
    JetPack(
        version="4.6", l4t=("32.6", "32.7"), cuda="10.2", tensorrt="8.0.1-8.2.1", ubuntu="18.04", python="3.6",
        dla="implicit", supported=False, note=_OLD,
    ),
    JetPack(
        version="5.0.2", l4t=("35.1",), cuda="11.4", tensorrt="8.4.1", ubuntu="20.04", python="3.8",
        dla="implicit", supported=False, note=_OLD,
    ),
    JetPack(
        version="5.1", l4t=("35.2", "35.3", "35.4", "35.5", "35.6"), cuda="11.4", tensorrt="8.5.2", ubuntu="20.04",
        python="3.8", dla="implicit", supported=True, note=_PYTHON,
    ),
    JetPack(
        version="6.0", l4t=("36.2", "36.3"), cuda="12.2", tensorrt="8.6.2", ubuntu="22.04", python="3.10",
        dla="implicit", supported=True,
    ),
    JetPack(
        version="6.1", l4t=("36.4.0",), cuda="12.6", tensorrt="10.3.0", ubuntu="22.04", python="3.10",
        dla="implicit", supported=True,
    ),
    JetPack(
        version="6.2", l4t=("36.4", "36.5"), cuda="12.6", tensorrt="10.3.0", ubuntu="22.04", python="3.10",
        dla="implicit", supported=True,
    ),
    JetPack(
        version="7.0", l4t=("38.2",), cuda="13.0", tensorrt="10.13", ubuntu="24.04", python="3.12",
        dla="none", supported=True, note="Thor only",
    ),
    JetPack(
        version="7.1", l4t=("38.4",), cuda="13.0", tensorrt="10.13", ubuntu="24.04", python="3.12",
        dla="none", supported=True, note="Thor only",
    ),
    JetPack(
        version="7.2", l4t=("39.0", "39.2"), cuda="13.2", tensorrt="10.x", ubuntu="24.04", python="3.12",
        dla="none", supported=True,
        note="TensorRT 11.4.1 can be installed from 7.2.2 on; with it AGX Orin has strongly typed DLA again",
    ),
)  # fmt: skip
"""Sources: NVIDIA's JetPack archive pages (4.6.1, 5.0.2), jetson-containers and jetson_stats (L4T to CUDA and
TensorRT), NVIDIA/TensorRT issue 4590 (10.13.3.9 on Thor), TensorRT 11.4.1 release notes (DLA on JetPack 7.2.2). The
TensorRT of 5.1.3-5.1.6 and of 7.2 is not documented anywhere we found."""

_VOLTA: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_AMPERE: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
_ORIN_JETPACKS = ("5.1", "6.0", "6.1", "6.2", "7.2")
_OLD_JETPACKS = ("4.6",)
_XAVIER_JETPACKS = ("4.6", "5.0.2", "5.1")

DEVICES = (
    Device(
        name="nano-4gb", title="Jetson Nano 4 GB", gpu="128-core Maxwell", compute_capability="5.3", memory_gb=4,
        bandwidth_gb_s=25.6, performance="472 GFLOPS FP16", precisions=("fp32", "fp16"), dla_cores=0,
        jetpacks=_OLD_JETPACKS,
    ),
    Device(
        name="tx2", title="Jetson TX2 8 GB", gpu="256-core Pascal", compute_capability="6.2", memory_gb=8,
        bandwidth_gb_s=None, performance="-", precisions=("fp32", "fp16"), dla_cores=0, jetpacks=_OLD_JETPACKS,
    ),
    Device(
        name="xavier-nx-8gb", title="Jetson Xavier NX 8 GB", gpu="384-core Volta", compute_capability="7.2",
        memory_gb=8, bandwidth_gb_s=59.7, performance="21 TOPS", precisions=_VOLTA, dla_cores=2,
        jetpacks=_XAVIER_JETPACKS,
    ),
    Device(
        name="agx-xavier-32gb", title="Jetson AGX Xavier 32 GB", gpu="512-core Volta", compute_capability="7.2",
        memory_gb=32, bandwidth_gb_s=136.5, performance="32 TOPS", precisions=_VOLTA, dla_cores=2,
        jetpacks=_XAVIER_JETPACKS,
    ),
    Device(
        name="orin-nano-8gb", title="Jetson Orin Nano 8 GB (Super)", gpu="1024-core Ampere", compute_capability="8.7",
        memory_gb=8, bandwidth_gb_s=102.0, performance="67 TOPS (40 without Super mode)", precisions=_AMPERE,
        dla_cores=0, jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="orin-nx-16gb", title="Jetson Orin NX 16 GB", gpu="1024-core Ampere", compute_capability="8.7",
        memory_gb=16, bandwidth_gb_s=102.4, performance="100 TOPS", precisions=_AMPERE, dla_cores=2,
        jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="agx-orin-64gb", title="Jetson AGX Orin 64 GB", gpu="2048-core Ampere", compute_capability="8.7",
        memory_gb=64, bandwidth_gb_s=204.8, performance="275 TOPS", precisions=_AMPERE, dla_cores=2,
        jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="agx-thor-128gb", title="Jetson AGX Thor (T5000)", gpu="2560-core Blackwell", compute_capability="11.0",
        memory_gb=128, bandwidth_gb_s=273.0, performance="2070 TFLOPS FP4, 1035 TFLOPS FP8",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8", "fp4"), dla_cores=0, jetpacks=("7.0", "7.1", "7.2"),
    ),
)  # fmt: skip
"""Sources: NVIDIA's module datasheets as quoted by the Ultralytics Jetson guide and RidgeRun's Thor page; compute
capabilities from jetson_stats' CUDA_TABLE (CUDA before 13 calls Thor 10.1). DLA counts of Xavier and Orin NX/AGX are
the datasheets' and were not checked on a board."""


def jetpack_of(l4t: str) -> JetPack | None:
    """The JetPack that ships L4T release `l4t`, or None: the longest matching prefix decides."""
    matches = [(len(prefix), jetpack) for jetpack in JETPACKS for prefix in jetpack.l4t if _covers(prefix, l4t)]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def _covers(prefix: str, version: str) -> bool:
    return version == prefix or version.startswith(prefix + ".")


def device(name: str) -> Device:
    """The board called `name`.

    Raises:
        ConfigError: there is no such board in the table.
    """
    for known in DEVICES:
        if known.name == name:
            return known
    raise ConfigError(f"no device is called '{name}'.{did_you_mean(name, [known.name for known in DEVICES])}")
