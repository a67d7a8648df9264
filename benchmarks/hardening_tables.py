"""The tables on damaged inputs, faults, changed bytes, ONNX's own tests and reports of other tools' users."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.recorded import rows as recorded
from edgeopt.bundle import MANIFEST_NAME
from edgeopt.bundle.reading import PROVENANCE_NAME, SIGNATURE_NAME

_NOT_YET = "Not run yet: `{}`."


def fuzz(path: Path) -> str:
    """Inputs at random: a row for each reader."""
    if not path.exists():
        return _NOT_YET.format("make nightly")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            name,
            f"{each['inputs']:,}",
            f"{each['accepted']:,}",
            f"{each['slowest_s']:.1f} s",
            f"{each['peak_mib']} MiB",
            str(len(each["failures"])),
        )
        for name, each in found["readers"].items()
    ]
    total = sum(each["inputs"] for each in found["readers"].values())
    failures = sum(len(each["failures"]) for each in found["readers"].values())
    said = (
        f"{total:,} inputs by {found['by']} in one run, {failures} failures, on: {found['cpu']}. Memory is the "
        "process's, with libraries and the fuzzer."
    )
    return "\n".join([*_table(("reader", "inputs", "accepted", "slowest", "memory", "failures"), rows), "", said])


def node_tests(path: Path) -> str:
    """Count ONNX's own tests of operators whose results `optimize` left as they were."""
    if not path.exists():
        return _NOT_YET.format("python tests/nightly/node_tests.py --record benchmarks/results/node_tests.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    rows = [
        (
            f"{found['tests']:,}",
            f"{found['equal']:,}",
            str(found.get("changed or refused", 0)),
            str(found["not runnable"]),
        )
    ]
    return "\n".join(
        [
            *_table(("tests", "graphs with equal results", "changed or refused", "not run by onnxruntime"), rows),
            "",
            f"{versions}. Each graph is tried as it is, and with constants for all its inputs, and for all but one.",
        ]
    )


def faults(path: Path) -> str:
    """Count what was tried against a build, and what came of it."""
    if not path.exists():
        return _NOT_YET.format("python -m benchmarks.faults")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (fault, ", ".join(f"{what} {count}" for what, count in each.items() if isinstance(count, int | float)))
        for fault, each in found.items()
    ]
    processors = "; ".join(sorted({each["cpu"] for each in found.values()}))
    return "\n".join([*_table(("fault", "counted"), rows, right=False), "", f"On: {processors}."])


def flipped_bytes(path: Path) -> str:
    """Count changed bytes of signed bundles that nobody noticed."""
    found = recorded(path)
    if not found:
        return _NOT_YET.format("python -m benchmarks.flipped_bytes")
    lines = []
    for each in sorted(found, key=lambda row: str(row["bundle"])):
        counts = {name: count["changed"] for name, count in each["files"].items()}
        told = sum(counts.get(name, 0) for name in (MANIFEST_NAME, SIGNATURE_NAME, PROVENANCE_NAME))
        places = "every" if each["every"] == 1 else f"every {each['every']}th"
        others = f"{each['changed'] - told:,} ({places})"
        lines.append((each["bundle"].removesuffix(".edgeopt"), f"{told:,} (every)", others, str(each["unnoticed"])))
    titles = ("bundle", "bytes of manifest, signature and provenance", "of engines, arrays and lists", "unnoticed")
    return "\n".join([*_table(titles, lines), "", f"On: {', '.join(sorted({each['processor'] for each in found}))}."])


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]], *, right: bool = True) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "| --- |" + (" ---: |" if right else " --- |") * (len(columns) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def cases(path: Path) -> str:
    """Reports of other tools' users: what was said before and is now, script by script."""
    if not path.exists():
        return _NOT_YET.format("python -m benchmarks.cases")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            each["script"],
            ", ".join(each["reports"][:2]),
            each["before"],
            _shown(each["now"]),
            "yes" if each["right"] else "no",
        )
        for each in found
    ]
    right = sum(each["right"] for each in found)
    processors = "; ".join(sorted({each["cpu"] for each in found}))
    return "\n".join(
        [
            *_table(("script", "reports", "before", "now", "right"), rows, right=False),
            "",
            f"{right} of {len(found)} are right, on: {processors}.",
        ]
    )


def _shown(groups: list[list[str]]) -> str:
    """Return what scripts printed, the same lines once, as code: it has backslashes and angle brackets."""
    lines = dict.fromkeys(f"{first}: {', '.join(rest)}" if rest else first for first, *rest in groups)
    text = "; ".join(lines).replace("|", "\\|")
    return f"`{text}`" if text else ""


def hardening(path: Path) -> str:
    """Accuracy under attack and on bad pictures: a row for each bundle and variant."""
    if not path.exists():
        return _NOT_YET.format("python -m benchmarks.hardening BUNDLE")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            each["bundle"],
            each["trained"] or "plainly",
            each["variant"],
            str(each["images"]),
            f"{100.0 * each['clean']:.1f} %",
            ", ".join(f"{radius}: {100.0 * value:.1f} %" for radius, value in each["worst"].items()),
            f"{100.0 * each['bad_pictures']:.1f} %",
        )
        for each in sorted(found, key=lambda row: str(row["bundle"]))
    ]
    processors = "; ".join(sorted({each["processor"] for each in found}))
    columns = ("bundle", "trained", "variant", "images", "clean", "worst attack, by change of 255", "bad pictures")
    return "\n".join([*_table(columns, rows), "", f"Main metric: top-1, or AP. Measured on: {processors}."])


def protection(path: Path) -> str:
    """Compare loading a bundle as it is, signed and sealed: a row for each bundle and kind."""
    if not path.exists():
        return _NOT_YET.format("python -m benchmarks.protection BUNDLE")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for each in found:
        plain = each["medians"]["plain"]
        rows += [
            (
                f"{each['bundle'].removesuffix('.edgeopt')} ({each['megabytes']} MB), {each['variant']}",
                kind,
                f"{figures['load_ms']:.1f} ms",
                f"{figures['load_ms'] / plain['load_ms']:.2f}×",
                f"{figures['first_ms']:.2f} ms",
                f"{figures['peak_mib']:.1f} MiB",
            )
            for kind, figures in each["medians"].items()
        ]
    rounds = ", ".join(sorted({str(each["rounds"]) for each in found}))
    processors = "; ".join(sorted({each["cpu"] for each in found}))
    return "\n".join(
        [
            *_table(("bundle", "copy", "load", "over plain", "first prediction", "memory"), rows),
            "",
            f"Medians of {rounds} processes of each in alternation, on: {processors}.",
        ]
    )
