"""Rewrites: change a graph without changing what it computes, and convert to FP16."""
