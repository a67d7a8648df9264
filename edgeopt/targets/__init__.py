"""Targets: ONNX bytes to an engine, one module a target."""
