"""Doctor: what this machine is, what each target can do on it and why not otherwise, and what a named board offers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

import edgeopt
from edgeopt.hardware import JETPACKS, Device, JetPack, Machine, machine
from edgeopt.hardware import device as board
from edgeopt.runtime.cuda import importable_providers
from edgeopt.runtime.session import availability
from edgeopt.spec import Struct
from edgeopt.targets import TARGETS, find_target

_PACKAGES = ("numpy", "opencv-python", "pycuda", "cuda-bindings")
"""Beside what the targets stand on."""


class TargetState(Struct):
    """What one target can do here."""

    name: str
    compiles: bool
    runs: bool
    problem: str
    """Why it does not run (or not even compile); empty where it does."""
    offers: str
    """What it does well here, or what it can be asked for."""


class DoctorReport(Struct):
    """The whole diagnosis."""

    machine: Machine
    versions: dict[str, str]
    """Of edgeopt, of what its targets stand on and of the packages of `_PACKAGES`; absent ones are left out."""
    cuda_providers: dict[str, str]
    """Each package that can talk to CUDA, with why it cannot be imported; empty where it can."""
    targets: tuple[TargetState, ...]
    device: Device | None = None
    """The board that was asked about."""
    jetpacks: tuple[JetPack, ...] = ()
    """Those that run on it."""


def doctor(device: str | None = None) -> DoctorReport:
    """Examine this machine, and look up `device` in the table of boards.

    Raises:
        ConfigError: there is no such board; the message suggests the closest.
    """
    named = board(device) if device else None
    here = machine()
    return DoctorReport(
        machine=here,
        versions=_versions(),
        cuda_providers={str(name): problem for name, problem in importable_providers().items()},
        targets=tuple(_state(name, here) for name in TARGETS),
        device=named,
        jetpacks=tuple(jetpack for jetpack in JETPACKS if named and jetpack.version in named.jetpacks),
    )


def _versions() -> dict[str, str]:
    found = {"edgeopt": edgeopt.__version__}
    for name in (*_PACKAGES, *(name for target in TARGETS for name in find_target(target).distributions)):
        installed = _version(name)
        if installed is not None:
            found[name] = installed
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _state(name: str, here: Machine) -> TargetState:
    runs, target = availability(name), find_target(name)
    return TargetState(
        name=name,
        compiles=target.can_compile().ok,
        runs=runs.ok,
        problem=runs.reason,
        offers=target.offers(here),
    )


def render(report: DoctorReport) -> RenderableType:
    """Tables for the terminal."""
    parts: list[RenderableType] = [
        "[bold]This machine[/]", _machine_table(report), "",
        "[bold]What each target can do here[/]", _targets_table(report),
    ]  # fmt: skip
    if report.device is not None:
        parts += ["", f"[bold]{escape(report.device.title)}[/]", _device_table(report.device), ""]
        parts += ["[bold]What its JetPacks offer[/]", _jetpack_table(report.device, report.jetpacks)]
        if any(not jetpack.float16_scales and jetpack.supported for jetpack in report.jetpacks):
            parts += [escape('TensorRT 8 takes no FP16 scales: build for it with [precision] gpu = "fp32".')]
    return Group(*parts)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=bool(titles))
    for title in titles or ("", ""):
        table.add_column(title, overflow="fold")
    return table


def _machine_table(report: DoctorReport) -> Table:
    here, table = report.machine, _table()
    memory = f"{here.memory_bytes / 2**30:.1f} GiB" if here.memory_bytes else "unknown"
    table.add_row("system", f"{here.system}, Python {here.python}")
    table.add_row("processor", f"{escape(here.cpu.model)}, {here.cpu.cores} cores, {here.cpu.architecture}")
    table.add_row("features", " ".join(here.cpu.features) or "none that matter")
    table.add_row("memory", memory)
    for gpu in here.gpus:
        shared = ", shares the processor's memory" if gpu.integrated else ""
        size = f"{gpu.memory_bytes / 2**30:.1f} GiB"
        table.add_row("GPU", f"{escape(gpu.name)}, compute capability {gpu.compute_capability}, {size}{shared}")
    if here.gpu_problem:
        table.add_row("GPU", f"none that can be used: {escape(here.gpu_problem)}")
    if here.jetson:
        release = f"L4T {here.jetson.l4t or 'unknown'}, JetPack {here.jetson.jetpack or 'unknown'}"
        table.add_row("Jetson", f"{escape(here.jetson.model)}, {release}")
    if here.driver or here.cuda:
        table.add_row("driver", f"{here.driver or 'unknown'}, serves CUDA up to {here.cuda or 'unknown'}")
    for name, problem in report.cuda_providers.items():
        table.add_row(name, escape(problem) or "can be imported")
    table.add_row("versions", ", ".join(f"{name} {number}" for name, number in report.versions.items()))
    return table


def _targets_table(report: DoctorReport) -> Table:
    table = _table("target", "compiles", "runs", "offers", "why not")
    for state in report.targets:
        table.add_row(state.name, _yes(state.compiles), _yes(state.runs), escape(state.offers), escape(state.problem))
    return table


def _device_table(device: Device) -> Table:
    table = _table()
    bandwidth = f"{device.bandwidth_gb_s:g} GB/s" if device.bandwidth_gb_s else "bandwidth not known"
    table.add_row("name", device.name)
    table.add_row("GPU", f"{device.gpu}, compute capability {device.compute_capability}")
    table.add_row("memory", f"{device.memory_gb} GB, {bandwidth}")
    table.add_row("peak", device.performance)
    table.add_row("precisions", " ".join(device.precisions))
    table.add_row("DLA cores", str(device.dla_cores))
    return table


def _jetpack_table(device: Device, jetpacks: tuple[JetPack, ...]) -> Table:
    table = _table("JetPack", "TensorRT", "CUDA", "Python", "INT8", "FP16", "DLA", "edgeopt", "note")
    for jetpack in jetpacks:
        table.add_row(
            jetpack.version,
            jetpack.tensorrt,
            jetpack.cuda,
            jetpack.python,
            "Q/DQ" if "int8" in device.precisions else "no hardware",
            "yes" if jetpack.float16_scales or "int8" not in device.precisions else "not in INT8 graphs",
            _dla(device, jetpack),
            _yes(jetpack.supported),
            escape(jetpack.note),
        )
    return table


def _dla(device: Device, jetpack: JetPack) -> str:
    if not device.dla_cores:
        return "no core"
    return {"none": "not in this TensorRT", "implicit": "FP16, INT8 by calibrator", "strongly_typed": "typed graphs"}[
        jetpack.dla
    ]


def _yes(true: bool) -> str:  # noqa: FBT001 (a formatter)
    return "yes" if true else "no"
