"""Commands that use a bundle on the machine that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.options import (
    as_json,
    bundle,
    calibration_images,
    labels,
    model_data,
    normalization,
    overlap,
    threads,
    tiles,
    tiles_of,
    variant,
)
from edgeopt.cli.output import echo, print_json, printable

if TYPE_CHECKING:
    from edgeopt.runtime.stream import WhenFull

MODEL_SUFFIXES = (".onnx", ".tflite", ".keras", ".h5", ".hdf5")
"""Files that `inspect` takes for models, as it does a folder with a ``saved_model.pb``."""


@click.command()
@bundle
@click.argument("sources", nargs=-1, metavar="IMAGES…|VIDEO|CAMERA|URL|PIPELINE")
@click.option(
    "--draw",
    type=click.Path(path_type=Path),
    help="Write drawn results: pictures into a folder, or an .mp4 for a single stream.",
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Leave out objects or classes with a lower score. Default: the bundle's threshold.",
)
@click.option(
    "--labels", multiple=True, metavar="NAME,…", help="Report only objects or classes of these names. May be repeated."
)
@click.option(
    "--csv",
    "table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a table with a row per object and its box in pixels, or a row with empty cells for an image "
    "without objects.",
)
@click.option(
    "--jsonl",
    "lines",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a file with one line of JSON per image.",
)
@click.option(
    "--when-full",
    type=click.Choice(["block", "drop_oldest"]),
    help="What to do when inference is slower than the source. Default: drop for cameras and URLs, block for files.",
)
@tiles
@overlap
@click.option(
    "--track",
    is_flag=True,
    help="Follow the objects of a video or camera: each keeps a number, which is drawn and written with it.",
)
@variant
@threads
@as_json
def run(
    bundle: Path,
    sources: tuple[str, ...],
    draw: Path | None,
    score: float | None,
    labels: tuple[str, ...],
    table: Path | None,
    lines: Path | None,
    when_full: WhenFull | None,
    tiles: int | None,
    overlap: float | None,
    track: bool,  # noqa: FBT001 - a click flag
    variant: str | None,
    threads: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Predict on images, folders, a video, a camera or a stream.

    A camera is its number (0), /dev/video0 or csi://0; a stream is rtsp://… or the like, and nvdec+rtsp://… where a
    Jetson's own decoder is to take it; a GStreamer pipeline is 'nvarguscamerasrc ! …'. Without a source,
    $EDGEOPT_SOURCE is read, which keeps a password out of the list of processes.

    Decoding, preprocessing, inference and postprocessing overlap. With --json, one line of JSON an image. What is
    damaged is left out and counted; where that is more than a tenth, the exit code is 12.
    """
    import os

    from edgeopt.bundle import Bundle
    from edgeopt.cli.results import Wanted
    from edgeopt.cli.streaming import Sink, follow_all, say_what_runs
    from edgeopt.runtime import Tiled, load
    from edgeopt.runtime.stream import check_source

    sources = sources or tuple(filter(None, [os.environ.get("EDGEOPT_SOURCE")]))
    if not sources:
        raise click.UsageError("Say what to run on: images, a folder, a video, a camera or a stream.")
    cut = tiles_of(tiles, overlap)
    for text in sources:
        check_source(text)
    with load(bundle, variant=variant, threads=threads) as predictor:
        wanted = Wanted.of(score, labels, predictor.labels)
        say_what_runs(predictor, Bundle.open(bundle, check_hashes=False), score)
        stages = predictor if cut is None else Tiled(predictor, cut)
        with Sink(wanted, draw=draw, as_json=as_json, table=table, lines=lines) as sink:
            follow_all(sources, stages, when_full, sink, track=track)


@click.command()
@click.argument("path", metavar="BUNDLE|MODEL", type=click.Path(path_type=Path))
@model_data
@calibration_images
@labels
@normalization
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the recipe of a model and its --data, to build from and to change.",
)
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
@as_json
def inspect(
    path: Path,
    data: str | None,
    calibration: str | None,
    labels: str | None,
    normalization: str | None,
    recipe: Path | None,
    force: bool,  # noqa: FBT001 - a click flag
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Show a bundle's contents, or what a model file is.

    Of a bundle it also shows which variant this machine would run, and why not the others. Of a model (.onnx, .tflite,
    .keras, .h5, a SavedModel) it names inputs, outputs, family, head, preprocessing and labels, each with its reason,
    and what the file leaves open.
    """
    if path.suffix.lower() in MODEL_SUFFIXES or (path / "saved_model.pb").is_file():
        _inspect_model(path, data, calibration, labels, normalization, recipe, replace=force, as_json=as_json)
        return
    if any((data, calibration, labels, normalization, recipe)):
        raise click.UsageError("--data, --calibration, --labels, --normalization and --recipe go with a model file")
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import console
    from edgeopt.cli.views.tables import bundle_tables
    from edgeopt.runtime.choice import choose, measured_here

    opened = Bundle.open(path)
    if as_json:
        print_json(opened.manifest)
        return
    for table in bundle_tables(opened.manifest, choose(opened.manifest), measured_here(opened.manifest)):
        console().print(table)


def _inspect_model(
    path: Path,
    data: str | None,
    calibration: str | None,
    labels: str | None,
    normalization: str | None,
    recipe: Path | None,
    *,
    replace: bool,
    as_json: bool,
) -> None:
    """Say what a model is; with data, decide what its file leaves open; with a recipe's name, write it."""
    import msgspec

    from edgeopt.cli.views.identification import identification_lines
    from edgeopt.config import write_recipe
    from edgeopt.pipeline.model_recipe import Wanted, model_recipe
    from edgeopt.source.identified import identify_file

    if data is None and recipe is None and any((calibration, labels, normalization)):
        raise click.UsageError("--calibration, --labels and --normalization go with --data: they enter the recipe")
    found, decision, text = identify_file(path), None, None
    if data is not None or recipe is not None:
        wanted = Wanted(
            source=str(path), data=data, calibration=calibration, labels=labels, normalization=normalization
        )
        written = model_recipe(wanted, Path.cwd() if recipe is None else recipe.resolve().parent)
        found, decision, text = written.found or found, written.decision, written.text
    if recipe is not None and text is not None:
        write_recipe(recipe, text, replace=replace)
    if as_json:
        trials = [] if decision is None else [{"reading": each.name, "value": each.value} for each in decision.trials]
        print_json({**msgspec.to_builtins(found), "decided_by_images": trials, "recipe": text})
        return
    for line in identification_lines(path.name, found, decided=decision is not None):
        echo(printable(line))
    if decision is not None:
        echo(printable(f"decided  {decision.sentence()}"))
    if text is not None:
        echo(f"wrote {recipe}. Build it with: edgeopt build {recipe}" if recipe is not None else f"\n{text}")


@click.command()
@bundle
@click.option("--variant", help="Replay this one only.")
@click.option("--chosen", is_flag=True, help="Replay only the one that `edgeopt run` chooses here.")
@click.option(
    "--public-key",
    "public_keys",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also check that this key (PEM) signed the bundle; may be repeated, then one of them must have. Default: the "
    "keys that this device trusts, if any.",
)
@click.option(
    "--builder", metavar="URI", help="Also check that its provenance names this builder (edgeopt sign --provenance)."
)
@threads
@as_json
def verify(
    bundle: Path,
    variant: str | None,
    chosen: bool,  # noqa: FBT001 - a click flag
    public_keys: tuple[Path, ...],
    builder: str | None,
    threads: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Check that a bundle is whole and answers as recorded.

    Checks hashes and schema, who signed it where that is asked for, and replays the golden inputs on this machine. A
    variant that does not load here is told, and is a failure if none does.
    """
    from edgeopt.cli.views.maker import maker_lines
    from edgeopt.runtime.verify import verify as check
    from edgeopt.runtime.verify import verify_chosen
    from edgeopt.trust.keys import read_public

    if chosen and variant is not None:
        raise click.UsageError("--chosen and --variant say different things: give one of them")
    keys = tuple(read_public(key) for key in public_keys) or None
    if chosen:
        verification = verify_chosen(bundle, threads=threads, keys=keys)
    else:
        verification = check(bundle, variant=variant, threads=threads, keys=keys)
    if as_json:
        print_json(verification)
    else:
        for line in maker_lines(verification.signer, verification.release, verification.provenance):
            echo(printable(line))
        for name, replayed in verification.replayed.items():
            state = "ok" if replayed.ok else "DIFFERS"
            echo(f"{name}: {state} (differs by {replayed.difference:.2e}, allowed {replayed.tolerance:.0e})")
        for name, reason in verification.failed.items():
            echo(printable(f"{name}: DOES NOT RUN: {reason}"))
        for name, reason in verification.skipped.items():
            echo(printable(f"{name}: not run: {reason}"))
        for name, reason in verification.saturating.items():
            echo(printable(f"{name}: beware: {reason}"))
        if verification.prepared:
            same = "yes" if verification.around_ok else "NO"
            echo(f"pictures are prepared and outputs decoded as where it was built: {same}")
        if verification.processor:
            echo(printable(f"processor: {verification.processor}"))
    verification.require(builder)


@click.command()
@bundle
@click.argument("folder", metavar="NEW_CLASS/", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--label", help="Name of the class. Default: the folder's.")
@click.option(
    "--validation",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of other pictures of it, which sign it off. Default: every fourth of NEW_CLASS.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0.0, 1.0),
    default=0.8,
    show_default=True,
    help="Least share of those that must be recognized, by each variant that runs here.",
)
@variant
@as_json
def enroll(
    bundle: Path,
    folder: Path,
    label: str | None,
    validation: Path | None,
    recall: float,
    variant: str | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Add a class to a bundle on the device.

    For bundles whose classifier is "knn" ([fit]). NEW_CLASS is a folder of pictures, two at least; nothing is
    trained or compiled. Nothing is written unless pictures that were left out are recognized, and the pictures of the
    other classes as well as before.
    """
    from edgeopt.cli.console import StageDisplay
    from edgeopt.runtime.enroll import enroll as add
    from edgeopt.runtime.enroll import pictures_of

    name = label if label is not None else folder.resolve().name
    with StageDisplay() as display:
        display.begin("enroll")
        pictures = pictures_of(folder, validation)
        record = add(bundle, name, pictures, variant=variant, recall=recall, progress=display.update)
        display.end(record.summary(), reused=False)
    if as_json:
        print_json(record)
    else:
        echo(printable(f"{bundle} knows '{name}' now"))


COMMANDS = (run, inspect, verify, enroll)
