"""An ONNX graph run in torch, node after node, so that gradients flow through it, through quantizers too.

Only this package of `passes` and `repair.fine_tune` know torch; they are imported where gradients are asked for.
"""
