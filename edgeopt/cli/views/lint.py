"""Show lint's findings, a block each: four columns would be too narrow to read in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from edgeopt.lint import Finding, LintReport
from edgeopt.lint.findings import Severity
from edgeopt.report.figures import counted

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


def lint_view(report: LintReport, limit: int = 50) -> RenderableType:
    """Return the findings, the worst first, and a line that sums up."""
    order: tuple[Severity, ...] = ("error", "warning", "note")
    findings = sorted(report.findings, key=lambda finding: order.index(finding.severity))
    counts = ", ".join(counted(report.count(severity), severity, f"{severity}s") for severity in order)
    hidden = f"; {len(findings) - limit} not shown" if len(findings) > limit else ""
    total = Text(f"{report.path} for {report.target}: {counts} from {len(report.rules)} rules{hidden}")
    return Group(*(part for finding in findings[:limit] for part in _block(finding)), total)


def _block(finding: Finding) -> tuple[RenderableType, ...]:
    where = " ".join(each for each in (finding.variant, finding.node) if each)
    reason = f"{finding.reason} ({finding.cost})" if finding.cost else finding.reason
    head = Text.assemble((f"{finding.severity} {finding.rule}", _STYLES[finding.severity]), f"  {where}")
    parts = [reason, *([f"→ {finding.fix}"] if finding.fix else [])]
    return head, *(Padding(Text(part), (0, 0, 0, 2)) for part in parts), Text("")
