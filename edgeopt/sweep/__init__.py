"""Build a recipe many times with other settings, on one machine or a cluster, and compare the bundles."""

from edgeopt.sweep.page import sweep_html
from edgeopt.sweep.plan import Plan, SweepConfig, read_plan
from edgeopt.sweep.results import TrialResult, VariantResult, fronts
from edgeopt.sweep.run import Swept, sweep
from edgeopt.sweep.workers import LocalWorkers, RayWorkers, Workers

__all__ = [
    "LocalWorkers",
    "Plan",
    "RayWorkers",
    "SweepConfig",
    "Swept",
    "TrialResult",
    "VariantResult",
    "Workers",
    "fronts",
    "read_plan",
    "sweep",
    "sweep_html",
]
