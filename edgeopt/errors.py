"""The errors a user can cause or meet, each with its exit code.

Every expected failure is an `EdgeoptError` whose message says what happened, names the offending value and says what to
do. Its last sentence has no full stop, so that a caller may go on. `cli.main` prints it and exits with its code; an
exception of any other type is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

_MOST_LISTED = 20
"""Most names in a message; ImageNet has a thousand classes."""
_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "the operation is not permitted; choose a folder that you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another",
    errno.EEXIST: "a file of that name is in the way; remove it or choose another folder",
    errno.ENOENT: "a file or folder of that path is not there; check it",
    errno.EFBIG: "the file is larger than the system allows; raise the limit or choose another disk",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: "the disk reports an input/output error; check it",
}

_WHOLE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class EdgeoptError(Exception):
    """Base of every expected failure. Exit code 1; 2 is click's usage error."""

    exit_code = 1


class ConfigError(EdgeoptError):
    """A recipe or a specification that cannot be read: unknown key, wrong type, value out of range."""

    exit_code = 10


class SettingError(ConfigError, ValueError):
    """A setting that a specification's own check refuses. It is a ValueError too, so that msgspec adds the place."""


class MissingExtraError(EdgeoptError):
    """A library of an extra is not installed."""

    exit_code = 11


class DataError(EdgeoptError):
    """Images or labels that cannot be used: none found, too few readable, labels that do not match, splits overlap."""

    exit_code = 12


class ModelError(EdgeoptError):
    """A model that cannot be loaded, exported or transformed."""

    exit_code = 13


class ParityError(EdgeoptError):
    """An exported or optimized graph that does not compute what the model computed."""

    exit_code = 14


class TargetError(EdgeoptError):
    """A target that is not available here, or that rejects a graph."""

    exit_code = 15


class BundleError(EdgeoptError):
    """A bundle that is not whole: wrong schema, missing or changed file, failed golden output."""

    exit_code = 16


class StorageError(EdgeoptError):
    """A disk that is full or read-only, or a path that cannot be written."""

    exit_code = 17


class AccuracyError(EdgeoptError):
    """No plan keeps the accuracy that the budget asks for."""

    exit_code = 18


class MeasurementError(EdgeoptError):
    """A measurement that is not valid, so that no figure may be given."""

    exit_code = 3


def _begun(wrong: str, known: Iterable[str]) -> list[str]:
    """Names that an abbreviation of three letters or more begins, or that are one of `wrong`."""
    return [
        name for name in known if min(len(name), len(wrong)) > 2 and (name.startswith(wrong) or wrong.startswith(name))
    ]


def did_you_mean(wrong: str, known: Iterable[str], advice: str = "") -> str:
    """Return ``" Did you mean 'x'?"`` for the closest of `known`, else the list of what there is, or its beginning.

    `advice` is a sentence that follows. Like every message, the result ends without a full stop.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    " Did you mean 'epochs'?"
    >>> did_you_mean("val", ["train", "validation"])
    " Did you mean 'validation'?"
    >>> did_you_mean("zzz", ["b", "a"])
    ' Known: a, b'
    >>> did_you_mean("zzz", ["b", "a"], "Say one of them")
    ' Known: a, b. Say one of them'
    """
    known = sorted(known)
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6) or _begun(wrong, known)
    if close:
        return f" Did you mean '{close[0]}'?{advice and ' ' + advice}"
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return f" Known: {', '.join(known[:_MOST_LISTED])}{more}{advice and '. ' + advice}"


def requires_extra(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Args:
        module: dotted name of a third-party module.
        extra: the extra of edgeopt that installs it.

    Raises:
        MissingExtraError: the module cannot be imported; the message holds the pip line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing_package(module, extra, error) from error


def missing_package(module: str, extra: str, error: ImportError) -> MissingExtraError:
    """Return the error for a `module`, brought by `extra`, that cannot be imported."""
    absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
    state = "is not installed" if absent else f"cannot be imported ({error})"
    return MissingExtraError(f"the Python package '{module}' {state}. Install it with: pip install 'edgeopt[{extra}]'")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a disk's errors while `path` is written into a `StorageError` that names it and what to do.

    Raises:
        StorageError: an OSError of a full, read-only, forbidden or failing disk. Any other OSError passes unchanged,
            and so does one about a file elsewhere, which is not what was written.
    """
    try:
        yield
    except OSError as error:
        advice = _STORAGE_ERRNOS.get(error.errno or 0)
        if advice is None or not _concerns(error, path):
            raise
        raise StorageError(f"cannot write {error.filename or path}: {advice}") from error


@contextlib.contextmanager
def when_stopped(message: str) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM say what is kept of work that they end, unless something inside said so already."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise
        raise type(stop)(message) from stop


def _concerns(error: OSError, path: Path) -> bool:
    """Return True if an error names no file, one beside `path` or in it, or a folder that it is in."""
    if not isinstance(error.filename, (str, bytes)) or error.errno in _WHOLE_DISK:
        return True
    found, wanted = (Path(os.path.abspath(os.fsdecode(each))) for each in (error.filename, path))  # noqa: PTH100
    return wanted.is_relative_to(found) or found.is_relative_to(wanted) or found.parent == wanted.parent


def ending(status: int | None) -> str:
    """Return how a process ended, by its exit status as Python or a shell gives it: after "it "."""
    name = "" if status is None else _signal_of(status)
    if not name:
        return f"ended with exit code {status}"
    return f"was killed ({name})" if name != "SIGKILL" else "was killed (SIGKILL, as by the system for want of memory)"


def _signal_of(status: int) -> str:
    """Name the signal that ended a process: its number is negative in Python, and 128 is added to it by a shell."""
    number = -status if status < 0 else status - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if status < 0 else ""
