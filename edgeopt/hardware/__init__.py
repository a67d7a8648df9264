"""Hardware: this machine, and the boards that edgeopt knows."""

from __future__ import annotations

from edgeopt.hardware.boards import DEVICES, JETPACKS, Device, JetPack, Precision, device, jetpack_of
from edgeopt.hardware.fingerprint import processor_fingerprint
from edgeopt.hardware.probing import Cpu, CudaDriverState, Gpu, Jetson, Machine, cuda_driver_state, machine

__all__ = [
    "DEVICES",
    "JETPACKS",
    "Cpu",
    "CudaDriverState",
    "Device",
    "Gpu",
    "JetPack",
    "Jetson",
    "Machine",
    "Precision",
    "cuda_driver_state",
    "device",
    "jetpack_of",
    "machine",
    "processor_fingerprint",
]
