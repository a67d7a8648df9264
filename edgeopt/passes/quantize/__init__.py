"""Quantization: find eligible layers, place quantizers, and insert them."""
