"""The command that says why a quantized model loses accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.options import as_json, outputs
from edgeopt.cli.output import print_json

if TYPE_CHECKING:
    from edgeopt.bundle import Bundle
    from edgeopt.dataset import Dataset
    from edgeopt.diagnose import Diagnosis
    from edgeopt.progress import Progress


@click.command()
@click.argument("reference", metavar="FLOAT|BUNDLE", type=click.Path(exists=True, path_type=Path))
@click.argument("quantized", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--calibration",
    type=click.Path(exists=True, path_type=Path),
    help="A folder of images, or an .npz of network inputs by name (first dimension: sample). Default, with a bundle: "
    "the images that it was calibrated on.",
)
@click.option(
    "--spec",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML that says how images become the input ([preprocessing]); needed with images for files.",
)
@outputs
@click.option("--variant", help="Variant of the bundle. Default: its first INT8 variant.")
@click.option(
    "--images", type=click.IntRange(1), default=32, show_default=True, help="Largest number of images to use."
)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write an HTML page with plots.")
@as_json
def diagnose(
    reference: Path,
    quantized: Path | None,
    calibration: Path | None,
    spec: Path | None,
    outputs: tuple[str, ...],
    variant: str | None,
    images: int,
    html: Path | None,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Find why a quantized model loses accuracy.

    Compares a Q/DQ ONNX file with its float one, whatever tool made them.

    Of a BUNDLE one variant is diagnosed against FP32. The bundle keeps the answer, which `edgeopt report` shows.
    """
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.diagnosis import diagnosis_view

    with StageDisplay() as display:
        if reference.is_dir():
            if quantized is not None:
                raise click.UsageError("a bundle holds both models: give it alone")
            if outputs:
                raise click.UsageError("a bundle says itself what its outputs are: leave --outputs out")
            diagnosis = _of_bundle(reference, variant, calibration, images, display)
        else:
            diagnosis = _of_files(reference, quantized, calibration, spec, outputs, images, display)
    if html is not None:
        _write_page(diagnosis, html, reference.stem if quantized is None else quantized.stem)
    if as_json:
        print_json(diagnosis)
    else:
        console().print(diagnosis_view(diagnosis))


def _of_files(
    reference: Path,
    quantized: Path | None,
    calibration: Path | None,
    spec: Path | None,
    outputs: tuple[str, ...],
    images: int,
    progress: Progress,
) -> Diagnosis:
    from edgeopt.pipeline.diagnosis import diagnose_files
    from edgeopt.pipeline.outputs import told_kinds

    if quantized is None or calibration is None:
        raise click.UsageError("two ONNX files need images: give FLOAT, QUANTIZED and --calibration")
    return diagnose_files(reference, quantized, calibration, spec, images, progress, told_kinds(outputs))


def _of_bundle(path: Path, variant: str | None, calibration: Path | None, images: int, progress: Progress) -> Diagnosis:
    """Diagnose, and record it in the bundle."""
    from edgeopt.bundle import Bundle
    from edgeopt.errors import BundleError
    from edgeopt.pipeline.diagnosis import diagnose_variant

    bundle = Bundle.open(path)
    found = next((each.name for each in bundle.manifest.variants if each.precision == "int8"), None)
    name = variant or found
    if name is None:
        raise BundleError(f"{path} has no INT8 variant: there is nothing to diagnose")
    diagnosis = diagnose_variant(bundle, name, _images(bundle, calibration), images, progress)
    bundle.record(name, diagnosis=diagnosis)
    return diagnosis


def _images(bundle: Bundle, folder: Path | None) -> Dataset:
    """Return the images of a folder, or those that the bundle was calibrated on."""
    from edgeopt.bundle.images import images_of
    from edgeopt.config import DataSource
    from edgeopt.dataset import load
    from edgeopt.errors import ConfigError, DataError

    if folder is not None:
        return load(DataSource(format="images", path=str(folder.resolve())), Path.cwd())
    try:
        return images_of(bundle, "calibration", Path.cwd())
    except (ConfigError, DataError) as error:
        raise type(error)(f"{error}. Say which images with --calibration") from error


def _write_page(diagnosis: Diagnosis, path: Path, title: str) -> None:
    from edgeopt.errors import storage_errors
    from edgeopt.report import diagnosis_html

    page = diagnosis_html(diagnosis, title)
    with storage_errors(path):
        path.write_text(page, encoding="utf-8")


COMMANDS = (diagnose,)
