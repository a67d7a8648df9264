"""ONNX graphs: the table of operators, edits, and sets of tied names, for all rooms that read or change graphs."""
