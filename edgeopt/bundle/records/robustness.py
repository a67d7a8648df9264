"""Results of `edgeopt robustness` and `edgeopt attack`: a variant on bad and on hostile pictures, beside FP32."""

from __future__ import annotations

from statistics import fmean

from edgeopt.spec import Struct

FEWEST = 16
"""Images from which on a bundle keeps the figures."""


class Beside(Struct):
    """Main metric of the float variant and of another, on the same pictures, 0 to 1."""

    baseline: float
    variant: float

    @property
    def drop(self) -> float:
        """The loss, positive where the variant is worse."""
        return self.baseline - self.variant


class OnBadPictures(Struct):
    """On noisy, blurred, dark and compressed pictures."""

    metric: str
    """As in `Accuracy.metric`."""
    images: int
    baseline: str
    severities: tuple[int, ...]
    clean: Beside
    kinds: dict[str, Beside]
    """Mean over the severities, by kind."""

    @property
    def drop(self) -> float:
        """Mean loss over all kinds."""
        return fmean(each.drop for each in self.kinds.values())


class UnderAttack(Struct):
    """On pictures that were changed to mislead it."""

    metric: str
    """As in `Accuracy.metric`."""
    images: int
    baseline: str
    clean: Beside
    worst: dict[str, Beside]
    """Under the attack that lowers it most, by largest change of a pixel, of 255."""
    patch: Beside | None = None
    """Behind a patch that hides nothing of it. None: not measured."""
    patch_share: float = 0.0

    @property
    def drop(self) -> float:
        """Largest loss of any radius and of the patch."""
        drops = [each.drop for each in self.worst.values()]
        return max(drops if self.patch is None else [*drops, self.patch.drop])
