"""Commands about bad pictures and ill will: what they cost FP32 and INT8."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeopt.cli.options import as_json, bundle, data, only_variant, threads
from edgeopt.cli.output import echo, print_json
from edgeopt.cli.pictures import images_of_user

_LIMIT = 100
_ATTACKED, _OBJECTS_ATTACKED, _QUERIES = 64, 24, 200


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in new releases only
    """Whole numbers with commas between them."""

    name = "numbers"

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def get_metavar(self, *_: object, **__: object) -> str:
        """Return the form."""
        return "N,…"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read them, and check their range."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdigit() and self._low <= int(part) <= self._high for part in parts):
            self.fail(f"'{value}' are not whole numbers from {self._low} to {self._high}, with commas", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


@click.command()
@bundle
@data
@only_variant
@threads
@click.option(
    "--corruption",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Only this kind, as fog or low_light; may be repeated. Default: all fifteen.",
)
@click.option(
    "--severity",
    "severities",
    type=_Numbers(1, 5),
    default="1,3,5",
    show_default=True,
    help="Severities to measure, of 1 to 5.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=_LIMIT, show_default=True, help="Number of images, spread over the set."
)
@as_json
def robustness(
    bundle: Path,
    data: str | None,
    variant: str | None,
    threads: int,
    kinds: tuple[str, ...],
    severities: tuple[int, ...],
    limit: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure a bundle on noisy, blurred, dark pictures.

    Noise, blur, weather, light and compression: fifteen kinds that cameras in the field meet, each in several
    severities, done to the test images. Shows each variant's loss against FP32 on the same bad pictures: INT8 whose
    ranges were calibrated on clean pictures may lose more there. Of all kinds, and at least 16 images, the bundle keeps
    the figures for its report and for `edgeopt gate --max-robustness-drop`.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.bundle.records.robustness import FEWEST
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.robustness import robustness_table
    from edgeopt.config import EvaluateConfig
    from edgeopt.evaluate.robustness import corruptions, measure_robustness
    from edgeopt.spec import replace

    opened = Bundle.open(bundle)
    chosen = corruptions(kinds, severities)
    recipe = opened.manifest.recipe
    config = replace(EvaluateConfig() if recipe is None else recipe.evaluate, limit=limit)
    dataset = images_of_user(opened, data)
    with StageDisplay() as display:
        found = measure_robustness(opened, dataset, config, chosen, variant=variant, threads=threads, progress=display)
    kept = not kinds and found.images >= FEWEST
    for name in found.clean if kept else ():
        if name != found.baseline:
            opened.record(name, on_bad_pictures=found.beside_baseline(name))
    if as_json:
        print_json(msgspec.to_builtins(found, str_keys=True))
    else:
        console().print(robustness_table(found))
        if not kept:
            echo(f"not kept in the bundle: it keeps all kinds, on {FEWEST} pictures or more")


@click.command()
@bundle
@data
@only_variant
@threads
@click.option(
    "--radius",
    "radii",
    type=_Numbers(1, 255),
    default="2,4,8",
    show_default=True,
    help="Largest changes of a pixel, of 255.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help=f"Number of images, spread over the set. Default: {_ATTACKED}, of a detector {_OBJECTS_ATTACKED}.",
)
@click.option(
    "--queries",
    type=click.IntRange(0),
    help=f"Queries of the black-box attack for an image; 0 leaves it out. Default: {_QUERIES}, of a detector none.",
)
@click.option(
    "--patch",
    type=click.IntRange(0, 100),
    default=0,
    help="Also fill a square at the picture's top left, with a side of so many percent of the network's "
    "shorter one. Default: 0, none.",
)
@as_json
def attack(
    bundle: Path,
    data: str | None,
    variant: str | None,
    threads: int,
    radii: tuple[int, ...],
    limit: int | None,
    queries: int | None,
    patch: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure a bundle under attack, in FP32 and INT8.

    FGSM, PGD and APGD follow the float network's gradient, and are shown to every variant. On INT8 that is only what
    transfers, and looks better than it is: roundings mask gradients. So each INT8 graph is also attacked through its
    own roundings (adaptive), and each engine by an attack that sees its scores alone (square). The last column, the
    worst of all, is the one to believe. Of a detector PGD makes vanish what it finds. With 16 images or more the bundle
    keeps the worst, for its report and for `edgeopt gate --max-robustness-drop`.

    Needs the extra 'build', for torch.
    """
    from edgeopt.attack import measure_attacks
    from edgeopt.bundle import Bundle
    from edgeopt.bundle.records.robustness import FEWEST
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.robustness import attack_table

    opened = Bundle.open(bundle)
    dataset = images_of_user(opened, data)
    is_detector = opened.manifest.spec.task == "detection"
    with StageDisplay() as display:
        found = measure_attacks(
            opened,
            dataset,
            radii=radii,
            limit=limit or (_OBJECTS_ATTACKED if is_detector else _ATTACKED),
            queries=queries if queries is not None else 0 if is_detector else _QUERIES,
            patch=patch / 100,
            variant=variant,
            threads=threads,
            progress=display,
        )
    kept = found.images >= FEWEST
    for name in found.clean if kept else ():
        if name != found.baseline:
            opened.record(name, under_attack=found.beside_baseline(name))
    if as_json:
        print_json(msgspec.to_builtins(found, str_keys=True))
    else:
        console().print(attack_table(found))
        if not kept:
            echo(f"not kept in the bundle: fewer than {FEWEST} pictures")


COMMANDS = (robustness, attack)
