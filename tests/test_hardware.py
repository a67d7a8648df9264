"""What a machine is read as, from the kernel's files and a libcuda written for the test."""

# ruff: noqa: N802 (the fake has the CUDA driver's own names)
from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import ConfigError
from edgeopt.hardware import DEVICES, JETPACKS, CudaDriverState, Machine, cuda_driver_state, device, jetpack_of, machine

NO_CUDA = CudaDriverState(problem="none in this test")
X86 = "processor\t: 0\nmodel name\t: Intel(R) N100\nflags\t\t: fpu avx2 avx_vnni sse4_2\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"


def tree(root: Path, **files: str) -> Path:
    """A folder with the given files; `__` in a name stands for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class FakeCuda:
    """libcuda of a machine with one Orin."""

    def __init__(self, *, init: int = 0, devices: int = 1) -> None:
        self.init, self.devices = init, devices

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDriverGetVersion(self, version: object) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count: object) -> int:
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, device: object, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: ctypes.Array, length: int, device: object) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, size: object, device: object) -> int:
        size._obj.value = 7 << 30
        return 0

    def cuDeviceGetAttribute(self, value: object, number: int, device: object) -> int:
        value._obj.value = {18: 1, 75: 8, 76: 7}[number]
        return 0


def test_this_machine_can_be_described():
    here = machine()
    assert here.cpu.cores >= 1
    assert here.python.startswith("3.")
    assert here.gpus or here.gpu_problem


def test_x86_features(tmp_path):
    root = tree(tmp_path, proc__cpuinfo=X86, proc__meminfo="MemTotal:       16000 kB\n")
    here = machine(root, NO_CUDA)
    assert here.cpu.model == "Intel(R) N100"
    assert here.cpu.features == ("avx2", "avx_vnni")
    assert here.cpu.int8_instruction == "avx_vnni"
    assert here.memory_bytes == 16000 * 1024
    assert here.jetson is None


def test_cpu_without_int8_instructions(tmp_path):
    assert machine(tree(tmp_path, proc__cpuinfo="flags : avx2\n"), NO_CUDA).cpu.int8_instruction is None


def test_jetson_is_recognised_with_its_jetpack(tmp_path):
    root = tree(
        tmp_path,
        proc__cpuinfo=ORIN,
        etc__nv_tegra_release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        sys__module__nvidia__version="540.4.0\n",
    )
    tree(
        root / "proc/device-tree", model="NVIDIA Jetson Orin Nano\0", compatible="nvidia,p3767-0005\0nvidia,tegra234\0"
    )
    here = machine(root, cuda_driver_state(FakeCuda()))
    assert here.cpu.model == "Cortex-A78AE"
    assert here.cpu.int8_instruction == "asimddp"
    assert here.jetson is not None
    assert (here.jetson.model, here.jetson.l4t, here.jetson.jetpack) == ("NVIDIA Jetson Orin Nano", "36.4.3", "6.2")
    assert here.driver == "540.4.0"
    assert here.gpus[0].compute_capability == "8.7"
    assert here.gpus[0].integrated


def test_jetson_in_a_container_without_the_release_file(tmp_path):
    root = tree(tmp_path / "proc/device-tree", compatible="nvidia,tegra194\0").parents[1]
    here = machine(root, NO_CUDA)
    assert here.jetson is not None
    assert here.jetson.l4t is None


def test_driver_version_from_proc(tmp_path):
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n"
    assert machine(tree(tmp_path, proc__driver__nvidia__version=text), NO_CUDA).driver == "540.4.0"


def test_cuda_driver_state_of_a_board():
    state = cuda_driver_state(FakeCuda())
    assert state.cuda == "12.6"
    assert state.gpus[0].name == "Orin"
    assert state.problem is None


def test_cuda_driver_that_does_not_start_says_so():
    assert "CUDA error 999" in (cuda_driver_state(FakeCuda(init=999)).problem or "")


def test_cuda_driver_without_devices_says_so():
    assert "no GPU" in (cuda_driver_state(FakeCuda(devices=0)).problem or "")


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [("32.7.6", "4.6"), ("35.4.1", "5.1"), ("36.3.0", "6.0"), ("36.4.0", "6.1"), ("36.4.7", "6.2"), ("38.4.0", "7.1")],
)
def test_jetpack_of_l4t(l4t, jetpack):
    found = jetpack_of(l4t)
    assert found is not None
    assert found.version == jetpack


@given(st.text(max_size=12))
def test_unknown_l4t_is_none_or_a_known_jetpack(l4t):
    assert jetpack_of(l4t) is None or jetpack_of(l4t) in JETPACKS


def test_every_board_runs_known_jetpacks():
    known = {jetpack.version for jetpack in JETPACKS}
    for board in DEVICES:
        assert set(board.jetpacks) <= known, board.name


def test_orin_nano_has_no_dla_and_maxwell_no_int8():
    assert device("orin-nano-8gb").dla_cores == 0
    assert "int8" not in device("nano-4gb").precisions


def test_unknown_device_suggests_the_closest():
    with pytest.raises(ConfigError, match="Did you mean 'orin-nano-8gb'"):
        device("orin-nano-8g")


def test_machine_round_trips_through_json():
    import msgspec

    here = machine()
    assert msgspec.json.decode(msgspec.json.encode(here), type=Machine) == here


def test_every_orin_and_thor_is_known():
    """By the memory that their modules are sold with."""
    orin = {(board.memory_gb, board.dla_cores) for board in DEVICES if board.compute_capability == "8.7"}
    assert orin == {(4, 0), (8, 0), (8, 1), (16, 2), (32, 2), (64, 2)}
    assert {board.memory_gb for board in DEVICES if board.compute_capability == "11.0"} == {64, 128}
    assert jetpack_of("39.2.0").tensorrt == "10.16.2"
