"""Faults of a small build: killed at random moments, a disk that fills, two builds at once, a clock that jumps.

    python -m benchmarks.faults [--kills N] [--sizes N] [--pairs N] [--seed N]

A digit classifier is trained, quantized and built again and again in processes that are forked from one in which all
libraries are imported. A build is killed with its whole process group by SIGKILL after a time at random; afterwards its
bundle must be absent, the one before, or the new one, each whole, and the next run must go on. The full and the
read-only disk are small tmpfs, which only root can mount. Writes ``results/faults.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeopt.bundle import Bundle
from edgeopt.errors import EdgeoptError, StorageError
from edgeopt.hardware import machine

RESULTS = Path(__file__).resolve().parent / "results" / "faults.json"
RECIPE = """
name = "small"
[model]
source = "edgeopt:lenet5"
[data.train]
format = "digits"
split = "train"
limit = 200
[data.test]
format = "digits"
split = "test"
limit = 60
[data.calibration]
format = "digits"
split = "calibration"
limit = 16
[train]
epochs = 1
[quantize]
repairs = ["equalization"]
[compile]
targets = ["ort"]
[benchmark]
warmup_s = 0.0
duration_s = 0.05
minimum_queries = 8
"""
_PAGE = 4096
_YEAR_S = 365 * 86400


class Place:
    """A folder with the recipe, where builds put their work and their bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe = folder.parent / f"{folder.name}.toml"
        self.recipe.write_text(RECIPE)
        self.log = folder.parent / f"{folder.name}.log"
        self.bundle = folder / "out" / "small.edgeopt"

    def start(
        self,
        *,
        seed: int = 0,
        work: str = "work",
        before: Callable[[], None] | None = None,
        after: Callable[[], object] | None = None,
    ) -> int:
        """Fork a build in a process group of its own; its id. `before` and `after` are called in it."""
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            os.setsid()
            os.environ["TMPDIR"] = tempfile.tempdir = str(self.folder)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if before is not None:
                before()
            from edgeopt.cli import main

            command = ["build", str(self.recipe), "--out", str(self.folder / "out"), "--work", str(self.folder / work)]
            main([*command, "--set", f"train.seed={seed}"], standalone_mode=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:  # noqa: BLE001 - what is unexpected is counted by its code
            import traceback

            traceback.print_exc()
        finally:
            if after is not None:
                after()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def finish(self, child: int) -> int:
        """Wait for a build; its exit code."""
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def build(self, **options: Any) -> int:
        """Build to the end."""
        self.log.unlink(missing_ok=True)
        return self.finish(self.start(**options))

    def state(self) -> str:
        """Tell what stands where the bundle belongs: ``absent``, ``whole`` or ``half``."""
        if not self.bundle.exists():
            return "absent"
        try:
            Bundle.open(self.bundle)
        except EdgeoptError as error:
            print(f"half a bundle: {error}")
            return "half"
        return "whole"

    def said(self) -> str:
        """What the last build printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def finished_stages(self) -> dict[str, int]:
        """Inode of each finished stage's record."""
        return {file.parent.name: file.stat().st_ino for file in self.folder.glob("work/[a-z]*/stage.json")}


def warm_up(folder: Path) -> None:
    """Import in this process what a build imports, as one in a child tells, so that a fork begins with the work.

    Nothing is built here: threads that libraries start do not survive a fork.
    """
    place = Place(folder / "warm")
    listed = folder / "modules"
    if place.build(after=lambda: listed.write_text("\n".join(sorted(sys.modules)))) != 0:
        raise StorageError(f"the build fails without any fault:\n{place.said()[-2000:]}")
    for name in listed.read_text().split():
        with contextlib.suppress(Exception):  # parts of libraries that only they may import
            importlib.import_module(name)


def kills(folder: Path, count: int, dice: random.Random, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Kill builds at random moments until it was done `count` times; every killed one is started again.

    `keep` is called after each finished build: by then all kills before it were gone on from.
    """
    place = Place(folder / "kills")
    start = time.monotonic()
    if place.build(seed=0) != 0:
        raise StorageError(f"the build fails without any fault:\n{place.said()[-2000:]}")
    whole_s = time.monotonic() - start
    found = dict.fromkeys(("killed", "finished", "failed", "half bundles", "stages made twice", "left behind"), 0)
    seed, since_finished, most_in_a_row = 1, 0, 0
    while found["killed"] < count:
        before = place.finished_stages()
        place.log.unlink(missing_ok=True)
        child = place.start(seed=seed)
        until = time.monotonic() + dice.uniform(0, 1.1 * whole_s)
        code = None
        while code is None and time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0.002)
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            code = place.finish(child)
        after = place.finished_stages()
        found["stages made twice"] += sum(after.get(name) not in (inode, None) for name, inode in before.items())
        found["half bundles"] += place.state() != "whole"  # the first build's, or a later one
        if code == -signal.SIGKILL:
            found["killed"] += 1
            since_finished += 1
            most_in_a_row = max(most_in_a_row, since_finished)
        elif code == 0:
            found["finished"] += 1
            beside = [each.name for each in place.bundle.parent.iterdir() if each.name != place.bundle.name]
            found["left behind"] += sum(name.startswith(".") for name in beside)
            seed, since_finished = seed + 1, 0
            shutil.rmtree(place.folder / "work")
            keep({**found, "most kills of one build": most_in_a_row, "seconds of a build": round(whole_s, 1)})
        else:
            found["failed"] += 1
            print(f"exit code {code}: {place.said()[-2000:]}")
        print(f"{found['killed']} killed, {found['finished']} finished", flush=True)
    resumed = place.build(seed=seed) == 0 and place.state() == "whole"
    found["finished"] += resumed
    found["failed"] += not resumed
    return {**found, "most kills of one build": most_in_a_row, "seconds of a build": round(whole_s, 1)}


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """Mount a tmpfs of `size` bytes; yields what changes its options."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def disks(folder: Path, count: int) -> dict[str, Any] | None:
    """Build on disks that fill, of `count` sizes up to what a build needs; then give each room and build again."""
    if os.geteuid() != 0:
        return None
    found = dict.fromkeys(("disks", "refused with one message", "large enough", "half bundles", "failed", "went on"), 0)
    with small_disk(folder / "whole", 1 << 28):
        place = Place(folder / "whole")
        if place.build() != 0:
            raise StorageError(f"the build fails on a tmpfs:\n{place.said()[-2000:]}")
        used = os.statvfs(place.folder)
        needed = (used.f_blocks - used.f_bfree) * used.f_frsize
    for step in range(count):
        size = max(2 * _PAGE, (needed * (step + 1) // count) // _PAGE * _PAGE)
        with small_disk(folder / "small", size) as change:
            place = Place(folder / "small")
            code, said = place.build(), place.said()
            found["disks"] += 1
            found["large enough"] += code == 0
            found["half bundles"] += place.state() == "half"
            is_clean = code == StorageError.exit_code and "Traceback" not in said
            found["refused with one message"] += is_clean
            if code != 0 and not is_clean:
                found["failed"] += 1
                print(f"{size} bytes: exit code {code}: {said[-1500:]}")
            change("size=256m")
            found["went on"] += place.build() == 0 and place.state() == "whole"
            print(f"{size} of {needed} bytes: exit code {code}", flush=True)
    return {**found, "kB of a build": needed >> 10}


def read_only(folder: Path) -> dict[str, Any] | None:
    """Build on a disk that nobody may write."""
    if os.geteuid() != 0:
        return None
    with small_disk(folder / "read-only", 1 << 24) as change:
        place = Place(folder / "read-only")
        change("ro")
        code = place.build()
        return {
            "disks": 1,
            "refused with one message": int(code == StorageError.exit_code and "Traceback" not in place.said()),
        }


def pairs(folder: Path, count: int) -> dict[str, Any]:
    """Start two builds at the same moment: with one work folder, and with one each and the same bundle."""
    found = dict.fromkeys(("one work folder", "one built, one refused", "one bundle", "both built", "half bundles"), 0)
    for number, (work, ended) in itertools.product(
        range(count), (("work", "one work folder"), ("other", "one bundle"))
    ):
        place = Place(folder / f"pair-{number}-{work}")
        children = [place.start(seed=0), place.start(seed=1, work=work)]
        codes = sorted(place.finish(child) for child in children)
        found[ended] += 1
        found["half bundles"] += place.state() != "whole"
        if work == "work":
            is_said = "another build is using the work folder" in " ".join(place.said().split())
            found["one built, one refused"] += codes == [0, StorageError.exit_code] and is_said
        else:
            found["both built"] += codes == [0, 0]
        print(f"two builds, {ended}: exit codes {codes}", flush=True)
    return found


def clocks(folder: Path, count: int, dice: random.Random) -> dict[str, Any]:
    """Build while the clock jumps by up to ten years at each look."""

    def jump() -> None:
        now = time.time
        time.time = lambda: now() + dice.uniform(-10, 10) * _YEAR_S

    place = Place(folder / "clock")
    codes = [place.build(seed=seed, before=jump) for seed in range(count)]
    return {"builds": count, "finished": codes.count(0), "half bundles": int(place.state() != "whole")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--sizes", type=int, default=60, help="disks that fill")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clocks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def keep(name: str, found: dict[str, Any]) -> None:
        kept[name] = {**found, "cpu": machine().cpu.model}
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        warm_up(folder)
        faults: dict[str, Callable[[], dict[str, Any] | None]] = {
            "two builds": lambda: pairs(folder, arguments.pairs),
            "clock": lambda: clocks(folder, arguments.clocks, dice),
            "full disk": lambda: disks(folder, arguments.sizes),
            "read-only disk": lambda: read_only(folder),
            "SIGKILL": lambda: kills(folder, arguments.kills, dice, lambda found: keep("SIGKILL", found)),
        }
        asked = {"two builds": arguments.pairs, "clock": arguments.clocks, "full disk": arguments.sizes,
                 "SIGKILL": arguments.kills, "read-only disk": 1}  # fmt: skip
        for name, tried in faults.items():
            if asked[name] and (found := tried()) is not None:
                keep(name, found)
    print(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()
