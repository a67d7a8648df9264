"""The `edgeopt` command: each subcommand parses, calls one function and prints."""

from __future__ import annotations

import click

import edgeopt
from edgeopt.cli import (
    compiling,
    device,
    diagnosing,
    explaining,
    farming,
    fleet,
    machine,
    measuring,
    recipes,
    robustness,
    serving,
    sets,
    shell,
    sweeping,
    trusting,
    workstation,
)
from edgeopt.cli.boundary import Commands, configure_logging


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(edgeopt.__version__, prog_name="edgeopt")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done in detail.")
@click.option(
    "--allow-code",
    "packages",
    multiple=True,
    metavar="PACKAGE",
    help="Let a bundle run code of this installed package, for its decoding or target; may be repeated.",
)
def main(verbose: bool, packages: tuple[str, ...]) -> None:  # noqa: FBT001 - a click flag
    """Compile image classifiers and detectors for edge devices, measured against their FP32 selves."""
    configure_logging(verbose=verbose)
    if packages:
        from edgeopt.references import allow_code

        allow_code(*packages)


_ROOMS = (
    workstation,
    sweeping,
    recipes,
    compiling,
    diagnosing,
    explaining,
    device,
    measuring,
    robustness,
    sets,
    machine,
    shell,
    trusting,
    serving,
    fleet,
    farming,
)
for _command in (command for room in _ROOMS for command in room.COMMANDS):
    main.add_command(_command)
