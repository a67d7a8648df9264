"""Give every reader of what comes from outside inputs at random, and record what is no answer.

    python tests/fuzz/fuzz.py [TARGET ...] [--inputs N] [--seconds S] [--keep FOLDER] [--record FILE] [--plain]

An input is answered if the reader returns or raises an `EdgeoptError`. Any other exception, a crash, more than ten
seconds of processor time (or 60 by the clock) or more than 2 GiB is a failure: the input is kept, the reader goes on.
With atheris, inputs are grown towards code that has not run yet, otherwise (or with ``--plain``) seeds are changed at
random. Each target runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import logging
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SLOWEST_S, LONGEST_S, LARGEST_BYTES = 10, 60, 2 << 30
_SEEDS_NAME = "seeds"
_ENDED_WELL, _DIED = 0, 70


class TooSlow(BaseException):
    """Raised inside a reader that takes longer than `SLOWEST_S`."""


class Run:
    """Inputs of one target in this process, and what came of them."""

    def __init__(self, name: str, keep: Path, folder: Path, *, inputs: int, seconds: float) -> None:
        from targets import TARGETS

        self.target, self.keep, self.folder = TARGETS[name], keep, folder
        self.name, self.most, self.until = name, inputs, time.process_time() + seconds
        self.inputs = self.accepted = 0
        self.slowest_s = 0.0
        self.failures: dict[str, str] = {}

    @property
    def is_over(self) -> bool:
        return self.inputs >= self.most or time.process_time() > self.until

    def one(self, content: bytes) -> None:
        """Give the target one input."""
        self.inputs += 1
        start = time.process_time()
        try:
            with at_most(SLOWEST_S):
                self.accepted += self.target(content, self.folder)
        except (Exception, TooSlow) as error:  # noqa: BLE001 - that is what this looks for
            self.fail(content, error)
        self.slowest_s = max(self.slowest_s, time.process_time() - start)

    def fail(self, content: bytes, error: BaseException) -> None:
        where = place_of(error)
        if where not in self.failures:
            file = kept(self.keep, self.name, content)
            self.failures[where] = f"{file.name}: {type(error).__name__}: {str(error)[:200]}"

    def result(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "inputs": self.inputs,
            "accepted": self.accepted,
            "slowest_s": round(self.slowest_s, 2),
            "peak_mib": peak >> 20,
            "failures": self.failures,
        }


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TooSlow` where the block takes longer; what never comes back to Python is ended by the parent."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"took more than {seconds} s")

    before = {each: signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def kept(folder: Path, target: str, content: bytes) -> Path:
    """Write an input that is no answer to the folder of such; its file."""
    name = target.replace(" ", "-").replace(",", "").replace("'", "")
    file = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def largest(target: str) -> int:
    from targets import TARGETS

    return TARGETS[target].largest


def place_of(error: BaseException) -> str:
    """Return kind and place of an error in edgeopt, so that one fault is counted once."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/edgeopt/" in frame.filename and "site-packages" not in frame.filename]
    last = (ours or list(frames))[-1]
    return f"{type(error).__name__} {'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"


class Last:
    """The input that is being read, in memory that this process shares with its children: it survives their crash.

    A file for each input would cost milliseconds, as file systems write one that replaces another at once.
    """

    def __init__(self, largest: int) -> None:
        self._memory = mmap.mmap(-1, 8 + largest)

    def set(self, content: bytes) -> None:
        self._memory[8 : 8 + len(content)] = content
        self._memory[:8] = (len(content) + 1).to_bytes(8, "little")

    def clear(self) -> None:
        self._memory[:8] = bytes(8)

    def get(self) -> bytes | None:
        """Return the input; None if none is being read."""
        size = int.from_bytes(self._memory[:8], "little")
        return self._memory[8 : 7 + size] if size else None


def in_this_process(
    name: str, keep: Path, out: Path, last: Last, *, inputs: int, seconds: float, plain: bool, seed: int
) -> None:
    """Run one target, write its result and end the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # libraries write much there about damaged files
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (LARGEST_BYTES, LARGEST_BYTES))
    os.environ["EDGEOPT_LARGEST_PIXELS"] = "4000000"  # so that a picture costs milliseconds
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    run = Run(name, keep, folder, inputs=inputs, seconds=seconds)

    def one(content: bytes) -> None:
        content = content[: run.target.largest]
        last.set(content)  # for the parent, if the process dies of it
        failures = len(run.failures)
        run.one(content)
        if run.is_over or run.inputs % 500 == 0 or len(run.failures) > failures:
            out.write_text(json.dumps(run.result()))
        if run.is_over:
            last.clear()
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(_ENDED_WELL)

    seeds = list(run.target.seeds())
    if plain:
        from mutation import mutations

        for content in mutations(seeds, run.target.largest, seed):
            one(content)
    import atheris

    place = folder / _SEEDS_NAME
    place.mkdir()
    for index, content in enumerate(seeds):
        (place / f"{index}").write_bytes(content)
        one(content)
    options = [
        f"-max_len={run.target.largest}",
        "-rss_limit_mb=0",
        "-timeout=600",
        "-verbosity=0",
        "-print_final_stats=0",
        f"-seed={seed + 1}",
    ]
    atheris.Setup([sys.argv[0], *options, str(place)], one)
    atheris.Fuzz()


def apart(name: str, keep: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one target in a process of its own, again where it dies, until it has had all its inputs."""
    start, done, failures = processor_s(), dict[str, Any](), dict[str, str]()
    most = {"inputs": 0, "accepted": 0, "slowest_s": 0.0, "peak_mib": 0}
    last, deaths = Last(largest(name)), 0
    while most["inputs"] < options.inputs and processor_s() - start < options.seconds:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            left = max(1.0, options.seconds - (processor_s() - start))
            inputs = options.inputs - most["inputs"]
            child = os.fork()
            if child == 0:
                try:
                    in_this_process(
                        name, keep, out, last, inputs=inputs, seconds=left, plain=options.plain, seed=deaths
                    )
                finally:
                    os._exit(_DIED)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            done = json.loads(out.read_text()) if out.exists() else {"inputs": 1, "failures": {}}
        for key in ("inputs", "accepted"):
            most[key] += done.get(key, 0)
        for key in ("slowest_s", "peak_mib"):
            most[key] = max(most[key], done.get(key, 0))
        failures |= done["failures"]
        if code != _ENDED_WELL:
            said, content = f"ended by signal {-code}" if code < 0 else f"exit {code}", last.get()
            if content is None:
                failures[said] = said
                break
            failures[f"{said} on {kept(keep, name, content).name}"] = said
            deaths += 1
            last.clear()
    return {**most, "seconds": round(processor_s() - start), "failures": failures}


def processor_s() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="names of targets; default: all")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each target")
    parser.add_argument("--seconds", type=float, default=3600, help="of the processor, for each target at most")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder of what failed")
    parser.add_argument("--record", type=Path, help="JSON file for the counts of this run")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    options = parser.parse_args()
    options.plain = options.plain or importlib.util.find_spec("atheris") is None
    with contextlib.ExitStack() as importing:
        if not options.plain:
            import atheris

            importing.enter_context(atheris.instrument_imports(include=["edgeopt"]))
        from targets import TARGETS

        import_for(options.targets or TARGETS)
    failed, counts = 0, dict[str, Any]()
    for name in options.targets or TARGETS:
        if missing := [each for each in TARGETS[name].needs if importlib.util.find_spec(each) is None]:
            sys.stdout.write(f"{name}: not tried without {', '.join(missing)}\n")
            continue
        found = apart(name, options.keep, options)
        failed += len(found["failures"])
        sys.stdout.write(
            f"{name}: {found['inputs']} inputs, {found['accepted']} accepted, slowest {found['slowest_s']} s, "
            f"{found['peak_mib']} MiB, {len(found['failures'])} failures, {found['seconds']} s\n"
        )
        for where, what in found["failures"].items():
            sys.stdout.write(f"    {where}: {what}\n")
        sys.stdout.flush()
        counts[name] = found
        if options.record is not None:
            record(options.record, counts, plain=options.plain)
    return int(failed > 0)


def import_for(names: Iterable[str]) -> None:
    """Import here what targets import when they are first called, so that their processes begin with their inputs."""
    from targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with contextlib.suppress(ImportError):
                TARGETS[name](TARGETS[name].seeds()[0], Path(folder))


def record(path: Path, counts: dict[str, Any], *, plain: bool) -> None:
    """Write the counts of this run, reader by reader, in place of an earlier one's."""
    from edgeopt.hardware import machine

    found = {"by": "random changes" if plain else "atheris", "cpu": machine().cpu.model, "readers": counts}
    path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
