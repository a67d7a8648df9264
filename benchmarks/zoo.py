"""Many networks, every scheme and engine here, beside other quantizers: one table, row after row.

Run as ``python -m benchmarks.zoo [--network NAME]… [--tool NAME]… [--scheme NAME]… [--images N] [--tests N]
[--repairs none|fast|all] [--environments DIR] [--again]``. A row is one network, quantizer and scheme. Rows that are in
``results/zoo.json`` stay, so that a run that was stopped goes on. Networks come from the recipes beside this file,
whose own stages train what has to be trained and are kept in ``build/zoo``, or are architectures with seeded weights
and made pictures, whose distances count and whose accuracy means nothing. Other quantizers run in their environments
below ``--environments`` (or ``EDGEOPT_PEERS``), which ``python -m benchmarks.peers --prepare`` makes; one that is not
there is left out, and that is said.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.apart import Meter, apart
from benchmarks.paired import latency_ratio
from benchmarks.peers.environments import PEERS, Peer, PeerError, quantize
from benchmarks.quantization import integer_share
from benchmarks.recorded import processor, record, rows
from benchmarks.scale import CHOICES
from benchmarks.seeded import Seeded, pictures, seeded_graph
from edgeopt.bundle import EngineSettings
from edgeopt.calibrate.spool import spooled_images
from edgeopt.calibrate.tap import onnx_session
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import CalibrateConfig, Config, QuantizeConfig, SchemeName, find_recipe
from edgeopt.dataset import Dataset
from edgeopt.errors import EdgeoptError
from edgeopt.evaluate import Accuracy, Runner, evaluate
from edgeopt.metrics import Discrepancy, kl, readings_of
from edgeopt.pipeline import graphs
from edgeopt.pipeline.forms import in_form
from edgeopt.pipeline.job import open_job
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.standalone import array_feeds
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Workspace
from edgeopt.progress import Silent
from edgeopt.runtime.ov import OvSession
from edgeopt.spec import ModelSpec
from edgeopt.targets import find_target

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "zoo.json"
SETTING = ("network", "tool", "scheme", "cpu")
FILES = Path("build/zoo")
ENVIRONMENTS = "build/peers/environments"
OURS = "edgeopt"
ENGINES = ("as written", "OpenVINO", "onnxruntime")
SCHEMES: tuple[SchemeName, ...] = ("openvino", "onnxruntime", "tensorrt", "arm")
PAIRS = 40
"""Runs of each file that latency is compared on, in alternation with the float one."""
Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        recipe: of this folder, or one that ships; empty for an architecture with seeded weights.
        seeded: that architecture.
        published: the best INT8 result that somebody published of it or of its like, as a share of FP32's.
    """

    recipe: str = ""
    seeded: Seeded = field(default_factory=lambda: Seeded(""))
    published: str = ""


ZOO = {
    "digits": Entry("digits"),
    "digit-scenes": Entry("digit-scenes"),
    "mobilenet_v2": Entry("mobilenet-v2.toml", published="99.4 % (ONNX Runtime, ST)"),
    "yolox_nano": Entry("yolox-nano-coco.toml", published="96.3 % (YOLOX-tiny, Hailo-10H)"),
    "cifar10 vit": Entry("cifar10-vit.toml", published="99.3 % (DeiT-T, Hailo-10H)"),
    "cifar10 mobilenet_v3": Entry("cifar10-mobilenet-v3.toml", published="98.7 % (MobileNetV3-small, NNCF)"),
    "cifar10 mobilevit": Entry("cifar10-mobilevit.toml"),
    "resnet18": Entry(seeded=Seeded("edgeopt:resnet18"), published="99.7 % (NNCF)"),
    "resnet50": Entry(seeded=Seeded("edgeopt:resnet50"), published="99.7 % (NNCF)"),
    "vit_tiny": Entry(seeded=Seeded("edgeopt:vit_tiny"), published="98.8 % (ViT-T, Hailo)"),
    "deit_tiny": Entry(seeded=Seeded("timm:deit_tiny_patch16_224"), published="99.2 % (FQ-ViT)"),
    "swin_tiny": Entry(seeded=Seeded("timm:swin_tiny_patch4_window7_224"), published="99.9 % (PTQ4ViT)"),
    "efficientnet_b0": Entry(seeded=Seeded("timm:efficientnet_b0"), published="99.3 % (NNCF)"),
    "efficientnet_lite0": Entry(seeded=Seeded("timm:efficientnet_lite0"), published="99.6 % (NNCF)"),
    "mobilenetv4_conv_small": Entry(seeded=Seeded("timm:mobilenetv4_conv_small"), published="86.4 % (ST)"),
    "mobilenetv3_small": Entry(seeded=Seeded("timm:mobilenetv3_small_100"), published="98.7 % (NNCF)"),
    "repvgg_a0": Entry(seeded=Seeded("timm:repvgg_a0"), published="97.3 % (RepVGG-A2, Hailo-8)"),
    "regnetx_002": Entry(seeded=Seeded("timm:regnetx_002"), published="99.9 % (NNCF)"),
    "convnext_atto": Entry(seeded=Seeded("timm:convnext_atto")),
    "fastvit_t8": Entry(seeded=Seeded("timm:fastvit_t8"), published="95.9 % (FastViT-SA12, Hailo-8)"),
}
TOOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "NNCF default": ("nncf", ("--preset", "performance")),
    "NNCF mixed": ("nncf", ("--preset", "mixed")),
    "NNCF mixed, halved": ("nncf", ("--preset", "mixed", "--halved")),
    "NNCF transformer": ("nncf", ("--preset", "mixed", "--transformer")),
    "onnxruntime": ("onnxruntime", ("--x86", "--method", "MinMax")),
    "ModelOpt": ("modelopt", ("--method", "max")),
}
"""Peer and what its script is told, by name of the row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(ZOO), action="append")
    parser.add_argument("--tool", choices=(OURS, *TOOLS), action="append")
    parser.add_argument("--scheme", choices=SCHEMES, action="append", help="of edgeopt's files; default: all")
    parser.add_argument("--images", type=int, default=128, help="for calibration")
    parser.add_argument("--tests", type=int, default=200, help="images that answers are compared on")
    parser.add_argument("--repairs", choices=sorted(CHOICES), default="all")
    parser.add_argument("--environments", type=Path, default=os.environ.get("EDGEOPT_PEERS", ENVIRONMENTS))
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    arguments = parser.parse_args()
    done = set() if arguments.again else {_key(row) for row in rows(RESULTS)}
    for name in arguments.network or ZOO:
        wanted = [job for job in _jobs(name, arguments) if job.key not in done]
        if not wanted:
            continue
        try:
            network = prepare(name, arguments.images, arguments.tests)
        except EdgeoptError as error:
            print(f"{name}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        for job in wanted:
            row = measured(network, job)
            record(RESULTS, row, SETTING)


@dataclass(frozen=True)
class Job:
    """A row to be made."""

    network: str
    tool: str
    scheme: str
    choice: str = ""
    python: Path = Path()
    peer: Peer | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """By which rows are told apart."""
        return self.network, self.tool, self.scheme, processor()


def _jobs(name: str, arguments: argparse.Namespace) -> Iterator[Job]:
    for tool in arguments.tool or (OURS, *TOOLS):
        if tool == OURS:
            yield from (Job(name, OURS, scheme, arguments.repairs) for scheme in arguments.scheme or SCHEMES)
            continue
        peer, options = TOOLS[tool]
        python = arguments.environments / peer / "bin" / "python"
        if python.is_file():
            told = replace(PEERS[peer], settings={tool: options})
            yield Job(name, tool, "", python=python, peer=told)
        else:
            print(f"{name}: {tool} SKIPPED: no {python}; see --environments", file=sys.stderr)


@dataclass(frozen=True)
class Network:
    """A float network, its calibration inputs, and its answers on the test images.

    Attributes:
        graph: optimized.
        samples: the calibration inputs, an ``.npz``.
        tests: network inputs.
        reference: the class scores, or None for a detector.
        dataset: labelled test images; None with seeded weights.
        baseline: accuracy on these.
    """

    name: str
    graph: Path
    spec: ModelSpec
    samples: Path
    tests: Sequence[tuple[str, Mapping[str, NDArray[Any]]]]
    reference: list[list[NDArray[Any]]]
    config: Config | None = None
    dataset: Dataset | None = None
    baseline: Accuracy | None = None


def prepare(name: str, images: int, tests: int) -> Network:
    """Make or find a float network and what it is measured by."""
    entry, folder = ZOO[name], FILES / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    config, dataset = None, None
    if entry.recipe:
        reference = str(HERE / "recipes" / entry.recipe) if entry.recipe.endswith(".toml") else entry.recipe
        config, root = find_recipe(reference, [f"calibrate.images={images}", f"evaluate.limit={tests}"])
        with Workspace(FILES / "work").held() as workspace:
            job = open_job(config, root, workspace, Silent())
            exact = graphs.optimized(job, graphs.exported(job, trained(job)))
        graph, spec, dataset = exact.file(graphs.MODEL), graphs.read_spec(exact), job.split("test")
        calibration, test = graphs.feeds(job.split("calibration"), spec), graphs.feeds(dataset, spec)
    else:
        graph, spec = seeded_graph(entry.seeded, name, folder)
        calibration, test = pictures(spec, images), pictures(spec, tests, seed=1)
    samples = folder / f"samples-{images}.npz"
    if not samples.is_file():
        arrays = [feeds[spec.input.name] for _, feeds in itertools.islice(calibration, images)]
        np.savez(samples, allow_pickle=False, **{spec.input.name: np.concatenate(arrays)})
    stored = spooled_images(itertools.islice(test, tests))
    run, baseline = opened(graph, "onnxruntime", spec), None
    if config is not None and dataset is not None:
        baseline = evaluate(Runner(run, spec), dataset, config.evaluate)
    reference = [list(run(feeds).values()) for _, feeds in stored]
    return Network(name, graph, spec, samples, stored, reference, config, dataset, baseline)


def opened(path: Path, engine: str, spec: ModelSpec) -> Run:
    """A file in an engine, as a function of its inputs to its outputs by name."""
    names = [output.name for output in spec.outputs]
    if engine == "OpenVINO":
        engine_session = OvSession(path, EngineSettings(threads=2))
        return lambda feeds: dict(zip(names, engine_session.run(dict(feeds)).values(), strict=True))
    session = onnx_session(ir.load(path), fused=engine == "onnxruntime")
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def measured(network: Network, job: Job) -> dict[str, Any]:
    """Quantize and measure; where something fails the row says what."""
    row: dict[str, Any] = {
        "network": job.network,
        "tool": job.tool,
        "scheme": job.scheme,
        "choice": job.choice,
        "published": ZOO[job.network].published,
        "weights": "trained" if network.dataset is not None else "seeded",
        "images": len(np.load(network.samples)[network.spec.input.name]),
        "tests": len(network.tests),
        "fp32": network.baseline and {"metric": network.baseline.metric, "value": network.baseline.value},
        "cpu": processor(),
    }
    out = FILES / f"{'-'.join(job.key[:-1]).replace(' ', '-')}" / (job.peer.file if job.peer else "model.onnx")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        row |= _cost(network, job, out)
    except (EdgeoptError, PeerError) as error:
        return row | {"reason": str(error)}
    row["engines"] = {engine: _in_engine(network, out, engine) for engine in ENGINES if _fits(out, engine)}
    return row


def _fits(path: Path, engine: str) -> bool:
    return path.suffix == ".onnx" or engine == "OpenVINO"


def _cost(network: Network, job: Job, out: Path) -> dict[str, Any]:
    if job.peer is not None:
        files = (each.resolve() for each in (network.graph, network.samples, out))
        return {"seconds": round(quantize(job.python, job.peer, job.tool, *files), 1)}
    return apart(quantized, network.graph, network.samples, network.spec, job.scheme, job.choice, out)


def quantized(
    graph: Path, samples: Path, spec: ModelSpec, scheme: SchemeName, choice: str, out: Path
) -> dict[str, Any]:
    """Calibrate, quantize and repair a network in this process, and write it; what that took."""
    meter = Meter()
    images = spooled_images(array_feeds(samples))
    quantization = QuantizeConfig(repairs=CHOICES[choice])
    calibration = CalibrateConfig(images=len(images), minimum_images=1)
    result = quantize_graph(ir.load(graph), images, calibration, quantization, scheme, readings_of(spec))
    formed = in_form(result.model, find_target("ov"), "int8", scheme) if scheme == "openvino" else None
    ir.save(formed or result.model, out)
    return {
        "int8_macs": integer_share(result.model),
        "kept": list(result.helped),
        **meter.cost(),
    }


def _in_engine(network: Network, path: Path, engine: str) -> dict[str, Any]:
    """Answers and latency of a file in one engine, beside the float network's."""
    try:
        run = opened(path, engine, network.spec)
        outputs = [list(run(feeds).values()) for _, feeds in network.tests]
        found: dict[str, Any] = {"latency": _latency_ratio(network, run, engine)}
    except Exception as error:  # noqa: BLE001 - engines' errors have no base class of their own
        return {"reason": str(error).splitlines()[0][:200]}
    distance = Discrepancy(readings_of(network.spec))
    pairs = list(zip(network.reference, outputs, strict=True))
    found["discrepancy"] = float(np.mean([distance(*pair) for pair in pairs]))
    found["noise"] = float(np.mean([distance.noise(*pair) for pair in pairs]))
    if network.spec.task == "classification":
        exact, other = (np.concatenate([each[index][0] for each in pairs]) for index in (0, 1))
        distances = kl(exact, other)
        found |= {"kl": float(distances.mean()), "kl_median": float(np.median(distances))}
        found["agreement"] = float((exact.argmax(1) == other.argmax(1)).mean())
    if network.dataset is not None and network.config is not None:
        runner = Runner(run, network.spec)
        accuracy = evaluate(runner, network.dataset, network.config.evaluate, baseline=network.baseline)
        found["accuracy"] = accuracy.value
        found["agreement"] = accuracy.comparison and accuracy.comparison.agreement
    return found


def _latency_ratio(network: Network, run: Run, engine: str) -> float | None:
    """Latency over the float network's; None as written."""
    if engine == "as written":
        return None
    _, feeds = network.tests[0]
    return latency_ratio(run, opened(network.graph, engine, network.spec), feeds, PAIRS)


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in SETTING)


if __name__ == "__main__":
    with errors_reported():
        main()
