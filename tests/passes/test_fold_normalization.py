"""A folded normalisation computes what the external one did, from uint8."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from graphs import run
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.errors import ModelError
from edgeopt.passes.rewrite.fold_normalization import fold_normalization
from edgeopt.spec import ClassificationDecoding, ModelSpec, Normalization, Preprocessing, TensorSpec

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Identity(x) }
"""


def spec_with(normalization: Normalization | None, name: str = "x") -> ModelSpec:
    return ModelSpec(
        name="m",
        task="classification",
        input=TensorSpec(name=name, shape=("N", 3, 4, 4)),
        outputs=(TensorSpec(name="y", shape=("N", 3, 4, 4)),),
        preprocessing=Preprocessing(normalization=normalization),
        decoding=ClassificationDecoding(),
        labels=("a",),
    )


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
channels = st.floats(-2, 2, width=32)


@settings(deadline=None, max_examples=15)
@given(
    st.floats(1e-3, 1.0),
    st.one_of(st.tuples(channels), st.tuples(channels, channels, channels)),
    st.one_of(st.just((1.0,)), st.tuples(*[st.floats(0.1, 3.0)] * 3)),
)
def test_the_folded_graph_computes_the_external_normalisation(scale, mean, std):
    folded, _ = fold_normalization(ir.from_onnx_text(TEXT), spec_with(Normalization(scale=scale, mean=mean, std=std)))
    spread = [np.broadcast_to(np.array(values, np.float64), 3).reshape(1, 3, 1, 1) for values in (mean, std)]
    expected = (PIXELS * scale - spread[0]) / spread[1]
    np.testing.assert_allclose(run(folded, x=PIXELS)["y"], expected, rtol=1e-5, atol=1e-5 * max(1, abs(expected).max()))


def test_the_spec_says_uint8_without_normalisation():
    before = spec_with(Normalization())
    _, after = fold_normalization(ir.from_onnx_text(TEXT), before)
    assert after.input.dtype == "uint8"
    assert after.preprocessing.normalization is None
    assert msgspec.structs.replace(after, input=before.input, preprocessing=before.preprocessing) == before


def test_an_identity_normalisation_is_a_cast_alone():
    folded, _ = fold_normalization(ir.from_onnx_text(TEXT), spec_with(Normalization(scale=1.0)))
    assert [node.op_type for node in folded.graph] == ["Cast", "Identity"]


def test_without_normalisation_nothing_happens():
    model, spec = ir.from_onnx_text(TEXT), spec_with(None)
    assert fold_normalization(model, spec) == (model, spec)


def test_the_callers_model_is_not_touched():
    model = ir.from_onnx_text(TEXT)
    fold_normalization(model, spec_with(Normalization()))
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT


def test_a_missing_input_is_an_error_that_lists_what_there_is():
    with pytest.raises(ModelError, match=r"'image'.*\('x'"):
        fold_normalization(ir.from_onnx_text(TEXT), spec_with(Normalization(), name="image"))


def test_a_mean_that_does_not_fit_the_channels_is_an_error():
    with pytest.raises(ModelError, match="mean has 2 values"):
        fold_normalization(ir.from_onnx_text(TEXT), spec_with(Normalization(mean=(0.1, 0.2))))
