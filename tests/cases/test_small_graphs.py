"""A hundred small networks made at random, each quantized in one scheme: valid, loaded by its engines, close to float.

`tests/nightly/small_graphs.py` makes thousands, in every scheme, and `tests/nightly/node_tests.py` runs all tests of
operators that the onnx package has; of these, one in some dozens is here.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nightly"))

from node_tests import cases, forms, problem
from small_graphs import SCHEMES, networks, problems

NEXT = itertools.cycle(SCHEMES)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(networks())
def test_a_random_network_is_quantized_or_refused(model: onnx.ModelProto) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = problems(model, Path(folder), (next(NEXT),))
    assert [each for each in found if not each.startswith(("refused", "not a network"))] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operator", ["Pad", "Squeeze", "BatchNormalization", "SplitToSequence"])
def test_onnx_own_tests_of_an_operator_pass_through_optimize(operator: str) -> None:
    found = {
        f"{name}, {form}": problem(made, inputs)
        for name, model, feeds in cases(operator)
        for form, made, inputs in forms(model, feeds)
    }
    assert {name: text for name, text in found.items() if text} == {}
    assert list(found.values()).count("") > 3
