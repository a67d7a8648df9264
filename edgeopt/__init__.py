"""edgeopt: turn a PyTorch or ONNX image model into something an edge device runs, measured against its FP32 self."""

import os

__version__ = "0.1.0"

# onnxruntime 1.32 sends names of models, graphs and their files, and its errors, to its maker unless this is set before
# it is imported (Privacy.md of its wheel). Whoever wants that sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
