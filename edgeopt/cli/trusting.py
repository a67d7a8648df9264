"""Commands about who made a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.options import bundle
from edgeopt.cli.output import echo, printable


@click.command()
@bundle
@click.option(
    "--key",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Private key, PEM: P-256, P-384 or P-521, of mode 0600.",
)
@click.option(
    "--passphrase-file",
    "passphrase",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the passphrase of an encrypted key; its first line counts.",
)
@click.option(
    "--release",
    type=click.IntRange(min=0),
    help="Number of this release. A device that trusts keys runs none older than the newest it has run. "
    "Default: the number that the bundle has.",
)
def sign(bundle: Path, key: Path, passphrase: Path | None, release: int | None) -> None:
    """Sign a bundle, so that devices can tell who made it.

    The signature is a file in the bundle, model.sig, in the format of OpenSSF's model-signing, whose own command
    verifies it as well. It covers the manifest and every file but measured.json, which holds what devices measure.

    A device opens signed bundles only once a public key lies in /etc/edgeopt/trusted (or $EDGEOPT_TRUSTED).
    """
    from edgeopt.bundle import Bundle
    from edgeopt.trust.keys import read_private, read_secret

    private = read_private(key, None if passphrase is None else read_secret(passphrase))
    signed = Bundle.open(bundle).sign(private, release=release)
    echo(
        printable(
            f"signed {bundle}: release {signed.manifest.release}, {len(signed.manifest.files) + 1} files. "
            f"Check it with: edgeopt verify {bundle} --public-key KEY.pub"
        )
    )


COMMANDS = (sign,)
