"""A metric: the share of right answers for the class that is recognized worst."""

from collections.abc import Sequence

from edgeopt.dataset import Target
from edgeopt.postprocess import Classification


def worst_class(results: Sequence[Classification], truths: Sequence[Target]) -> float:
    """[evaluate] metrics = ["shop.metric:worst_class"]."""
    right: dict[Target, list[bool]] = {}
    for result, truth in zip(results, truths, strict=True):
        right.setdefault(truth, []).append(result.classes[0] == truth)
    return min(sum(each) / len(each) for each in right.values())
