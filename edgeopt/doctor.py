"""Doctor: examine this machine, each target on it, and a named board."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import edgeopt
from edgeopt.hardware import JETPACKS, Device, JetPack, Machine, machine
from edgeopt.hardware import device as board
from edgeopt.runtime.cuda import importable_providers
from edgeopt.runtime.session import availability
from edgeopt.spec import Struct
from edgeopt.targets import TARGETS, find_target

_PACKAGES = ("numpy", "opencv-python", "pycuda")
"""Packages to list beside those of the targets."""


class TargetState(Struct):
    """State of one target on this machine."""

    name: str
    compiles: bool
    runs: bool
    problem: str
    """Reason why it does not run, or not even compile; empty if it runs."""
    offers: str
    """Strengths and options of the target here."""


class DoctorReport(Struct):
    """The whole diagnosis."""

    machine: Machine
    versions: dict[str, str]
    """Versions of edgeopt, of the targets' libraries and of `_PACKAGES`, without those that are not installed."""
    cuda_providers: dict[str, str]
    """Ways to talk to CUDA, with the reason why each cannot be loaded; empty if it can."""
    targets: tuple[TargetState, ...]
    device: Device | None = None
    """Board that was asked about."""
    jetpacks: tuple[JetPack, ...] = ()
    """JetPacks that run on the board."""


def doctor(device: str | None = None) -> DoctorReport:
    """Examine this machine, and look up `device` in the table of boards.

    Raises:
        ConfigError: there is no such board; the message suggests the closest.
    """
    named = board(device) if device else None
    here = machine()
    return DoctorReport(
        machine=here,
        versions=_versions(),
        cuda_providers={str(name): problem for name, problem in importable_providers().items()},
        targets=tuple(_state(name, here) for name in TARGETS),
        device=named,
        jetpacks=tuple(jetpack for jetpack in JETPACKS if named and jetpack.version in named.jetpacks),
    )


def _versions() -> dict[str, str]:
    found = {"edgeopt": edgeopt.__version__}
    for name in (*_PACKAGES, *(name for target in TARGETS for name in find_target(target).distributions)):
        installed = _version(name)
        if installed is not None:
            found[name] = installed
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _state(name: str, here: Machine) -> TargetState:
    runs, target = availability(name), find_target(name)
    return TargetState(
        name=name,
        compiles=target.can_compile().ok,
        runs=runs.ok,
        problem=runs.reason,
        offers=target.offers(here),
    )
