"""Find pictures to measure with where there is no data set: the bundle's golden inputs."""

from __future__ import annotations

from edgeopt.bundle import Bundle
from edgeopt.errors import DataError
from edgeopt.preprocess import Image, to_pictures


def golden_pictures(bundle: Bundle) -> list[Image]:
    """Return the bundle's golden inputs as (H, W, 3) uint8 BGR images of the network's own size.

    Their preprocessing costs less than that of larger photographs; what the network does with them is the same.

    Raises:
        DataError: the bundle has none.
    """
    baseline = bundle.manifest.variant(bundle.manifest.baseline)
    golden = bundle.golden(baseline.name)
    if golden is None:
        raise DataError(f"{bundle.path} has no golden inputs to measure with. Give any folder of images with --data")
    spec = bundle.manifest.spec_of(baseline)
    return to_pictures(golden[0][spec.input.name], spec.preprocessing)
