"""ONNX graphs, as far as everything that reads or changes them agrees: operators, edits, sets of tied names."""
