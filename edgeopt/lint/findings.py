"""Findings of lint."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgeopt.spec import Struct

Severity: TypeAlias = Literal["error", "warning", "note"]


class Finding(Struct):
    """Something that is wrong, or slower than it need be."""

    rule: str
    severity: Severity
    """``error``: the target rejects it. ``warning``: it costs time or accuracy. ``note``: good to know."""
    node: str
    """Node of the graph, or layer of the engine; empty for a finding about the whole."""
    reason: str
    fix: str
    cost: str = ""
    """Estimated cost, where there is an estimate."""
    variant: str = ""
    """Variant of the bundle that was linted."""


class LintReport(Struct):
    """The result of one run."""

    path: str
    target: str
    findings: tuple[Finding, ...]
    rules: tuple[str, ...]
    """Ids of all rules that were checked."""

    @property
    def ok(self) -> bool:
        """True if the target rejects nothing."""
        return all(finding.severity != "error" for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """Count the findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)
