"""Models: networks as plain torch modules, by name, each with its ModelSpec."""

from __future__ import annotations

from edgeopt.models.catalog import NETWORKS, create, default_spec, network

__all__ = ["NETWORKS", "create", "default_spec", "network"]
