"""Run the server until it is told to end."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.errors import StorageError, requires_extra
from edgeopt.runtime import Predictor, load
from edgeopt.runtime.choice import measured_here
from edgeopt.serve.limits import Limits

_BACKLOG = 128


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    variant: str | None = None,
    threads: int = 0,
    limits: Limits | None = None,
    listening: Callable[[Predictor, str], object] = lambda *_: None,
) -> None:
    """Serve a bundle by the Open Inference Protocol until SIGTERM or SIGINT, which let running requests end.

    Args:
        path: the bundle's folder.
        host: address to listen on.
        port: port to listen on; 0: any that is free.
        variant: the variant to run. Default: what `load` chooses.
        threads: threads of the engine; 0 keeps the bundle's setting.
        limits: limits of requests.
        listening: called with the predictor and the server's address once requests are taken.

    Raises:
        BundleError: not a whole bundle, or its golden inputs are not answered as recorded.
        MissingExtraError: the libraries of the extra ``serve`` are not installed.
        StorageError: the port is taken, or the address is not one of this machine.
        TargetError: no variant runs here.
    """
    uvicorn = requires_extra("uvicorn", "serve")
    requires_extra("starlette", "serve")
    requires_extra("prometheus_client", "serve")
    from edgeopt.serve.app import Server
    from edgeopt.serve.health import Health

    limits = limits or Limits()
    with _bound(host, port) as taken, load(path, variant=variant, threads=threads) as predictor:
        bundle = Bundle.open(path, check_hashes=False)
        if limits.largest_batch is None:
            measured = measured_here(bundle.manifest).get(predictor.variant.name)
            limits = replace(limits, largest_batch=None if measured is None else measured.best_batch)
        health = Health(bundle, predictor)
        health.require()
        server = Server(predictor, str(max(1, bundle.manifest.release)), health, limits)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            server.app(),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections + 1,  # uvicorn refuses the connection that makes it so many
            timeout_graceful_shutdown=math.ceil(limits.timeout_s) + 1,
        )
        taken.listen(_BACKLOG)
        shown = f"[{host}]" if ":" in host else host
        listening(predictor, f"http://{shown}:{taken.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[taken])


def _bound(host: str, port: int) -> socket.socket:
    """Take a port, on which nobody is answered yet."""
    taken: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        if taken is not None:
            taken.close()
        raise StorageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose others with --host and --port"
        ) from error
    return taken
