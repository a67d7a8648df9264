"""Where FP32 and INT8 look: shift, insertion, deletion and pointing game, by method, beside what a map must not be.

Run as ``python -m benchmarks.explaining BUNDLE… [--method NAME …] [--images N]`` with bundles whose test sets can be
found. Each INT8 variant that runs here is a row, and so is the float network with the weights of every convolution in
random order: a method whose maps that leaves as they are shows the picture, not the network (Adebayo et al., "Sanity
Checks for Saliency Maps", NeurIPS 2018). Maps are judged on the variant's own engine, beside smooth noise. Rows that
are not measured now stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.images import images_of
from edgeopt.bundle.records import Attribution, Judged
from edgeopt.cli.boundary import errors_reported
from edgeopt.evaluate.run import chosen_images
from edgeopt.explain import Settings, explain
from edgeopt.runtime import availability
from edgeopt.spec import replace

RESULTS = Path(__file__).resolve().parent / "results" / "explaining.json"
METHODS = ("eigen_cam", "grad_cam", "rise")
SHUFFLED = "shuffled"


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--method", "methods", type=click.Choice(METHODS), multiple=True, default=("eigen_cam",))
@click.option("--images", type=int, default=32, show_default=True)
@click.option("--variant", "names", multiple=True, help="Only these, or 'shuffled'.")
def main(bundles: tuple[Path, ...], methods: tuple[str, ...], images: int, names: tuple[str, ...]) -> None:
    """See the module."""
    for path in bundles:
        dataset = images_of(Bundle.open(path), "test", Path.cwd())
        with TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            shutil.copytree(path, copy)
            bundle = with_shuffled(Bundle.open(copy))
            for variant in compared(bundle, names):
                for method in methods:
                    if method == "grad_cam" and bundle.manifest.spec.task == "detection":
                        continue
                    chosen = chosen_images(len(dataset), images)
                    found = explain(bundle, dataset, chosen, Settings(method), variant=variant.name)  # type: ignore[arg-type]
                    record(RESULTS, row(bundle.manifest.name, variant.name, found), ("bundle", "variant", "method"))


def compared(bundle: Bundle, names: tuple[str, ...]) -> Iterator[Variant]:
    for variant in bundle.manifest.variants:
        wanted = variant.name in names if names else variant.precision == "int8" or variant.name == SHUFFLED
        if wanted and availability(variant.target).ok:
            yield variant


def with_shuffled(bundle: Bundle) -> Bundle:
    """Add the float network whose convolutions have their weights in random order, as a variant."""
    baseline = bundle.variant(bundle.manifest.baseline)
    model = ir.from_proto(onnx.ModelProto.FromString(bundle.engine(baseline.name)))
    random = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        if value.shape is not None and len(value.shape) == 4 and value.const_value is not None:
            array = value.const_value.numpy()
            value.const_value = ir.tensor(random.permutation(array.ravel()).reshape(array.shape), name=value.name)
    file = f"variants/{SHUFFLED}/model.onnx"
    variant = replace(
        baseline, name=SHUFFLED, precision="fp16", file=file, golden=None, accuracy=None, measured={}, tuned={}
    )
    return bundle.add(variant, ir.to_proto(model).SerializeToString())


def row(bundle: str, variant: str, found: Attribution) -> dict[str, Any]:
    pointing = found.pointing
    return {
        "bundle": bundle,
        "variant": variant,
        "method": found.method,
        "images": found.images,
        "same_answer": found.same_answer,
        "rank": [round(each, 4) for each in (found.rank.estimate, found.rank.low, found.rank.high)],
        "cosine": round(found.cosine.estimate, 4),
        "overlap": round(found.overlap.estimate, 4),
        "judged": found.judged,
        "own": judged(found.own),
        "floats": judged(found.floats),
        "noise": judged(found.noise),
        "pointing": None
        if pointing is None
        else [round(each, 4) for each in (pointing.baseline, pointing.variant, pointing.chance)],
        "processor": processor(),
    }


def judged(scores: Judged | None) -> list[float] | None:
    return None if scores is None else [round(scores.insertion, 4), round(scores.deletion, 4)]


if __name__ == "__main__":
    with errors_reported():
        main()
