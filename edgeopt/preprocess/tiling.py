"""Cut a picture into overlapping tiles."""

from __future__ import annotations

from typing import TypeAlias

from edgeopt.errors import DataError
from edgeopt.spec import Size, Tiles

Window: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels of the picture."""


_MOST = 2000
"""Most tiles of a picture: they are in memory together."""


def windows(size: Size, tile: Size, tiles: Tiles) -> list[Window]:
    """Return left, top, right and bottom of each tile, row by row; the whole picture comes last where it is wanted.

    Tiles are spread evenly, so that none sees less than the others, and neighbours share `tiles.overlap` or more.

    Args:
        size: (height, width) of the picture.
        tile: (height, width) of a tile, where `tiles` says none.
        tiles: as asked for.

    Raises:
        DataError: there would be very many.
    """
    height, width = (tiles.size, tiles.size) if tiles.size is not None else tile
    rows, columns = (_starts(whole, side, tiles.overlap) for whole, side in zip(size, (height, width), strict=True))
    if len(rows) * len(columns) > _MOST:
        raise DataError(
            f"a picture of {size[1]} x {size[0]} pixels makes {len(rows) * len(columns)} tiles of {width} x {height} "
            f"with overlap {tiles.overlap:g}, and {_MOST} are the most. Choose larger ones or less overlap"
        )
    found = [(left, top, min(left + width, size[1]), min(top + height, size[0])) for top in rows for left in columns]
    return [*found, (0, 0, size[1], size[0])] if tiles.whole and len(found) > 1 else found


def _starts(whole: int, side: int, overlap: float) -> list[int]:
    """Return the first pixels of tiles along one axis."""
    if side >= whole:
        return [0]
    step = max(int(side * (1.0 - overlap)), 1)
    count = -(-(whole - side) // step) + 1
    return [round(index * (whole - side) / (count - 1)) for index in range(count)]
