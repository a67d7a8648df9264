"""Search: choose which groups of layers are quantized, by measured accuracy and measured latency together.

The algorithm knows neither graphs nor engines: it asks the callables of a `Problem`.
"""

from edgeopt.bundle.records import Point, SearchResult
from edgeopt.search.find import search
from edgeopt.search.problem import Budget, Plan, Problem, Settings, Validation

__all__ = ["Budget", "Plan", "Point", "Problem", "SearchResult", "Settings", "Validation", "search"]
