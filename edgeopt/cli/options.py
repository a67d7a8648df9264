"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeopt.cluster import Cluster
    from edgeopt.gate import GateConfig
    from edgeopt.spec import Tiles

Command = TypeVar("Command", bound=Callable[..., Any])


class Named(click.ParamType):  # type: ignore[type-arg]  # generic in new releases only
    """Name of a built-in, or ``package.module:NAME`` of the user's, which may then run until the command ends."""

    name = "name"

    def __init__(self, table: Mapping[str, Any], kind: str) -> None:
        self._table, self._kind = table, kind

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """Our names, and the form of others."""
        return "|".join((*self._table, "PACKAGE.MODULE:NAME"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form, and allow code that is named here."""
        from edgeopt.errors import SettingError
        from edgeopt.references import check, importable

        try:
            check(value, self._table, self._kind)
        except SettingError as error:
            self.fail(str(error), param, ctx)
        if ctx is not None:
            ctx.with_resource(importable(Path.cwd(), value))
        return str(value)


OUT = "build"
"""The folder that bundles go to."""
WORK = ".edgeopt-work"
LOCAL = "local"
"""Value of ``--on`` for this machine without Ray."""

recipe = click.argument("recipe", default="edgeopt.toml")
bundle = click.argument("bundle", type=click.Path(path_type=Path))
out_folder = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True, help="Output folder."
)
work_folder = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of stage results, which the next run reuses. Default: {WORK} in the output folder of bundles "
    f"(--out of build; {OUT} for train and export, so that a build continues from their results).",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the recipe, as in calibrate.images=100. May be repeated.",
)
data = click.option(
    "--data",
    help="A folder or label file of images: class folders, CSV, COCO, VOC, YOLO, labelme, CVAT, Create ML, KITTI or "
    "WIDER FACE, of several sets the one for tests; or a .toml data table, digits or digit_scenes. Default: the "
    "test set of the bundle's recipe, whose relative paths start from the current folder.",
)
pictures = click.option(
    "--data",
    help="Any folder of images, labelled or not, or the same as for `edgeopt evaluate`. Default: the test set of "
    "the bundle's recipe, or the bundle's golden inputs if that is not available.",
)
model_data = click.option(
    "--data",
    help="Images for a model without a recipe: a folder or label file of class folders, COCO, VOC, YOLO (data.yaml), "
    "CSV, Darknet's obj.data, labelme, CVAT, Create ML, KITTI or WIDER FACE; or a .toml data table. Labels decide, "
    "too, where two readings of the model fit. Of images without labels, INT8 is measured against FP32's answers.",
)
calibration_images = click.option(
    "--calibration",
    help="A folder of images that calibrate a model without a recipe. Default: a part of --data, which is then not "
    "measured on.",
)
labels = click.option(
    "--labels",
    help="Class names of a model whose file has none, in its order: between commas, a file with one a line, or "
    "edgeopt:coco, edgeopt:imagenet, edgeopt:digits.",
)
normalization = click.option(
    "--normalization",
    type=click.Choice(["imagenet", "unit", "signed", "pixels", "imagenet_bgr", "unit_bgr", "signed_bgr", "pixels_bgr"]),
    help="Pixels of a classifier whose file does not say it: ImageNet's mean and deviation, 0 to 1, -1 to 1, or 0 to "
    "255; of images with red first, or blue. Default: what is right most often on --data.",
)
variant = click.option("--variant", help="Variant to use. Default: the best one that this machine can run.")
only_variant = click.option("--variant", help="Measure this variant beside FP32. Default: all that run here.")
threads = click.option(
    "--threads", type=click.IntRange(0), default=0, help="Threads of the engine. 0 leaves the choice to the engine."
)
outputs = click.option(
    "--outputs",
    multiple=True,
    metavar="[NAME=]KIND",
    help="Meaning of all outputs, or of one: softmax (class scores before it), probabilities (after it), sigmoid "
    "(scores of several labels before it), independent (after it), detection (boxes and scores from 0 to 1) or "
    "raw (anything else). Errors are weighted by it. Default: a guess from their values, which is printed.",
)
summary = click.option(
    "--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Also append a Markdown summary."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
best_so_far = click.option(
    "--best-so-far", is_flag=True, help="Use the best weights of a training that was interrupted, and do not train on."
)
tiles = click.option(
    "--tiles",
    type=click.IntRange(0),
    metavar="PIXELS",
    help="Look at overlapping tiles of this side too, for small objects in large pictures; 0: of the network's size.",
)
overlap = click.option(
    "--overlap", type=click.FloatRange(0.0, 0.9), help="Share of a tile that the next one sees too. Default: 0.2."
)


def gate_limits(command: Command) -> Command:
    """Give a gate the limits that hold on one machine and on many."""
    share = click.FloatRange(0.0, 1.0)
    for name, text in (
        ("max-class-drop", "drop of a class's AP, or F1 of classifiers, that is beyond chance. Default: not checked."),
        ("f1-drop", "drop of a detector's F1 at the score threshold. Default: 0.02."),
        ("accuracy-drop", "drop of the main metric. Default: 0.01."),
    ):
        command = click.option(f"--{name}", type=share, help=f"Largest {text}")(command)
    return click.option("--tolerance", type=share, help="Slowdown that a pass rules out. Default: 0.05.")(command)


def gate_config(**given: float | None) -> GateConfig:
    """Return a gate's settings, the default of each that is None."""
    from edgeopt.gate import GateConfig
    from edgeopt.spec import replace

    return replace(GateConfig(), **{name: value for name, value in given.items() if value is not None})


def append(text: str, file: Path | None) -> None:
    """Append to the file of `summary`, if there is one. Raises StorageError."""
    from edgeopt.errors import storage_errors

    if file is not None:
        with storage_errors(file), file.open("a", encoding="utf-8") as opened:
            opened.write(text)


def tiles_of(pixels: int | None, overlap: float | None) -> Tiles | None:
    """Return what ``--tiles`` and ``--overlap`` ask for.

    Raises:
        UsageError: an overlap without tiles.
    """
    from edgeopt.spec import Tiles

    if pixels is None:
        if overlap is not None:
            raise click.UsageError("--overlap goes with --tiles")
        return None
    return Tiles(size=pixels or None, overlap=Tiles().overlap if overlap is None else overlap)


def on_cluster(help_text: str) -> Callable[[Command], Command]:
    """Return the option that says where work is done."""
    return click.option("--on", default=LOCAL, show_default=True, metavar="local|ray|ray://HOST:PORT", help=help_text)


cluster_workers = click.option(
    "--workers", type=click.IntRange(1), help="Processes of Ray's. Default: one for each core."
)


def cluster(on: str, workers: int | None) -> AbstractContextManager[Cluster | None]:
    """Return the cluster that ``--on`` and ``--workers`` name, to be entered; one of None for this machine alone.

    Raises:
        click.UsageError: they name none.
    """
    from edgeopt.cluster import Cluster

    if on != LOCAL:
        return Cluster(cluster_address(on), workers)
    if workers is not None:
        raise click.UsageError("--workers goes with --on ray")
    return nullcontext()


def cluster_address(on: str) -> str | None:
    """Return the address of the Ray cluster that ``--on`` names; None of one that is to be started here.

    Raises:
        click.UsageError: it names none.
    """
    if on == "ray":
        return None
    if on == "auto" or on.startswith("ray://"):
        return on
    raise click.UsageError(f"--on is '{on}'; give local, ray or ray://HOST:PORT")
