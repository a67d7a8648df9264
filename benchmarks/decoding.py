"""Time to decode a detector's output, beside that of another checkout: python -m benchmarks.decoding --against FOLDER.

Both run in a process of their own and take turns, so that the ratios stand whatever else the machine does. Outputs are
random, with as many objects as the row says; each ratio is the median over the rounds of the medians of some queries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

_ROUNDS, _QUERIES, _CLASSES = 16, 20, 80
_CASES = [(kind, size, objects) for kind in ("yolox", "yolo") for size in (416, 640) for objects in (0, 30, 300)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        _answer()
        return
    folders = [options.against or Path(), Path()]
    children = [_child(folder.resolve()) for folder in folders]
    for number, (kind, size, objects) in enumerate(_CASES):
        times = []
        for turn in range(_ROUNDS):
            order = (0, 1) if turn % 2 else (1, 0)
            found = {index: _asked(children[index], number) for index in order}
            times.append((found[0], found[1]))
        ratio = median(own / other for other, own in times)
        other, own = (1e6 * median(column) for column in zip(*times, strict=True))
        print(f"{kind:6} {size} {objects:4} objects: {other:6.0f} µs → {own:6.0f} µs, {ratio:.2f}x")
    for child in children:
        child.communicate()


def _child(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, __file__, "--answer"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _asked(child: subprocess.Popen[str], number: int) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{number}\n")
    child.stdin.flush()
    return float(json.loads(child.stdout.readline()))


def _answer() -> None:
    """Decode the case whose number each line has, and print the median time in seconds."""
    from edgeopt.boxes import Geometry
    from edgeopt.postprocess import decode

    cases = [_case(*case) for case in _CASES]
    geometries = [Geometry(0.65, 0.65, 0.0, 0.0, 640, 480)]
    for line in sys.stdin:
        spec, output = cases[int(line)]
        times = []
        for _ in range(_QUERIES):
            start = time.perf_counter()
            decode({"output": output}, spec, geometries)
            times.append(time.perf_counter() - start)
        print(json.dumps(median(times)), flush=True)


def _case(kind: str, size: int, objects: int):  # noqa: ANN202 - of the other checkout's own types
    from edgeopt.config import parse_config
    from edgeopt.spec import ModelSpec, Preprocessing, TensorSpec

    # The type's name is one that every version of a recipe knows.
    recipe = f'name = "x"\n[model]\nsource = "m.onnx"\n[model.decoding]\ntype = "{kind}"\n'
    rng = np.random.default_rng(0)
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    rows = np.zeros((1, anchors, 5 + _CLASSES), np.float32)
    rows[0, :, :4] = rng.normal(0, 1, (anchors, 4))
    rows[0, :, 4:] = rng.random((anchors, 1 + _CLASSES)) * 0.1
    for anchor in rng.choice(anchors, objects, replace=False):
        rows[0, anchor, 4] = rows[0, anchor, 5 + rng.integers(_CLASSES)] = 0.9
    if kind == "yolo":
        scores = rows[..., 4:5] * rows[..., 5:]
        rows = np.concatenate([rows[..., :4] * 20 + size / 2, scores], axis=2).transpose(0, 2, 1).copy()
    spec = ModelSpec(
        name="m",
        task="detection",
        input=TensorSpec(name="x", shape=(1, 3, size, size)),
        outputs=(TensorSpec(name="output", shape=rows.shape),),
        preprocessing=Preprocessing(),
        decoding=parse_config(recipe).model.decoding,
        labels=tuple(f"class{index}" for index in range(_CLASSES)),
    )
    return spec, rows


if __name__ == "__main__":
    main()
