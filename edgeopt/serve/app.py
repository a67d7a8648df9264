"""The addresses of the server: the protocol's, /metrics, and a page to try it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edgeopt import __version__
from edgeopt.runtime import Inferred, Predictor
from edgeopt.serve.batcher import Batcher, Row
from edgeopt.serve.health import Health
from edgeopt.serve.limits import Limits, Rate, Refused
from edgeopt.serve.metrics import Metrics
from edgeopt.serve.models import Served, models
from edgeopt.serve.protocol import HEADER, read_request, write_answer

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_LOG = logging.getLogger(__name__)
_JSON = "application/json"
_EXTENSIONS = ("binary_tensor_data",)
_PAGE = {"page.html": "text/html; charset=utf-8", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_CLIENT_LEFT = 499
"""Status in the figures of a request whose sender did not wait, as nginx has it; nobody reads the answer."""


class Server:
    """One predictor behind the protocol.

    Args:
        predictor: runs the network.
        version: the bundle's release.
        health: of the same predictor; its golden inputs were answered.
        limits: limits of requests.
    """

    def __init__(self, predictor: Predictor, version: str, health: Health, limits: Limits) -> None:
        self._limits, self._health, self._version = limits, health, version
        self._models = {each.name: each for each in models(predictor)}
        self._rate = Rate(limits.rate)
        self._metrics: Metrics
        self._batcher = Batcher(predictor, limits, lambda ran: self._metrics.ran(ran))
        self._metrics = Metrics(predictor.spec.name, predictor.variant.name, self._batcher.largest)
        self._metrics.waiting.set_function(lambda: self._batcher.waiting)
        self._metrics.ready.set_function(lambda: int(self._ready))
        # Pictures are decoded in so many threads: each may hold one of the largest size.
        self._workers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), "pictures")

    @property
    def _ready(self) -> bool:
        return self._health.ready and self._batcher.alive

    def app(self) -> Starlette:
        """Return the application."""
        model = "/v2/models/{model}"
        routes = [Route("/", self._page("page.html"), methods=["GET"])]
        routes += [Route(f"/{name}", self._page(name), methods=["GET"]) for name in _PAGE if name != "page.html"]
        routes += [
            Route("/metrics", self._answers(self._figures), methods=["GET"]),
            Route("/v2", self._answers(self._about), methods=["GET"]),
            Route("/v2/health/live", self._answers(self._live), methods=["GET"]),
            Route("/v2/health/ready", self._answers(self._is_ready), methods=["GET"]),
        ]
        for prefix in (model, f"{model}/versions/{{version}}"):
            routes += [
                Route(prefix, self._answers(self._metadata), methods=["GET"]),
                Route(f"{prefix}/ready", self._answers(self._model_ready), methods=["GET"]),
                Route(f"{prefix}/infer", self._answers(self._infer), methods=["POST"]),
            ]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _http_error})

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Check the golden inputs from time to time; in the end let what runs end."""
        checking = asyncio.create_task(self._keep_checking())
        try:
            yield
        finally:
            checking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await checking
            await asyncio.to_thread(self._batcher.close)
            self._workers.shutdown()

    async def _keep_checking(self) -> None:
        while self._limits.check_every_s:
            await asyncio.sleep(self._limits.check_every_s)
            await asyncio.to_thread(self._health.check)

    def _answers(self, handler: Handler) -> Handler:
        """Wrap a handler: whatever it raises becomes an answer of the protocol, and every answer is counted."""

        @functools.wraps(handler)
        async def answer(request: Request) -> Response:
            started = time.monotonic()
            try:
                response = await handler(request)
            except Refused as refused:
                response = _error(refused.status, refused.message, refused.retry_after)
            except ClientDisconnect:
                response = _error(_CLIENT_LEFT, "the client left")
            except Exception:  # noqa: BLE001 - what happened is for the log, not for the client
                _LOG.exception("a request to %r failed", request.scope["path"])
                response = _error(500, "the request failed; the server's log says why")
            if handler == self._infer:
                name = request.path_params["model"]
                name = name if name in self._models else ""
                self._metrics.answered(name, response.status_code, time.monotonic() - started)
            return response

        return answer

    def _page(self, name: str) -> Handler:
        content = (files("edgeopt") / "templates" / "serve" / name).read_bytes()

        async def page(_: Request) -> Response:
            return Response(content, media_type=_PAGE[name], headers=_HEADERS)

        return page

    async def _figures(self, _: Request) -> Response:
        content, kind = self._metrics.text()
        return Response(content, headers={"Content-Type": kind})

    async def _about(self, _: Request) -> Response:
        about = {"name": "edgeopt", "version": __version__, "extensions": _EXTENSIONS, "models": list(self._models)}
        return _json(about)

    async def _live(self, _: Request) -> Response:
        return _json({"live": self._batcher.alive}, 200 if self._batcher.alive else 503)

    async def _is_ready(self, _: Request) -> Response:
        found = {"live": self._batcher.alive, "ready": self._ready, "golden": self._health.has_golden}
        return _json(found, 200 if self._ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        model = self._model(request)
        return _json({"name": model.name, "ready": self._ready}, 200 if self._ready else 503)

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        return _json({"name": model.name, "versions": [self._version], **model.metadata()})

    def _model(self, request: Request) -> Served:
        name, version = request.path_params["model"], request.path_params.get("version", self._version)
        if name not in self._models:
            raise Refused(404, f"there is no such model. Known: {', '.join(self._models)}")
        if version != self._version:
            raise Refused(404, f"model '{name}' has version {self._version} only")
        return self._models[name]

    async def _infer(self, request: Request) -> Response:
        self._rate.take(request.client.host if request.client is not None else "")
        model = self._model(request)
        if not self._health.ready:
            raise Refused(503, "the server is not ready: its golden inputs are not answered as recorded")
        deadline = time.monotonic() + self._limits.timeout_s
        try:
            return await asyncio.wait_for(self._inferred(model, request, deadline), self._limits.timeout_s)
        except asyncio.TimeoutError:
            raise Refused(504, f"the request took more than {self._limits.timeout_s:g} seconds") from None

    async def _inferred(self, model: Served, request: Request, deadline: float) -> Response:
        asked = read_request(await self._body(request), request.headers.get(HEADER))
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._workers, model.rows, asked, deadline)
        answers = await self._run(rows)
        outputs = await loop.run_in_executor(self._workers, model.outputs, asked, answers)
        body, length = write_answer(model.name, self._version, asked, outputs)
        if length is None:
            return Response(body, media_type=_JSON)
        return Response(body, media_type="application/octet-stream", headers={HEADER: str(length)})

    async def _run(self, rows: list[Row]) -> list[Inferred]:
        self._batcher.submit(rows)
        waiting = [asyncio.wrap_future(row.answer) for row in rows]
        try:
            return await asyncio.gather(*waiting)
        except BaseException:
            for each in waiting:
                each.cancel()
            raise

    async def _body(self, request: Request) -> bytes:
        """Read a body piece by piece, and no more than is allowed of it."""
        largest = self._limits.largest_body
        too_large = Refused(413, f"a request may have {largest} bytes")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(415, "compressed requests are not read")
        announced = request.headers.get("Content-Length", "0")
        if announced.isdecimal() and int(announced) > largest:
            raise too_large
        pieces = bytearray()
        async for piece in request.stream():
            pieces += piece
            if len(pieces) > largest:
                raise too_large
        return bytes(pieces)


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer addresses and methods that do not exist."""
    assert isinstance(error, HTTPException)
    return _error(error.status_code, "there is no such address" if error.status_code == 404 else error.detail)


def _error(status: int, message: str, retry_after: float | None = None) -> Response:
    response = _json({"error": message}, status)
    if retry_after is not None:
        response.headers["Retry-After"] = f"{retry_after:.0f}"
    if status in (413, 415, 504):  # what is left of the request is not read
        response.headers["Connection"] = "close"
    return response


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=_JSON)
