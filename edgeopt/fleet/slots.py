"""Two slots for a bundle: one runs, the next release is installed into the other, and a link is switched in one step.

::

    SLOTS/a/       a whole bundle
    SLOTS/b/       another one
    SLOTS/current  link to a or b: what services open
    SLOTS/trial    only while a new release has not proved itself: name of the slot before it

A new release is unpacked, verified and tested in a folder beside the slots before anything of them is touched. A
process that is killed at any moment, and a power cut, leave `current` on a whole bundle that was tested.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeopt.bundle import Bundle
from edgeopt.errors import BundleError, StorageError, storage_errors
from edgeopt.files import locked, sync_folder, write_atomically
from edgeopt.fleet.packed import unpack
from edgeopt.trust.releases import STATE_VARIABLE, TRIAL_NAME, state_folder

SLOTS: Final = ("a", "b")
CURRENT: Final = "current"
_TESTING = ".new"
"""Folder of a release that is tested; one that a killed process left is removed by the next."""
_TEST_S = 1800.0
"""Longest self-test: engines may have to be built for it."""

Test = Callable[[Path], None]


def self_test(bundle: Path) -> None:
    """Verify a bundle and replay its golden inputs, on the variant that this machine would run, in another process.

    An engine that crashes ends that process only, and a release that is tested is not remembered as one that ran.

    Raises:
        BundleError: it failed, with its last words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        known = state_folder() / "releases.json"
        if known.is_file():
            shutil.copy(known, scratch)
        command = [sys.executable, "-m", "edgeopt", "verify", str(bundle), "--chosen"]
        environ = {**os.environ, STATE_VARIABLE: scratch}
        try:
            done = subprocess.run(
                command, env=environ, capture_output=True, text=True, timeout=_TEST_S, check=False, errors="replace"
            )
        except subprocess.TimeoutExpired as error:
            raise BundleError(f"{bundle} did not pass its self-test within {_TEST_S:.0f} s") from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BundleError(f"{bundle} did not pass its self-test: {words[-1].removeprefix('error: ')}")


@dataclass(frozen=True)
class Slots:
    """The folder of two slots."""

    folder: Path
    test: Test = self_test

    @property
    def current(self) -> str | None:
        """Name of the slot that runs; None where nothing was installed yet."""
        try:
            name = str((self.folder / CURRENT).readlink())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self.folder / CURRENT} is not a link: {error.strerror}. Choose another") from error
        if name not in SLOTS:
            raise StorageError(f"{self.folder / CURRENT} leads to {name!r}, not to a slot. Choose another folder")
        return name

    def install(self, file: Path, then: Sequence[str] = ()) -> Bundle:
        """Install a packed bundle and switch to it.

        Args:
            file: what `pack` wrote.
            then: command to run after the switch, as one that restarts a service and asks for its health. Where it
                fails, the slot before runs again, and the command is run once more for it.

        Returns:
            The bundle, in its slot.

        Raises:
            BundleError: not a whole bundle, not signed as this device wants it, or it failed its test; nothing changed.
            StorageError: the disk refused.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):
                self._recover()
                before = self.current
                self._place(file, _other(before))
                self._begin_trial(before)
                self._switch(_other(before))
                self._prove(then, before)
                return Bundle.open(self.folder / _other(before), check_hashes=False)

    def roll_back(self) -> str:
        """Switch to the other slot, once it has passed its test again.

        Returns:
            Name of the slot that runs now.

        Raises:
            BundleError: there is no other, it is not whole, or older than this device allows.
        """
        if not self.folder.is_dir():
            raise BundleError(f"there is no folder of slots {self.folder}. Install a release first")
        with storage_errors(self.folder), locked(self.folder / ".lock"):
            target = _other(self.current)
            if self.current is None or not (self.folder / target).is_dir():
                raise BundleError(f"{self.folder} has no other slot to go back to. Install a release first")
            Bundle.open(self.folder / target)
            self.test(self.folder / target)
            self._end_trial()
            self._switch(target)
            return target

    def recover(self) -> str | None:
        """End a trial that was cut short: what runs has to pass its test, or the slot before it runs again.

        Returns:
            Name of the slot that runs now; None where nothing was installed yet.
        """
        if not self.folder.is_dir():
            return None
        with storage_errors(self.folder), locked(self.folder / ".lock"):
            self._recover()
            return self.current

    def _recover(self) -> None:
        shutil.rmtree(self.folder / _TESTING, ignore_errors=True)
        trial = self.folder / TRIAL_NAME
        if not trial.exists():
            return
        before, current = trial.read_text(encoding="ascii", errors="replace").strip(), self.current
        if current is not None and before in SLOTS and current != before:
            try:
                self.test(self.folder / current)
            except BundleError:
                self._switch(before)
        self._end_trial()

    def _place(self, file: Path, slot: str) -> None:
        """Unpack and test a release, and put it into the slot that does not run."""
        new = self.folder / _TESTING
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            unpack(file, new)
            Bundle.open(new)
            self.test(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        shutil.rmtree(self.folder / slot, ignore_errors=True)
        new.rename(self.folder / slot)
        sync_folder(self.folder)

    def _prove(self, then: Sequence[str], before: str | None) -> None:
        """Run the command for the new release; go back where it fails."""
        status = _run(then)
        if status == 0:
            self._end_trial()
            return
        failed = f"'{' '.join(then)}' ended with status {status}"
        if before is None:
            (self.folder / CURRENT).unlink()
            sync_folder(self.folder)
            self._end_trial()
            raise BundleError(f"{failed}, and there was no release before")
        self._switch(before)
        self._end_trial()
        _run(then)
        raise BundleError(f"{failed} for the new release: the one before runs again. Look at what the command said")

    def _begin_trial(self, before: str | None) -> None:
        write_atomically(self.folder / TRIAL_NAME, f"{before or ''}\n".encode())

    def _end_trial(self) -> None:
        (self.folder / TRIAL_NAME).unlink(missing_ok=True)
        sync_folder(self.folder)

    def _switch(self, slot: str) -> None:
        """Let `current` lead to another slot, in one step."""
        link = self.folder / f".{CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(slot)
        link.replace(self.folder / CURRENT)
        sync_folder(self.folder)


def _run(command: Sequence[str]) -> int:
    """Return the command's exit status; 0 where there is none, 127 where it cannot be run, as a shell has it."""
    if not command:
        return 0
    try:
        return subprocess.run([*command], check=False).returncode
    except OSError:
        return 127


def _other(slot: str | None) -> str:
    return SLOTS[1] if slot == SLOTS[0] else SLOTS[0]
