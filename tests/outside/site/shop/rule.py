"""A lint rule: kernels that some accelerator does not have."""

from collections.abc import Iterator

from edgeopt.lint import Finding
from edgeopt.lint.graph import Linted, finding


def strided(linted: Linted) -> Iterator[Finding]:
    """edgeopt lint --rules shop.rule:strided."""
    for node in linted.of("Conv"):
        strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else [1, 1]
        if max(strides) > 1:
            yield finding("strided", "warning", node, f"has strides {strides}", "pool instead")
