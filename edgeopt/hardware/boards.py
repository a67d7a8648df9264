"""The boards that edgeopt knows, and the JetPacks that run on them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.spec import Struct

Arithmetic: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "fp8", "fp4"]


class JetPack(Struct):
    """One generation of NVIDIA's SDK for Jetson, with the versions that it pins."""

    version: str
    l4t: tuple[str, ...]
    """Prefixes of its L4T releases."""
    cuda: str
    tensorrt: str
    ubuntu: str
    python: str
    dla: Literal["none", "implicit", "strongly_typed"]
    """Way for INT8 to a DLA core: the entropy calibrator (TensorRT up to 10.7), typed Q/DQ (11.4.1 on), or none."""
    supported: bool
    """True if edgeopt runs there. It needs TensorRT 8.5 or newer, and Python 3.10 or newer (its own or installed
    beside)."""
    note: str = ""
    dla_note: str = ""
    """Note for boards with DLA cores only."""

    @property
    def float16_scales(self) -> bool:
        """True if INT8 graphs may be FP16 between their quantizers: from TensorRT 10 on (8.x wants FP32 scales)."""
        return not self.tensorrt.startswith("8.")


class Device(Struct):
    """A board, from NVIDIA's public tables."""

    name: str
    title: str
    gpu: str
    compute_capability: str
    memory_gb: int
    bandwidth_gb_s: float | None
    performance: str
    """The vendor's peak figure, for INT8 with sparsity unless it says otherwise."""
    precisions: tuple[Arithmetic, ...]
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
        version="7.2", l4t=("39.0", "39.2"), cuda="13.2", tensorrt="10.16.2", ubuntu="24.04", python="3.12",
        dla="none", supported=True,
        note="TensorRT 11.4.1 can be installed from 7.2.2 on",
        dla_note="with TensorRT 11.4.1 AGX Orin has strongly typed DLA again",
    ),
)  # fmt: skip
"""Sources: NVIDIA's JetPack archive pages (4.6.1, 5.0.2), jetson-containers and jetson_stats (L4T to CUDA and
TensorRT), NVIDIA/TensorRT issue 4590 (10.13.3.9 on Thor), TensorRT 11.4.1 release notes (DLA on JetPack 7.2.2). The
TensorRT of 5.1.3-5.1.6 is not documented anywhere we found; that of 7.2 is named in roboflow/inference pull request
2531 and NVIDIA/TensorRT issue 4832."""

_VOLTA: tuple[Arithmetic, ...] = ("fp32", "fp16", "int8")
_AMPERE: tuple[Arithmetic, ...] = ("fp32", "fp16", "bf16", "int8")
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
        name="orin-nano-4gb", title="Jetson Orin Nano 4 GB (Super)", gpu="512-core Ampere", compute_capability="8.7",
        memory_gb=4, bandwidth_gb_s=51.0, performance="34 TOPS (20 without Super mode)", precisions=_AMPERE,
        dla_cores=0, jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="orin-nano-8gb", title="Jetson Orin Nano 8 GB (Super)", gpu="1024-core Ampere", compute_capability="8.7",
        memory_gb=8, bandwidth_gb_s=102.0, performance="67 TOPS (40 without Super mode)", precisions=_AMPERE,
        dla_cores=0, jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="orin-nx-8gb", title="Jetson Orin NX 8 GB", gpu="1024-core Ampere", compute_capability="8.7",
        memory_gb=8, bandwidth_gb_s=102.4, performance="70 TOPS (117 in Super mode)", precisions=_AMPERE, dla_cores=1,
        jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="orin-nx-16gb", title="Jetson Orin NX 16 GB", gpu="1024-core Ampere", compute_capability="8.7",
        memory_gb=16, bandwidth_gb_s=102.4, performance="100 TOPS (157 in Super mode)", precisions=_AMPERE, dla_cores=2,
        jetpacks=_ORIN_JETPACKS,
    ),
    Device(
        name="agx-orin-32gb", title="Jetson AGX Orin 32 GB", gpu="1792-core Ampere", compute_capability="8.7",
        memory_gb=32, bandwidth_gb_s=204.8, performance="200 TOPS", precisions=_AMPERE, dla_cores=2,
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
    Device(
        name="thor-t4000-64gb", title="Jetson T4000 64 GB", gpu="1536-core Blackwell", compute_capability="11.0",
        memory_gb=64, bandwidth_gb_s=273.0, performance="1200 TFLOPS FP4",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8", "fp4"), dla_cores=0, jetpacks=("7.1", "7.2"),
    ),
)  # fmt: skip
"""Sources: NVIDIA's module datasheets as quoted by the Ultralytics Jetson guide and RidgeRun's Thor page; compute
capabilities from jetson_stats' CUDA_TABLE (CUDA before 13 calls Thor 10.1). AGX Orin 32 GB: NVIDIA's datasheet
DS-10662-001 as Seeed's pages of its carriers quote it. T4000: NVIDIA's blog on T4000 and JetPack 7.1 as others quote it
(1,200 TFLOPS with sparsity), and the download page of JetPack 7.1, the first that supports it. DLA counts are the
datasheets' and were not checked on a board."""


def jetpack_of(l4t: str) -> JetPack | None:
    """Return the JetPack that ships L4T release `l4t`, or None. The longest matching prefix decides."""
    matches = [(len(prefix), jetpack) for jetpack in JETPACKS for prefix in jetpack.l4t if _covers(prefix, l4t)]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def _covers(prefix: str, version: str) -> bool:
    return version == prefix or version.startswith(prefix + ".")


def device(name: str) -> Device:
    """Return the board called `name`.

    Raises:
        ConfigError: there is no such board in the table.
    """
    for known in DEVICES:
        if known.name == name:
            return known
    raise ConfigError(f"no device is called '{name}'.{did_you_mean(name, [known.name for known in DEVICES])}")
