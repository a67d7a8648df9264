"""Lines about the layers of a quantized network that stay float."""

from __future__ import annotations

from collections.abc import Iterator

from edgeopt.bundle.records import IntegerCoverage

_SHOWN = 10


def coverage_lines(found: IntegerCoverage) -> Iterator[str]:
    """Yield the share of the work that is on integers, then each layer that is not, the largest first."""
    yield found.summary()
    for layer in found.floats[:_SHOWN]:
        yield f"{layer.operator} {layer.name} stays float ({layer.share:.1%}): {layer.why}"
    if len(found.floats) > _SHOWN:
        rest = found.floats[_SHOWN:]
        yield f"{len(rest)} more stay float ({sum(layer.share for layer in rest):.1%}); --json has them all"
