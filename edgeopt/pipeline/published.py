"""A recipe as its bundle shows it to others: without the folders of whoever built it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.config import Config
from edgeopt.files import named_path
from edgeopt.typed import convert


def published(config: Config, root: Path) -> Config:
    """Return a recipe whose paths below its own folder are relative to it, and those below the user's begin with ``~``.

    A path elsewhere stays as the recipe has it: nobody could find its images again otherwise.

    Args:
        config: the recipe.
        root: the folder that its relative paths start from.
    """
    folders = [(folder, "") for folder in (root.absolute(), root.resolve())]
    home = named_path(Path(), "~")
    folders += [(folder, "~/") for folder in (home, home.resolve()) if home.is_absolute()]  # not every user has one
    known = [(folder, shown) for folder, shown in folders if folder != Path(folder.anchor)]
    shown: Config = convert(_shortened(msgspec.to_builtins(config), known), Config)
    return shown


def _shortened(value: Any, folders: Sequence[tuple[Path, str]]) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(each, folders) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shortened(each, folders) for each in value]
    if isinstance(value, str) and Path(value).is_absolute():
        for folder, shown in folders:
            if Path(value).is_relative_to(folder):
                return shown + Path(value).relative_to(folder).as_posix()
    return value
