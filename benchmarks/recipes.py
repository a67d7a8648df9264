"""Build recipes and record what their bundles say: the README's result table.

Run as ``python -m benchmarks.recipes [NAME…] [--out DIR]``; without names, all of `RECIPES`. A recipe whose images or
weights are not beside the checkout is left out with a message. The rows of recipes that are not built now stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeopt.bundle import Manifest, Variant
from edgeopt.bundle.figures import measured_on_one_machine
from edgeopt.cli.boundary import configure_logging, errors_reported
from edgeopt.cli.console import StageDisplay
from edgeopt.config import find_recipe
from edgeopt.errors import DataError, ModelError
from edgeopt.hardware import Machine
from edgeopt.metrics import DetectionMetrics
from edgeopt.pipeline import build

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "recipes.json"
RECIPES = {
    "digits": "digits",
    "digit-scenes": "digit-scenes",
    "mobilenet-v2": str(HERE / "recipes" / "mobilenet-v2.toml"),
    "yolox-nano-coco": str(HERE / "recipes" / "yolox-nano-coco.toml"),
    "bccd": str(HERE / "recipes" / "bccd.toml"),
}
"""What each row's recipe is: a shipped one, or a file beside this script."""


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(sorted(RECIPES)))
@click.option("--out", type=click.Path(path_type=Path), default="build", show_default=True)
def main(names: tuple[str, ...], out: Path) -> None:
    """See the module."""
    configure_logging(verbose=False)
    rows = _recorded()
    for name in names or tuple(RECIPES):
        config, root = find_recipe(RECIPES[name])
        try:
            with StageDisplay() as display:
                manifest = build(config, root, out, out / ".edgeopt-work", display).bundle.manifest
        except (DataError, ModelError) as error:
            click.echo(f"{name}: SKIPPED, not measured: {error}", err=True)
            continue
        rows[name] = [_row(name, manifest, variant) for variant in manifest.variants]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    click.echo(f"wrote {RESULTS.relative_to(HERE.parent)}; `make readme` puts it into the README")


def _recorded() -> dict[str, list[dict[str, Any]]]:
    """The rows of earlier runs, in the table's order."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return {name: found[name] for name in RECIPES if name in found}


def _row(name: str, manifest: Manifest, variant: Variant) -> dict[str, Any]:
    accuracy, latency = variant.accuracy, measured_on_one_machine(manifest)[variant.name].latency
    assert accuracy is not None
    assert latency is not None
    comparison, ratio, whole = accuracy.comparison, latency.ratio, latency.end_to_end
    metrics = accuracy.metrics
    return {
        "recipe": name,
        "variant": variant.name,
        "metric": "top-1" if accuracy.metric == "top1" else "AP",
        "accuracy": accuracy.value,
        "ap50": metrics.ap50 if isinstance(metrics, DetectionMetrics) else None,
        "change": None if comparison is None else -comparison.metric_drop,
        "agreement": None if comparison is None else comparison.agreement,
        "kl": None if comparison is None else comparison.kl,
        "images": accuracy.images,
        "p50_ms": whole.p50_ms,
        "p90_ms": whole.p90_ms,
        "p99_ms": whole.p99_ms,
        "speedup": None if ratio is None else ratio.speedup,
        "valid": not latency.invalid,
        "size_bytes": manifest.size_bytes(variant),
        "processor": _processor(latency.environment.machine),
        "versions": manifest.versions,
    }


def _processor(machine: Machine) -> str:
    cpu = machine.cpu
    features = f" with {cpu.int8_instruction}" if cpu.int8_instruction else ""
    return f"{cpu.model or cpu.architecture}, {cpu.cores} cores{features}"


if __name__ == "__main__":
    with errors_reported():
        main()
