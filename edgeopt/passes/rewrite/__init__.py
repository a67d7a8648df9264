"""Rewrites that keep what a graph computes, and FP16."""
