"""Say in sentences what is smaller than was asked for, because nothing gets silently smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeopt.config import Config
from edgeopt.dataset import Dataset
from edgeopt.evaluate.acceptance import images_to_be_certain
from edgeopt.passes.quantize.scheme import scheme
from edgeopt.runtime.session import known_target

_UNLABELLED = (
    "the test images have no labels: variants are compared with the float model's own answers, and how right these are "
    "nobody has measured."
)


def shortfalls(config: Config, counts: Mapping[str, int], *, labelled: bool = True) -> tuple[str, ...]:
    """Describe the shortfalls of the sets that exist.

    Args:
        config: the recipe.
        counts: images of each set.
        labelled: the test images have labels.
    """
    unlabelled = () if labelled else (_UNLABELLED,)
    smaller = (*_calibration(config, counts), *_limits(config, counts), *_test(config, counts, labelled))
    return (*unlabelled, *smaller, *_saturating(config))


def _saturating(config: Config) -> Iterator[str]:
    """Say of a scheme that it is not for a processor on which INT8 must be right."""
    name = config.quantize.scheme
    if not config.quantize.enabled or name is None or "avx2" in scheme(name).processors:
        return
    found = {each: known_target(each) for each in config.compile.targets}
    targets = [each for each, target in found.items() if target is not None and not target.accelerated]
    if targets and "avx2" in config.compile.processors:
        yield (
            f"INT8 of {', '.join(targets)} saturates on x86 processors without VNNI: [quantize] scheme = '{name}' is "
            "not for them. Leave it out, or leave avx2 out of [compile] processors."
        )


def left_out(splits: Mapping[str, Dataset]) -> Iterator[str]:
    """Images that their label files name and that cannot be used."""
    for name, dataset in splits.items():
        if dataset.skipped:
            listed = len(dataset) + len(dataset.skipped)
            yield f"{name}: {len(dataset.skipped)} of {listed} images cannot be used and were left out."


def _calibration(config: Config, counts: Mapping[str, int]) -> Iterator[str]:
    source = config.data.calibration
    limit = None if source is None else source.limit
    wanted = min(config.calibrate.images, limit or config.calibrate.images)
    found = counts.get("calibration", wanted)
    if not config.quantize.enabled or config.quantize.file is not None or found >= wanted:
        return
    why = "[data.calibration] has no more"
    if source is None:
        why = (
            f"they are held out from train, of which [data] holdout sets {config.data.holdout:.0%} aside. Give "
            "[data.calibration], or a larger holdout"
        )
    yield f"calibration has {found} of the {wanted} images that [calibrate] images asks for: {why}."


def _limits(config: Config, counts: Mapping[str, int]) -> Iterator[str]:
    """Describe limits of sets whose images are counted in the recipe; train is what is left after holding out."""
    asked = {f"[data.{name}]": (name, getattr(config.data, name)) for name in ("validation", "test")}
    limits = {table: (name, source.limit) for table, (name, source) in asked.items() if source is not None}
    limits["[evaluate]"] = ("test", config.evaluate.limit)
    for table, (name, limit) in limits.items():
        if limit is not None and name in counts and counts[name] < limit:
            yield f"{name} has {counts[name]} of the {limit} images that {table} limit asks for: there are no more."


def _test(config: Config, counts: Mapping[str, int], labelled: bool) -> Iterator[str]:  # noqa: FBT001 - as above
    """Say that no evaluation on so few images is certain (`evaluate.acceptance` says by how much)."""
    limits = config.evaluate
    allowed = limits.max_drop if labelled else limits.max_disagreement
    needed = images_to_be_certain(allowed)
    what = (
        f"loses no more than the {100 * allowed:.2f} points that [evaluate] max_drop allows"
        if labelled
        else f"differs in no more than the {100 * allowed:.2f} % of answers that [evaluate] max_disagreement allows"
    )
    if "test" not in counts or needed is None or not config.quantize.enabled:
        return
    found = min(counts["test"], config.evaluate.limit or counts["test"])
    if found < needed:
        yield (
            f"test has {found} images: too few to be certain that a variant {what}, for which it takes {needed} at "
            "least."
        )
