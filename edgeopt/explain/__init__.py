"""Explain: where FP32 and INT8 look in the same pictures, how far apart that is, and how faithful the maps are."""

from edgeopt.explain.run import MASKS, Explained, Settings, explain, variants_to_compare

__all__ = ["MASKS", "Explained", "Settings", "explain", "variants_to_compare"]
