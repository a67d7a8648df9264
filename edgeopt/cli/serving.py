"""Commands that put a bundle behind an address, or into what others serve it with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.options import bundle, threads, variant
from edgeopt.cli.output import echo, printable

if TYPE_CHECKING:
    from edgeopt.runtime import Predictor


@click.command()
@bundle
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 is any that is free."
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="Most pictures that the network sees at once, where it takes several.",
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
    batch: int,
    batch_wait: float,
    timeout: float,
    queue: int,
    rate: float,
    largest: float,
    connections: int,
    variant: str | None,
    threads: int,
) -> None:
    """Serve a bundle over HTTP (Open Inference Protocol).

    POST /v2/models/NAME/infer takes files of pictures (BYTES, in the binary extension or as base64) and gives what
    `edgeopt run` gives; NAME_network takes and gives the network's own tensors. GET / is a page to drop a picture on,
    /metrics is for Prometheus, /v2/health/ready tells if the golden inputs are answered as recorded.

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


COMMANDS = (serve,)
