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


@click.command()
@bundle
@click.option(
    "--to",
    "recipients",
    multiple=True,
    required=True,
    metavar="AGE_KEY",
    help="Public age key of a device (age1…), as age-keygen -y prints it; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the sealed bundle. Default: NAME.sealed.edgeopt beside the bundle.",
)
def seal(bundle: Path, recipients: tuple[str, ...], out: Path | None) -> None:
    """Encrypt a copy of a bundle for chosen devices.

    Engines and golden arrays are encrypted (AES-256-GCM), with a key that only the named devices can unwrap
    (age, X25519). Labels, the recipe and all results stay readable. Sign the sealed bundle afterwards, not before.

    A device opens it with its identity, the file that age-keygen wrote: /etc/edgeopt/identity, $EDGEOPT_IDENTITY,
    or systemd's credential edgeopt.identity. Nothing is written to its disk in the clear. Who is root there, and
    the memory of a GPU, see the network all the same.
    """
    from edgeopt.bundle import Bundle

    path = bundle.with_suffix(f".sealed{bundle.suffix}") if out is None else out
    sealed = Bundle.open(bundle).seal(path, recipients)
    assert sealed.manifest.sealed is not None
    echo(printable(f"wrote {path}: {len(sealed.manifest.sealed.files)} files sealed for {len(recipients)} devices"))


COMMANDS = (sign, seal)
