"""An ONNX graph run in torch, node after node, so that gradients flow through it, through quantizers too.

Only this package of `passes` knows torch; it is imported where gradients are asked for.
"""
