"""Write an AveragePool over the whole map as the GlobalAveragePool that it is.

Of the former in INT8 with fewer than 16 channels OpenVINO 2026.4.1 answers wrongly (more noise than signal).
"""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.graph.edit import bypass, graph_of, make_node, node_name


def whole_averages(model: ir.Model) -> None:
    """Rewrite them in place.

    Args:
        model: with shapes on its values.
    """
    for node in list(model.graph):
        if node.op_type != "AveragePool" or node.domain or not _covers_map(node):
            continue
        value, result, name = node.inputs[0], node.outputs[0], node_name(node)
        mean = make_node(
            "GlobalAveragePool",
            [value],
            name=name,
            output=f"{result.name}/mean",
            shape=result.shape,
            dtype=result.dtype,
        )
        graph_of(node).insert_before(node, mean)
        bypass(result, mean.outputs[0])


def _covers_map(node: ir.Node) -> bool:
    source = node.inputs[0]
    if source is None or source.shape is None or any(node.attributes.get_ints("pads", ())):
        return False
    padded = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    dilated = any(step != 1 for step in node.attributes.get_ints("dilations", ()))
    return not (padded or dilated) and tuple(source.shape)[2:] == tuple(node.attributes.get_ints("kernel_shape", ()))
