"""A confusion matrix as a picture of its own, outside the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeopt.report import svg

_LARGEST = 100
"""Classes; above, a cell is smaller than four of the drawing's units."""
_STYLE = (
    "svg { background: #fff; font: 12px system-ui, sans-serif } .soft { fill: #5d6672 } .onfill { fill: #fff } "
    ".right { fill: #0f8b6d } .wrong { fill: #c6402f }"
)
"""The page's light colours: a picture in a document has no page to take them from."""


def confusion_picture(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    """SVG of a confusion matrix, rows the true classes; empty where there are too many classes to see.

    Args:
        matrix: (n, n) counts.
        labels: (n) names.
    """
    if len(labels) > _LARGEST:
        return ""
    drawing = svg.heat_matrix(matrix, labels, "true class", "predicted class")
    return drawing.replace(">", f"><style>{_STYLE}</style>", 1)
