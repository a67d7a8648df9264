"""edgeopt: turn a PyTorch or ONNX image model into something an edge device runs, measured against its FP32 self."""

__version__ = "0.1.0"
