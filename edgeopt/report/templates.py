"""The pages' templates: jinja2 with our filters, and a style sheet inside every page."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files
from typing import Any

from edgeopt.errors import requires_extra
from edgeopt.report import figures


def render(name: str, **content: Any) -> str:
    """Render one of `edgeopt/templates`.

    Args:
        name: name of the template.
        content: what it shows; text is escaped, `markup` is not.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    style, script = _source("report.css"), _source("report.js")
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    template = _environment().get_template(name)
    rendered: str = template.render(
        style=markup(style), script=markup(script), policy=f"{policy}; base-uri 'none'; form-action 'none'", **content
    )
    return rendered


@functools.cache
def _environment() -> Any:
    """Return jinja2's environment; there is one, so that a template is compiled once however many pages are written."""
    jinja2 = requires_extra("jinja2", "build")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        change=figures.change,
        accuracy=figures.accuracy,
        share=figures.share,
        ms=figures.milliseconds,
        size=figures.size,
        points=figures.points,
        speedup=figures.speedup,
        safe_svg=markup,
    )
    environment.globals.update(zip=zip, counted=figures.counted)
    return environment


def _digest(source: str) -> str:
    """Return the name of an allowed inline style or script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def markup(text: str) -> Any:
    """Text that a template must not escape: our own drawings, which escape what they show."""
    return requires_extra("markupsafe", "build").Markup(text)


def _source(name: str) -> str:
    return (files("edgeopt") / "templates" / name).read_text(encoding="utf-8")
