"""Commands that put a bundle behind an address, or into what others serve it with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.options import bundle, threads, variant
from edgeopt.cli.output import echo, printable

if TYPE_CHECKING:
    from edgeopt.runtime import Predictor

FORMATS = ("triton", "triton-ensemble", "kserve", "deepstream", "ovms", "docker", "systemd")
"""Formats of `edgeopt.package`, named here so that --help imports nothing."""


@click.command()
@bundle
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 is any that is free."
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    help="Most pictures that the network sees at once, where it takes several. Default: what `edgeopt benchmark "
    "--batches` found to be worth it here, or 8.",
)
@click.option(
    "--batch-wait",
    type=click.FloatRange(0, 1000),
    default=2.0,
    show_default=True,
    metavar="MS",
    help="Time that the first picture of a batch waits for others, in ms.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Time for a request, in seconds; then it ends with an error.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 100_000),
    default=64,
    show_default=True,
    help="Pictures that may wait; more are refused at once.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=0.0,
    metavar="N",
    help="Requests a second that one address may send. Default: any number.",
)
@click.option(
    "--largest",
    type=click.FloatRange(0.001, 1024),
    default=16.0,
    show_default=True,
    metavar="MB",
    help="Size of a request, in MB.",
)
@click.option("--connections", type=click.IntRange(1), default=256, show_default=True, help="Connections at a time.")
@variant
@threads
def serve(
    bundle: Path,
    host: str,
    port: int,
    batch: int | None,
    batch_wait: float,
    timeout: float,
    queue: int,
    rate: float,
    largest: float,
    connections: int,
    variant: str | None,
    threads: int,
) -> None:
    """Serve a bundle over HTTP.

    By the Open Inference Protocol (KServe v2): POST /v2/models/NAME/infer takes files of pictures (BYTES, in the
    binary extension or as base64) and gives what `edgeopt run` gives; NAME_network takes and gives the network's own
    tensors. GET / is a page to drop a picture on, /metrics is for Prometheus, /v2/health/ready tells if the golden
    inputs are answered as recorded.

    SIGTERM lets running requests end. There is no encryption and no login: put a proxy in front where others can reach
    it.
    """
    from edgeopt.serve import Limits
    from edgeopt.serve import serve as run

    limits = Limits(
        largest_body=round(largest * 1e6),
        timeout_s=timeout,
        largest_batch=batch,
        batch_wait_s=batch_wait / 1000,
        queue=queue,
        rate=rate,
        connections=connections,
    )

    def listening(predictor: Predictor, address: str) -> None:
        echo(printable(f"serving '{predictor.spec.name}' by {predictor.choice} on {address}"))

    run(bundle, host=host, port=port, variant=variant, threads=threads, limits=limits, listening=listening)


@click.command()
@bundle
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(FORMATS),
    help="triton: a repository with one model that runs all; triton-ensemble: the network by Triton's own backend; "
    "kserve: an InferenceService; deepstream: nvinfer's files for a detector with (N, 6) rows; ovms: OpenVINO Model "
    "Server; docker: a container file beside the bundle; systemd: a hardened unit.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: NAME-FORMAT beside the bundle.")
@click.option("--variant", help="Variant to run. Default: what is chosen where it runs, or the best for the format.")
@click.option("--force", is_flag=True, help="Replace a folder that is there.")
def package(
    bundle: Path,
    form: str,
    out: Path | None,
    variant: str | None,
    force: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Write what other servers run a bundle from.

    All that the files say comes from the bundle: names, shapes, preprocessing, thresholds, labels, the engine's
    settings, and the batch that `edgeopt benchmark --batches` found on this kind of machine.
    """
    from edgeopt.package import package as write

    folder = out or bundle.with_name(f"{bundle.name.removesuffix('.edgeopt')}-{form}")
    files, _ = write(bundle, form, folder, variant=variant, replace=force)
    own = sorted(name for name in files if ".edgeopt/" not in name)
    echo(printable(f"wrote {folder}: {', '.join(own)}"))


COMMANDS = (serve, package)
