"""The pages' templates: jinja2 with our filters, and a style sheet inside every page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from edgeopt.errors import requires_extra
from edgeopt.report import figures


def render(name: str, **content: Any) -> str:
    """Render one of `edgeopt/templates`.

    Args:
        name: of the template.
        content: what it shows; text is escaped, `markup` is not.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
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
        speedup=figures.speedup,
        safe_svg=markup,
    )
    environment.globals["zip"] = zip
    rendered: str = environment.get_template(name).render(style=markup(_source("report.css")), **content)
    return rendered


def markup(text: str) -> Any:
    """Text that a template must not escape: our own drawings, which escape what they show."""
    return requires_extra("markupsafe", "build").Markup(text)


def _source(name: str) -> str:
    return (files("edgeopt") / "templates" / name).read_text(encoding="utf-8")
