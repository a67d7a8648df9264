"""Networks as plain torch modules, by name, and the ModelSpec that goes with each."""

from __future__ import annotations

from edgeopt.models.catalog import NETWORKS, create, default_spec, network

__all__ = ["NETWORKS", "create", "default_spec", "network"]
