"""Giving out pieces of work: no more workers than cores or pieces, and errors as they were raised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from edgeopt import cluster
from edgeopt.cluster import Cluster
from edgeopt.errors import BundleError, DataError


class RayTaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class RayError(Exception):
    pass


class Ray:
    """Ray with so many cores, whose workers work at once and in this process."""

    class exceptions:  # noqa: N801 - Ray's name
        RayTaskError, RayError = RayTaskError, RayError

    def __init__(self, cores: int) -> None:
        self.cores, self.opened, self.most_busy = cores, 0, 0
        self.stopped = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

    def put(self, value: object) -> object:
        return value

    def remote(self, **_: object):
        def actor(kind: type) -> Any:
            ray = self

            class Actor:
                @staticmethod
                def remote(*arguments: object) -> Any:
                    ray.opened += 1
                    assert ray.opened <= ray.cores, "it would wait for a core for ever"
                    made = kind(*arguments)

                    class Handle:
                        class work:  # noqa: N801
                            @staticmethod
                            def remote(*given: object) -> Any:
                                return lambda: made.work(*given)

                    return Handle

            return Actor

        return actor

    def wait(self, busy: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most_busy = max(self.most_busy, len(busy))
        return busy[:num_returns], busy[num_returns:]

    def get(self, ready: Any) -> object:
        if isinstance(ready, list):  # references to arguments, of which `put` made none
            return ready
        try:
            return ready()
        except MemoryError as error:
            raise RayError("the worker died") from error
        except Exception as error:
            raise RayTaskError(error) from error

    def shutdown(self) -> None:
        self.stopped = True


class Doubling:
    def __init__(self, path: str) -> None:
        if path == "missing":
            raise BundleError("there is no bundle missing")

    def work(self, piece: int, /) -> int:
        if piece < 0:
            raise MemoryError
        return 2 * piece


def spread(monkeypatch: pytest.MonkeyPatch, ray: Ray, pieces: int, count: int | None, path: str = "here"):
    monkeypatch.setattr(cluster, "connected", lambda *_: ray)
    monkeypatch.setattr(cluster, "requires_extra", lambda *_: ray)
    with Cluster("auto", count) as entered:
        found: Iterator[tuple[int, int]] = entered.spread(Doubling, (path,), ((n, n) for n in range(pieces)), "piece")
        return dict(found)


@pytest.mark.parametrize(
    ("cores", "count", "pieces", "workers"), [(4, 32, 9, 4), (4, 2, 9, 2), (64, None, 3, 3), (2, None, 9, 2)]
)
def test_no_more_workers_are_opened_than_there_are_cores_and_pieces(
    monkeypatch: pytest.MonkeyPatch, cores: int, count: int | None, pieces: int, workers: int
) -> None:
    """More than cores waited for one for ever, with the pieces that they had been given."""
    ray = Ray(cores)
    assert spread(monkeypatch, ray, pieces, count) == {number: 2 * number for number in range(pieces)}
    assert ray.opened == ray.most_busy == workers
    assert ray.stopped


def test_an_error_while_a_worker_opens_is_told_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came as "no worker finished shard 0 … where memory ran out"."""
    with pytest.raises(BundleError, match="there is no bundle missing"):
        spread(monkeypatch, Ray(2), 3, None, "missing")


def test_a_worker_that_dies_over_a_piece_is_told_with_the_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(2)
    monkeypatch.setattr(cluster, "connected", lambda *_: ray)
    monkeypatch.setattr(cluster, "requires_extra", lambda *_: ray)
    with (
        Cluster("auto", None) as entered,
        pytest.raises(DataError, match=r"no worker finished piece 7: the worker died\."),
    ):
        list(entered.spread(Doubling, ("here",), [(7, -1)], "piece"))
