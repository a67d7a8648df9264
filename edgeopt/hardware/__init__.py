"""Hardware: this machine, and the boards that edgeopt knows."""

from __future__ import annotations

from edgeopt.hardware.boards import DEVICES, JETPACKS, Arithmetic, Device, JetPack, device, jetpack_of
from edgeopt.hardware.fingerprint import (
    Identity,
    ThisMachine,
    identity_of,
    machine_fingerprint,
    processor_fingerprint,
)
from edgeopt.hardware.probing import (
    Cpu,
    CudaDriverState,
    Gpu,
    Jetson,
    Machine,
    cuda_driver_state,
    machine,
    power_mode_reader,
)

__all__ = [
    "DEVICES",
    "JETPACKS",
    "Arithmetic",
    "Cpu",
    "CudaDriverState",
    "Device",
    "Gpu",
    "Identity",
    "JetPack",
    "Jetson",
    "Machine",
    "ThisMachine",
    "cuda_driver_state",
    "device",
    "identity_of",
    "jetpack_of",
    "machine",
    "machine_fingerprint",
    "power_mode_reader",
    "processor_fingerprint",
]
