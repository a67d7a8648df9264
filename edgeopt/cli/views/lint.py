"""What lint found, as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgeopt.lint import LintReport
from edgeopt.lint.findings import Severity

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


def lint_table(report: LintReport, limit: int = 50) -> RenderableType:
    """A table of the findings, the worst first, and a line that sums up."""
    order: tuple[Severity, ...] = ("error", "warning", "note")
    findings = sorted(report.findings, key=lambda finding: order.index(finding.severity))
    table = Table(box=None, pad_edge=False)
    for title in ("rule", "node", "what", "to do"):
        table.add_column(title, overflow="fold")
    for finding in findings[:limit]:
        where = f"{finding.variant}: {finding.node}" if finding.variant else finding.node
        reason = f"{finding.reason} ({finding.cost})" if finding.cost else finding.reason
        style = _STYLES[finding.severity]
        table.add_row(f"[{style}]{finding.rule}[/]", escape(where), escape(reason), escape(finding.fix))
    counts = ", ".join(f"{report.count(severity)} {severity}s" for severity in order)
    hidden = f"; {len(findings) - limit} not shown" if len(findings) > limit else ""
    total = Text(f"{report.path} for {report.target}: {counts} from {len(report.rules)} rules{hidden}")
    return Group(table, total) if findings else total
