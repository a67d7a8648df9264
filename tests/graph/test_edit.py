"""Edits leave a valid graph in which nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from passes.graphs import model_of, run

from edgeopt.graph.edit import (
    add_initializer,
    constant,
    drop_unread_initializers,
    given,
    make_node,
    node_name,
    number,
    replace_constant,
)

TEXT = "g (float[2] x, float[2] w1) => (y, z) { y = Add(x, w1)  z = Mul(x, w1) }"
W = np.array([2.0, 3.0], np.float32)
X = np.array([1.0, 10.0], np.float32)


def test_a_constant_is_replaced_for_one_reader_and_stays_for_the_other():
    model = model_of(TEXT, w1=W)
    replace_constant(model.graph, model.graph[0], 1, "w1", np.zeros(2, np.float32))
    found = run(model, x=X)
    np.testing.assert_array_equal(found["y"], X)
    np.testing.assert_array_equal(found["z"], X * W)
    assert len(model.graph.initializers) == 2
    replace_constant(model.graph, model.graph[1], 1, "other", np.ones(2, np.float32))
    assert sorted(model.graph.initializers) == ["other", "w1_"]  # the old one went with its last reader


def test_an_input_that_was_left_out_is_added():
    model = model_of("g (float[1,2,4,4] x, float[3,2,1,1] w1) => (y) { y = Conv(x, w1) }")
    x = np.zeros((1, 2, 4, 4), np.float32)
    assert given(model.graph[0], 2) is None
    replace_constant(model.graph, model.graph[0], 2, "bias", np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(run(model, x=x)["y"][0, :, 0, 0], [0, 1, 2])


def test_a_scalar_stays_one_and_a_view_is_stored_in_order():
    graph = model_of(TEXT).graph
    assert add_initializer(graph, "scalar", np.array(2.5)).shape == ir.Shape([])
    assert number(graph.initializers["scalar"]) == 2.5
    view = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(constant(add_initializer(graph, "view", view)), view)
    assert graph.initializers["view"].const_value.tobytes() == np.ascontiguousarray(view).tobytes()
    drop_unread_initializers(graph)
    assert list(graph.initializers) == ["w1"]


def test_a_new_node_has_one_named_and_typed_output_and_is_in_no_graph():
    model = model_of(TEXT)
    node = make_node("Relu", [model.graph.inputs[0]], name="r", output="out", dtype=ir.DataType.FLOAT)
    assert (node.name, node.outputs[0].name, node.outputs[0].dtype, node.graph) == ("r", "out", ir.DataType.FLOAT, None)
    node.name = ""
    assert node_name(node) == "out"
