"""Find the folders of a data set whose names are off by a letter's case, or by one folder up or down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeopt.dataset.files import is_data_folder


def folder_with(pattern: str, places: Iterable[Path], names: Sequence[str]) -> Path | None:
    """Return the first folder of one of some names, in any letter case, that holds files of a pattern at any depth.

    Args:
        pattern: glob of file names.
        places: folders to look in.
        names: in lower case, the likeliest first.
    """
    for place in places:
        inside = {each.name.lower(): each for each in subfolders(place)}
        for name in names:
            if name in inside and next(inside[name].rglob(pattern), None) is not None:
                return inside[name]
    return None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and those that tools leave behind."""
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.is_dir() and is_data_folder(each.name))
