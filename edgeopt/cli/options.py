"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


class Named(click.ParamType):  # type: ignore[type-arg]  # generic in new releases only
    """One of ours by name, or ``package.module:NAME`` of the user's, which may then run until the command ends."""

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

recipe = click.argument("recipe", default="edgeopt.toml")
bundle = click.argument("bundle", type=click.Path(path_type=Path))
out_folder = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True, help="Output folder."
)
work_folder = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where stage results are kept for the next run. Default: {WORK} in the folder of bundles, which is --out of "
    f"build and {OUT} for train and export: a build goes on from what these made.",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the recipe, as in calibrate.images=100; may be repeated.",
)
data = click.option(
    "--data",
    help="A folder of class folders, a .csv, a COCO .json, a .toml data table, digits or digit_scenes. Default: the "
    "test set of the bundle's recipe, whose relative paths start from the current folder.",
)
pictures = click.option(
    "--data",
    help="Any folder of images, labelled or not, or what `edgeopt evaluate` takes. Default: the test set of the "
    "bundle's recipe, and where that is not to be had the bundle's golden inputs.",
)
variant = click.option("--variant", help="Default: the best one that this machine can run.")
threads = click.option("--threads", type=click.IntRange(0), default=0, help="Of the engine; 0: its own choice.")
outputs = click.option(
    "--outputs",
    multiple=True,
    metavar="[NAME=]KIND",
    help="What the outputs are, of all or of one: softmax (class scores before it), probabilities (after it), sigmoid "
    "(scores of several labels before it), independent (after it), detection (boxes and scores from 0 to 1) or raw "
    "(anything else). Errors count by that. Default: what they look like, which is said.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")
