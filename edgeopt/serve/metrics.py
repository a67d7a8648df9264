"""Figures of a server for Prometheus."""

from __future__ import annotations

from typing import Any

from edgeopt import __version__
from edgeopt.errors import requires_extra
from edgeopt.serve.batcher import Ran

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Edges of the histograms of times."""


class Metrics:
    """Counters and histograms of one server, in a registry of its own.

    Args:
        bundle: name of the bundle.
        variant: name of the variant that runs.
        largest_batch: most pictures at once.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self, bundle: str, variant: str, largest_batch: int) -> None:
        client = requires_extra("prometheus_client", "serve")
        self._client = client
        self._registry = client.CollectorRegistry()
        shared = {"registry": self._registry}
        client.ProcessCollector(**shared)  # memory, processor time, open files, of Linux
        info = client.Info("edgeopt_bundle", "The bundle that is served", **shared)
        info.info({"name": bundle, "variant": variant, "edgeopt": __version__})
        self._requests = client.Counter(
            "edgeopt_requests", "Requests by model and HTTP status", ("model", "status"), **shared
        )
        self._seconds = client.Histogram(
            "edgeopt_request_seconds", "Time from a request to its answer", ("model",), buckets=_SECONDS, **shared
        )
        self._waited = client.Histogram(
            "edgeopt_queue_seconds", "Time that a picture waited for its batch", buckets=_SECONDS, **shared
        )
        self._took = client.Histogram(
            "edgeopt_batch_seconds", "Time that the network took for a batch", buckets=_SECONDS, **shared
        )
        edges = sorted({1, *(1 << power for power in range(12) if 1 << power < largest_batch), largest_batch})
        self._rows = client.Histogram("edgeopt_batch_pictures", "Pictures of a batch", buckets=edges, **shared)
        self.waiting = client.Gauge("edgeopt_waiting_pictures", "Pictures that wait", **shared)
        self.ready = client.Gauge("edgeopt_ready", "1 if the golden inputs were answered as recorded", **shared)

    def answered(self, model: str, status: int, seconds: float) -> None:
        """Count a request; `model` is one of the server's, or empty."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(seconds)

    def ran(self, found: Ran) -> None:
        """Count a run of the network."""
        self._rows.observe(found.rows)
        self._took.observe(found.took_s)
        for each in found.waited_s:
            self._waited.observe(each)

    def text(self) -> tuple[bytes, str]:
        """Return all figures in Prometheus' text format, and its media type."""
        content: Any = self._client.generate_latest(self._registry)
        return content, self._client.CONTENT_TYPE_LATEST
