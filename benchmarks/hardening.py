"""Robustness as a column: bundles under attack and on bad pictures, trained plainly and against attacks.

Run as ``python -m benchmarks.hardening BUNDLE… [--radius N,…] [--limit N] [--severity N,…]``, with the bundles of a
recipe and of its hardened one, as `edgeopt build digits` and `edgeopt build benchmarks/recipes/digits-hardened.toml`
make them. Every variant is attacked as `edgeopt attack` does, also by its own gradient and by one that sees nothing but
scores, and measured on fifteen kinds of bad pictures as `edgeopt robustness` does. Relative paths of a recipe's data
start from the current folder. Writes ``results/hardening.json``: a row for each bundle and variant.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.recorded import processor, record
from edgeopt.attack import measure_attacks
from edgeopt.bundle import Bundle
from edgeopt.bundle.images import images_of
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import EvaluateConfig
from edgeopt.evaluate.robustness import corruptions, measure_robustness

RESULTS = Path(__file__).resolve().parent / "results" / "hardening.json"


def _numbers(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    return tuple(int(part) for part in value.split(","))


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--radius", "radii", default="2,4,8", callback=_numbers, show_default=True)
@click.option("--limit", type=click.IntRange(16), default=100, show_default=True)
@click.option("--queries", type=click.IntRange(0), default=200, show_default=True)
@click.option("--severity", "severities", default="1,3,5", callback=_numbers, show_default=True)
def main(
    bundles: tuple[Path, ...], radii: tuple[int, ...], limit: int, queries: int, severities: tuple[int, ...]
) -> None:
    """See the module."""
    for path in bundles:
        bundle = Bundle.open(path)
        dataset = images_of(bundle, "test", Path.cwd())
        attacked = measure_attacks(bundle, dataset, radii=radii, limit=limit, queries=queries)
        bad = measure_robustness(bundle, dataset, EvaluateConfig(limit=limit), corruptions((), severities))
        recipe = bundle.manifest.recipe
        training = None if recipe is None or recipe.train is None else recipe.train.adversarial
        for name, clean in attacked.clean.items():
            row = {
                "bundle": bundle.manifest.name,
                "variant": name,
                "trained": "" if training is None else f"{training.method}, {training.radius:g}/255",
                "metric": attacked.metric,
                "images": attacked.images,
                "clean": clean,
                "attacks": {
                    attack: {str(radius): value for radius, value in found[name].items()}
                    for attack, found in attacked.attacks.items()
                    if name in found
                },
                "worst": {str(radius): attacked.worst(name, radius) for radius in radii},
                "bad_pictures": bad.mean(name),
                "severities": list(severities),
                "queries": queries,
                "skipped": attacked.skipped.get(name, ""),
                "processor": processor(),
            }
            record(RESULTS, row, ("bundle", "variant"))


if __name__ == "__main__":
    with errors_reported():
        main()
