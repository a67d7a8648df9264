"""Write suppression and RoIAlign in operators that have a fixed shape and a kernel on every GPU.

TensorRT-RTX has neither NonMaxSuppression nor RoiAlign; full TensorRT has the first as a layer whose size depends on
the data and the second as a plugin. Where suppression only marks boxes, as in a network of `models.faster_rcnn`,
products of the matrix of overlaps with the boxes that are left say the same; and RoIAlign is GridSample on the points
of all regions, then their mean. So a two-stage detector stays one engine.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.graph.edit import add_initializer, bypass, constant, drop_unread_initializers, given, producer

ROUNDS = 24
"""Rounds of suppression. Each settles one more link of the longest chain of boxes of which every one overlaps the next;
boxes further along a chain would be taken or left as after the last round."""
_DOMAIN = "edgeopt.regions"
_LINEAR_MODE_OPSET = 20
"""Opset whose GridSample calls its mode ``linear``, and before ``bilinear``."""


def fixed_regions(model: ir.Model) -> ir.Model:
    """Return a copy without NonMaxSuppression that marks boxes, and without RoiAlign; it computes the same.

    Args:
        model: of any precision, with known shapes but for the batch; not modified. Other uses of these operators stay.
    """
    result = model.clone()
    opset = result.graph.opset_imports[""]
    for node in [node for node in result.graph if _mark(node) is not None]:
        _suppress(result, node, opset)
    for node in [node for node in result.graph if _is_aligned(node)]:
        _align(result, node, opset)
    common.InlinePass()(result)
    common.RemoveUnusedNodesPass()(result)
    result.graph.opset_imports.pop(_DOMAIN, None)
    drop_unread_initializers(result.graph)
    for node in result.graph:
        if node.name is None:
            node.name = node.outputs[0].name
    return result


def has_regions(model: ir.Model) -> bool:
    """Return True if `fixed_regions` changes a graph."""
    return any(is_replaced(node) for node in model.graph)


def is_replaced(node: ir.Node) -> bool:
    """Return True for a node that `fixed_regions` writes in other operators."""
    return _mark(node) is not None or _is_aligned(node)


def _mark(node: ir.Node) -> ir.Node | None:
    """Return the ScatterND that a NonMaxSuppression ends in, where it does nothing but mark what is kept with 0."""
    if node.op_type != "NonMaxSuppression" or not _leaves_out_overlaps_alone(node):
        return None
    behind = _followers(node)
    scatters = [each for each in behind if each.op_type == "ScatterND"]
    if len(scatters) != 1 or {each.op_type for each in behind} != {"Gather", "Cast", "ScatterND"}:
        return None
    (scatter,) = scatters
    if any(each.outputs[0].is_graph_output() for each in (node, *behind) if each is not scatter):
        return None
    places = producer(scatter.inputs[1], "Gather")
    columns = None if places is None else constant(places.inputs[1])
    everything = producer(scatter.inputs[0], "Expand")
    ones = constant(everything.inputs[0]) if everything is not None else constant(scatter.inputs[0])
    marks = columns is not None and columns.tolist() == [0, 2] and ones is not None and bool((ones == 1.0).all())
    return scatter if marks else None


def _leaves_out_overlaps_alone(node: ir.Node) -> bool:
    """Return True for a suppression of a known number of boxes, of one class and by their corners, that keeps any."""
    boxes, scores, most = given(node, 0), given(node, 1), constant(given(node, 2))
    if boxes is None or boxes.shape is None or scores is None or scores.shape is None or most is None:
        return False
    count, thresholds = boxes.shape[1], (constant(given(node, 3)), given(node, 4))
    return (
        isinstance(count, int)
        and most.item() >= count
        and scores.shape[1] == 1
        and not node.attributes.get_int("center_point_box", 0)
        and all(threshold is not None for threshold in thresholds)
    )


def _followers(node: ir.Node) -> list[ir.Node]:
    """Return what reads a node, up to the ScatterND that it ends in, or to what is none of its usual readers."""
    found: list[ir.Node] = []
    left = [node]
    while left:
        for usage in left.pop().outputs[0].uses():
            found.append(usage.node)
            if usage.node.op_type in ("Gather", "Cast"):
                left.append(usage.node)
    return list(dict.fromkeys(found))


def _suppress(model: ir.Model, node: ir.Node, opset: int) -> None:
    scatter = _mark(node)
    boxes = node.inputs[0]
    assert scatter is not None
    assert boxes is not None
    assert boxes.shape is not None
    count = boxes.shape[1]
    assert isinstance(count, int)
    places = np.arange(count, dtype=np.float32)
    order = add_initializer(model.graph, f"{node.name}/places", places)
    function = _function(_suppression(opset))
    _call(model, function, scatter, [boxes, node.inputs[1], node.inputs[3], node.inputs[4], order])


def _is_aligned(node: ir.Node) -> bool:
    """Return True for a RoiAlign whose points do not depend on the size of the region."""
    features = given(node, 0)
    return (
        node.op_type == "RoiAlign"
        and node.attributes.get_string("mode", "avg") == "avg"
        and node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "output_half_pixel"
        and node.attributes.get_int("sampling_ratio", 0) > 0
        and features is not None
        and features.shape is not None
        and all(isinstance(side, int) for side in features.shape[1:])
    )


def _align(model: ir.Model, node: ir.Node, opset: int) -> None:
    features = node.inputs[0]
    assert features is not None
    assert features.shape is not None
    sides = [int(side) for side in features.shape[1:] if isinstance(side, int)]
    function = _function(
        _alignment(
            opset,
            (sides[0], sides[1], sides[2]),
            (node.attributes.get_int("output_height", 1), node.attributes.get_int("output_width", 1)),
            node.attributes.get_int("sampling_ratio", 0),
            node.attributes.get_float("spatial_scale", 1.0),
        )
    )
    _call(model, function, node, list(node.inputs))


def _function(text: str) -> ir.Function:
    return ir.serde.deserialize_function(onnx.parser.parse_function(text))


def _call(model: ir.Model, function: ir.Function, node: ir.Node, inputs: list[ir.Value | None]) -> None:
    """Let a call of `function`, which is inlined later, make what `node` makes."""
    value = node.outputs[0]
    name = f"{function.name}_{len(model.functions)}"
    function.name = name
    model.functions[function.identifier()] = function
    model.graph.opset_imports[_DOMAIN] = 1
    made = ir.Value(name=f"{value.name}/fixed", shape=value.shape, type=value.type)
    call = ir.Node(_DOMAIN, name, inputs, outputs=[made], name=f"{node.name}/fixed")
    model.graph.insert_before(node, call)
    bypass(value, made)


def _suppression(opset: int) -> str:
    """Suppression as `models.regions.is_suppressed` has it: 1 for boxes (N, M, 4) that are dropped, else 0."""
    rounds = "\n".join(
        f"""
          column{number} = Unsqueeze(kept{number}, axis1)
          met{number} = MatMul(column{number}, rivals)
          flat{number} = Squeeze(met{number}, axis1)
          lost{number} = Min(flat{number}, one)
          left{number} = Sub(one, lost{number})
          kept{number + 1} = Mul(eligible, left{number})"""
        for number in range(ROUNDS)
    )
    return f"""
        <opset_import: ["" : {opset}], domain: "{_DOMAIN}">
        Suppress (boxes, scores, overlap, least, places) => (dropped) {{
          axis1 = Constant <value_ints: ints = [1]> ()
          axis2 = Constant <value_ints: ints = [2]> ()
          axis0 = Constant <value_ints: ints = [0]> ()
          one = Constant <value_float: float = 1.0> ()
          first = Constant <value_int: int = 0> ()
          second = Constant <value_int: int = 1> ()
          third = Constant <value_int: int = 2> ()
          fourth = Constant <value_int: int = 3> ()
          score = Squeeze(scores, axis1)
          x1 = Gather <axis: int = 2> (boxes, first)
          y1 = Gather <axis: int = 2> (boxes, second)
          x2 = Gather <axis: int = 2> (boxes, third)
          y2 = Gather <axis: int = 2> (boxes, fourth)
          width = Sub(x2, x1)
          height = Sub(y2, y1)
          area = Mul(width, height)
          x1_row = Unsqueeze(x1, axis2)
          x1_column = Unsqueeze(x1, axis1)
          y1_row = Unsqueeze(y1, axis2)
          y1_column = Unsqueeze(y1, axis1)
          x2_row = Unsqueeze(x2, axis2)
          x2_column = Unsqueeze(x2, axis1)
          y2_row = Unsqueeze(y2, axis2)
          y2_column = Unsqueeze(y2, axis1)
          left = Max(x1_row, x1_column)
          top = Max(y1_row, y1_column)
          right = Min(x2_row, x2_column)
          bottom = Min(y2_row, y2_column)
          across = Sub(right, left)
          down = Sub(bottom, top)
          across_shared = Relu(across)
          down_shared = Relu(down)
          shared = Mul(across_shared, down_shared)
          area_row = Unsqueeze(area, axis2)
          area_column = Unsqueeze(area, axis1)
          both = Add(area_row, area_column)
          union = Sub(both, shared)
          enough = Mul(union, overlap)
          overlaps = Greater(shared, enough)
          score_row = Unsqueeze(score, axis2)
          score_column = Unsqueeze(score, axis1)
          higher = Greater(score_row, score_column)
          equal = Equal(score_row, score_column)
          place_row = Unsqueeze(places, axis1)
          place_column = Unsqueeze(places, axis0)
          earlier = Less(place_row, place_column)
          tied = And(equal, earlier)
          ahead = Or(higher, tied)
          wins = And(overlaps, ahead)
          rivals = Cast <to: int = 1> (wins)
          counts = Greater(score, least)
          eligible = Cast <to: int = 1> (counts)
          kept0 = Identity(eligible)
          {rounds}
          dropped = Sub(one, kept{ROUNDS})
        }}"""


def _alignment(opset: int, features: tuple[int, int, int], bins: tuple[int, int], samples: int, scale: float) -> str:
    """RoIAlign as `models.regions.aligned` has it: images stacked, one GridSample for all regions, then means."""
    channels, height, width = features
    rows, columns = bins[0] * samples, bins[1] * samples
    mode = "linear" if opset >= _LINEAR_MODE_OPSET else "bilinear"

    def steps(count: int) -> str:
        return ", ".join(f"{(index + 0.5) / samples:.9g}" for index in range(count))

    return f"""
        <opset_import: ["" : {opset}], domain: "{_DOMAIN}">
        Align (features, regions, images) => (means) {{
          axis1 = Constant <value_ints: ints = [1]> ()
          axis2 = Constant <value_ints: ints = [2]> ()
          axis3 = Constant <value_ints: ints = [3]> ()
          zero = Constant <value_float: float = 0.0> ()
          one = Constant <value_float: float = 1.0> ()
          minus_one = Constant <value_float: float = -1.0> ()
          two = Constant <value_float: float = 2.0> ()
          scale = Constant <value_float: float = {scale:.9g}> ()
          high = Constant <value_float: float = {height}.0> ()
          wide = Constant <value_float: float = {width}.0> ()
          last_row = Constant <value_float: float = {height - 1}.0> ()
          last_column = Constant <value_float: float = {width - 1}.0> ()
          columns_to_grid = Constant <value_float: float = {2.0 / max(width - 1, 1):.9g}> ()
          bins_x = Constant <value_float: float = {bins[1]}.0> ()
          bins_y = Constant <value_float: float = {bins[0]}.0> ()
          steps_x = Constant <value_floats: floats = [{steps(columns)}]> ()
          steps_y = Constant <value_floats: floats = [{steps(rows)}]> ()
          tall_shape = Constant <value_ints: ints = [1, {channels}, -1, {width}]> ()
          grid_shape = Constant <value_ints: ints = [1, -1, {columns}, 2]> ()
          mask_shape = Constant <value_ints: ints = [1, 1, -1, {columns}]> ()
          point_shape = Constant <value_ints: ints = [{channels}, -1, {bins[0]}, {samples}, {bins[1]}, {samples}]> ()
          spread_x = Constant <value_ints: ints = [1, {rows}, 1]> ()
          spread_y = Constant <value_ints: ints = [1, 1, {columns}]> ()
          place0 = Constant <value_ints: ints = [0]> ()
          place1 = Constant <value_ints: ints = [1]> ()
          place2 = Constant <value_ints: ints = [2]> ()
          place3 = Constant <value_ints: ints = [3]> ()
          averaged = Constant <value_ints: ints = [3, 5]> ()

          swapped = Transpose <perm: ints = [1, 0, 2, 3]> (features)
          tall = Reshape(swapped, tall_shape)
          scaled = Mul(regions, scale)
          x1 = Gather <axis: int = 1> (scaled, place0)
          y1 = Gather <axis: int = 1> (scaled, place1)
          x2 = Gather <axis: int = 1> (scaled, place2)
          y2 = Gather <axis: int = 1> (scaled, place3)
          across = Sub(x2, x1)
          down = Sub(y2, y1)
          across_least = Max(across, one)
          down_least = Max(down, one)
          bin_x = Div(across_least, bins_x)
          bin_y = Div(down_least, bins_y)
          moved_x = Mul(bin_x, steps_x)
          moved_y = Mul(bin_y, steps_y)
          x = Add(x1, moved_x)
          y = Add(y1, moved_y)

          x_from = GreaterOrEqual(x, minus_one)
          x_to = LessOrEqual(x, wide)
          y_from = GreaterOrEqual(y, minus_one)
          y_to = LessOrEqual(y, high)
          x_inside = And(x_from, x_to)
          y_inside = And(y_from, y_to)
          x_inside_row = Unsqueeze(x_inside, axis1)
          y_inside_column = Unsqueeze(y_inside, axis2)
          inside = And(y_inside_column, x_inside_row)
          inside_number = Cast <to: int = 1> (inside)
          mask = Reshape(inside_number, mask_shape)

          x_positive = Max(x, zero)
          y_positive = Max(y, zero)
          x_clipped = Min(x_positive, last_column)
          y_clipped = Min(y_positive, last_row)
          image = Cast <to: int = 1> (images)
          image_start = Mul(image, high)
          image_column = Unsqueeze(image_start, axis1)
          y_stacked = Add(y_clipped, image_column)
          shape = Shape(tall)
          stacked = Gather <axis: int = 0> (shape, place2)
          stacked_rows = Cast <to: int = 1> (stacked)
          all_but_one = Sub(stacked_rows, one)
          at_least_one = Max(all_but_one, one)
          rows_to_grid = Div(two, at_least_one)
          x_scaled = Mul(x_clipped, columns_to_grid)
          y_scaled = Mul(y_stacked, rows_to_grid)
          x_grid = Sub(x_scaled, one)
          y_grid = Sub(y_scaled, one)
          x_row = Unsqueeze(x_grid, axis1)
          y_column = Unsqueeze(y_grid, axis2)
          x_everywhere = Tile(x_row, spread_x)
          y_everywhere = Tile(y_column, spread_y)
          x_last = Unsqueeze(x_everywhere, axis3)
          y_last = Unsqueeze(y_everywhere, axis3)
          pairs = Concat <axis: int = 3> (x_last, y_last)
          grid = Reshape(pairs, grid_shape)
          sampled = GridSample <align_corners: int = 1, mode: string = "{mode}", padding_mode: string = "border">
            (tall, grid)
          masked = Mul(sampled, mask)
          points = Reshape(masked, point_shape)
          by_channel = ReduceMean <keepdims: int = 0> (points, averaged)
          means = Transpose <perm: ints = [1, 0, 2, 3]> (by_channel)
        }}"""
