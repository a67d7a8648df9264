"""Write the verdict as JSON, JUnit XML and GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

import msgspec

from edgeopt.gate.verdict import AccuracyFinding, Outcome, Verdict

SIGNS: Mapping[Outcome, str] = {"pass": "✅ pass", "fail": "❌ fail", "invalid": "⚠️ invalid"}
_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that XML 1.0 cannot hold (section 2.2), not even escaped; labels and names may."""
_SHOWN = 5
"""Classes in the table."""


def to_json(verdict: Verdict) -> bytes:
    """Return the whole verdict as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=2) + b"\n"


def to_junit(verdict: Verdict) -> bytes:
    """Return one test case: a failing gate is a failure, an invalid run is an error."""
    suite = ElementTree.Element(
        "testsuite",
        name="edgeopt gate",
        tests="1",
        failures=str(int(verdict.outcome == "fail")),
        errors=str(int(verdict.outcome == "invalid")),
    )
    seconds = verdict.conditions.seconds if verdict.conditions is not None else 0.0
    name = _xml(f"{verdict.candidate} vs {verdict.baseline}")
    case = ElementTree.SubElement(suite, "testcase", classname="edgeopt.gate", name=name)
    reasons = [_xml(reason) for reason in verdict.reasons]
    case.set("time", f"{seconds:.1f}")
    if verdict.outcome != "pass":
        tag = "failure" if verdict.outcome == "fail" else "error"
        problem = ElementTree.SubElement(case, tag, message=reasons[0], type=verdict.outcome)
        problem.text = "\n".join(reasons)
    else:
        ElementTree.SubElement(case, "system-out").text = "\n".join(reasons)
    ElementTree.indent(suite)
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text


def to_markdown(verdict: Verdict) -> str:
    """Return a summary for a pull request (``>> $GITHUB_STEP_SUMMARY``)."""
    lines = [f"### Latency gate: {SIGNS[verdict.outcome]}", ""]
    lines += [f"- {cell(reason)}" for reason in verdict.reasons]
    lines += ["", f"| | {cell(verdict.baseline)} | {cell(verdict.candidate)} | change | allowed |", "|-|-:|-:|-:|-:|"]
    if (latency := verdict.latency) is not None:
        ratio = latency.ratio
        lines.append(
            f"| median latency (ms) | {latency.baseline_ms:.3f} | {latency.candidate_ms:.3f} | "
            f"{ratio.estimate - 1:+.1%} [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}] | "
            f"{latency.relative_floor:+.1%} and {latency.absolute_floor_ms:+.3f} ms |"
        )
        if (noise := latency.noise) is not None:
            lines.append(
                f"| baseline against itself | | | {noise.estimate - 1:+.1%} [{noise.low - 1:+.1%}, "
                f"{noise.high - 1:+.1%}] | |"
            )
    if (accuracy := verdict.accuracy) is not None:
        lines.append(
            f"| {cell(accuracy.metric)} (%) | {100.0 * accuracy.baseline:.2f} | {100.0 * accuracy.candidate:.2f} | "
            f"{_points(-accuracy.drop)} | {_points(-accuracy.allowed_drop)} |"
        )
        lines += _more(accuracy)
    if (shift := verdict.attribution) is not None:
        lines.append(f"| shift of {cell(shift.method)} maps from FP32 | | {shift.shift:.3f} | | {shift.allowed:.3f} |")
    lines += [
        f"| {cell(each.metric)} on {each.pictures}, from FP32 | | {_points(-each.drop)} | | {_points(-each.allowed)} |"
        for each in verdict.robustness
    ]
    here = verdict.environment
    lines += ["", f"{cell(here.machine.cpu.model)}, {here.machine.cpu.cores} cores, `{here.fingerprint}`"]
    if latency is not None:
        lines[-1] += f"; {latency.rounds} rounds in {latency.launches} launches, {latency.disturbed_rounds} disturbed"
    return "\n".join(lines) + "\n"


def _more(accuracy: AccuracyFinding) -> Iterator[str]:
    """Yield rows of the table: F1 at the score threshold, and the classes that lost most, with their intervals."""
    if (operating := accuracy.operating) is not None:
        yield (
            f"| F1 at score {operating.score:g} (%) | {100.0 * operating.baseline:.2f} | "
            f"{100.0 * operating.candidate:.2f} | {_points(-operating.drop)} | {_points(-operating.allowed_drop)} |"
        )
    allowed = "" if accuracy.allowed_class_drop is None else _points(-accuracy.allowed_class_drop)
    for each in accuracy.classes[:_SHOWN]:
        doubt = "" if each.beyond_chance else " (may be chance)"
        yield (
            f"| class {cell(each.label)} (%) | {100.0 * each.before:.2f} | {100.0 * each.after:.2f} | "
            f"{_points(each.change)} [{_points(each.low)}, {_points(each.high)}]{doubt} | {allowed} |"
        )


def _points(share: float) -> str:
    """Format a difference of two shares in points; no minus before a zero."""
    return f"{round(100.0 * share, 2) + 0.0:+.2f}"


def _xml(text: str) -> str:
    """Write characters that XML cannot hold as escapes."""
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(text: str) -> str:
    """Escape text so that it cannot break out of a table cell, become markup or command a terminal."""
    text = _xml(text)
    for character in "\\|<>`*_[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
