"""Hide user, password, token and query of a source's address, for messages that others read."""

from __future__ import annotations

import re

NETWORK = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
"""Schemes that OpenCV's FFmpeg opens."""
_HIDDEN = "…"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(:/*|//+)(.*)", re.DOTALL)
_FIRST_ELEMENT = re.compile(r"\s*[a-z0-9]+src(\s|$)")
_ELEMENT = re.compile(r"[A-Za-z0-9_./-]*")


def is_network(text: str) -> bool:
    """Return True if `text` is a URL that is opened over the network."""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.lower() in NETWORK


def is_pipeline(text: str) -> bool:
    """Return True if `text` is a GStreamer pipeline, of one element or several."""
    return "!" in text or _FIRST_ELEMENT.match(text) is not None


def shown(text: str) -> str:
    """Return a source as it may be shown.

    Cameras take passwords before an ``@`` (with slashes in them, at times), in the query, and in the path
    (``/user=admin&password=…``). What is typed wrong is hidden, too: ``rtps://u:p@h``, ``rtsp:/u:p@h``.

    >>> shown("rtsp://admin:se/cret@10.0.0.1:554/live?token=1")
    'rtsp://10.0.0.1:554/live?…'
    >>> shown("photos/cat@2x.jpg")
    'photos/cat@2x.jpg'
    """
    found = _URL.fullmatch(text.strip())
    if is_pipeline(text) and found is None:
        return " ! ".join(_ELEMENT.match(piece.strip())[0] or _HIDDEN for piece in text.split("!"))  # type: ignore[index]
    if found is None:
        return _HIDDEN if "://" in text else text
    if "://" not in text and "@" not in text:
        return text
    scheme, separator, rest = found.groups()
    before, _, rest = rest.rpartition("@")
    if re.search("[?#]", before):  # an address with an @ in its query, or a password with a ? in it: who knows
        return f"{scheme}{separator}{_HIDDEN}"
    path, mark, _ = re.split("([?#])", rest, maxsplit=1) if re.search("[?#]", rest) else (rest, "", "")
    parts = [_HIDDEN if "=" in part else part for part in path.split("/")]
    return f"{scheme}{separator}{'/'.join(parts)}{mark + _HIDDEN if mark else ''}"
