"""Quantization of a graph: what is eligible, where quantizers stand, and inserting them."""
