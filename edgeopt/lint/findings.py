"""What lint found."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgeopt.spec import Struct

Severity: TypeAlias = Literal["error", "warning", "note"]


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
