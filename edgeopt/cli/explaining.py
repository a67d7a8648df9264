"""The command that shows where a network looks, before INT8 and after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.options import as_json, bundle, threads
from edgeopt.cli.output import echo, print_json
from edgeopt.cli.pictures import images_of_user, pictures_of_files

if TYPE_CHECKING:
    from edgeopt.bundle import Bundle
    from edgeopt.bundle.records import Attribution
    from edgeopt.dataset import Dataset

_LIMIT, _MASKS = 32, 300
METHODS = ("eigen_cam", "grad_cam", "rise")


@click.command()
@bundle
@click.argument("images", nargs=-1, metavar="[IMAGES]…", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for explanation.html, explanation.json and the painted pictures. Default: BUNDLE's name with "
    ".explained, beside it.",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice(METHODS),
    multiple=True,
    default=METHODS[:1],
    show_default=True,
    help="How maps are made; may be repeated. eigen_cam: the main pattern of the features that scores are made from, "
    "on any engine. grad_cam: weighted with their gradient on the class (classifiers; needs torch). rise: what the "
    "answer needs when random parts are hidden, for any network and engine; slow.",
)
@click.option("--variant", help="Variant to compare with FP32. Default: the INT8 one that this machine would run.")
@click.option(
    "--limit", type=click.IntRange(1), default=_LIMIT, show_default=True, help="Number of images, spread over the set."
)
@click.option(
    "--masks", type=click.IntRange(10), default=_MASKS, show_default=True, help="Random masks of rise for an image."
)
@click.option("--quick", is_flag=True, help="Leave out insertion and deletion, which say how true the maps are.")
@threads
@as_json
def explain(
    bundle: Path,
    images: tuple[Path, ...],
    out: Path | None,
    methods: tuple[str, ...],
    variant: str | None,
    limit: int,
    masks: int,
    quick: bool,  # noqa: FBT001 - a click flag
    threads: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Show where FP32 and INT8 look, and which pictures shifted.

    IMAGES are pictures, a folder or a label file. Default: the test set of the bundle's recipe.

    Both networks explain FP32's answers to the same pictures, each on its own engine. Maps are compared by rank
    correlation, cosine and the brightest tenth in common; their truth is judged by how much of the answer the INT8
    engine keeps while their brightest parts are shown first, or hidden first, beside noise; with labelled boxes, by how
    often they point at an object. The most shifted pictures come first.

    Of 16 pictures or more the bundle keeps the figures, for `edgeopt report` and `edgeopt gate
    --max-attribution-shift`. Needs the extra 'explain'.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.bundle.records.attribution import FEWEST
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.explanation import explanation_view
    from edgeopt.evaluate.run import chosen_images
    from edgeopt.explain import Settings, variants_to_compare
    from edgeopt.explain import explain as explained
    from edgeopt.report.explained import ExplainedFolder

    opened = Bundle.open(bundle)
    _, other = variants_to_compare(opened, variant)
    dataset = _dataset(opened, images)
    chosen = chosen_images(len(dataset), limit)
    results: dict[str, Attribution] = {}
    folder = ExplainedFolder(out or bundle.with_suffix(".explained"))
    with StageDisplay() as display:
        for method in dict.fromkeys(methods):
            settings = Settings(method, masks=masks, judge=not quick, threads=threads)  # type: ignore[arg-type]
            show = folder.painter(method)
            results[method] = explained(
                opened, dataset, chosen, settings, variant=other.name, show=show, progress=display
            )
    page = folder.write(f"{opened.manifest.name}: {other.name}", other.name, results)
    if as_json:
        print_json(results)
    else:
        for found in results.values():
            console().print(explanation_view(other.name, found))
        echo(f"page    {page}")
    first = next(iter(results.values()))
    if first.images >= FEWEST:
        opened.record(other.name, attribution=first)
    elif not as_json:
        echo(f"not kept in the bundle: fewer than {FEWEST} pictures")


def _dataset(bundle: Bundle, images: tuple[Path, ...]) -> Dataset:
    """Return the pictures that the user names, or the bundle's test set."""
    if len(images) > 1 or any(path.is_file() and path.suffix not in (".json", ".csv", ".toml") for path in images):
        return pictures_of_files(bundle, images)
    return images_of_user(bundle, str(images[0]) if images else None)


COMMANDS = (explain,)
