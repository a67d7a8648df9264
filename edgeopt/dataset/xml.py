"""Read XML label files that may come from anywhere."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from edgeopt.errors import DataError

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_OF_EXPAT = frozenset({"utf-8", "utf-16", "us-ascii", "ascii", "iso-8859-1"})


def parse_xml(path: Path) -> ET.Element:
    """Parse XML in any encoding that Python knows. A document type, and with it every entity attack, is refused.

    Raises:
        DataError: unreadable, not XML, in an unknown encoding, or with a document type.
    """

    def refuse(*_: object) -> NoReturn:
        raise DataError(f"{path} has a document type, which label files do not need: not read. Remove <!DOCTYPE …>")

    builder = ET.TreeBuilder()
    try:
        content, encoding = _in_utf8(path.read_bytes())
        parser = expat.ParserCreate(encoding)
        parser.StartDoctypeDeclHandler = refuse
        parser.StartElementHandler = builder.start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.Parse(content, True)  # noqa: FBT003 - expat takes no keywords
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"{path} is not well-formed XML: {error}") from error
    return builder.close()


def _in_utf8(content: bytes) -> tuple[bytes, str | None]:
    """Return content that expat reads, and the encoding where it is not the declared one."""
    declared = _DECLARED.match(content)
    name = "" if declared is None else declared[1].decode().lower()
    if not name or name in _OF_EXPAT:
        return content, None
    return content.decode(name).encode(), "utf-8"


def text_of(node: ET.Element, name: str, where: str) -> str:
    """Return the text of a child.

    Raises:
        DataError: there is none.
    """
    text = (node.findtext(name) or "").strip()
    if not text:
        raise DataError(f"{where}: <{node.tag}> has no <{name}>")
    return text


def number_of(text: str, name: str, where: str) -> float:
    """Return a finite number; a comma may stand for the point.

    Raises:
        DataError: it is none.
    """
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        raise DataError(f"{where}: <{name}> is '{text}', not a number") from None
    if not math.isfinite(number):
        raise DataError(f"{where}: <{name}> is '{text}', not a finite number")
    return number
