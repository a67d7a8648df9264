"""Gate one candidate on all boards at once: one verdict, in which many boards fail by chance as rarely as one.

Each board gates by itself, with the error of a failure divided by their number (`edgeopt.gate.decide` has the sources).
The candidate fails if it fails on any board, and passes if it passes on all: a board without an answer leaves it open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.farm.boards import Board
from edgeopt.farm.results import machine_of
from edgeopt.farm.run import Missing, Terms, brought, everywhere, read
from edgeopt.farm.visiting import Visit, copied
from edgeopt.gate import EXIT_CODES, GateConfig, Side, Verdict
from edgeopt.gate.outputs import SIGNS, cell
from edgeopt.gate.verdict import Outcome
from edgeopt.progress import Tell
from edgeopt.spec import Struct

_GATE = "gate"
_BASELINE, _CANDIDATE = "baseline.edgeopt", "candidate.edgeopt"
"""Names of the bundles on a board."""


class FarmVerdict(Struct):
    """One answer for all boards."""

    outcome: Outcome
    reasons: tuple[str, ...]
    baseline: str
    candidate: str
    boards: dict[str, Verdict]
    """Each board's own, where it gave one."""
    missing: dict[str, str]
    """Reason of each board that gave none."""
    schema_version: int = 1

    @property
    def exit_code(self) -> int:
        """Exit code: 0 for pass, 1 for fail, 3 for invalid."""
        return EXIT_CODES[self.outcome]


def gate_farm(
    baseline: Side,
    candidate: Side,
    boards: Sequence[Board],
    config: GateConfig,
    terms: Terms,
    *,
    threads: int = 0,
    data: str | None = None,
) -> FarmVerdict:
    """Gate a variant against another on all boards at the same time.

    Args:
        baseline: the shipped side.
        candidate: the side that would replace it.
        boards: to gate on.
        config: of each board's gate, which is told its tolerance, its drops of accuracy, F1 and classes, and its time
            limit; all else is the board's default.
        terms: of the visits.
        threads: threads of the engines; 0 keeps the bundle's setting.
        data: images, as the boards know them.

    Raises:
        BundleError: not a whole bundle.
        ConfigError: a program is not installed.
    """
    before, after = Bundle.open(baseline.path), Bundle.open(candidate.path)
    options = _options(config, len(boards), threads, data)
    with tempfile.TemporaryDirectory() as scratch:
        copies = {
            _BASELINE: copied(before, Path(scratch) / "baseline.tar"),
            _CANDIDATE: copied(after, Path(scratch) / "candidate.tar"),
        }

        def measure(_: Board, visit: Visit, say: Tell) -> Verdict:
            brought(visit, copies, say)
            say(_GATE)
            sides = (_reference(_BASELINE, baseline), _reference(_CANDIDATE, candidate))
            answer = visit.edgeopt(copies, _GATE, *sides, *options, codes=tuple(EXIT_CODES.values()))
            verdict = read(answer, Verdict, _GATE)
            say(verdict.outcome)
            return verdict

        answers = everywhere(boards, measure, terms)
    verdicts = {name: answer for name, answer in answers.items() if isinstance(answer, Verdict)}
    missing = {name: answer.reason for name, answer in answers.items() if isinstance(answer, Missing)}
    outcome, reasons = together(verdicts, missing)
    return FarmVerdict(
        outcome=outcome,
        reasons=reasons,
        baseline=str(baseline),
        candidate=str(candidate),
        boards=verdicts,
        missing=missing,
    )


def together(verdicts: Mapping[str, Verdict], missing: Mapping[str, str]) -> tuple[Outcome, tuple[str, ...]]:
    """Decide for all boards: one that fails is enough, and a pass needs all."""

    def reasons(outcome: Outcome) -> tuple[str, ...]:
        return tuple(
            f"{name}: {reason}" for name, each in verdicts.items() if each.outcome == outcome for reason in each.reasons
        )

    lacking = tuple(f"{name}: no result: {reason}" for name, reason in missing.items())
    if failed := reasons("fail"):
        return "fail", (*failed, *lacking)
    if (invalid := (*reasons("invalid"), *lacking)) or not verdicts:
        return "invalid", invalid
    return "pass", reasons("pass")


def verdict_to_markdown(verdict: FarmVerdict) -> str:
    """Return a summary for a pull request: a row for each board."""
    lines = [f"### Gate on {len(verdict.boards) + len(verdict.missing)} boards: {SIGNS[verdict.outcome]}", ""]
    lines += [f"- {cell(reason)}" for reason in verdict.reasons]
    lines += ["", f"| board | machine | {cell(verdict.baseline)} | {cell(verdict.candidate)} | ratio | |"]
    lines.append("| --- | --- | ---: | ---: | ---: | --- |")
    for name, each in verdict.boards.items():
        latency = each.latency
        figures = ["–", "–", "–"]
        if latency is not None:
            ratio = latency.ratio
            figures = [
                f"{latency.baseline_ms:.3f} ms",
                f"{latency.candidate_ms:.3f} ms",
                f"{ratio.estimate:.3f} \\[{ratio.low:.3f}, {ratio.high:.3f}\\]",
            ]
        mode = None if each.conditions is None else each.conditions.power_mode
        cells = (cell(name), cell(machine_of(each.environment, mode)), *figures, SIGNS[each.outcome])
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {cell(name)} | | – | – | – | no result: {cell(reason)} |" for name, reason in verdict.missing.items()]
    return "\n".join(lines) + "\n"


def _reference(name: str, side: Side) -> str:
    return name if side.variant is None else f"{name}@{side.variant}"


def _options(config: GateConfig, boards: int, threads: int, data: str | None) -> list[str]:
    """Return what `edgeopt gate` on a board is told."""
    given = {
        "--tolerance": config.tolerance,
        "--accuracy-drop": config.accuracy_drop,
        "--f1-drop": config.f1_drop,
        "--max-class-drop": config.class_drop,
        "--maximum-s": config.maximum_s,
        "--boards": boards,
        "--threads": threads or None,
        "--data": data,
    }
    return [*(part for name, value in given.items() if value is not None for part in (name, str(value))), "--json"]
