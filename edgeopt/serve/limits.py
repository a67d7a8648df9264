"""Limits on requests: sizes, times, and how many a second."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

UNMEASURED_BATCH = 8
"""Most pictures of a batch where nobody measured any."""
_MOST_CLIENTS = 10_000
"""Addresses that are remembered; the one that was silent longest is forgotten for a new one, and begins anew."""


class Refused(Exception):  # noqa: N818 - an answer, not a failure of ours
    """A request that is answered with an error.

    Attributes:
        status: HTTP status code.
        message: for the client: it holds no path, and nothing of the machine.
        retry_after: seconds after which it may be tried again, if that may help.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server."""

    largest_body: int = 16 << 20
    """Bytes of a request."""
    timeout_s: float = 10.0
    """Time for a request, from its first byte to its answer; then it is dropped."""
    largest_batch: int | None = None
    """Pictures that the network sees at once, where it takes several. None: as many as were measured to be worth it on
    this kind of machine (`edgeopt benchmark --batches`), and `UNMEASURED_BATCH` where nothing was."""
    batch_wait_s: float = 0.002
    """Time that the first picture of a batch waits for others."""
    queue: int = 64
    """Pictures that may wait; more are refused at once."""
    rate: float = 0.0
    """Requests a second of one address; 0: any number."""
    connections: int = 256
    """Connections at a time."""
    check_every_s: float = 60.0
    """Time between two runs of the golden inputs, which keep the server ready; 0: only before it starts."""


class Rate:
    """Token buckets, one an address: a second's worth of requests at once, or one where that is less.

    Args:
        per_second: requests a second; 0: any number.
        clock: seconds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count a request.

        Raises:
            Refused: there were too many of this address.
        """
        if not self._per_second:
            return
        now = self._clock()
        left, last = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - last) * self._per_second)
        allowed = left >= 1.0
        self._buckets[client] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refused(
                429, f"more than {self._per_second:g} requests a second", math.ceil((1.0 - left) / self._per_second)
            )
