"""The pictures that a page already has, for the page that replaces it when the images cannot be found any more."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeopt.report.content import Report
from edgeopt.report.shots import Shot
from edgeopt.spec import Struct, replace
from edgeopt.typed import from_json

_STORED = re.compile(r'<script type="application/json" id="shots">(.*?)</script>', re.DOTALL)
_PICTURE = re.compile(r'<image id="shot-(\d+)"[^>]* href="(data:image/jpeg;base64,[A-Za-z0-9+/=]+)"')
ANY_PICTURE = "data:image/"


class _Stored(Struct):
    """Description of its pictures that a page carries beside them."""

    evidence: str
    shots: tuple[Shot, ...]


def evidence(report: Report) -> str:
    """Sha256 of the answers that pictures are shown with: those of another evaluation do not belong to this report."""
    state = hashlib.sha256(report.manifest.baseline.encode())
    for name, each in sorted(report.accuracies.items()):
        state.update(name.encode() + each.data.encode() + msgspec.json.encode(each.outcomes))
    return state.hexdigest()


def without_pictures(report: Report, shots: Sequence[Shot]) -> str:
    """JSON for the page, which has the pictures themselves once already; safe inside a script element."""
    stored = _Stored(evidence=evidence(report), shots=tuple(replace(shot, picture="") for shot in shots))
    return msgspec.json.encode(stored).decode().replace("<", "\\u003c")


def pictures_of(page: Path, report: Report) -> tuple[Shot, ...] | None:
    """Return the pictures of an earlier page of the same evaluation.

    Returns:
        Them; none where the page has none or is not there; None where it has pictures that do not belong to `report`,
        or were written by another version of edgeopt.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ()
    if ANY_PICTURE not in text:
        return ()
    found = _STORED.search(text)
    pictures = {int(number): html.unescape(source) for number, source in _PICTURE.findall(text)}
    try:
        stored = from_json(found.group(1) if found else "", _Stored)
    except msgspec.DecodeError:
        return None
    if stored.evidence != evidence(report) or len(pictures) != len(stored.shots):
        return None
    return tuple(replace(shot, picture=pictures[number]) for number, shot in enumerate(stored.shots))
