"""report: what was measured on a bundle, in a terminal, as JSON, as Markdown and as one self-contained HTML page."""

from __future__ import annotations

from edgeopt.report.confusion_plot import confusion_picture
from edgeopt.report.content import Report, accuracy_kept, content
from edgeopt.report.html import diagnosis_html, to_html
from edgeopt.report.page import write_page
from edgeopt.report.shots import Shot, choose_shots
from edgeopt.report.summary import summary
from edgeopt.report.text import to_json, to_markdown, to_terminal

__all__ = [
    "Report",
    "Shot",
    "accuracy_kept",
    "choose_shots",
    "confusion_picture",
    "content",
    "diagnosis_html",
    "summary",
    "to_html",
    "to_json",
    "to_markdown",
    "to_terminal",
    "write_page",
]
