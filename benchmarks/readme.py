"""Regenerate the parts of README.md that are derived: the code's organization, the commands, and the result tables.

Run as ``python -m benchmarks.readme`` (`make readme`); with ``--check`` it only says whether the file is stale.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Rewrite README.md, or with ``--check`` exit with 1 when it is stale."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    fresh = regenerate(text)
    if "--check" in sys.argv[1:]:
        sys.exit("README.md is stale: run `make readme`" if fresh != text else 0)
    readme.write_text(fresh, encoding="utf-8")


def regenerate(text: str) -> str:
    """`text` with every generated block replaced by what it should be."""

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- generated: {name} -->\n{_BLOCKS[name]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def code_organization() -> str:
    """One line a module: its path and the first line of its docstring."""
    lines = [f"| `{path.relative_to(ROOT)}` | {_summary(path)} |" for path in _modules()]
    return "\n".join(["| file | purpose |", "| --- | --- |", *lines])


def commands() -> str:
    """One line a command: its name and help's first line."""
    from edgeopt.cli import main as group

    lines = [
        f"| `edgeopt {name}` | {command.get_short_help_str(limit=200)} |"
        for name, command in sorted(group.commands.items())
    ]
    return "\n".join(["| command | what it does |", "| --- | --- |", *lines])


def recipes() -> str:
    """FP32 against INT8 of each recipe, as its bundle recorded it."""
    results = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))
    header = "| recipe | variant | metric | accuracy | change | agreement | p50 ms | p90 ms | p99 ms | speed-up | size |"
    rows = [_recipe_row(row) for row in results["rows"]]
    return "\n".join([header, "| --- " * 11 + "|", *rows, "", results["machine"]])


def _recipe_row(row: dict[str, Any]) -> str:
    change = "" if row["change"] is None else f"{row['change']:+.4f}"
    agreement = "" if row["agreement"] is None else f"{row['agreement']:.3f}"
    speedup = "" if row["speedup"] is None else f"{row['speedup']:.2f}×"
    latencies = " | ".join(f"{row[name]:.2f}" for name in ("p50_ms", "p90_ms", "p99_ms"))
    return (
        f"| {row['recipe']} | {row['variant']} | {row['metric']} | {row['accuracy']:.4f} | {change} | {agreement} "
        f"| {latencies} | {speedup} | {row['size_bytes'] / 1e6:.2f} MB |"
    )


_BLOCKS: dict[str, Callable[[], str]] = {
    "code": code_organization,
    "commands": commands,
    "recipes": recipes,
}


def _modules() -> Iterator[Path]:
    for path in sorted((ROOT / "edgeopt").rglob("*.py")):
        if path.read_text(encoding="utf-8").strip():
            yield path


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    main()
