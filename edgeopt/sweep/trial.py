"""One trial of a sweep: a build into the shared store, in whatever process a worker has for it.

``python -m edgeopt.sweep.trial OUT WORK`` reads a trial as JSON from standard input and writes its row into the folder.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

from edgeopt.errors import EdgeoptError
from edgeopt.hardware import ThisMachine
from edgeopt.pipeline import build
from edgeopt.pipeline.store import Store
from edgeopt.spec import replace
from edgeopt.sweep.plan import Trial, building_code
from edgeopt.sweep.results import StageTime, TrialResult, failed, read_result, variant_results, write_result
from edgeopt.typed import from_json

TRIALS = "trials"
"""Name of the folder of all trials in the sweep's."""
OTHER_EDGEOPT = (
    "its worker has another edgeopt than the machine that runs the sweep. Install the same one on both, and run the "
    "sweep again"
)


class _Stages:
    """Progress that keeps how long each stage took, and if its result was there."""

    def __init__(self) -> None:
        self.times: list[StageTime] = []
        self._stage, self._began_s = "", 0.0

    def begin(self, stage: str) -> None:
        """Note when it starts."""
        self._stage, self._began_s = stage, time.perf_counter()

    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        """Ignore it."""

    def end(self, summary: str, *, reused: bool) -> None:  # noqa: ARG002 - only its time counts
        """Note how long it took."""
        seconds = round(time.perf_counter() - self._began_s, 4)
        self.times.append(StageTime(stage=self._stage, seconds=seconds, made=not reused))


def run_trial(trial: Trial, out: Path, work: Path) -> TrialResult:
    """Build a trial's bundle and commit its row; whatever goes wrong is the row's error.

    Args:
        trial: it.
        out: folder of the sweep; without a store the same for all workers.
        work: folder of stage results, which all workers share that have no store.

    Raises:
        StorageError: the row cannot be written.
    """
    folder, stages, began_s = out / TRIALS / trial.key, _Stages(), time.perf_counter()
    machine = ThisMachine().identity((), accelerated=True).title
    if trial.config is None:
        result = failed(trial, trial.problem)
    elif trial.code != building_code():
        result = failed(trial, OTHER_EDGEOPT, machine=machine)
    else:
        try:
            store = None if trial.store is None else Store(trial.store)
            built = build(trial.config, Path(trial.root), folder, work, stages, shared=True, store=store)
            build_key = built.bundle.manifest.build_key
            if store is not None and not (built.unchanged and store.has(_object(build_key))):
                store.put(_object(build_key), built.path)
        except EdgeoptError as error:
            result = failed(trial, str(error), machine=machine)
        except Exception as error:  # noqa: BLE001 - one bad trial does not end the sweep, and its row has all of it
            result = failed(trial, f"{type(error).__name__}: {error}", traceback.format_exc(), machine=machine)
        else:
            result = TrialResult(
                key=trial.key,
                model=trial.model,
                target=trial.target,
                settings=trial.settings,
                variants=variant_results(built.bundle.manifest),
                machine=machine,
                bundle=built.path.relative_to(out).as_posix(),
                build_key=build_key,
            )
    seconds = round(time.perf_counter() - began_s, 3)
    result = replace(result, seconds=seconds, stages=tuple(stages.times))
    write_result(folder, result)
    return result


def finished(trial: Trial, out: Path) -> TrialResult | None:
    """Return the row of a trial that has a bundle, with the names that its values have now; or None."""
    result = committed(trial, out)
    return replace(result, settings=trial.settings) if result is not None and not result.error else None


def committed(trial: Trial, out: Path) -> TrialResult | None:
    """Return the row of a trial, also one with an error, or None."""
    return read_result(out / TRIALS / trial.key, trial.key)


def brought(result: TrialResult, out: Path, store: Store) -> TrialResult:
    """Bring the bundle of a trial whose worker shares no folder with this process, and commit its row.

    Raises:
        StorageError: the store cannot be read, or the folder cannot be written.
    """
    folder = out / TRIALS / result.key
    if not result.bundle or read_result(folder, result.key) == result:
        return result
    if not store.get(_object(result.build_key), out / result.bundle):
        return replace(
            result, variants=(), bundle="", build_key="", error=f"its bundle is not in the store {store.url} any more"
        )
    write_result(folder, result)
    return result


def _object(build_key: str) -> str:
    """Name a bundle in the store."""
    return f"bundle-{build_key}.zip"


if __name__ == "__main__":
    run_trial(from_json(sys.stdin.buffer.read(), Trial), Path(sys.argv[1]), Path(sys.argv[2]))
