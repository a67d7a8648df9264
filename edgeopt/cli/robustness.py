"""Commands about bad pictures and ill will: what they cost FP32 and INT8."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeopt.cli.options import as_json, bundle, data, threads, variant
from edgeopt.cli.output import print_json
from edgeopt.cli.pictures import images_of_user

_LIMIT = 100
_ATTACKED = 64


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
@variant
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
    ranges were calibrated on clean pictures may lose more there.
    """
    from edgeopt.bundle import Bundle
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
    if as_json:
        print_json(msgspec.to_builtins(found, str_keys=True))
    else:
        console().print(robustness_table(found))


@click.command()
@bundle
@data
@variant
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
    default=_ATTACKED,
    show_default=True,
    help="Number of images, spread over the set.",
)
@click.option(
    "--queries",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Queries of the black-box attack for an image; 0 leaves it out.",
)
@as_json
def attack(
    bundle: Path,
    data: str | None,
    variant: str | None,
    threads: int,
    radii: tuple[int, ...],
    limit: int,
    queries: int,
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Measure a classifier under attack, in FP32 and INT8.

    FGSM, PGD and APGD follow the float network's gradient, and are shown to every variant. On INT8 that is only what
    transfers, and looks better than it is: roundings mask gradients. So each INT8 graph is also attacked through its
    own roundings (adaptive), and each engine by an attack that sees its scores alone (square). The last column, the
    worst of all, is the one to believe.

    Needs the extra 'build', for torch.
    """
    from edgeopt.attack import measure_attacks
    from edgeopt.bundle import Bundle
    from edgeopt.cli.console import StageDisplay, console
    from edgeopt.cli.views.robustness import attack_table

    opened = Bundle.open(bundle)
    dataset = images_of_user(opened, data)
    with StageDisplay() as display:
        found = measure_attacks(
            opened,
            dataset,
            radii=radii,
            limit=limit,
            queries=queries,
            variant=variant,
            threads=threads,
            progress=display,
        )
    if as_json:
        print_json(msgspec.to_builtins(found, str_keys=True))
    else:
        console().print(attack_table(found))


COMMANDS = (robustness, attack)
