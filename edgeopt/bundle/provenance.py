"""Who built a bundle and from what, as SLSA's provenance says it: from the manifest alone.

Nothing of the machine is in it: no path, user or host, and no processor.
"""

from __future__ import annotations

import json
from typing import Final

import msgspec

from edgeopt.bundle.manifest import Manifest
from edgeopt.errors import BundleError
from edgeopt.files import sha256
from edgeopt.trust.provenance import BuildDefinition, Builder, BuildMetadata, Material, Provenance, RunDetails

BUILD_TYPE: Final = "pkg:pypi/edgeopt#build/v1"
"""`edgeopt build` of a recipe. Its parameter ``recipe`` is the sha256 of the manifest's ``recipe``, as Python's json
writes that in UTF-8 with sorted keys and no spaces. Its dependencies are data sets, model files and Python packages
(deploy/README.md)."""
_RECIPE: Final = "recipe"
_DATASET: Final = "edgeoptDataset"
"""Digest of a data set: sha256 in hexadecimal over its class names, and the contents and labels of its images in their
order (`dataset.Dataset.fingerprint`)."""


def provenance_of(manifest: Manifest, builder: str, origin: str) -> Provenance:
    """Return what a manifest tells about how its bundle was built.

    Args:
        manifest: the bundle's.
        builder: URI of who built it, which no bundle knows.
        origin: names the bundle in errors.

    Raises:
        BundleError: it does not say from which recipe it was built.
    """
    if manifest.recipe is None:
        raise BundleError(
            f"{origin} does not hold the recipe that it was built from, so that nothing can be said of it"
        )
    datasets = [
        Material(f"{role} images", digest={_DATASET: fingerprint})
        for role, fingerprint in sorted(manifest.datasets.items())
    ]
    sources = [Material(name, digest={"sha256": digest}) for name, digest in sorted(manifest.sources.items())]
    packages = [Material(uri=package_url(name, found)) for name, found in sorted(manifest.versions.items())]
    return Provenance(
        BuildDefinition(
            build_type=BUILD_TYPE,
            external_parameters={_RECIPE: f"sha256:{recipe_digest(manifest)}"},
            internal_parameters={"buildKey": manifest.build_key},
            resolved_dependencies=[*sources, *datasets, *packages],
        ),
        RunDetails(
            Builder(builder, {name: found for name, found in manifest.versions.items() if name == "edgeopt"}),
            BuildMetadata(manifest.created.isoformat().replace("+00:00", "Z")),
        ),
    )


def check_provenance(found: Provenance, manifest: Manifest, origin: str) -> None:
    """Refuse provenance of another kind of build, or of another recipe than the manifest's.

    Raises:
        BundleError: naming what differs.
    """
    build = found.build_definition
    if build.build_type != BUILD_TYPE:
        raise BundleError(f"{origin} describes a build of type {build.build_type}; edgeopt checks {BUILD_TYPE}")
    if build.external_parameters != {_RECIPE: f"sha256:{recipe_digest(manifest)}"}:
        raise BundleError(f"{origin} names another recipe than the bundle's. Sign again with --provenance")


def recipe_digest(manifest: Manifest) -> str:
    """sha256 of the recipe that a manifest holds."""
    text = json.dumps(msgspec.to_builtins(manifest.recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode())


def package_url(name: str, version: str) -> str:
    """Name of a Python package as a package URL (https://github.com/package-url/purl-spec)."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
