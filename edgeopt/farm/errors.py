"""A board that gives no result."""

from __future__ import annotations

from edgeopt.errors import EdgeoptError


class BoardError(EdgeoptError):
    """A board that cannot be measured: its row says why, and the others go on."""


class Stopped(Exception):  # noqa: N818 - no error: the user asked for it
    """Everything is being stopped."""
