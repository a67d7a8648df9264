"""ONNX's own tests of operators, run through `optimize`: no result may change.

Each test's model is tried as it is, and with constants for all inputs but one, as in files: that is what folds.

    python tests/nightly/node_tests.py [--operator NAME] [--record FILE]
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.errors import EdgeoptError
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.passes.rewrite.optimize import optimize

Feeds = Mapping[str, NDArray[Any]]


def cases(operator: str | None = None) -> Iterator[tuple[str, onnx.ModelProto, Feeds]]:
    """Name, model and inputs of every test of the `onnx` package, of tensors of numbers."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(operator)
    for case in found:
        names = [value.name for value in case.model.graph.input]
        arrays = case.data_sets[0][0]
        if len(names) == len(arrays) and all(isinstance(array, np.ndarray) for array in arrays):
            yield case.name, case.model, dict(zip(names, arrays, strict=True))


def forms(model: onnx.ModelProto, feeds: Feeds) -> Iterator[tuple[str, onnx.ModelProto, Feeds]]:
    """Yield the model as it is, with each one of its inputs left and constants for the others, and without inputs."""
    yield "as it is", model, feeds
    if len(feeds) > 1:
        for kept in feeds:
            yield f"all but '{kept}' constant", with_constants(model, feeds, [kept]), {kept: feeds[kept]}
    if feeds:
        yield "all constant", with_constants(model, feeds, []), {}


def with_constants(model: onnx.ModelProto, feeds: Feeds, kept: Sequence[str]) -> onnx.ModelProto:
    """Return `model` with initializers for all inputs but `kept`."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.input[:]
    for value in model.graph.input:
        if value.name in kept:
            made.graph.input.append(value)
        else:
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(feeds[value.name]), value.name))
    return made


def run(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """Return what onnxruntime, without optimizing, computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def problem(model: onnx.ModelProto, feeds: Feeds) -> str | None:
    """Say what `optimize` changes in the results of `model`; None if onnxruntime cannot run it in the first place."""
    try:
        onnx.checker.check_model(model, full_check=True)
        exact, again = run(model, feeds), run(model, feeds)
    except Exception:  # noqa: BLE001 - operators or types that it has no kernel for
        return None
    if not all(_equal(first, second) for first, second in zip(exact, again, strict=True)):
        return None  # random numbers
    try:
        made = ir.to_proto(optimize(raise_opset(ir.from_proto(model), 18, "it", lowest=1)))
        onnx.checker.check_model(made, full_check=True)
        found = run(made, {name: array for name, array in feeds.items() if name in {i.name for i in made.graph.input}})
    except EdgeoptError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - that is what this looks for
        return f"{type(error).__name__}: {error}"
    for output, first, second in zip(model.graph.output, exact, found, strict=True):
        if not _equal(first, second):
            return f"output '{output.name}' changed: {_difference(first, second)}"
    return ""


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(_equal(one, two) for one, two in zip(first, second, strict=True))
    if not isinstance(first, np.ndarray):
        return bool(first == second)
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.dtype.kind != "f":
        return bool((first == second).all())
    tolerance = 1e-2 if first.dtype.itemsize < 4 else 1e-4
    exact, found = first.astype(np.float64), second.astype(np.float64)
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=1.0)  # sums of large numbers may round in another order
    return np.allclose(exact, found, tolerance, tolerance / 10 * largest, equal_nan=True)


def _difference(first: Any, second: Any) -> str:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        if first.shape != second.shape or first.dtype != second.dtype:
            return f"{first.dtype} {first.shape} became {second.dtype} {second.shape}"
        if first.dtype.kind == "f":
            return f"by up to {np.nanmax(np.abs(first.astype(np.float64) - second.astype(np.float64))):.3g}"
    return "another value"


def main() -> int:
    """Run all, print what fails and how many were equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operator", help="only the tests of this operator")
    parser.add_argument("--record", type=Path, help="write the counts and what failed to this JSON file")
    arguments = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    failed: dict[str, str] = {}
    tests = 0
    for name, model, feeds in cases(arguments.operator):
        tests += 1
        for form, made, inputs in forms(model, feeds):
            found = problem(made, inputs)
            counts["not runnable" if found is None else "changed or refused" if found else "equal"] += 1
            if found:
                failed[f"{name}, {form}"] = " ".join(found.split())[:300]
                sys.stdout.write(f"{name}, {form}: {failed[f'{name}, {form}']}\n")
                sys.stdout.flush()
    sys.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()) + "\n")
    if arguments.record is not None:
        versions = {package.__name__: package.__version__ for package in (onnx, onnxruntime)}
        result = {"versions": versions, "tests": tests, "changed or refused": 0, **counts, "failed": failed}
        arguments.record.write_text(json.dumps(result, indent=2) + "\n")
    return int(counts["changed or refused"] > 0)


if __name__ == "__main__":
    sys.exit(main())
