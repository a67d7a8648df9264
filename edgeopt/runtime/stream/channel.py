"""A bounded queue between two threads that can end in both directions (queue.Queue cannot before Python 3.13)."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Ended(Exception):  # noqa: N818 - a signal between threads, not an error
    """The channel has ended."""


class Channel(Generic[T]):
    """Up to `size` items on their way from one thread to another.

    The putting side ends with `finish`: what is inside still arrives. The getting side ends with `abort`: it does not.

    Args:
        size: most items inside.
        drop_oldest: a full channel throws its oldest item away for a new one instead of keeping the putter waiting.
    """

    def __init__(self, size: int, *, drop_oldest: bool = False) -> None:
        self._size = size
        self._drop_oldest = drop_oldest
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._ended = False
        self.dropped = 0
        """Items thrown away because newer ones came."""

    def put(self, item: T) -> None:
        """Add an item.

        Raises:
            Ended: nobody will take it.
        """
        with self._changed:
            if self._drop_oldest and len(self._items) == self._size:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._size)
            if self._ended:
                raise Ended
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """Take the oldest item, waiting for it.

        Raises:
            Ended: there is none and none will come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._items)
            if not self._items:
                raise Ended
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """Say that no item will be put any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Say that no item will be taken any more."""
        with self._changed:
            self._ended = True
            self._items.clear()
            self._changed.notify_all()
