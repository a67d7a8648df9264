"""Commands about images and labels: which set each image is in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.options import as_json
from edgeopt.cli.output import echo, print_json, printable

if TYPE_CHECKING:
    from edgeopt.bundle import Bundle
    from edgeopt.bundle.splits import SplitRecord
    from edgeopt.dataset import Dataset

_SHOWN = 5


@click.command()
@click.argument("source", metavar="RECIPE|BUNDLE", default="edgeopt.toml")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the sets into this folder, as lists that a recipe's [data] tables read. Images stay where they are.",
)
@as_json
def splits(source: str, out: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a click flag
    """Show or write which images are in which set.

    Of a recipe, that is what a build would do. Of a bundle, it is what its build did: names and hashes come from the
    bundle; with --out its images are found through its recipe, whose relative paths start from the current folder.
    """
    from edgeopt.bundle.splits import pack_splits, recorded_splits
    from edgeopt.config import data_table
    from edgeopt.dataset.lists import write_lists

    record: SplitRecord = {}
    sets: dict[str, Dataset] = {}
    root = Path.cwd()
    if (Path(source) / "manifest.json").is_file():
        from edgeopt.bundle import Bundle

        bundle = Bundle.open(source)
        record = recorded_splits(bundle)
        if out is not None or not record:
            sets = _sets_of_bundle(bundle)
    else:
        root, sets = _sets_of_recipe(source)
    if not record:
        record = _decoded(pack_splits(sets, "names"))
    tables = {} if out is None else write_lists(sets, out, root)
    if as_json:
        print_json(record)
        return
    for role, images in record.items():
        names = [printable(image.name or image.sha256[:12]) for image in images[:_SHOWN]]
        more = f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
        echo(f"{role:<11} {len(images):>6} images: {', '.join(names)}{more}")
    if tables:
        echo(f"\nlists are in {out}. For a recipe in {root}:\n")
        echo("\n\n".join(data_table(table, role) for role, table in tables.items()))


def _decoded(content: bytes) -> SplitRecord:
    from edgeopt.bundle.splits import SplitRecord
    from edgeopt.typed import from_json

    return from_json(content, SplitRecord)


def _sets_of_recipe(reference: str) -> tuple[Path, dict[str, Dataset]]:
    """Split a recipe's data as a build would."""
    from edgeopt.config import find_recipe
    from edgeopt.dataset import load_splits
    from edgeopt.pipeline.sources import class_names
    from edgeopt.references import importable

    config, root = find_recipe(reference)
    sources = (config.data.train, config.data.validation, config.data.test, config.data.calibration)
    with importable(root, *(each.format for each in sources if each is not None)):
        found = load_splits(
            config.data,
            root,
            calibration_images=config.calibrate.images,
            minimum_images=config.calibrate.minimum_images,
            labels=class_names(config, root),
        )
    return root, found.present()


def _sets_of_bundle(bundle: Bundle) -> dict[str, Dataset]:
    """Find a bundle's sets again."""
    from edgeopt.bundle.images import images_of
    from edgeopt.dataset.splits import SPLITS

    roles = [role for role in SPLITS if role in bundle.manifest.datasets]
    return {role: images_of(bundle, role, Path.cwd()) for role in roles}


@click.group()
def data() -> None:
    """Look at images and labels before anything is built."""


@data.command()
@click.argument("source", metavar="PATH|RECIPE", default="edgeopt.toml")
@click.option("--format", "data_format", help="Format of PATH. Default: recognised.")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw a contact sheet: pictures of every set with their boxes or classes.",
)
@click.option(
    "--images", type=click.IntRange(1), default=20, show_default=True, help="Pictures of each set on the sheet."
)
@as_json
def check(source: str, data_format: str | None, sheet: Path | None, images: int, as_json: bool) -> None:  # noqa: FBT001
    """Read data whole and say what was found in it.

    Says how many images and boxes there are, of which classes and sizes, and all that is left out, with the reason.
    PATH is a folder of images or of several sets, or a label file. Of a RECIPE the sets that it gives are read. Exits
    with 12 if a set cannot be used.
    """
    from edgeopt.cli.console import console
    from edgeopt.cli.views.sets import set_view
    from edgeopt.dataset.facts import facts_of

    why, sets = _given_sets(source, data_format)
    found = {role: facts_of(dataset) for role, dataset in sets.items()}
    if as_json:
        print_json(found)
    else:
        if why:
            echo(printable(why))
        for role, facts in found.items():
            console().print(set_view(role, facts))
    if sheet is not None:
        _draw_sheet(sets, sheet, images)
        echo(f"sheet {sheet}", err=True)


def _given_sets(source: str, data_format: str | None) -> tuple[str, dict[str, Dataset]]:
    """Read the sets that a recipe gives, or that are found at a path."""
    from edgeopt.config import find_recipe, shipped_recipes
    from edgeopt.dataset.loading import checked, listed
    from edgeopt.dataset.splits import list_splits
    from edgeopt.dataset.survey import survey
    from edgeopt.references import importable

    path = Path(source)
    if path.suffix == ".toml" or (path / "edgeopt.toml").is_file() or source in shipped_recipes():
        config, root = find_recipe(source)
        given = (config.data.train, config.data.validation, config.data.test, config.data.calibration)
        with importable(root, *(each.format for each in given if each is not None)):
            listings = list_splits(config.data, root, calibration_images=config.calibrate.images)
        return "", {role: checked(listing) for role, listing in listings.items()}
    found = survey(path, data_format)
    sets: dict[str, Dataset] = {role: checked(listed(each, Path.cwd())) for role, each in found.sets.items()}
    return f"format {found.format}: {found.why}", sets


def _draw_sheet(sets: dict[str, Dataset], path: Path, count: int) -> None:
    """Draw pictures of every set, drawn evenly over the classes."""
    from edgeopt.dataset.sampling import sample_indices
    from edgeopt.draw import contact_sheet, write_image

    labels = next((dataset.labels for dataset in sets.values()), ())
    samples = (
        (f"{role}: {dataset[index].name}", dataset.image(index), dataset[index].target)
        for role, dataset in sets.items()
        for index in sample_indices([sample.target for sample in dataset], count, 0, "even")
    )
    write_image(path, contact_sheet(samples, labels))


COMMANDS = (splits, data)
