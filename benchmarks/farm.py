"""Three boards in network namespaces, one of them unplugged while it is measured: what is told, and what is kept.

Run as ``python -m benchmarks.farm [BUNDLE]`` (root, iproute2, openssh-server). Each board is a network namespace behind
a link of its own, with an SSH server of OpenSSH's and a home; `edgeopt farm run` measures a bundle on all of them, and
the link of one goes down in the middle of its measurement. Then it is plugged in again, and the same command measures
only there. Without BUNDLE a tiny one is made. Writes ``results/farm.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recorded import processor, record

RESULTS = Path(__file__).resolve().parent / "results" / "farm.json"
ROOT = Path(__file__).resolve().parents[1]
BOARDS = 3
UNPLUGGED = 1
"""Number of the board that loses its link."""
_NAMES = "farm"
_IN_TIME_S = 300.0
OWN = f"{sys.executable} -m edgeopt"
HERE = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
"""Variables by which a board finds this edgeopt."""


def missing() -> str:
    """Return what this machine lacks for boards of its own, or nothing."""
    if os.geteuid() != 0:
        return "root is needed for network namespaces"
    absent = [name for name in ("ip", "sshd", "ssh", "ssh-keygen", "flock", "setpriv") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install iproute2 openssh-server util-linux)"
    tried = subprocess.run(["ip", "netns", "add", _name(99)], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces are not allowed here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", _name(99)], check=True)
    return ""


def _name(number: int) -> str:
    return f"{_NAMES}{os.getpid()}-{number}"


def _remove_left() -> None:
    """Remove the namespaces of runs that were killed; their links and addresses go with them."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        process = name.removeprefix(_NAMES).partition("-")[0]
        if name.startswith(_NAMES) and process.isdecimal() and not Path("/proc", process).exists():
            _ip("netns", "del", name)


def _free_block() -> str:
    """Return the first two numbers of addresses that no link of this machine has: of another run, or of a network."""
    taken = {
        address["local"].rpartition(".")[0].rpartition(".")[0]
        for link in json.loads(_ip("-4", "-json", "addr"))
        for address in link["addr_info"]
    }
    blocks = [f"10.{number}" for number in range(128, 256)]
    first = os.getpid() % len(blocks)  # two runs that begin at once begin elsewhere
    return next(block for block in blocks[first:] + blocks[:first] if block not in taken)


@dataclass(frozen=True)
class Board:
    """A namespace with a link.

    Attributes:
        number: of the board.
        block: first two numbers of the addresses.
        home: of who logs in there.
    """

    number: int
    block: str
    home: Path

    @property
    def name(self) -> str:
        """Name of the namespace, and of the link's end here."""
        return _name(self.number)

    @property
    def address(self) -> str:
        """Address at the board's end."""
        return f"{self.block}.{self.number}.2"

    @property
    def gateway(self) -> str:
        """Address at this end."""
        return f"{self.block}.{self.number}.1"

    def plug(self, state: str) -> None:
        """Set the link ``up`` or ``down``."""
        _ip("link", "set", self.name, state)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def farm(folder: Path, edgeopt: str, environ: Mapping[str, str]) -> Iterator[list[Board]]:
    """Start boards, and put an ``ssh`` that knows their keys into `folder`, and a ``farm.toml``.

    Args:
        folder: empty.
        edgeopt: command that starts edgeopt on a board.
        environ: variables that it has there.
    """
    with contextlib.ExitStack() as stack:
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        _remove_left()
        block = _free_block()
        boards = [Board(number, block, folder / f"home-{number}") for number in range(BOARDS)]
        for board in boards:
            _start(stack, folder, board, environ)
        key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text("".join(f"{board.address} {' '.join(key)}\n" for board in boards))
        (folder / "config").write_text(
            f"Host {block}.*\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder / 'known_hosts'}\n"
        )
        (folder / "bin").mkdir()
        ssh = folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(folder / "config"))} "$@"\n')
        ssh.chmod(0o755)
        names = "".join(
            f'[boards.board-{board.number}]\naddress = "ssh://root@{board.address}"\ntags = ["all"]\n'
            f'edgeopt = "{edgeopt}"\n'
            for board in boards
        )
        (folder / "farm.toml").write_text(names)
        yield boards


def _start(stack: contextlib.ExitStack, folder: Path, board: Board, environ: Mapping[str, str]) -> None:
    board.home.mkdir(exist_ok=True)
    _ip("netns", "add", board.name)
    stack.callback(_ip, "netns", "del", board.name)
    _ip("link", "add", board.name, "type", "veth", "peer", "name", "eth0", "netns", board.name)
    stack.callback(_ip, "link", "del", board.name)  # of itself it goes with the namespace, but some time later
    _ip("addr", "add", f"{board.gateway}/24", "dev", board.name)
    _ip("netns", "exec", board.name, "ip", "addr", "add", f"{board.address}/24", "dev", "eth0")
    _ip("netns", "exec", board.name, "ip", "link", "set", "eth0", "up")
    board.plug("up")
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / f"sshd-{board.number}").write_text(
        f"HostKey {folder / 'host'}\nListenAddress {board.address}\nAuthorizedKeysFile {folder / 'authorized_keys'}\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\n"
        f"SetEnv {' '.join(f'{name}={value}' for name, value in {'HOME': board.home, **environ}.items())}\n"
    )
    inside = ["ip", "netns", "exec", board.name, "setpriv", "--pdeathsig", "TERM"]  # it does not outlive a killed run
    server = subprocess.Popen([*inside, str(shutil.which("sshd")), "-D", "-f", folder / f"sshd-{board.number}"])
    stack.callback(server.wait)
    stack.callback(server.terminate)


def measured(folder: Path, bundle: Path, boards: list[Board], *, unplug: bool) -> dict[str, Any]:
    """Run the command, and unplug a board while it is measured; what came of it."""
    command = [sys.executable, "-m", "edgeopt", "farm", "run", str(bundle), "--on", "tag:all", "--farm"]
    command += [str(folder / "farm.toml"), "--out", str(folder / "results"), "--quick", "--duration", "1"]
    environ = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    log, began, told_s = folder / "log", time.monotonic(), None
    with log.open("wb") as errors, (folder / "json").open("wb") as out:
        running = subprocess.Popen([*command, "--allow-invalid", "--json"], env=environ, stdout=out, stderr=errors)
        if unplug:
            _wait_for(f"[board-{UNPLUGGED}] benchmark", log, running)
            time.sleep(1.0)  # it is under way
            boards[UNPLUGGED].plug("down")
            unplugged_s = time.monotonic()
            _wait_for(f"[board-{UNPLUGGED}] no result", log, running)
            told_s = round(time.monotonic() - unplugged_s, 1)
        running.wait(_IN_TIME_S)
    answer = json.loads((folder / "json").read_text())
    return {
        "exit_code": running.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "told_after_s": told_s,
        "results": sorted(answer["boards"]),
        "missing": answer["missing"],
        "before": sorted(line[1:].partition("]")[0] for line in log.read_text().splitlines() if "before" in line),
    }


def _wait_for(text: str, log: Path, running: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _IN_TIME_S
    while text not in log.read_text():
        if running.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"'{text}' was never said: {log.read_text()}")
        time.sleep(0.05)


def demonstrate(
    folder: Path, bundle: Path, edgeopt: str = OWN, environ: Mapping[str, str] = HERE, back: Callable[[], object] = bool
) -> dict[str, Any]:
    """Measure with a board that is unplugged, and again when it is back.

    Args:
        folder: for everything.
        bundle: to measure.
        edgeopt: as of `farm`.
        environ: the same.
        back: called when the board is plugged in again.
    """
    with farm(folder, edgeopt, environ) as boards:
        cut = measured(folder, bundle, boards, unplug=True)
        kept = sorted(path.stem for path in (folder / "results").glob("*.json"))
        boards[UNPLUGGED].plug("up")
        back()
        held_s, again = _until_free(folder, bundle, boards)
    return {"unplugged": cut, "kept": kept, "plugged_in": again, "free_after_s": held_s}


def _until_free(folder: Path, bundle: Path, boards: list[Board]) -> tuple[float, dict[str, Any]]:
    """Run again until the board notices that the one who held it is gone; the time that took, and the last run."""
    began = time.monotonic()
    while True:
        waited_s = round(time.monotonic() - began, 1)
        again = measured(folder, bundle, boards, unplug=False)
        if not again["missing"] or waited_s > _IN_TIME_S:
            return waited_s, again
        time.sleep(2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    asked = parser.parse_args()
    if lacking := missing():
        sys.exit(f"nothing was measured: {lacking}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = asked.bundle or tiny(folder)
        row = {"bundle": bundle.stem, **demonstrate(folder, bundle), "cpu": processor()}
    record(RESULTS, row, ("bundle",))


def tiny(folder: Path) -> Path:
    """Return the bundle that the tests have."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import write_golden

    return Path(write_golden(folder / "tiny.edgeopt").path)


if __name__ == "__main__":
    main()
