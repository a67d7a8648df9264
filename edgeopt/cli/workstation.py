"""Commands of the workstation side: from a model to a bundle."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import click

from edgeopt.cli.options import (
    OUT,
    WORK,
    as_json,
    best_so_far,
    calibration_images,
    cluster,
    cluster_workers,
    labels,
    model_data,
    normalization,
    on_cluster,
    out_folder,
    outputs,
    overrides,
    recipe,
    work_folder,
)
from edgeopt.cli.output import echo, printable
from edgeopt.renamed import REPAIRS, SCHEMES, present_name

if TYPE_CHECKING:
    from edgeopt.config import Config
    from edgeopt.progress import Progress
    from edgeopt.spec import Processor, Task


class _SchemeChoice(click.Choice[str]):
    """A scheme; a former name is taken with a warning."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Replace a former name, and check it as click does."""
        return super().convert(present_name(value, SCHEMES, "--scheme"), param, ctx)


_SCHEMES = _SchemeChoice(["tensorrt", "openvino", "onnxruntime", "arm"])
_PROCESSORS = click.Choice(["vnni", "avx2", "arm"])
SURVEYED = ("coco", "voc", "yolo", "image_folder", "csv", "labelme", "cvat", "createml", "kitti", "wider_face")
"""Formats with labels that `dataset.survey` recognises."""
_METHODS = click.Choice(["minmax", "mean_minmax", "percentile", "entropy", "mse", "auto"])


@click.command()
@click.option("--task", type=click.Choice(["classification", "detection"]), default="classification", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default="edgeopt.toml", show_default=True)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Your images: a folder of them or of several sets, or their label file. The recipe then builds as it is.",
)
@click.option("--format", "data_format", type=click.Choice(SURVEYED), help="Format of --data. Default: recognised.")
@click.option("--model", help="The recipe's [model] source. Default: a network of ours for the task of --data.")
def init(
    task: Task,
    out: Path,
    force: bool,  # noqa: FBT001 - a click flag
    data: Path | None,
    data_format: str | None,
    model: str | None,
) -> None:
    """Write a starter recipe, with every table explained.

    With --data it is a recipe for these images: sets, classes, format, network and input size are found by looking at
    them.
    """
    from edgeopt.config import write_starter

    if data is not None:
        _init_for(data, data_format, out, model, replace=force)
        return
    if data_format is not None or model is not None:
        raise click.UsageError("--format and --model go with --data")
    write_starter(out, task, replace=force)
    echo(f"wrote {out}. Set its paths, then run: edgeopt build {out}")


def _init_for(data: Path, data_format: str | None, out: Path, model: str | None, *, replace: bool) -> None:
    """Write a recipe for data, and say what was found."""
    from edgeopt.dataset.starter import write_starter_for
    from edgeopt.dataset.survey import survey

    found = survey(data, data_format)
    listings = write_starter_for(found, out, model=model, replace_file=replace)
    labels = next(iter(listings.values())).labels
    echo(printable(f"format {found.format}: {found.why}"))
    for role, listing in listings.items():
        left_out = f", {len(listing.left_out)} entries of labels left out" if listing.left_out else ""
        echo(printable(f"{role:<11} {len(listing.drafts)} images in {listing.origin}{left_out}"))
    echo(printable(f"{len(labels)} classes: {', '.join(labels[:10])}{' …' if len(labels) > 10 else ''}"))
    echo(f"wrote {out}. Look at its data with: edgeopt data check {out}\nThen run: edgeopt build {out}")


@click.command()
@click.argument("recipe", metavar="RECIPE|MODEL", default="edgeopt.toml")
@out_folder
@work_folder
@overrides
@model_data
@calibration_images
@labels
@normalization
@click.option("--check", "only_check", is_flag=True, help="Only check for what would stop the build. Nothing is made.")
@best_so_far
@on_cluster("Where calibration images are observed: here, on a Ray cluster that is started here, or on one that runs.")
@cluster_workers
@as_json
def build(
    recipe: str,
    out: Path,
    work: Path | None,
    overrides: tuple[str, ...],
    data: str | None,
    calibration: str | None,
    labels: str | None,
    normalization: str | None,
    only_check: bool,  # noqa: FBT001 - a click flag
    best_so_far: bool,  # noqa: FBT001 - a click flag
    on: str,
    workers: int | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Build a verified bundle, FP32 beside INT8, from a recipe or a model.

    RECIPE is a .toml file, a folder that holds an edgeopt.toml, or the name of a shipped recipe: digits, digit-scenes,
    digit-scenes-scratch, features, mobilenet-v2. Only what changed since the last build is made again.

    MODEL is a file (.onnx, .pt2, .tflite) or a network by name (timm:resnet18, torchvision:resnet18), with its images
    in --data. It needs no recipe where the model explains itself; what it does not say is asked for in one message.
    `edgeopt inspect MODEL` says what is read and why, and writes the recipe.

    A recipe is code: where it names package.module:callable, that is run. Build only recipes that you trust.
    """
    options = {"--data": data, "--calibration": calibration, "--labels": labels, "--normalization": normalization}
    config, root = _found(recipe, overrides, options)
    if only_check:
        _check(config, root, out, work, as_json=as_json)
        return
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.tables import calibration_table, summary_table
    from edgeopt.pipeline import build as run
    from edgeopt.report import content, summary, to_json, to_terminal, write_page

    with cluster(on, workers) as there, StageDisplay() as display:
        built = run(config, root, out, work or out / WORK, display, best_so_far=best_so_far, cluster=there)
        display.begin("report")
        report = content(built.bundle.manifest)
        page = write_page(report, built.path.with_suffix(".html"), built.test)
        display.end(str(page), reused=False)
    if as_json:
        echo(to_json(report).decode())
        return
    console().print(to_terminal(report))
    if (calibrated := built.bundle.manifest.calibration) is not None:
        console().print(calibration_table(calibrated))
    state = "nothing changed: the bundle was up to date" if built.unchanged else "built"
    echo(f"{state}\nbundle  {built.path}\nreport  {page}")
    console().print(summary_table(summary(report, built.path)))


def _found(recipe: str, overrides: tuple[str, ...], options: Mapping[str, str | None]) -> tuple[Config, Path]:
    """Read a recipe, or write that of a model."""
    from edgeopt.config import find_recipe, parse_config
    from edgeopt.errors import ConfigError
    from edgeopt.pipeline.model_recipe import Wanted, is_model, model_recipe

    if not is_model(recipe):
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ConfigError(
                f"{given[0]} goes with a model. '{recipe}' is a recipe, which says that itself: change it"
            )
        return find_recipe(recipe, overrides)
    wanted = Wanted(
        source=recipe,
        overrides=overrides,
        **{name.removeprefix("--"): value for name, value in options.items()},
    )
    written = model_recipe(wanted, Path.cwd())
    return parse_config(written.text, f"the recipe of {recipe}", overrides), Path.cwd()


def _check(config: Config, root: Path, out: Path, work: Path | None, *, as_json: bool) -> None:
    """Say that nothing stands against a build, and what will be smaller than the recipe asks for."""
    from edgeopt.pipeline import check

    found = check(config, root, out, work or out / WORK)
    if as_json:
        echo(json.dumps({"checked": found.checked, "notes": found.notes}))
        return
    echo(f"nothing was found against building '{config.name}': {found.checked}")
    for note in found.notes:
        echo(f"note: {note}")


@click.command()
@recipe
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: NAME.safetensors in the current folder.")
@work_folder
@overrides
@best_so_far
def train(
    recipe: str,
    out: Path | None,
    work: Path | None,
    overrides: tuple[str, ...],
    best_so_far: bool,  # noqa: FBT001
) -> None:
    """Train a recipe's model.

    A training that was interrupted or killed continues from where it stopped.
    """
    from edgeopt.pipeline import train_model

    make = partial(train_model, best_so_far=best_so_far)
    echo(f"weights {_produce(make, recipe, overrides, work, out, '.safetensors')}")


@click.command()
@recipe
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: NAME.onnx in the current folder.")
@work_folder
@overrides
def export(recipe: str, out: Path | None, work: Path | None, overrides: tuple[str, ...]) -> None:
    """Export a recipe's model to optimized ONNX.

    The graph is checked against torch. The model is trained first if the recipe says so.
    """
    from edgeopt.pipeline import export_model

    echo(f"graph {_produce(export_model, recipe, overrides, work, out, '.onnx')}")


def _produce(
    make: Callable[[Config, Path, Path, Path, Progress], Path],
    recipe: str,
    overrides: tuple[str, ...],
    work: Path | None,
    out: Path | None,
    suffix: str,
) -> Path:
    """Run the part of a recipe that ends in one file, called after the recipe unless `out` says otherwise."""
    from edgeopt.cli.console import StageDisplay
    from edgeopt.config import find_recipe

    config, root = find_recipe(recipe, overrides)
    out = out or Path(f"{config.name}{suffix}")
    with StageDisplay() as display:
        return make(config, root, work or Path(OUT) / WORK, out, display)


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--calibration",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A folder of images, or an .npz of network inputs by name (first dimension: sample).",
)
@click.option(
    "--spec",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML that says how images become the input ([preprocessing]); needed with images.",
)
@click.option(
    "--scheme",
    type=_SCHEMES,
    default="tensorrt",
    show_default=True,
    help="Engine whose kernels the Q/DQ is placed for.",
)
@click.option(
    "--processor",
    "processors",
    multiple=True,
    type=_PROCESSORS,
    help="Processor on which INT8 must be correct. May be repeated. Default: all that the scheme is for: arm that "
    "one, tensorrt none, as it is for GPUs. avx2 is x86 without VNNI, where weights must not use all of their 8 bits.",
)
@click.option("--method", type=_METHODS, default="mean_minmax", show_default=True, help="How ranges are chosen.")
@click.option(
    "--images", type=click.IntRange(1), default=200, show_default=True, help="Largest number of images to use."
)
@click.option(
    "--evaluation",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images that accuracy will be measured on. Calibration is refused if it contains one of them.",
)
@click.option("--exclude", multiple=True, help="Glob pattern of node names that stay float. May be repeated.")
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="LAYER=METHOD",
    help="How the input ranges of some layers are chosen, by glob pattern of node names. May be repeated.",
)
@outputs
@click.option(
    "--repairs",
    metavar="NAMES",
    help="Which repairs to try: none, fast (those that run the network on each image a few times), all (these and the "
    "searches ranges,exemption, the default), or names separated by commas, as in all,fine_tuning, which also trains "
    "the graph, for minutes to hours. Each is kept only where it helps on images that it was not fitted on. One of "
    "your own is named as package.module:callable.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.0, min_open=True),
    help="Most minutes for calibration and repairs. What would take longer is left out, and what it would have "
    "needed is said. Default: as long as they need.",
)
@click.option(
    "--float",
    "float_rest",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision of what is not quantized. fp16 is for GPUs; nodes that would overflow on the images stay fp32.",
)
@click.option(
    "--max-discrepancy",
    type=click.FloatRange(0.0, min_open=True),
    help="Most difference of the outputs from the float network's; beyond it nothing is written. Default: 0.1 of class "
    "scores (KL divergence in nats) and of detections, 0.3 of classes at each of many places, 0.03 of other numbers "
    "(noise power over signal power).",
)
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@as_json
def quantize(
    model: Path,
    calibration: Path,
    spec: Path | None,
    scheme: str,
    processors: tuple[Processor, ...],
    method: str,
    images: int,
    evaluation: Path | None,
    exclude: tuple[str, ...],
    ranges: tuple[str, ...],
    outputs: tuple[str, ...],
    repairs: str | None,
    minutes: float | None,
    float_rest: Literal["fp32", "fp16"],
    max_discrepancy: float | None,
    out: Path,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Quantize an ONNX network to INT8 Q/DQ.

    MODEL may come from any tool; no recipe is needed. Ranges are calibrated on images or arrays.
    """
    import msgspec

    from edgeopt.cli.console import StageDisplay
    from edgeopt.config import CalibrateConfig, QuantizeConfig
    from edgeopt.pipeline.outputs import told_kinds
    from edgeopt.pipeline.standalone import latency_line, quantize_file
    from edgeopt.typed import convert

    calibrate_config = convert({"method": method, "images": images}, CalibrateConfig)
    wanted: dict[str, object] = {"minutes": minutes, "scheme": scheme, "exclude": exclude, "ranges": _methods(ranges)}
    wanted["repairs"] = QuantizeConfig().repairs if repairs is None else _repairs(repairs)
    quantize_config = convert(wanted, QuantizeConfig)
    with StageDisplay() as display:
        result = quantize_file(
            model,
            calibration,
            spec,
            calibrate_config,
            quantize_config,
            out,
            display,
            evaluation=evaluation,
            processors=processors,
            float_rest=float_rest,
            outputs=told_kinds(outputs),
            max_discrepancy=max_discrepancy,
        )
    if as_json:
        echo(json.dumps({"out": str(out), **msgspec.to_builtins(result)}))
    else:
        for name, taken in itertools.groupby(result.outputs, lambda read: read.output):
            said = "; for ".join(f"{read.kind}{', too' * bool(place)}: {read.why}" for place, read in enumerate(taken))
            hint = "" if outputs or "--outputs" in said else ". Where that is wrong, say it with --outputs"
            echo(f"output {name} was taken for {said}{hint}")
        for repair, reason in result.declined.items():
            echo(f"{repair} was left out: {reason}")
        repaired = f"repaired by {'; '.join(result.repairs) or 'nothing that was tried'}"
        echo(repaired if result.tried else "no repair was tried")
        for line in result.coverage.lines():
            echo(line)
        if result.latency is not None:
            echo(latency_line(result.latency, result.scheme))
        if "avx2" not in result.processors:
            echo(
                "its weights use all of their 8 bits: on x86 processors without VNNI OpenVINO and onnxruntime saturate"
                ". For these quantize with --scheme openvino or onnxruntime, and --processor avx2 where you name any"
            )
        echo(f"quantized {out}")


def _methods(options: tuple[str, ...]) -> dict[str, str]:
    """Methods of ``LAYER=METHOD``, by layer."""
    from edgeopt.config import CalibrationMethod
    from edgeopt.errors import ConfigError, did_you_mean

    methods = {}
    for option in options:
        layer, _, method = option.rpartition("=")
        if not layer or method not in get_args(CalibrationMethod):
            hint = did_you_mean(method, get_args(CalibrationMethod))
            raise ConfigError(f"range '{option}' is not LAYER=METHOD, as in 'stem*=mse'.{hint}")
        methods[layer] = method
    return methods


def _repairs(listed: str) -> tuple[str, ...]:
    """Return the repairs that a list with commas names, or choices among them."""
    from edgeopt import doors
    from edgeopt.config import FAST_REPAIRS, QuantizeConfig
    from edgeopt.references import check, importable

    choices = {"none": (), "fast": FAST_REPAIRS, "all": QuantizeConfig().repairs}
    listed_names = [name for each in listed.split(",") for name in choices.get(each.strip(), (each.strip(),))]
    names = tuple(present_name(name, REPAIRS, "--repairs") for name in dict.fromkeys(listed_names))
    for name in names:
        check(name, doors.REPAIRS, "repair")
    click.get_current_context().with_resource(importable(Path.cwd(), *names))  # it is the user who names this code
    return names


@click.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=f"{OUT}/{WORK}",
    show_default=True,
    help="Folder of stage results.",
)
@click.option(
    "--unused",
    "days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Results that no build used for so many days go; 0: all.",
)
@click.option("--keep", "limit", metavar="SIZE", help="Of the rest, keep this much, the last used first, as 5GB.")
@click.option("--remove", "really", is_flag=True, help="Remove them. Without, they are only listed.")
def clean(work: Path, days: float, limit: str | None, really: bool) -> None:  # noqa: FBT001 - a click flag
    """List stage results that no build used for long, or remove them.

    Removing costs nothing but time: a build that needs one makes it again. Bundles are never touched. Each build keeps
    the folder below 20 GB ($EDGEOPT_WORK_LIMIT) by itself.
    """
    from edgeopt.pipeline.cleaning import remove, size_of, survey, unused
    from edgeopt.report.figures import counted, size

    found = survey(work)
    chosen = unused(found, days=days, limit_bytes=None if limit is None else size_of(limit))
    for each in chosen:
        state = "" if each.finished else ", unfinished"
        echo(printable(f"{each.path.name}: {size(each.size_bytes)}, used {each.days:.0f} days ago{state}"))
    rest = sum(each.size_bytes for each in found) - sum(each.size_bytes for each in chosen)
    freed = size(sum(each.size_bytes for each in chosen))
    if really:
        remove(work, chosen)
    what = counted(len(chosen), "result", "results")
    advice = "" if really or not chosen else ". Remove them with --remove"
    echo(printable(f"{'removed' if really else 'unused'}: {what}, {freed}; {work} keeps {size(rest)}{advice}"))


COMMANDS = (init, build, train, export, quantize, clean)
