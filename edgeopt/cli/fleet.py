"""Commands that bring bundles to many devices."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.options import bundle
from edgeopt.cli.output import echo, printable

_SLOTS = click.option(
    "--slot",
    "slots",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of two slots; services open its link 'current'.",
)
_THEN = click.option(
    "--then",
    metavar="COMMAND",
    help="Command to run after the switch, as one that restarts a service and asks for its health; where it fails, the "
    "release before runs again.",
)


@click.command()
@bundle
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def pack(bundle: Path, file: Path) -> None:
    """Pack a bundle into one file.

    FILE is a tar archive in xz, with the same bytes every time. Sign the bundle before: devices verify the signature
    when they install it.
    """
    from edgeopt.fleet import pack as write

    echo(printable(f"wrote {file}: {write(bundle, file) / 1e6:.2f} MB"))


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_SLOTS
@_THEN
@click.option("--rollback", is_flag=True, help="Switch to the other slot instead, if it passes its test.")
@click.option("--recover", is_flag=True, help="End an installation that was cut short: for the start of the device.")
def install(
    file: Path | None,
    slots: Path,
    then: str | None,
    rollback: bool,  # noqa: FBT001 - a click flag
    recover: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Install a packed bundle, with a way back.

    It is unpacked beside the one that runs, verified, and has to answer its golden inputs as recorded, in a process of
    its own, before a link is switched in one step. Killed at any moment, or without power, 'current' leads to a whole
    bundle that was tested.
    """
    import shlex

    from edgeopt.fleet import Slots

    if (file is not None) + rollback + recover != 1:
        raise click.UsageError("Give FILE, --rollback or --recover, and one of them only")
    opened = Slots(slots)
    if rollback:
        echo(printable(f"{slots / 'current'} is slot {opened.roll_back()} now"))
    elif recover:
        current = opened.recover()
        echo(printable(f"{slots / 'current'} is " + (f"slot {current}" if current else "not there: nothing installed")))
    elif file is not None:
        installed = opened.install(file, shlex.split(then or ""))
        name, release = installed.manifest.name, installed.manifest.release
        echo(printable(f"installed '{name}', release {release}: {slots / 'current'} is slot {installed.path.name} now"))


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--repository", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to publish."
)
@click.option(
    "--keys",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the signing keys, made with the repository; keep root.pem and targets.pem offline.",
)
@click.option(
    "--refresh", is_flag=True, help="Only sign anew what expires: snapshot after 7 days, timestamp after one."
)
def publish(bundle: Path | None, repository: Path, keys: Path, refresh: bool) -> None:  # noqa: FBT001 - a click flag
    """Publish a release (TUF).

    The repository is a folder that any web server serves, for `edgeopt update`. Devices need its root.json once, by
    another way. The release must have a higher number than the one before (edgeopt sign --release).
    """
    from edgeopt.fleet.repository import publish as write

    if (bundle is None) != refresh:
        raise click.UsageError("Give BUNDLE or --refresh")
    name = write(bundle, repository, keys)
    echo(printable(f"published {name} in {repository}" if name else f"signed {repository} anew"))


@click.command()
@click.argument("name")
@click.option("--url", required=True, help="Address of the repository.")
@click.option(
    "--root",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The repository's root.json, as it came with the device.",
)
@_SLOTS
@_THEN
def update(name: str, url: str, root: Path, slots: Path, then: str | None) -> None:
    """Install the newest release (TUF).

    A repository that goes back, that is older than its signatures allow, or that nobody signed, is refused.
    """
    import shlex

    from edgeopt.fleet.updating import update as run

    release = run(name, url, root, slots, shlex.split(then or ""))
    echo(printable(f"'{name}' is the newest release" if release is None else f"installed '{name}', release {release}"))


COMMANDS = (pack, install, publish, update)
