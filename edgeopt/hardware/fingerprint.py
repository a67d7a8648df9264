"""Fingerprints of machines, because what was measured on one kind does not hold on another.

Every fingerprint of a machine is made here. Kernel and Python versions are left out of all of them: they hardly matter.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.files import sha256
from edgeopt.hardware.kernels import onednn_limit
from edgeopt.hardware.probing import Cpu, CudaDriverState, Gpu, Machine, machine, power_mode_reader
from edgeopt.spec import Struct


class Identity(Struct):
    """Facts that decide which kernels run an engine here, and how fast."""

    cpu: Cpu
    """Processor, with the cores that this process may use."""
    board: str | None = None
    gpus: tuple[str, ...] = ()
    """Name and compute capability; only for engines that run on one."""
    driver: str | None = None
    cuda: str | None = None
    power_mode: str | None = None
    """Jetson's nvpmodel, or the governor of cpufreq."""
    libraries: dict[str, str] = msgspec.field(default_factory=dict)
    """Versions of the engine's packages."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        return _digest(self)

    @property
    def title(self) -> str:
        """Short words that tell machines apart."""
        device = self.gpus[0] if self.gpus else f"{self.cpu.model}, {self.cpu.cores} core{'s' * (self.cpu.cores != 1)}"
        parts = [
            self.board,
            device,
            self.power_mode,
            *(f"{name} {version}" for name, version in self.libraries.items()),
        ]
        return ", ".join(part for part in parts if part)


class ThisMachine:
    """This machine as engines see it. What it takes to find out is read once, and the GPU's driver only where asked."""

    def __init__(self, root: Path = Path("/"), cuda: CudaDriverState | None = None) -> None:
        """Describe the machine whose files lie under `root`.

        Args:
            root: as of `machine`.
            cuda: the same.
        """
        self._root, self._cuda = root, cuda

    @cached_property
    def processor(self) -> Machine:
        """This machine without its GPUs.

        Asking for them would start their driver, which CPU engines do not depend on.
        """
        return machine(self._root, CudaDriverState(problem="not asked"))

    @cached_property
    def whole(self) -> Machine:
        """This machine with its GPUs."""
        return machine(self._root, self._cuda)

    @cached_property
    def power_mode(self) -> str | None:
        """Jetson's nvpmodel, or the governor of cpufreq."""
        return power_mode_reader(self._root)()

    def identity(self, distributions: Iterable[str], *, accelerated: bool) -> Identity:
        """Return what an engine's results depend on.

        Args:
            distributions: packages of the engine; those that are not installed are left out.
            accelerated: it runs on the GPU.
        """
        here = self.whole if accelerated else self.processor
        libraries = _versions(distributions)
        name, limit = onednn_limit()
        if name and "openvino" in libraries:
            libraries[name] = limit  # other kernels, so that neither latency nor accuracy is the processor's own
        return identity_of(here, libraries, self.power_mode)


def identity_of(here: Machine, libraries: Mapping[str, str], power_mode: str | None) -> Identity:
    """Return the identity of a described machine; one without GPUs stands for its processor alone."""
    return Identity(
        cpu=here.cpu,
        board=here.jetson.model if here.jetson else None,
        gpus=tuple(_described(gpu) for gpu in here.gpus),
        driver=here.driver if here.gpus else None,
        cuda=here.cuda if here.gpus else None,
        power_mode=power_mode,
        libraries=dict(libraries),
    )


def processor_fingerprint() -> str:
    """Return the processor's, with the cores that this process may use and the board; `edgeopt tune` keeps by it."""
    here = ThisMachine().processor
    return _digest((here.cpu, here.jetson.model if here.jetson else None))


def machine_fingerprint(here: Machine) -> str:
    """Return the whole machine's fingerprint without libraries. Latencies of one software compare where it is equal."""
    return _digest((here.cpu, here.gpus, here.jetson, here.driver))


def _described(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.compute_capability})"


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    return {name: found for name in distributions if (found := _version(name))}


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _digest(parts: Any) -> str:
    return sha256(msgspec.json.encode(parts, order="deterministic"))[:16]
