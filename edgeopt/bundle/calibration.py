"""Calibration record of a bundle: its images, and whether they were enough and the right ones."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from edgeopt.config import CalibrateConfig
from edgeopt.spec import Struct

Count: TypeAlias = Annotated[int, Meta(ge=0)]
SETTLED: Final = 0.05
"""Largest mean movement of ranges that counts as settled. A range that is 5 % too wide or narrow costs .4 dB, less than
the methods of finding ranges differ by."""
_LISTED = 5
_UNLIKE = 2.0
"""Times that INT8 must be further from FP32 on images of one kind than on those of another, beside an interval without
1, to call them unlike: two halves of one set differ by less."""


class Convergence(Struct):
    """Movement of the ranges as images were added.

    A tensor's movement is the distance of both ends of its range from where they came to lie after all images, over the
    width of that last range.
    """

    images: tuple[int, ...]
    """Number of images at each look, ascending; the last is all of them."""
    mean: tuple[float, ...]
    """Over the tensors, of their movement; the last is 0."""
    largest: tuple[float, ...]
    """Movement that 95 % of the tensors stay below."""

    @property
    def last_half(self) -> tuple[int, float]:
        """The last look at half of the images or fewer, and how far the ranges moved on average from there."""
        before = [index for index, count in enumerate(self.images) if 2 * count <= self.images[-1]]
        index = before[-1] if before else 0
        return self.images[index], self.mean[index]

    @property
    def is_settled(self) -> bool:
        """True if the second half of the images hardly moved the ranges."""
        return self.last_half[1] <= SETTLED

    def summary(self) -> str:
        """One line for people."""
        count, moved = self.last_half
        if self.is_settled:
            return f"settled: moved {moved:.1%} after the first {count} images"
        return f"not settled: still moved {moved:.1%} after the first {count} images; calibrate on more"


class ClassCoverage(Struct):
    """Classes that the calibration images show."""

    classes: Count
    """Number of the model's classes."""
    present: Count
    """Number of classes that occur."""
    missing: tuple[str, ...] = ()
    """Some of those that do not."""

    @classmethod
    def of(cls, labels: tuple[str, ...], counts: list[int]) -> ClassCoverage:
        """Compute it from the number of images or objects of each class."""
        missing = [label for label, count in zip(labels, counts, strict=True) if not count]
        return cls(classes=len(labels), present=len(labels) - len(missing), missing=tuple(missing[:_LISTED]))

    def summary(self) -> str:
        """One line for people."""
        absent = self.classes - self.present
        if not absent:
            return "the only one occurs" if self.classes == 1 else f"all {self.classes} occur"
        more = "" if absent <= len(self.missing) else " and others"
        return f"{self.present} of {self.classes} occur; not {', '.join(self.missing)}{more}"


class Likeness(Struct):
    """Distance of INT8's outputs from FP32's on test images, as a multiple of that on calibration images."""

    calibration: Count
    """Calibration images that were compared, of those that no repair was chosen on."""
    test: Count
    """Test images that were compared."""
    ratio: float
    """Median over the test images, over the median over the calibration images."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of it."""

    @property
    def is_alike(self) -> bool:
        """False where the ratio is certainly not 1, and far from it."""
        return self.low <= 1.0 <= self.high or 1.0 / _UNLIKE <= self.ratio <= _UNLIKE

    def summary(self) -> str:
        """One line for people."""
        times = f"{self.ratio:.2f} times as far from FP32 as on calibration images"
        found = f"INT8 is {times} (95 % interval {self.low:.2f} to {self.high:.2f})"
        if self.is_alike:
            return found
        return f"unlike the calibration images: {found}. Calibrate on images like those that it will see"


class Calibration(Struct):
    """Origin of the activation ranges."""

    method: str
    images: Count
    fingerprint: str
    """Fingerprint of the calibration set."""
    names: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    """Sha256 of what each image shows, in the order of `names`: none of them may be evaluated on."""
    repeated: Count = 0
    """Images that show the same as an earlier one."""
    convergence: Convergence | None = None
    coverage: ClassCoverage | None = None
    """Classes in the images; None if the images have no labels."""
    preprocessing: str = ""
    """Sha256 of the network inputs that some of the images gave, when calibrated and when evaluated alike."""
    compared: Count = 0
    """Images whose network inputs were compared byte by byte with those that the evaluation feeds."""
    settings: CalibrateConfig | None = None
    """Settings of the recipe."""
    likeness: Likeness | None = None
    """Comparison with the test images; None without an INT8 variant, or with too few images."""

    def findings(self) -> dict[str, str]:
        """Return the calibration doctor's findings, one line a subject."""
        found = {"images": self._images()}
        if self.convergence is not None:
            found["ranges"] = self.convergence.summary()
        if self.coverage is not None:
            found["classes"] = self.coverage.summary()
        if self.compared:
            found["preprocessing"] = f"as in evaluation, byte by byte on {self.compared} images"
        if self.likeness is not None:
            found["test images"] = self.likeness.summary()
        return found

    def _images(self) -> str:
        parts = [f"{self.images} by {self.method}"]
        if self.repeated:
            parts.append(f"{self.repeated} show the same as another")
        if self.hashes:
            parts.append("none of them in the test set")
        return ", ".join(parts)
