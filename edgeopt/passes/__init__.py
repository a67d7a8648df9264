"""Graph passes: onnx_ir.Model to onnx_ir.Model, one file a pass."""
