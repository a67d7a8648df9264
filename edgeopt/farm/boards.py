"""Boards by address, name or tag: from the command line, from a ``farm.toml``, or labgrid's places."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, field

from edgeopt.config import read_toml
from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.farm import labgrid
from edgeopt.spec import Struct

FARM_FILE = "farm.toml"
SCHEME = "ssh://"
TAG = "tag:"
_WORD = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:%@-]*")
"""Users and hosts: none begins as an option of ssh does."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.@-]+")

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*(?!\n)$", max_length=100)]


class Address(Struct):
    """An address of OpenSSH's client; its own configuration says the rest."""

    host: str
    user: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``ssh://[user@]host[:port]``.

        Raises:
            ConfigError: it is none.
        """
        refused = ConfigError(f"the address of a board is '{text}'; give it as ssh://user@host or ssh://user@host:port")
        try:
            parts = urlsplit(text)
            host, user, port = parts.hostname or "", parts.username, parts.port
        except ValueError as error:
            raise refused from error
        kept = parts.netloc.rpartition("@")[2].partition(":")[0] if host else ""
        host = kept if kept.lower() == host else host  # names in ~/.ssh/config may have capitals
        bare = text.startswith(SCHEME) and not (
            parts.path.strip("/") or parts.query or parts.fragment or parts.password
        )
        if not bare or not all(_WORD.fullmatch(word) for word in (host, *([user] if user is not None else []))):
            raise refused
        return cls(host=host, user=user, port=port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user, port = (f"{self.user}@" if self.user else ""), (f":{self.port}" if self.port else "")
        return f"{SCHEME}{user}{host}{port}"


class BoardEntry(Struct):
    """One board of a ``farm.toml``."""

    address: str | None = None
    """``ssh://user@host:port``. Default: that of the place's NetworkService."""
    tags: tuple[str, ...] = ()
    edgeopt: str = "edgeopt"
    """Command that starts edgeopt there, such as ``~/venv/bin/edgeopt``."""
    place: str | None = None
    """Place of labgrid's, which is acquired while the board is measured."""


class Farm(Struct):
    """A whole ``farm.toml``."""

    boards: dict[Name, BoardEntry] = field(default_factory=dict)


class Board(Struct):
    """A board to measure on."""

    name: str
    """Name in tables and of its file."""
    address: Address | None
    """None until labgrid has said it."""
    edgeopt: tuple[str, ...] = ("edgeopt",)
    place: str | None = None
    """labgrid's place, or ``KEY=VALUE`` of a reservation, where `reserved` is true."""
    reserved: bool = False

    @property
    def where(self) -> str:
        """Its SSH address, or place of labgrid's."""
        return str(self.address or self.place)


def read_farm(path: Path | None) -> Farm:
    """Read a ``farm.toml``; without one asked for, that of the current folder, or nothing.

    Raises:
        ConfigError: it cannot be read, or a board has neither address nor place.
    """
    if path is None and not Path(FARM_FILE).is_file():
        return Farm()
    path = path or Path(FARM_FILE)
    farm = read_toml(path, Farm)
    for name, entry in farm.boards.items():
        if entry.address is None and entry.place is None:
            raise ConfigError(f"{path}: board '{name}' has neither `address` nor `place`. Give one of them")
        _board(name, entry)
    return farm


def boards_of(references: Sequence[str], farm: Farm) -> tuple[Board, ...]:
    """Return the boards that the user names, each once.

    Args:
        references: ``ssh://user@host:port``, the name of a board or a place, ``tag:NAME`` of the farm's, or
            ``tag:KEY=VALUE`` of labgrid's: one of the places with it.
        farm: that was read.

    Raises:
        ConfigError: there is no such board.
    """
    found: list[Board] = []
    for reference in references:
        found += [each for each in _named(reference, farm) if each not in found]
    names = [each.name for each in found]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two boards are called '{doubled[0]}'. Name them in a {FARM_FILE}")
    return tuple(found)


def _named(reference: str, farm: Farm) -> list[Board]:
    if reference.startswith(SCHEME):
        address = Address.parse(reference)
        same = [name for name, entry in farm.boards.items() if entry.address == reference]
        if same:
            return [_board(name, farm.boards[name]) for name in same]
        return [Board(name=_file_name(str(address).removeprefix(SCHEME)), address=address)]
    if reference.startswith(TAG):
        tag = reference.removeprefix(TAG)
        if "=" in tag:
            return [Board(name=_file_name(tag), address=None, place=labgrid.required(tag), reserved=True)]
        tagged = [_board(name, entry) for name, entry in farm.boards.items() if tag in entry.tags]
        if not tagged:
            known = {each for entry in farm.boards.values() for each in entry.tags}
            advice = f"Give it one in a {FARM_FILE}; places of labgrid's are tag:KEY=VALUE"
            raise ConfigError(f"no board has the tag '{tag}'.{_known(tag, known, advice)}")
        return tagged
    if reference in farm.boards:
        return [_board(reference, farm.boards[reference])]
    if labgrid.is_there():
        return [Board(name=_file_name(reference), address=None, place=reference)]
    advice = f"Give ssh://user@host, name it in a {FARM_FILE}, or install labgrid for its places"
    raise ConfigError(f"there is no board '{reference}'.{_known(reference, farm.boards, advice)}")


def _known(name: str, known: Iterable[str], advice: str) -> str:
    known = tuple(known)
    return did_you_mean(name, known, advice) if known else f" {advice}"


def _board(name: str, entry: BoardEntry) -> Board:
    try:
        words = tuple(shlex.split(entry.edgeopt))
    except ValueError as error:
        raise ConfigError(f"board '{name}': edgeopt is '{entry.edgeopt}': {error}. Close the quotation mark") from error
    if not words:
        raise ConfigError(f"board '{name}': edgeopt is empty. Give the command that starts it, or leave it out")
    address = None if entry.address is None else Address.parse(entry.address)
    return Board(name=name, address=address, edgeopt=words, place=entry.place)


def _file_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("-", text).strip("-.")
