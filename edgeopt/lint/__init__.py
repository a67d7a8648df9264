"""Lint: find what a target will reject or run badly, in the graph before a build and in the engine after it."""

from __future__ import annotations

from edgeopt.lint.findings import Finding, LintReport
from edgeopt.lint.linting import lint

__all__ = ["Finding", "LintReport", "lint"]
