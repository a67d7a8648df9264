"""Public reports of other tools' users, rebuilt small: what edgeopt said at first, and what it says now.

    python -m benchmarks.cases [--scripts FOLDER] [--only NUMBER ...] [--bundle BUNDLE]

Each script in the folder makes its own input, runs `edgeopt` and prints what happens; its comment names the reports.
A case is right if nothing ended in a traceback, the script printed what it should, and no error is above the bound that
stands here. ``--bundle`` is for the script that runs one; by default a small one is built. Rows are kept in
``results/cases.json`` by script.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import Place
from edgeopt.hardware import machine

RESULTS = Path(__file__).resolve().parent / "results" / "cases.json"
SCRIPTS = Path("../shared/cases/bugs")
_QUANTIZED = r"edgeopt (quantize): (exit 0)"
_DATA = r"^(?! |\$)([^\n]+?): (\d+ images), labels .*?, boxes (\[.*\])$"
_MOST_S = 1800


@dataclass(frozen=True)
class Case:
    """One script.

    Attributes:
        before: what happened at commit 7867089, as the folder's README tells.
        shown: pattern of what is shown of the script's output now, group after group.
        least: number of places where it has to be found.
        most: upper bound of the last group of each, where that is an error.
        never: pattern of what it must not print.
        share: upper bound of the second group, an error, over the third, the spread of what it is an error of.
    """

    before: str
    shown: str = _QUANTIZED
    least: int = 1
    most: float | None = None
    never: str = r"TRACEBACK"
    share: float | None = None


CASES = {
    "01": Case("IR 3, whose initializers are inputs too, was not converted", least=2),
    "03": Case(
        "the padding took the quantizer's whole range: a dead network, told as repaired",
        r"padded with (\S+ \S+)(?:(?!padded)[\s\S])*?error: as written ([\d.]+)", 6, 0.05,
    ),
    "04": Case(
        "calibration data was never compared with the model's inputs",
        r"^-- (.*)\n\$ edgeopt quantize: (exit \d+)", 9, never="TRACEBACK|exit 1$",
    ),
    "05": Case("outputs of another number of boxes could not be compared"),
    "06": Case("tensors that are empty where nothing is found could not be observed"),
    "08": Case(
        "time grew with the cube of a layer's inputs: 8,192 did not end in 500 s, 32,768 took 16.5 GB",
        r"^(K = \d+): (\d+ s), peak ([\d.]+) GB", 3, 2.0,
    ),
    "09": Case(
        "any output of rank 2 was judged as scores of classes",
        r"^==> (.*?): mean error ([\d.]+), spread of the output ([\d.]+)", 6, share=0.1,
    ),
    "11": Case(
        "the layer behind a Concat with a constant lost its quantizer",
        r"layers: \{'Conv_0': '[-\w]+', '(Conv_3)': '(AW)'", 4,
    ),
    "12": Case("float16 weights of more than 8,192 values stayed float", r"^-- (.*)\n\$ edgeopt quantize: (exit 0)", 3),
    "14": Case("a product whose constant is on the left ended in a traceback", least=4),
    "15": Case("Gemm's transposition of the activation was ignored", least=3),
    "17": Case("layers stayed float, and nothing said so", r"layers: (\{.*\})"),
    "18": Case("attention with a dynamic batch in FP16 ended in a traceback", least=2),
    "20": Case(
        "nothing said that sums of 16 bits overflow on processors without VNNI",
        r"(x86|onnxruntime): as written [\d.]+; (onnxruntime) ([\d.]+)", 2, 0.05,
    ),
    "21": Case(
        "one scale for all channels of a depthwise ConvTranspose, and no repair",
        r"AccuracyError: the quantized network's outputs are (too far from the float ones): (discrepancy [\d.]+)",
    ),
    "23": Case(
        "a video or a picture behind http was read for ever",
        r"/(v\.mp4|p\.jpg): (exit 0); (\d+ results)", 3,
    ),
    "24": Case("decimals as class numbers were refused", _DATA, 2),
    "25": Case("a polygon, a confidence or commas in one line refused the whole set", _DATA, 4),
    "27": Case("each of these fields refused the whole file", _DATA, 8),
    "28": Case("images under another folder than the file says were not found", _DATA, 5),
    "29": Case("pictures that EXIF turns were left out, and nothing said why", _DATA, 3),
    "30": Case("pictures with these suffixes were passed over in silence", _DATA, 2),
    "32": Case("12 bits became 16 grey levels, nearly black", r"read: (\d+ to \d+) with (64) levels"),
    "34": Case("`lint` called local functions errors", r"edgeopt (\w+): (exit 0)", 2),
    "35": Case("the optimizer's own operator was blamed on the model", least=2),
    "37": Case("the domain ai.onnx and sparse initializers were not read", least=2),
}  # fmt: skip


def judged(case: Case, said: str) -> tuple[list[list[str]], bool]:
    """Return what is shown of a script's output, and if it is right."""
    found = [list(match.groups()) for match in re.finditer(case.shown, said, re.MULTILINE)]
    is_right = len(found) >= case.least and re.search(case.never, said, re.MULTILINE) is None
    if case.most is not None:
        is_right = is_right and all(float(groups[-1]) <= case.most for groups in found)
    if case.share is not None:
        is_right = is_right and all(float(groups[1]) <= case.share * float(groups[2]) for groups in found)
    return found, is_right


def row(number: str, case: Case, script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run one script."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, timeout=_MOST_S, check=False
    )
    said = re.sub(r"/\S*/tmp\w+", "…", done.stdout) + done.stderr[-2000:]
    found, is_right = judged(case, said)
    reports = re.findall(r"[\w.-]+/[\w.-]+#\d+", script.read_text(encoding="utf-8"))
    print(f"{number}: {'right' if is_right else 'short'}, {time.monotonic() - start:.0f} s")
    if not is_right:
        print(said)
    return {
        "script": number,
        "reports": list(dict.fromkeys(reports)),
        "before": case.before,
        "now": found,
        "right": is_right,
        "cpu": machine().cpu.model,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, default=SCRIPTS)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), metavar="NUMBER")
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    if not options.scripts.is_dir():
        sys.exit(f"there is no {options.scripts}: the scripts are not part of the repository")
    kept = {each["script"]: each for each in (json.loads(RESULTS.read_text()) if RESULTS.exists() else [])}
    with tempfile.TemporaryDirectory() as folder:
        for number in options.only or CASES:
            arguments = []
            if number == "23":
                place = Place(Path(folder) / "small")
                if options.bundle is None and place.build() != 0:
                    sys.exit(place.said())
                arguments = [str(options.bundle or place.bundle)]
            kept[number] = row(number, CASES[number], options.scripts / f"{number}.py", arguments)
            RESULTS.write_text(json.dumps([kept[each] for each in sorted(kept)], indent=2) + "\n")


if __name__ == "__main__":
    main()
