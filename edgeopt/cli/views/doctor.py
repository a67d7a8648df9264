"""The machine, what each target can do on it, and a named board, as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgeopt.doctor import DoctorReport
from edgeopt.hardware import Device, JetPack


def doctor_tables(report: DoctorReport) -> RenderableType:
    """Return the output of `edgeopt doctor`."""
    parts: list[RenderableType] = [
        "[bold]This machine[/]", _machine_table(report), "",
        "[bold]What each target can do here[/]", _targets_table(report),
    ]  # fmt: skip
    if report.device is not None:
        parts += ["", f"[bold]{escape(report.device.title)}[/]", _device_table(report.device), ""]
        parts += ["[bold]What its JetPacks offer[/]", _jetpack_table(report.device, report.jetpacks)]
        if any(not jetpack.float16_scales and jetpack.supported for jetpack in report.jetpacks):
            older = ", ".join(each.version for each in report.jetpacks if not each.float16_scales and each.supported)
            parts += [escape(f'TensorRT 8 (JetPack {older}): name "trt8" in [compile] targets.')]
    return Group(*parts)


def _table(*titles: str) -> Table:
    """Return a table of names and texts, which wrap, or columns of short words, which do not."""
    table = Table(box=None, pad_edge=False, show_header=bool(titles), padding=(0, 2, 0, 0))
    if not titles:
        table.add_column(no_wrap=True)
        table.add_column()
    for title in titles:
        table.add_column(title, no_wrap=True)
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
    table = _table()
    for state in report.targets:
        can = {(True, True): "compiles and runs", (True, False): "compiles, does not run", (False, True): "runs"}
        said = can.get((state.compiles, state.runs), "neither compiles nor runs")
        lines = [f"{said}{': ' if state.offers else ''}{state.offers}", *([state.problem] if state.problem else [])]
        table.add_row(state.name, Text("\n".join(lines)))
    return table


def _device_table(device: Device) -> Table:
    table = _table()
    bandwidth = f"{device.bandwidth_gb_s:g} GB/s" if device.bandwidth_gb_s else "bandwidth not known"
    table.add_row("name", device.name)
    table.add_row("GPU", f"{device.gpu}, compute capability {device.compute_capability}")
    table.add_row("memory", f"{device.memory_gb} GB, {bandwidth}")
    table.add_row("peak", device.performance)
    table.add_row("precisions", " ".join(device.precisions))
    table.add_row("INT8", "by Q/DQ graphs" if "int8" in device.precisions else "no hardware for it")
    table.add_row("DLA cores", str(device.dla_cores or "none"))
    return table


def _jetpack_table(device: Device, jetpacks: tuple[JetPack, ...]) -> RenderableType:
    """One line a JetPack, and below what there is to say of some. Columns that the board makes empty are left out."""
    dla = device.dla_cores > 0
    table = _table("JetPack", "TensorRT", "CUDA", "Python", "edgeopt", "FP16 in INT8 graphs", *(["DLA"] if dla else []))
    notes = _table()
    for jetpack in jetpacks:
        mixed = "–" if "int8" not in device.precisions else _yes(jetpack.float16_scales)
        row = (jetpack.version, jetpack.tensorrt, jetpack.cuda, jetpack.python, _yes(jetpack.supported), mixed)
        table.add_row(*row, *([_DLA[jetpack.dla]] if dla else []))
        for note in (jetpack.note, jetpack.dla_note if dla else ""):
            if note:
                notes.add_row(jetpack.version, Text(note))
    return Group(table, notes) if notes.row_count else table


_DLA = {"none": "no", "implicit": "by calibrator", "strongly_typed": "typed graphs"}
"""Ways of INT8 to a DLA core."""


def _yes(true: bool) -> str:  # noqa: FBT001 (a formatter)
    return "yes" if true else "no"
