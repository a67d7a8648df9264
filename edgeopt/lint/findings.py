"""What lint found: typed for machines, a table for people."""

from __future__ import annotations

from typing import Literal, TypeAlias

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgeopt.spec import Struct

Severity: TypeAlias = Literal["error", "warning", "note"]
_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


class Finding(Struct):
    """One thing that is wrong, or slower than it need be."""

    rule: str
    severity: Severity
    """``error``: the target rejects it. ``warning``: it costs time or accuracy. ``note``: good to know."""
    node: str
    """Of the graph, or layer of the engine; empty where it is about the whole."""
    reason: str
    fix: str
    cost: str = ""
    """An estimate, where there is one."""
    variant: str = ""
    """Of the bundle that was linted."""


class LintReport(Struct):
    """The result of one run."""

    path: str
    target: str
    findings: tuple[Finding, ...]
    rules: tuple[str, ...]
    """Ids of all rules that were looked for."""

    @property
    def ok(self) -> bool:
        """Nothing that the target rejects."""
        return all(finding.severity != "error" for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """How many findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)


def render(report: LintReport, limit: int = 50) -> RenderableType:
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
