"""Compress: remove channels of a torch network until it meets a goal; its training afterwards is `train`'s."""

from __future__ import annotations

from edgeopt.compress.goal import Search, search
from edgeopt.compress.pruning import Pruning
from edgeopt.compress.structure import Structure, restructure, structure_of

__all__ = ["Pruning", "Search", "Structure", "restructure", "search", "structure_of"]
