"""Contents that packages are made from: a bundle, the variant that a server is to run, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.records import Measured
from edgeopt.doors import TARGETS
from edgeopt.errors import TargetError
from edgeopt.runtime import Availability, settings_here
from edgeopt.runtime.choice import Candidates, measured_here
from edgeopt.runtime.session import find_target, known_target
from edgeopt.spec import ModelSpec

Files: TypeAlias = Mapping[str, bytes | Path]
"""Content, or a file to copy, by POSIX path inside the package."""


@dataclass(frozen=True)
class Source:
    """The bundle of a package."""

    bundle: Bundle
    asked: str | None = None
    """Name of the variant that was asked for."""

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.manifest.name

    @property
    def folder(self) -> str:
        """Name of the bundle's folder in a package."""
        return f"{self.name}.edgeopt"

    @property
    def about(self) -> str:
        """One line that says where a file is from."""
        manifest = self.bundle.manifest
        release = f", release {manifest.release}" if manifest.release else ""
        return f"Written by edgeopt {manifest.versions.get('edgeopt', '')} from the bundle '{manifest.name}'{release}"

    def bundle_files(self) -> dict[str, Path]:
        """Return every file of the bundle, by its path in a package."""
        root = self.bundle.path
        return {
            f"{self.folder}/{each.relative_to(root).as_posix()}": each
            for each in sorted(root.rglob("*"))
            if each.is_file()
        }

    def variant(self, server: str) -> Variant:
        """Return the variant that was asked for, or the best one whose engine a server runs.

        Best is what `load` would choose if these targets alone were there: by what was measured on this machine.

        Args:
            server: a key of `Target.served_by`.

        Raises:
            BundleError: no such variant.
            TargetError: the server does not run it, or none of the bundle.
        """
        wanted = " or ".join(name for name in TARGETS if server in find_target(name).served_by)

        def is_meant(reference: str) -> Availability:
            target = known_target(reference)
            ok = target is not None and server in target.served_by
            return Availability(ok, "" if ok else f"{server} takes {wanted}")

        if self.asked is not None:
            found = self.bundle.variant(self.asked)
            if not (meant := is_meant(found.target)).ok:
                raise TargetError(f"variant '{found.name}' is for target '{found.target}', and {meant.reason}")
            return found
        for each in Candidates(self.bundle.manifest, is_meant):
            return each
        raise TargetError(
            f"bundle '{self.name}' has no accepted variant that {server} takes. Build it with [compile] targets of "
            f"{wanted}, or name one with --variant"
        )

    def spec(self, variant: Variant) -> ModelSpec:
        """Return the specification that a variant runs under."""
        return self.bundle.manifest.spec_of(variant)

    def properties(self, variant: Variant) -> Mapping[str, str | int]:
        """Return the engine's settings, as tuned on this machine, in the words of the servers that run it."""
        return find_target(variant.target).properties(settings_here(variant))

    def measured(self, variant: Variant) -> Measured | None:
        """Return what was measured of a variant on this kind of machine."""
        return measured_here(self.bundle.manifest).get(variant.name)
