"""The one place where expected errors become a message and an exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from edgeopt.cli.output import printable
from edgeopt.errors import EdgeoptError, MissingExtraError, StorageError, did_you_mean, missing_package

INTERRUPTED = 130
TERMINATED = 143
"""128 + SIGTERM."""
_STOPPED = "it ended before it was done; what was compiled is kept"
"""Message of a stop where nobody knows more (see `errors.when_stopped`)."""
_NOISY = ("onnx_ir", "onnxscript")
"""Libraries that log what edgeopt itself answers for, with tracebacks."""
_OWN = {"numpy": "numpy", "cv2": "opencv-python", "msgspec": "msgspec", "rich": "rich"}
"""Packages that every installation has, by the name that they are imported by."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: sessions close, and what was compiled is kept."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` at the first SIGTERM; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Commands(click.Group):
    """A click group that ends every `EdgeoptError` with one message on standard error and the error's exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
        try:
            with sigterm_raises():
                return super().invoke(ctx)
        except EdgeoptError as error:
            _fail(ctx, error)
        except Terminated as stop:
            _say("terminated:", "yellow", str(stop) or _STOPPED)
            ctx.exit(TERMINATED)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "edgeopt":
                raise
            if own := _OWN.get(error.name):
                _fail(ctx, MissingExtraError(f"the Python package '{own}' is not installed. Install edgeopt again"))
            # A command of the workstation on a device: its modules import torch, onnx_ir and others at their top.
            _fail(ctx, missing_package(error.name, "build", error))
        except (KeyboardInterrupt, click.Abort) as stop:
            _say("interrupted:", "yellow", str(stop) or _STOPPED)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader (head, less) went away: there is nobody to tell, and flushing at exit must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            # Standard output goes to a full disk; what is left in its buffer must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _fail(
                ctx, StorageError(f"cannot write {error.filename or 'the output'}: the disk is full; free some space")
            )

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or suggest the one that was meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message}{did_you_mean(args[0], self.list_commands(ctx))}", ctx) from None


@contextmanager
def errors_reported() -> Iterator[None]:
    """End a script as the commands end: an `EdgeoptError` becomes one message and the error's exit code."""
    try:
        yield
    except EdgeoptError as error:
        _report(error)
        raise SystemExit(error.exit_code) from error


class _StandardError(logging.Handler):
    """Whatever standard error is at the moment: under a progress bar it is one that writes above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(self.format(record) + "\n")


def configure_logging(*, verbose: bool) -> None:
    """Send warnings of edgeopt (all messages when `verbose`) to standard error, one line each.

    Standard output takes every text from here on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character shows its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = _StandardError()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("edgeopt")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING if verbose else logging.CRITICAL)


def _fail(ctx: click.Context, error: EdgeoptError) -> NoReturn:
    _report(error)
    ctx.exit(error.exit_code)


def _report(error: EdgeoptError) -> None:
    _say("error:", "red", str(error))


def _say(title: str, colour: str, message: str) -> None:
    """A message on standard error; its further lines are indented, so that a name in it cannot pass for a message."""
    first, *others = message.split("\n")
    click.echo(f"{click.style(title, fg=colour, bold=True)} {printable(first)}", err=True)
    for line in others:
        click.echo(f"  {printable(line)}", err=True)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n  ".join(map(printable, super().format(record).split("\n")))
