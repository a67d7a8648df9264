"""Where trials run: processes of this machine, or a Ray cluster. Both call `run_trial`, and share folders of results.

A worker that dies takes one attempt at one trial with it. The next attempt finds what the trial's build has finished.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec

from edgeopt.cluster import connected
from edgeopt.errors import ConfigError, EdgeoptError, ending, storage_errors
from edgeopt.hardware import machine
from edgeopt.hardware.kernels import integer_kernels
from edgeopt.sweep.plan import Trial
from edgeopt.sweep.results import RESULT, TrialResult, failed
from edgeopt.sweep.trial import OTHER_EDGEOPT, TRIALS, committed, run_trial
from edgeopt.typed import from_json

ATTEMPTS = 3
"""Attempts at a trial whose worker dies, as by the system for want of memory."""
_POLL_S = 0.05
_STOP_S = 10.0
"""Time that a process has to end by itself."""
_LOG = "log.txt"
_ENOUGH = 1e6
"""Amount of a label that no number of trials uses up: a kind of processor is no single board."""


_COUNTED_BY_RAY = {"CPU", "GPU", "memory", "object_store_memory"}
"""Resources of a node that are no labels."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Workers(Protocol):
    """Run trials; a context manager."""

    @property
    def capacity(self) -> int:
        """Trials that are worth having under way."""

    def __enter__(self) -> Workers: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def require(self, needs: Iterable[tuple[str, ...]]) -> None:
        """Refuse labels that no worker has, and trials that are too large for every worker.

        Args:
            needs: the labels that each trial needs.

        Raises:
            ConfigError: there is one.
        """

    def start(self, trial: Trial) -> None:
        """Start a trial."""

    def finished(self) -> list[TrialResult]:
        """Wait until at least one trial has ended, and return what ended."""


def labels_here() -> tuple[str, ...]:
    """Return the labels of this machine: the kind of its integer kernels, where that is known."""
    kind = integer_kernels(machine().cpu)
    return () if kind is None else (f"processor:{kind}",)


@dataclass
class _Running:
    trial: Trial
    process: subprocess.Popen[bytes]
    began_s: float
    attempt: int = 1


@dataclass
class LocalWorkers:
    """Processes of this machine, one a trial.

    Attributes:
        out: folder of the sweep.
        work: folder of stage results.
        capacity: trials at a time.
    """

    out: Path
    work: Path
    capacity: int = 1
    _running: list[_Running] = field(default_factory=list)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._running:
            each.process.terminate()
        for each in self._running:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(_STOP_S)
            each.process.kill()
            each.process.wait()

    def require(self, needs: Iterable[tuple[str, ...]]) -> None:
        """Refuse labels that this machine has not; see `Workers`."""
        _require(itertools.chain.from_iterable(needs), labels_here(), "this machine has")

    def start(self, trial: Trial) -> None:
        """Start a process for a trial; a row of an earlier run goes."""
        row = self.out / TRIALS / trial.key / RESULT
        with storage_errors(row):
            row.unlink(missing_ok=True)
        self._running.append(_Running(trial, self._process(trial), time.monotonic()))

    def finished(self) -> list[TrialResult]:
        """Wait for a process; see `Workers`."""
        while True:
            ended = [each for each in self._running if each.process.poll() is not None]
            found = [result for each in ended if (result := self._result(each)) is not None]
            if found:
                return found
            time.sleep(_POLL_S)

    def _result(self, ended: _Running) -> TrialResult | None:
        """Return the row of a process that ended, or None where the trial was started again."""
        self._running.remove(ended)
        code = ended.process.returncode
        if (result := committed(ended.trial, self.out)) is not None:
            return result
        killed = code < 0 or code > 128
        if killed and ended.attempt < ATTEMPTS:
            again = _Running(ended.trial, self._process(ended.trial), ended.began_s, ended.attempt + 1)
            self._running.append(again)
            return None
        often = f", {ATTEMPTS} times" if killed else ""
        return failed(ended.trial, f"its process {ending(code)}{often}; see {self._log(ended.trial)}")

    def _process(self, trial: Trial) -> subprocess.Popen[bytes]:
        threads = str(max(1, (os.cpu_count() or 1) // self.capacity))
        log = self._log(trial)
        with storage_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        with output:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgeopt.sweep.trial", str(self.out), str(self.work)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={"OMP_NUM_THREADS": threads, **os.environ},
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as request:  # of a process that died at once: its code says so
            request.write(msgspec.json.encode(trial))
        return process

    def _log(self, trial: Trial) -> Path:
        return self.out / TRIALS / trial.key / _LOG


class RayWorkers:
    """Workers of a Ray cluster, which have the folders under the same paths.

    Args:
        out: folder of the sweep.
        work: folder of stage results.
        address: of the cluster, as ``ray://host:10001`` or ``auto``; None starts one on this machine.
        count: processor cores of the one that is started. Default: all.
        cpus: cores that a trial takes.
    """

    def __init__(self, out: Path, work: Path, address: str | None, count: int | None = None, cpus: float = 1.0) -> None:
        self._folders, self._address, self._count, self._cpus = (out, work), address, count, cpus
        self._running: dict[Any, Trial] = {}

    def __enter__(self) -> RayWorkers:
        """Connect; raises as `connected`."""
        self._ray: Any = connected(self._address, self._count, dict.fromkeys(labels_here(), _ENOUGH))
        self._task = self._ray.remote(_task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._running if kind is not None else ():
            with suppress(Exception):  # Ray may be what failed
                self._ray.cancel(each, force=True)
        self._ray.shutdown()

    @property
    def capacity(self) -> int:
        """Trials that the cluster runs at once, and as many that wait for a place with their labels."""
        return 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1.0) / self._cpus))

    def require(self, needs: Iterable[tuple[str, ...]]) -> None:
        """Refuse what no node of the cluster has alone, for which Ray would wait for ever; see `Workers`."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        if self._cpus > most:
            raise ConfigError(
                f"a trial takes {self._cpus:g} processor cores (cpus), and the cluster's largest node has {most:g}. "
                "Give fewer, or start a larger node"
            )
        needs = list(needs)
        _require(itertools.chain.from_iterable(needs), set().union(*nodes) - _COUNTED_BY_RAY, "the cluster has")
        for labels in needs:
            needed = {**dict.fromkeys(labels, 1.0), "CPU": self._cpus}
            if not any(all(node.get(name, 0.0) >= amount for name, amount in needed.items()) for node in nodes):
                raise ConfigError(
                    f"a trial takes {self._cpus:g} processor cores (cpus) and one whole unit of "
                    f"{' and '.join(map(repr, labels))}, and no node of the cluster has them together. Start one"
                )

    def start(self, trial: Trial) -> None:
        """Hand a trial to Ray."""
        needed = dict.fromkeys(trial.labels, 1)
        task = self._task.options(num_cpus=self._cpus, resources=needed, max_retries=ATTEMPTS - 1)
        out, work = map(str, self._folders)
        self._running[task.remote(msgspec.json.encode(trial), out, work)] = trial

    def finished(self) -> list[TrialResult]:
        """Wait for a task; see `Workers`."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1)
        found = []
        for each in ready:
            trial = self._running.pop(each)
            try:
                found.append(from_json(self._ray.get(each), TrialResult))
            except msgspec.DecodeError:
                found.append(failed(trial, OTHER_EDGEOPT))
            except self._ray.exceptions.RayTaskError as error:
                found.append(_raised(trial, error.cause, str(error)))
            except self._ray.exceptions.RayError as error:
                reason = str(error).partition("\n")[0].rstrip(".")
                found.append(failed(trial, f"its worker died: {reason}"))
        return found


def _task(request: bytes, out: str, work: str) -> bytes:
    """Run a trial in a process of Ray's."""
    return msgspec.json.encode(run_trial(from_json(request, Trial), Path(out), Path(work)))


def _raised(trial: Trial, cause: Exception, trace: str) -> TrialResult:
    """Return the row of a trial that could not write its own."""
    if isinstance(cause, EdgeoptError):
        return failed(trial, str(cause))
    return failed(trial, f"{type(cause).__name__}: {cause}", _COLOUR.sub("", trace))


def _require(labels: Iterable[str], there: Collection[str], where: str) -> None:
    known = ", ".join(sorted(label for label in there if not label.startswith("node:"))) or "none"
    for label in labels:
        if label not in there:
            raise ConfigError(
                f"no worker has the label '{label}': {where} {known}. Start a node with it, as in: "
                f"ray start --address=HEAD:6379 --resources='{{\"{label}\": 1}}'"
            )
