"""Kill `edgeopt install` at random moments, and look at what is left.

    python -m benchmarks.installs BUNDLE [--kills 50]

Two releases of the bundle take turns. Each installation is the real command, with its self-test, in a process group of
its own that SIGKILL ends at a random moment of its usual time. Then ``current`` must lead to a whole bundle, whose
golden inputs are answered as recorded. A power cut is more than this: what the disk had not written is lost as well,
which the order of fsyncs is for.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle, write_bundle
from edgeopt.errors import BundleError
from edgeopt.fleet import pack, self_test
from edgeopt.fleet.slots import CURRENT
from edgeopt.spec import replace

RESULTS = Path(__file__).with_name("results") / "installs.json"


def start(file: Path, slots: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgeopt", "install", str(file), "--slot", str(slots)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    rng = random.Random(0)
    killed = ended = broken = switched = 0
    with tempfile.TemporaryDirectory() as folder:
        original = Bundle.open(arguments.bundle)
        files = []
        for number in (1, 2):
            content = {name: original.path / name for name in original.manifest.files}
            bundle = write_bundle(
                Path(folder) / f"{number}.edgeopt", replace(original.manifest, release=number), content
            )
            files.append(Path(folder) / f"{number}.tar.xz")
            pack(bundle.path, files[-1])
        slots = Path(folder) / "slots"
        usual = []
        for file in files:
            begun = time.monotonic()
            if start(file, slots).wait():
                sys.exit("the bundle cannot be installed here")
            usual.append(time.monotonic() - begun)
        release = Bundle.open(slots / CURRENT).manifest.release
        for _ in range(arguments.kills):
            process = start(files[release % 2], slots)
            try:
                process.wait(rng.uniform(0.0, 1.1 * max(usual)))
                ended += 1
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
            try:
                now = Bundle.open(slots / CURRENT).manifest.release
                self_test(slots / CURRENT)
            except BundleError as error:
                broken += 1
                print(error, flush=True)
                continue
            switched += now != release
            release = now
    row = {
        "bundle": arguments.bundle.name,
        "processor": processor(),
        "killed": killed,
        "ended_before": ended,
        "switched": switched,
        "broken": broken,
        "usual_s": round(max(usual), 1),
    }
    record(RESULTS, row, ("bundle",))


if __name__ == "__main__":
    main()
