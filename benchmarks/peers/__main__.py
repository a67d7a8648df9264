"""Compare edgeopt with other quantizers: the same exported graph, calibration images, test images and engine.

Run as ``python -m benchmarks.peers [NETWORK…] [--peer NAME…] [--prepare]``. Each peer is installed into an environment
of its own and quantizes once: what it made is kept by content, so that ``--prepare`` can do all of that ahead and
another run only measures. Accuracy is measured in OpenVINO against FP32; latency is the network's alone, batch 1, all
of them in alternation in one run, per number of threads. A peer that cannot run gets a row that says why. Writes
``benchmarks/results/peers.json``; the results of networks that are not run now stay.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.candidates import OURS, Candidate, candidates
from benchmarks.peers.environments import PEERS
from benchmarks.peers.measurement import accuracies, latencies, tried
from benchmarks.peers.networks import NETWORKS, Network, recipe
from edgeopt.cli.boundary import configure_logging, errors_reported
from edgeopt.cli.console import StageDisplay
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import DataError, ModelError
from edgeopt.measure.environment import environment
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.workspace import Workspace

RESULTS = Path(__file__).resolve().parents[1] / "results" / "peers.json"
IN_ORT = ("onnxruntime defaults", "onnxruntime MinMax, u8s8 per channel")
"""What is also timed in onnxruntime itself."""
_NETWORK = click.Choice(sorted(NETWORKS))


@click.command(help=__doc__)
@click.argument("networks", nargs=-1, type=_NETWORK)
@click.option("--peer", "peers", multiple=True, type=click.Choice(sorted(PEERS)), help="Default: all.")
@click.option("--prepare", is_flag=True, help="Install and quantize only.")
@click.option("--images", type=click.IntRange(16), default=200, show_default=True, help="For calibration.")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of latency measurement for each graph.")
@click.option("--out", type=click.Path(path_type=Path), default="build/peers", show_default=True)
def main(
    networks: tuple[str, ...],
    peers: tuple[str, ...],
    images: int,
    threads: tuple[int, ...],
    seconds: float,
    out: Path,
    *,
    prepare: bool,
) -> None:
    """See the module."""
    configure_logging(verbose=False)
    for name in networks or tuple(NETWORKS):
        network = NETWORKS[name]
        try:
            with StageDisplay() as display, Workspace(out / "work").held() as workspace:
                config, root = recipe(network, images, out / "weights")
                job = open_job(config, root, workspace, display)
                chosen = [PEERS[peer] for peer in peers or PEERS]
                found = candidates(job, chosen, out, latency_only=bool(network.random))
                if not prepare:
                    plans = [BenchmarkConfig(duration_s=seconds, threads=count) for count in threads]
                    _record(network, _measured(network, job, found, plans))
        except (DataError, ModelError) as error:
            click.echo(f"{name}: SKIPPED, not measured: {error}", err=True)


def _measured(network: Network, job: Job, found: list[Candidate], plans: list[BenchmarkConfig]) -> dict[str, Any]:
    """All figures of one network, a row a candidate."""
    in_ort = [replace(each, name=f"{each.name}, run there", engine="ort") for each in found if each.name in IN_ORT]
    rows = [tried(each) for each in (*found, *in_ort)]
    accuracy = {} if network.random else accuracies(rows[: len(found)], job)
    by_threads = {str(plan.threads): latencies(rows, job, plan) for plan in plans}
    return {
        "rows": [
            {
                "name": row.name,
                "reason": row.reason,
                "quantize_s": row.seconds,
                **accuracy.get(row.name, {}),
                "latency": {count: found[row.name] for count, found in by_threads.items() if row.name in found},
            }
            for row in rows
        ],
        "baseline": OURS,
        "calibration_images": min(job.config.calibrate.images, len(job.split("calibration"))),
        "random_weights": bool(network.random),
        "peers": [peer.title for peer in PEERS.values()],
        "processor": environment().machine.cpu.model,
        "versions": environment().versions,
    }


def _record(network: Network, result: dict[str, Any]) -> None:
    """Put a network's results into the file."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[network.name] = result
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    click.echo(f"wrote {network.name} to {RESULTS.name}; `make readme` puts it into the README")


if __name__ == "__main__":
    with errors_reported():
        main()
