"""Probe this machine.

Everything is read from files of the kernel and from the CUDA driver's C interface, so that no CUDA package has to be
installed to ask.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeopt.hardware.boards import jetpack_of
from edgeopt.spec import Struct

# fmt: off
CPU_FEATURES = frozenset((
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2",
))
# fmt: on
"""Names of /proc/cpuinfo (x86 flags, Arm Features) that decide which kernels an engine picks."""

_INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
"""Instructions that multiply and add int8 in one step, fastest first."""

_BF16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply and add bfloat16, fastest first."""

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
    """Name that `platform.machine` gives it: ``x86_64``, ``aarch64``."""
    cores: int
    """Logical processors that this process may use."""
    features: tuple[str, ...] = ()
    """The `CPU_FEATURES` that are present, sorted."""

    @property
    def int8_instruction(self) -> str | None:
        """Best int8 dot-product instruction set. None: without OpenVINO, INT8 pays on this CPU with few networks."""
        return next((name for name in _INT8_FEATURES if name in self.features), None)

    @property
    def bf16_instruction(self) -> str | None:
        """Best bfloat16 instruction set. None: bfloat16 is emulated or missing."""
        return next((name for name in _BF16_FEATURES if name in self.features), None)


class Gpu(Struct):
    """A GPU as the CUDA driver describes it."""

    name: str
    compute_capability: str
    """``major.minor``."""
    memory_bytes: int
    integrated: bool
    """True if it shares its memory with the processor, as on every Jetson."""


class Jetson(Struct):
    """An NVIDIA Jetson module."""

    model: str
    l4t: str | None
    """Linux for Tegra release, such as ``36.4.3``; None without /etc/nv_tegra_release, as in a container."""
    jetpack: str | None


class Machine(Struct):
    """This computer: everything that decides which engine runs and how fast."""

    system: str
    python: str
    cpu: Cpu
    memory_bytes: int | None
    gpus: tuple[Gpu, ...] = ()
    jetson: Jetson | None = None
    driver: str | None = None
    """Version of the NVIDIA kernel module."""
    cuda: str | None = None
    """Newest CUDA version that the driver supports."""
    gpu_problem: str | None = None
    """Reason why `gpus` is empty."""


class CudaDriverState(Struct):
    """The devices that libcuda reports."""

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
    """Describe device `index`. Attribute numbers are those of CUdevice_attribute in cuda.h."""
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
    """Return the text of a kernel file, or nothing where there is no such file."""
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
    """Read the module's name from the device tree, and L4T from the file that NVIDIA's boards carry."""
    model = _read(root / "proc/device-tree/model").strip("\0\n ")
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    tegra = "tegra" in _read(root / "proc/device-tree/compatible")
    if not (tegra or release):
        return None
    l4t = f"{release.group(1)}.{release.group(2)}" if release else None
    found = jetpack_of(l4t) if l4t else None
    return Jetson(model=model or "unknown", l4t=l4t, jetpack=found.version if found else None)


def power_mode_reader(root: Path = Path("/")) -> Callable[[], str | None]:
    """A function that reads Jetson's nvpmodel by name, or the governor of cpufreq, fast enough while measuring."""
    names = dict(re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", _read(root / "etc/nvpmodel.conf")))
    status = root / "var/lib/nvpmodel/status"
    governors = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))

    def read() -> str | None:
        if match := re.search(r"pmode:0*(\d+)", _read(status)):
            return str(names.get(match.group(1), f"nvpmodel {match.group(1)}"))
        return " ".join(sorted({_read(path).strip() for path in governors})) or None

    return read
