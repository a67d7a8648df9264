"""Bundles for fleets: one file each, installed beside the one that runs, and switched to in one step."""

from edgeopt.fleet.packed import pack, unpack
from edgeopt.fleet.slots import Slots, self_test

__all__ = ["Slots", "pack", "self_test", "unpack"]
