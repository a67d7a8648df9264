"""The command that makes engines of graphs, on a workstation or on the device itself."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.options import Named
from edgeopt.cli.output import echo
from edgeopt.doors import TARGETS


@click.command("compile")
@click.argument("model", type=click.Path(exists=True, path_type=Path), metavar="MODEL|BUNDLE")
@click.option("--target", required=True, type=Named(TARGETS, "target"))
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Output file. Not used with a bundle."
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="With rtx: largest batch size, from 1. With --implicit-int8: the only batch size.",
)
@click.option(
    "--implicit-int8",
    is_flag=True,
    help="With --target trt, on the device: let TensorRT 8.5 to 10.x calibrate INT8 by itself. DLA cores need it.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, path_type=Path),
    help="For --implicit-int8: a folder of images with a bundle, or an .npz of network inputs by name with an "
    "ONNX file (first dimension: sample).",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Largest number of images to use from the folder.",
)
@click.option(
    "--dla-core", type=click.IntRange(0), help="For --implicit-int8: run on this DLA core, the rest on the GPU."
)
def compile_(
    model: Path,
    target: str,
    out: Path | None,
    batch: int | None,
    implicit_int8: bool,  # noqa: FBT001 - a click flag
    calibration: Path | None,
    images: int,
    dla_core: int | None,
) -> None:
    """Compile an ONNX graph for one target.

    The graph, float or Q/DQ, determines the precision. The only exception is --implicit-int8 on a Jetson, with which
    TensorRT quantizes the float graph itself. With a bundle, the engine is added to it as a variant.
    """
    if implicit_int8:
        _implicit(model, target, out, batch or 1, calibration, images, dla_core)
        return
    if calibration is not None or dla_core is not None:
        raise click.UsageError(
            "--calibration and --dla-core go with --implicit-int8. Those of a bundle are built at first load: a "
            "recipe's [compile.tensorrt] build.dla_core says where they run"
        )
    if model.is_dir() or out is None:
        raise click.UsageError("give an ONNX file and --out: a bundle's engines are compiled already")
    _plain(model, target, out, batch)


def _plain(model: Path, target: str, out: Path, batch: int | None) -> None:
    from edgeopt.bundle import EngineSettings
    from edgeopt.config import BatchRange, TensorRTBuild, TensorRTOptions
    from edgeopt.spec import replace
    from edgeopt.targets import compile_file, find_target

    chosen = find_target(target)
    settings = chosen.default_settings(target)
    if batch is not None and chosen.file_suffix == ".onnx":
        raise click.UsageError(
            f"the file for '{target}' is the graph itself, for any batch. --batch goes with --target rtx; elsewhere a "
            "recipe's [compile.tensorrt] build.batch does"
        )
    if batch is not None and chosen.options is TensorRTOptions:
        settings = EngineSettings(tensorrt=TensorRTOptions(build=TensorRTBuild(batch=BatchRange(max=batch))))
    elif batch is not None:
        settings = replace(settings, batch=batch)
    graph = None
    try:
        if chosen.forms:
            from edgeopt.pipeline.forms import file_in_form

            graph = file_in_form(model, chosen)
    except ModuleNotFoundError as error:  # a device: a bundle's graphs have their form already
        if error.name not in ("onnx", "onnx_ir"):
            raise
        echo(f"the graph is compiled as it is: {chosen.name}'s own form needs pip install 'edgeopt[build]'")
    if graph is not None:
        echo(f"the graph is compiled in the form that {chosen.name} reads best, which computes the same")
    compiled = compile_file(model, target, out, settings, graph)
    note = f"; {chosen.about_files}" if chosen.about_files else ""
    echo(f"engine {out} ({len(compiled.engine) / 1e6:.2f} MB from {model.stat().st_size / 1e6:.2f} MB of ONNX{note})")
    if compiled.arithmetic is not None:
        echo(f"by its builder's account: {compiled.arithmetic.summary()}")


def _implicit(
    model: Path,
    target: str,
    out: Path | None,
    batch: int,
    calibration: Path | None,
    images: int,
    dla_core: int | None,
) -> None:
    from edgeopt.bundle import Bundle
    from edgeopt.runtime.trt.implicit import add_implicit_variant, compile_arrays
    from edgeopt.targets import find_target

    if not find_target(target).implicit_int8 or calibration is None:
        raise click.UsageError("--implicit-int8 needs --target trt and --calibration")
    if model.is_dir():
        if out is not None or not calibration.is_dir():
            raise click.UsageError("a bundle takes --calibration FOLDER, and no --out: the engine joins the bundle")
        _, variant = add_implicit_variant(Bundle.open(model), calibration, count=images, batch=batch, dla_core=dla_core)
        echo(f"variant {variant.name} joined {model}: {variant.verdict}")
        return
    if out is None or calibration.suffix != ".npz":
        raise click.UsageError(
            "an ONNX file takes --calibration FILE.npz and --out; images need a bundle, which says how"
        )
    size = compile_arrays(model, calibration, out, batch=batch, dla_core=dla_core)
    echo(f"engine {out} ({size / 1e6:.2f} MB). Its accuracy has to be measured on this device")


COMMANDS = (compile_,)
