"""Repairs of a quantized graph, each kept only where held-out images say that it helps."""
