"""Run a sweep: start what is missing, and keep each row as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeopt.errors import storage_errors, when_stopped
from edgeopt.files import write_atomically
from edgeopt.pipeline.store import Store
from edgeopt.progress import Tell
from edgeopt.sweep.choosing import chooser
from edgeopt.sweep.page import sweep_html
from edgeopt.sweep.plan import Indices, Plan, labels_of
from edgeopt.sweep.results import TrialResult, failed, write_result
from edgeopt.sweep.trial import TRIALS, brought, finished
from edgeopt.sweep.workers import Workers


@dataclass(frozen=True)
class Swept:
    """A sweep's rows.

    Attributes:
        results: in the order of the trials.
        found: how many of them were there before.
        page: the HTML page.
        table: the JSON file.
    """

    results: tuple[TrialResult, ...]
    found: int
    page: Path
    table: Path


@when_stopped("finished trials, and the finished stages of others, are kept; run it again to go on")
def sweep(plan: Plan, out: Path, workers: Workers, tell: Tell) -> Swept:
    """Make the trials of a sweep that have no bundle yet, and write its page and table.

    What is there is not made again: a trial with a bundle by the same recipe and edgeopt counts as it is, whatever
    became of images, weights and code that the recipe names. One that failed or was cut short is built again from the
    stages that are finished.

    Args:
        plan: the sweep.
        out: its folder.
        workers: who builds, entered.
        tell: told a line about each trial as it ends.

    Raises:
        ConfigError: no worker has the labels that a target asks for, or the cores; or Optuna would have to compare
            accuracies on different images.
        MissingExtraError: Optuna is not installed, and the grid is too large.
        StorageError: the folder cannot be written, or the store cannot be reached.
    """
    store = None if plan.config.store is None else Store(plan.config.store)
    if store is not None:
        store.check()
    workers.require(map(labels_of, plan.targets))
    choices, rows, found, running = chooser(plan), dict[Indices, TrialResult](), 0, dict[str, Indices]()

    def done(place: Indices, result: TrialResult, state: str) -> None:
        rows[place] = result
        choices.told(place, result)
        tell(f"[{len(rows)}/{plan.count}] {result.title}: {state}")

    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < workers.capacity:
            place = choices.next() if len(rows) + len(running) < plan.count else None
            if place is None:
                exhausted = True
                break
            trial = plan.trial(place)
            if (known := finished(trial, out)) is not None:
                found += 1
                done(place, known, "there already")
            elif trial.config is None:
                result = failed(trial, trial.problem)
                write_result(out / TRIALS / trial.key, result)
                done(place, result, result.error)
            else:
                running[trial.key] = place
                workers.start(trial)
        for ended in workers.finished() if running else ():
            result = ended if store is None else brought(ended, out, store)
            done(running.pop(result.key), result, result.error or _work(result))
    results = tuple(rows[place] for place in sorted(rows))
    return Swept(
        results, found, _written(out / "sweep.html", sweep_html(plan.name, results).encode()), _table(out, results)
    )


def _work(result: TrialResult) -> str:
    made = sum(each.made for each in result.stages)
    return f"built in {result.seconds:.1f} s, {made} of {len(result.stages)} stages made"


def _table(out: Path, results: tuple[TrialResult, ...]) -> Path:
    return _written(out / "sweep.json", msgspec.json.format(msgspec.json.encode(results), indent=1))


def _written(path: Path, content: bytes) -> Path:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return path
