"""Number of pictures that a server should run at once, as far as the bundle knows."""

from __future__ import annotations

from edgeopt.bundle import Variant
from edgeopt.package.contents import Source
from edgeopt.runtime.choice import choose, measured_here


def largest_batch(source: Source, variant: Variant | None) -> int:
    """Return the batch that was measured to be worth it on this kind of machine; 1 if none was measured.

    Args:
        source: the bundle.
        variant: the variant to run; None: what is chosen on this machine.
    """
    manifest = source.bundle.manifest
    name = choose(manifest).name if variant is None else variant.name
    measured = None if name is None else measured_here(manifest).get(name)
    return (None if measured is None else measured.best_batch) or 1
