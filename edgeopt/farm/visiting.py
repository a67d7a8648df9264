"""One board from acquiring to releasing it: copy bundles by digest, and run edgeopt's commands there."""

from __future__ import annotations

import getpass
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import edgeopt
from edgeopt.bundle import MANIFEST_NAME, Bundle
from edgeopt.bundle.archive import FORMAT, add_files, beside
from edgeopt.errors import BundleError, ConfigError, storage_errors
from edgeopt.farm import labgrid
from edgeopt.farm.boards import Address, Board
from edgeopt.farm.errors import BoardError, Stopped
from edgeopt.farm.processes import Finished, Stop
from edgeopt.farm.ssh import RefusedError, Ssh
from edgeopt.files import sha256
from edgeopt.spec import replace

_BUSY, _NO_EDGEOPT, _NO_DISK, _TOO_LONG, _LOST, _NO_FLOCK = range(90, 96)
"""Exit codes of ``board.sh``."""
_SHORT_S = 60.0
_BOOT_S = 300.0
"""Longest time from switching a board on until it answers."""
_AGAIN_S = 3.0
_MORE_S = 60.0
"""Time that a connection has beyond the limit that the board itself keeps."""
_GIVE_MORE = "Give more with --timeout"
_SSH_PORT = 22
_SECONDS_A_BYTE = 1e-4
"""Slowest copying that is waited for: 10 kB a second."""


@dataclass(frozen=True)
class Copy:
    """A bundle as it is copied: what was built and signed, without what machines measured.

    Attributes:
        digest: its `digest_of`.
        archive: its files as a tar archive.
    """

    digest: str
    archive: Path


def digest_of(bundle: Bundle) -> str:
    """Return the digest of manifest and signature, which name and hash all the rest."""
    heads = [MANIFEST_NAME, *beside(bundle, recorded=False)]
    return sha256("\n".join(f"{name} {sha256(bundle.path / name)}" for name in heads).encode())


def copied(bundle: Bundle, archive: Path) -> Copy:
    """Write a bundle's files into an archive to copy.

    Raises:
        BundleError: the path of a file is too long for an archive.
        StorageError: the disk refused.
    """
    with storage_errors(archive), tarfile.open(archive, "w", format=FORMAT) as out:
        add_files(out, bundle, recorded=False)
    return Copy(digest_of(bundle), archive)


class Visit:
    """A board that is ours for now.

    Args:
        ssh: to the board.
        pid: of the process there that holds it.
        words: command that starts edgeopt there.
        limit_s: longest time that a command may take there.
    """

    def __init__(self, ssh: Ssh, pid: int, words: Sequence[str], limit_s: float) -> None:
        self._ssh, self._pid, self._words, self._limit_s = ssh, pid, tuple(words), limit_s

    def bring(self, copy: Copy) -> bool:
        """Copy a bundle, unless the board has it; returns True if it was copied.

        Raises:
            BoardError: edgeopt is not there or of another version, or the disk is full.
        """
        done = self._ssh.run(["probe", copy.digest, *self._words], _SHORT_S)
        command = " ".join(self._words)
        if done.code == _NO_EDGEOPT:
            raise BoardError(
                f"there is no working '{command}'. Install this edgeopt's wheel there, or give its command in "
                "farm.toml (edgeopt = …)"
            )
        self._check(done, "probe")
        *said, state = done.output.decode(errors="replace").split()
        if edgeopt.__version__ not in said[-1:]:
            raise BoardError(
                f"'{command}' is version {said[-1] if said else 'unknown'} there and {edgeopt.__version__} here. "
                "Install the same wheel on both"
            )
        if state == "there":
            return False
        with copy.archive.open("rb") as archive:
            limit = _SHORT_S + _SECONDS_A_BYTE * copy.archive.stat().st_size
            self._check(self._ssh.run(["receive", copy.digest], limit, archive), "receive")
        return True

    def verify(self, name: str, copy: Copy) -> bytes:
        """Verify a copy on the board; one that is refused is removed, so that the next run copies it again.

        Returns:
            Output of `edgeopt verify --json`.

        Raises:
            BoardError: the bundle is refused there, or as of `edgeopt`.
        """
        done = self._step({name: copy}, "verify", name, "--json")
        if done.code == BundleError.exit_code:
            self._ssh.run(["drop", copy.digest], _SHORT_S)
            raise BoardError(f"the bundle is refused there: {_last_words(done.errors)}")
        self._check(done, "verify")
        return done.output

    def edgeopt(self, links: Mapping[str, Copy], *arguments: str, codes: Sequence[int] = (0,)) -> bytes:
        """Run a command of edgeopt in a folder of its own.

        Args:
            links: bundles by the name that the command knows them by, which needs no quoting.
            arguments: of the command.
            codes: exit codes of a command that did its work.

        Returns:
            Its standard output.

        Raises:
            BoardError: it failed, with its last words, or took too long.
        """
        done = self._step(links, *arguments)
        if done.code not in codes or not done.output:  # one that failed may have such a code, too
            self._check(done, arguments[0])
        return done.output

    def _step(self, links: Mapping[str, Copy], *arguments: str) -> Finished:
        names = " ".join(f"{name}={copy.digest}" for name, copy in links.items())
        action = ["step", str(self._pid), f"{self._limit_s:.0f}", names, *self._words, *arguments]
        return self._ssh.run(action, self._limit_s + _MORE_S, command=arguments[0], advice=_GIVE_MORE)

    def _check(self, done: Finished, command: str) -> None:
        """Raise what an exit code means."""
        if done.code == 0:
            return
        words = _last_words(done.errors) or f"exit status {done.code}"
        if "No space left on device" in done.errors or "disk is full" in done.errors:
            raise BoardError(f"its disk is full ({words}). Free some space there")
        if done.code == _NO_DISK:
            raise BoardError(f"its disk refused: {words}. Check its folder ~/.cache/edgeopt/farm")
        if done.code == _TOO_LONG:
            raise BoardError(f"'{command}' did not end within {self._limit_s:.0f} s. {_GIVE_MORE}")
        if done.code == _LOST:
            raise BoardError(f"the connection that held it broke during '{command}'. Look at the board, and run again")
        raise BoardError(f"'{command}' failed there: {words}")


@contextmanager
def visiting(board: Board, limit_s: float, wait_s: float, stop: Stop, *, power_cycle: bool = False) -> Iterator[Visit]:
    """Acquire a board, and release it whatever happens.

    Args:
        board: to visit.
        limit_s: longest time that a command may take there.
        wait_s: longest time to wait for a reservation of labgrid's.
        stop: ends the visit.
        power_cycle: switch it off and on before.

    Raises:
        BoardError: it cannot be reached, or somebody else has it.
        ConfigError: ssh or labgrid's client is not installed.
        Stopped: everything is to end.
    """
    if board.place is None:
        if power_cycle:
            raise BoardError("it has no power switch that labgrid knows. Leave out --power-cycle, or give its `place`")
        with _held(board, limit_s, stop, wait_s=0.0) as visit:
            yield visit
        return
    with labgrid.held(labgrid.required(board.place), reserved=board.reserved, wait_s=wait_s, stop=stop) as place:
        if power_cycle:
            labgrid.cycle_power(place.name, stop)
        if board.address is None:
            if place.service is None:
                raise BoardError(
                    f"labgrid's place '{place.name}' has no NetworkService, which says its address. Export one, or "
                    "give `address` and `place` in farm.toml"
                )
            board = replace(board, address=_address(place.name, place.service))
        with _held(board, limit_s, stop, wait_s=_BOOT_S if power_cycle else 0.0) as visit:
            yield visit


@contextmanager
def _held(board: Board, limit_s: float, stop: Stop, wait_s: float) -> Iterator[Visit]:
    assert board.address is not None
    ssh, end = Ssh(board.address, stop), time.monotonic() + wait_s
    while True:
        try:
            hold = ssh.hold(_who())
            break
        except RefusedError as refused:
            raise _refusal(refused) from refused
        except BoardError:  # one that starts does not answer yet
            if time.monotonic() > end:
                raise
            if stop.wait(_AGAIN_S):
                raise Stopped from None
    with hold:
        yield Visit(ssh, hold.pid, board.edgeopt, limit_s)


def _refusal(refused: RefusedError) -> BoardError:
    if refused.code == _BUSY:
        return BoardError(f"{refused.said or 'somebody'} is measuring on it. Wait until that has ended")
    if refused.code == _NO_FLOCK:
        return BoardError("it has no `flock`, which keeps two from measuring at once. Install util-linux there")
    if "No space left on device" in refused.errors:
        return BoardError(f"its disk is full ({_last_words(refused.errors)}). Free some space there")
    return BoardError(f"it cannot be used: {_last_words(refused.errors) or refused.said or refused.code}")


def _address(place: str, service: Mapping[str, object]) -> Address:
    """Return the address of a place's NetworkService, which is checked as a user's is."""
    user, port = service.get("username"), service.get("port")
    address = Address(
        host=str(service["address"]),
        user=str(user) if user else None,
        port=port if isinstance(port, int) and port != _SSH_PORT else None,
    )
    try:
        return Address.parse(str(address))
    except ConfigError as error:
        raise BoardError(f"labgrid's place '{place}': {error}") from error


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without names
        user = "somebody"
    return f"{user}@{socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _last_words(errors: str) -> str:
    """Return the last message, with edgeopt's title for it taken off."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    begun = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if begun:
        return " ".join(lines[begun[-1] :]).removeprefix("error: ").rstrip(".")
    return lines[-1].rstrip(".") if lines else ""
